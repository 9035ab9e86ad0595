"""Gradient routing: labels decide which parts of a network learn from which data.

`sites` finds the units of a model, `gate` and `protect` are the two forms, `router` ties them to
labels; `surgery` adds units and takes them out, `rules` make labels, `absorption` measures what
unlabelled data did. Names are loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sluicegate.routing.noise import noisy
    from sluicegate.routing.probing import fit_probe
    from sluicegate.routing.router import Router
    from sluicegate.routing.rules import bind
    from sluicegate.routing.rules.callable import Call
    from sluicegate.routing.rules.column import Column
    from sluicegate.routing.rules.frequency import Frequency
    from sluicegate.routing.rules.probe import Probe
    from sluicegate.routing.rules.soft import Soft
    from sluicegate.routing.rules.span import Span, matches
    from sluicegate.routing.rules.tokens import Tokens
    from sluicegate.routing.rules.within import Within
    from sluicegate.routing.train import train_routed

_HOMES = {
    "Call": "rules.callable",
    "Column": "rules.column",
    "Frequency": "rules.frequency",
    "Probe": "rules.probe",
    "Router": "router",
    "Soft": "rules.soft",
    "Span": "rules.span",
    "Tokens": "rules.tokens",
    "Within": "rules.within",
    "bind": "rules",
    "fit_probe": "probing",
    "matches": "rules.span",
    "noisy": "noise",
    "train_routed": "train",
}

__all__ = [
    "Call",
    "Column",
    "Frequency",
    "Probe",
    "Router",
    "Soft",
    "Span",
    "Tokens",
    "Within",
    "bind",
    "fit_probe",
    "matches",
    "noisy",
    "train_routed",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sluicegate.routing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sluicegate.routing.{_HOMES[name]}"), name)
