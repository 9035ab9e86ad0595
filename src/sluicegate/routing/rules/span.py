import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sluicegate.errors import UserError, check_choices
from sluicegate.routing.views import Of, aligned, number, view

if TYPE_CHECKING:
    from torch import Tensor

    from sluicegate.engine.encoding import Rows
    from sluicegate.values.items import Item

Spans = Mapping[int, Sequence[tuple[int, int]]]
"""By row number, (start, stop) of each span."""


def matches(items: "Sequence[Item]", pattern: str) -> Spans:
    """Character spans of a regular expression in the text of each item, prompt and answer joined.

    Raises `UserError` for an expression that is none, and where it matches nowhere.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}.") from None
    found = {i: [m.span() for m in wanted.finditer(item.text) if m.end() > m.start()] for i, item in enumerate(items)}
    found = {i: spans for i, spans in found.items() if spans}
    if not found:
        raise UserError(f"{pattern!r} matches in none of the {len(items)} texts.")
    return found


@dataclass(frozen=True, eq=False)
class Span:
    """Labels by places in the text: ``Span(rows, matches(rows.items, r"\\btrees?\\b"), tokenizer)``.

    Every token that a span touches gets `label`. Spans are by row number, in characters of the item's text
    (prompt and answer joined), or in tokens of the row. Rows that are windows of one long text share its
    item, so that each of them needs the item's spans (`matches` gives them).

    Indexed: with `of` "target" (default) a label lies where a token of the span is to be predicted, one to the
    left of where it stands; with "input", where it stands. The last position, which has no target, gets
    `otherwise`, as does padding.
    """

    NAME: ClassVar[str] = "span"

    rows: "Rows" = field(repr=False)
    """The encoded rows that batches are drawn from."""
    spans: Spans = field(repr=False)
    """(start, stop) of each span, by row number; the stop is not part of it."""
    tokenizer: Any = field(default=None, repr=False)
    """The tokenizer that made the rows; not needed for spans in tokens."""
    label: str = "forget"
    """Label of the tokens inside."""
    otherwise: str = "retain"
    """Label of all others."""
    of: Of = "target"
    """Whether a position's label is that of the token to be predicted there (target) or of the one that stands there
    (input)."""
    unit: Literal["characters", "tokens"] = "characters"
    """What spans count."""

    def __post_init__(self) -> None:
        check_choices(type(self), {"of": self.of, "unit": self.unit})
        if self.unit == "characters" and not getattr(self.tokenizer, "is_fast", False):
            raise UserError(
                "spans in characters need a fast tokenizer, which knows where its tokens are. Give one, or spans with unit='tokens'."
            )
        _ = self.inside

    @cached_property
    def inside(self) -> "Tensor":
        """[n, s] True for the tokens that some span touches."""
        import torch

        found = torch.zeros_like(self.rows.ids, dtype=torch.bool)
        places = _places(self.rows, self.tokenizer) if self.unit == "characters" else None
        for row, spans in self.spans.items():
            if not 0 <= row < len(self.rows):
                raise UserError(f"there is a span for row {row}, but rows are 0 to {len(self.rows) - 1}.")
            length, text = int(self.rows.lengths[row]), self.rows.items[row].text
            size = len(text) if places is not None else length
            for start, stop in spans:
                if not 0 <= start < stop <= size:
                    raise UserError(
                        f"row {row} ({text[:40]!r}): the span {start} to {stop} is outside its {size} {self.unit}, or empty. A span is "
                        "(start, stop), from 0, the stop not included."
                    )
                if places is None:
                    found[row, start:stop] = True
                else:
                    first, last = places[row].unbind(-1)
                    found[row, :length] |= (first < stop) & (last > start)
        return found

    def __call__(self, batch: Any, labels: Sequence[str]) -> "Tensor":
        import torch

        seen = view(batch)
        ids, real = seen.tokens(self.NAME)
        own = seen.column("index", self.inside, self.NAME)[:, : ids.shape[1]].to(ids.device)
        if own.shape != ids.shape:
            raise UserError(
                f"the batch has {ids.shape[1]} tokens a row, and the rows of the rule 'span' only {own.shape[1]}. Use the same rows."
            )
        rest = number(self.otherwise, labels)
        found = torch.where(own & real, number(self.label, labels), rest)
        return aligned(found, self.of, rest)


def _places(rows: "Rows", tokenizer: Any) -> "list[Tensor]":
    """For each row [length, 2]: where each token's characters start and stop in the item's text; (0, 0) for what has
    none."""
    import torch

    found: list[Tensor] = []
    begin, previous, ids, offsets = 0, None, [], []
    for row, item in enumerate(rows.items):
        if item is not previous or begin + 1 >= len(ids):  # else it is the next window of one long text, which overlaps by a token
            encoded = tokenizer(item.text, add_special_tokens=False, return_offsets_mapping=True)
            ids, offsets = list(encoded["input_ids"]), [tuple(place) for place in encoded["offset_mapping"]]
            if tokenizer.bos_token_id is not None and ids[:1] != [tokenizer.bos_token_id]:
                ids, offsets = [tokenizer.bos_token_id, *ids], [(0, 0), *offsets]
            begin, previous = 0, item
        length = int(rows.lengths[row])
        if rows.ids[row, :length].tolist() != ids[begin : begin + length]:
            raise UserError(
                f"row {row} ({item.text[:40]!r}) was not encoded with this tokenizer, or with a chat template: its characters cannot be "
                "found. Give the rows' own tokenizer, or spans with unit='tokens'."
            )
        found.append(torch.tensor(offsets[begin : begin + length]))
        begin += length - 1
    return found
