"""Sluicegate: decide where learning goes, take it out for good, and measure what is left.

Names are loaded when they are first used, so that ``import sluicegate`` costs nothing; ``__init__.pyi`` says where each
one is.
"""

import lazy_loader

# `audit` is a package that is called as the function (see its own file). Bound first, or the function would take its
# place.
from sluicegate import audit as audit
from sluicegate.deprecated import find_moved_modules

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

find_moved_modules()
