"""Gradient routing: labels decide which parts of a network learn from which data.

`sites` finds the units of a model, `gate` and `protect` are the two forms, `router` ties them to
labels; `surgery` adds units and takes them out, `rules` make labels. Names are loaded when they are
first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
