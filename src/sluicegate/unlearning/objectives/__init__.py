"""Unlearning objectives: one file each, found by looking, without registration.

An objective is a frozen dataclass in a file of this folder, or in a module that another package
names under the entry-point group ``sluicegate.plugins``. Its ``NAME`` is what the command line
calls it. Files here import torch inside their functions only, so that reading a command line
stays fast.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Protocol, cast, runtime_checkable

from sluicegate.errors import UserError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.models import Rows
    from sluicegate.training import Ledger, Objective

PLUGINS = "sluicegate.plugins"


@runtime_checkable
class Method(Protocol):
    """What a suppression method has to offer."""

    NAME: ClassVar[str]

    def prepare(self, model: "PreTrainedModel", forget: "Rows", retain: "Rows", ledger: "Ledger") -> "Objective":
        """Return the loss on batches called "forget" and "retain".

        Whatever is needed of the model before it changes is computed here, once, and its cost
        entered in `ledger` as the teacher's.
        """
        ...


def methods() -> dict[str, type[Method]]:
    """Every objective that can be found, by name."""
    modules: list[ModuleType] = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    for entry in entry_points(group=PLUGINS):
        loaded = entry.load()
        modules.append(loaded if isinstance(loaded, ModuleType) else importlib.import_module(loaded.__module__))
    found: dict[str, type[Method]] = {}
    for module in modules:
        for _, cls in inspect.getmembers(module, inspect.isclass):
            own = cls.__module__ == module.__name__ and dataclasses.is_dataclass(cls)
            if own and hasattr(cls, "NAME") and hasattr(cls, "prepare"):
                found[cls.NAME] = cast(type[Method], cls)
    return found


def method(name: str) -> type[Method]:
    """The objective called `name`; raises `UserError` that lists what there is."""
    known = methods()
    if name not in known:
        raise UserError(f"no unlearning method {name!r}. There are: {nearest(name, sorted(known), most=20)}.")
    return known[name]
