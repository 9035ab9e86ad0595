from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.errors import UserError
from sluicegate.routing.views import probabilities, shares, view

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Soft:
    """Soft labels from a column of shares: ``Soft("toxicity")`` for numbers between 0 and 1.

    A row (or token) with p gets the share p of `label` and 1 - p of `otherwise`: its gradient is that
    mixture of the two labels' weights.

    Indexed: as `Column`: a row's number is the row's; one number a token (b, t) lies on the positions as it stands.
    """

    NAME: ClassVar[str] = "soft"

    column: str | int = "share"
    """The column's name in a batch that is a mapping, or its place in one that is a tuple."""
    label: str = "forget"
    """The label that p is the share of."""
    otherwise: str = "retain"
    """The label of what is left."""
    values: Any = field(default=None, repr=False)
    """In place of a column: one p a row, by row number."""

    def __call__(self, batch: Any, labels: Sequence[str]) -> "Tensor":
        import torch

        try:
            p = torch.as_tensor(view(batch).column(self.column, self.values, self.NAME)).float()
        except (TypeError, ValueError) as error:
            raise UserError(f"the column {self.column!r} of the rule 'soft' is not made of numbers ({error}).") from None
        return shares(probabilities(p, self.NAME), self.label, self.otherwise, labels)
