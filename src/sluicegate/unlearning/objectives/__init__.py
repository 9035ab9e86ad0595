"""Unlearning objectives: one file each, found by the registry.

An objective is a frozen dataclass in a file of this folder, or in a module that another package
names under the entry-point group ``sluicegate.plugins``. Its ``NAME`` is what the command line
calls it. Files here import torch inside their functions only, so that reading a command line
stays fast.
"""

from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from sluicegate.errors import UserError, nearest
from sluicegate.registry import classes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.engine.encoding import Rows
    from sluicegate.engine.training import Ledger, Objective


@runtime_checkable
class Method(Protocol):
    """The settings of an unlearning objective, and how it becomes a loss."""

    NAME: ClassVar[str]

    def prepare(self, model: "PreTrainedModel", forget: "Rows", retain: "Rows", ledger: "Ledger") -> "Objective":
        """Return the loss on batches called "forget" and "retain".

        Whatever is needed of the model before it changes is computed here, once, and its cost
        entered in `ledger` as the teacher's.
        """
        ...


def methods() -> dict[str, type[Method]]:
    """Every objective that can be found, by name."""
    return classes("objectives", "NAME", _prepares)


def _prepares(cls: type) -> bool:
    return hasattr(cls, "prepare")


def method(name: str) -> type[Method]:
    """The objective called `name`; raises `UserError` that lists what there is."""
    known = methods()
    if name not in known:
        raise UserError(f"no unlearning method {name!r}. There are: {nearest(name, sorted(known), most=20)}.")
    return known[name]
