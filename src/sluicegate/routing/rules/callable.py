from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.errors import UserError
from sluicegate.routing.views import checked, view

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Call:
    """Labels from a function of your own: ``Call(lambda batch: batch["score"].gt(3).long())``.

    The function gets the batch as it is, and returns numbers (b,) or (b, t), one label name a row, or
    floating shares (b, labels) or (b, t, labels). What it returns is checked against batch and router.

    Indexed: the function's own affair. Labels (b, t) lie on positions; to go by targets, move what you know of
    the tokens one to the left (`views.aligned`).
    """

    NAME: ClassVar[str] = "callable"

    function: Callable[[Any], Any]
    """From a batch to labels."""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UserError(f"function is {self.function!r}; give something that can be called with a batch.")

    def __call__(self, batch: Any, labels: Sequence[str]) -> "Tensor":
        seen = view(batch)
        return checked(self.function(seen.raw), seen, labels, self.NAME)
