from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.errors import UserError
from sluicegate.routing.rules import Rule
from sluicegate.routing.views import checked, number, view

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Within:
    """One rule inside the rows that another gives a label: ``Within(Column("label", rows=rows), Tokens(...),
    "forget")``.

    Rows that `rows` labels `label` get the labels of `inside`; all other rows keep what `rows` says,
    at every token where `inside` labels tokens.

    Indexed: as `inside` does.
    """

    NAME: ClassVar[str] = "within"

    rows: Rule
    """Labels rows."""
    inside: Rule
    """Labels rows or tokens, hard or soft."""
    label: str = "forget"
    """The rows' label inside which the second rule holds."""

    def __call__(self, batch: Any, labels: Sequence[str]) -> "Tensor":
        import torch
        from torch.nn.functional import one_hot

        seen = view(batch)
        own = checked(self.rows(seen, labels), seen, labels, self.rows.NAME)
        if own.dim() != 1:
            raise UserError(
                f"the first rule of 'within' ({self.rows.NAME!r}) must give each row one label; it gave labels of shape {tuple(own.shape)}."
            )
        found = checked(self.inside(seen, labels), seen, labels, self.inside.NAME)
        own = own.to(found.device) % len(labels)
        chosen = own == number(self.label, labels)
        if found.is_floating_point():
            outside = one_hot(own, len(labels)).to(found.dtype)
            if found.dim() == 3:
                outside, chosen = outside[:, None], chosen[:, None]
            return torch.where(chosen[..., None], found, outside)
        return torch.where(chosen[:, None], found, own[:, None]) if found.dim() == 2 else torch.where(chosen, found, own)
