"""Sluicegate: decide where learning goes, take it out for good, and measure what is left.

Names are loaded when they are first used, so that ``import sluicegate`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sluicegate import latent, tasks
    from sluicegate.audit.attack import Attack
    from sluicegate.audit.relearn import Relearned, relearn
    from sluicegate.curves import Curve, Estimate, stack
    from sluicegate.edits import Edit, Noise
    from sluicegate.errors import UserError
    from sluicegate.experiment import run_recipe
    from sluicegate.inspection import inspect
    from sluicegate.items import Item, Split, halves, read
    from sluicegate.models import encode, fresh, load, save
    from sluicegate.recipe import load_recipe
    from sluicegate.routing.router import Router
    from sluicegate.routing.surgery import expand
    from sluicegate.schedule import Schedule
    from sluicegate.scoring import score
    from sluicegate.training import CrossEntropy, fit
    from sluicegate.unlearning.distill import StopRule, distill, undo
    from sluicegate.unlearning.objectives.graddiff import GradDiff
    from sluicegate.unlearning.objectives.maxent import MaxEnt
    from sluicegate.unlearning.objectives.npo import NPO
    from sluicegate.unlearning.objectives.rmu import RMU
    from sluicegate.unlearning.objectives.simnpo import SimNPO
    from sluicegate.unlearning.suppress import train, unlearn

_HOMES = {
    "Attack": "audit.attack",
    "CrossEntropy": "training",
    "Curve": "curves",
    "Edit": "edits",
    "Estimate": "curves",
    "GradDiff": "unlearning.objectives.graddiff",
    "Item": "items",
    "MaxEnt": "unlearning.objectives.maxent",
    "NPO": "unlearning.objectives.npo",
    "Noise": "edits",
    "RMU": "unlearning.objectives.rmu",
    "Relearned": "audit.relearn",
    "Router": "routing.router",
    "Schedule": "schedule",
    "SimNPO": "unlearning.objectives.simnpo",
    "Split": "items",
    "StopRule": "unlearning.distill",
    "UserError": "errors",
    "distill": "unlearning.distill",
    "encode": "models",
    "expand": "routing.surgery",
    "fit": "training",
    "fresh": "models",
    "halves": "items",
    "inspect": "inspection",
    "latent": "",
    "load": "models",
    "load_recipe": "recipe",
    "read": "items",
    "relearn": "audit.relearn",
    "run_recipe": "experiment",
    "save": "models",
    "score": "scoring",
    "stack": "curves",
    "tasks": "",
    "train": "unlearning.suppress",
    "undo": "unlearning.distill",
    "unlearn": "unlearning.suppress",
}

__all__ = [
    "NPO",
    "RMU",
    "Attack",
    "CrossEntropy",
    "Curve",
    "Edit",
    "Estimate",
    "GradDiff",
    "Item",
    "MaxEnt",
    "Noise",
    "Relearned",
    "Router",
    "Schedule",
    "SimNPO",
    "Split",
    "StopRule",
    "UserError",
    "distill",
    "encode",
    "expand",
    "fit",
    "fresh",
    "halves",
    "inspect",
    "latent",
    "load",
    "load_recipe",
    "read",
    "relearn",
    "run_recipe",
    "save",
    "score",
    "stack",
    "tasks",
    "train",
    "undo",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sluicegate' has no attribute {name!r}")
    home = _HOMES[name]
    if not home:
        return importlib.import_module(f"sluicegate.{name}")
    return getattr(importlib.import_module(f"sluicegate.{home}"), name)


def __dir__() -> list[str]:
    return __all__
