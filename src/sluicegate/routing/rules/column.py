from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.errors import UserError, nearest
from sluicegate.routing.views import number, view

if TYPE_CHECKING:
    from torch import Tensor

    from sluicegate.engine.encoding import Rows


@dataclass(frozen=True, eq=False)
class Column:
    """Labels from a column of the data: ``Column("topic", {"virology": "forget"}, unknown="retain")``.

    The column is a key of a batch that is a mapping, a place in one that is a tuple (``Column(1, ...)`` for
    ``(x, y)``), or, given `rows`, a field of each row's item (label, fact, prompt, answer).

    Indexed: a row's value labels the row. A column with one value a token (b, t) labels the positions as
    it stands, which are those of the input tokens.
    """

    NAME: ClassVar[str] = "column"

    column: str | int = "label"
    """The column's name, or its place in a tuple."""
    map: Mapping[Any, str] = field(default_factory=dict)
    """The label of each value; empty: values are names of labels themselves."""
    unknown: str = ""
    """The label of all other values, the missing ones too; empty: such a value is an error."""
    rows: "Rows | None" = field(default=None, repr=False)
    """The encoded rows that batches are drawn from, whose items have the column."""
    values: Any = field(default=None, repr=False)
    """In place of `rows`: one value a row, by row number."""

    def __post_init__(self) -> None:
        if isinstance(self.map, str) or not isinstance(self.map, Mapping):
            raise UserError(f"map is {self.map!r}; give the label of each value, for example {{'virology': 'forget'}}.")
        if self.rows is not None and self.values is None:
            missing = next((item for item in self.rows.items if not hasattr(item, str(self.column))), None)
            if missing is not None:
                fields = ["prompt", "answer", "fact", "label"]
                raise UserError(f"items have no column {self.column!r}. They have: {nearest(str(self.column), fields)}.")
            object.__setattr__(self, "values", [getattr(item, str(self.column)) for item in self.rows.items])

    def __call__(self, batch: Any, labels: Sequence[str]) -> "Tensor":
        import torch

        seen = view(batch)
        found = seen.column(self.column, self.values, self.NAME)
        values = found.tolist() if hasattr(found, "tolist") else list(found)
        if values and isinstance(values[0], (list, tuple)):
            return torch.tensor([[self._label(value, labels) for value in row] for row in values])
        return torch.tensor([self._label(value, labels) for value in values])

    def _label(self, value: Any, labels: Sequence[str]) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        name = self.map.get(value) if self.map else (value if value in labels else None)
        if name is None:
            if self.unknown:
                return number(self.unknown, labels)
            known = nearest(str(value), [repr(known) for known in (self.map or labels)], most=8)
            raise UserError(
                f"column {self.column!r} holds {value!r}, which has no label. Values that have one: {known}. Or say unknown='retain'."
            )
        return number(name, labels)
