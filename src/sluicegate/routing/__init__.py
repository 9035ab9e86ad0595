"""Gradient routing: labels decide which parts of a network learn from which data.

`sites` finds the units of a model, `gate` and `protect` are the two forms, `router` ties them to
labels; `surgery` adds units and takes them out, `rules` make labels, `absorption` measures what
unlabelled data did.
"""
