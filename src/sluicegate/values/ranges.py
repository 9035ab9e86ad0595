"""Which numbers a setting may be: declared with its type, and checked in one place when the settings are made."""

import dataclasses
import sys
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, get_args, get_origin

from sluicegate.errors import UserError, check_choices

LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`, both included unless `above` or `below` says otherwise."""

    low: float = -LARGEST
    high: float = LARGEST
    above: bool = False
    below: bool = False

    def __contains__(self, value: Any) -> bool:
        return self.low <= value <= self.high and not ((self.above and value == self.low) or (self.below and value == self.high))

    def __str__(self) -> str:
        low = f"{'more than' if self.above else 'at least'} {self.low:,}" if self.low > -LARGEST else ""
        high = f"{'less than' if self.below else 'at most'} {self.high:,}" if self.high < LARGEST else ""
        return " and ".join(filter(None, (low, high))) or "finite"


MOST = 10**8
"""Of steps, or of what is counted: a hundred million steps of the smallest model take a day, of most models years."""
LONGEST = 2**63 - 1
"""The largest whole number that TOML and torch hold: a seed, or a plug-in's own setting."""

Count = Annotated[int, Range(1, MOST)]
Whole = Annotated[int, Range(0, MOST)]
Place = Annotated[int, Range(-1, MOST)]
"""Counted from 0; -1 leaves the choice."""
Width = Annotated[int, Range(1, 2**16)]
"""Units of a layer. Two layers of the widest have 2^32 weights between them, which are 16 GiB."""
Rows = Annotated[int, Range(1, 2**20)]
"""Rows a step."""
Seed = Annotated[int, Range(0, LONGEST)]
Number = Annotated[float, Range()]
Weight = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]
"""A share of something that may not be nothing."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Of a model's numbers; auto: float32 on a CPU, and on an accelerator what its weights are saved in."""


def setting(default: Any, *, added: bool = False, was: str = "", hashed: bool = True) -> Any:
    """A setting whose history is known.

    added: it came after runs had been made, and at its default the stage does what it did before. It is then no part of
    the hash. was: its earlier name. It stands in the hash under that name, and may still be given by it. Not hashed: it
    says where something is computed, not what.
    """
    return dataclasses.field(default=default, metadata={"added": added, "was": was, "hashed": hashed})


class Checked:
    """Settings: a dataclass whose numbers and choices are checked when it is made."""

    def __post_init__(self) -> None:
        check(self)


def check(settings: Any) -> None:
    """Raise `UserError` for a value of a dataclass that is none of its field's choices, or no number within its range.

    Without a range any finite number will do. Nested settings are checked too: a plug-in's need not be `Checked`.
    """
    check_choices(type(settings), vars(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            check(value)
        if found := range_of(field.type):
            kind, allowed = found
            for entry in value if isinstance(value, (tuple, list)) else (value,):
                right = type(entry) is not bool and isinstance(entry, Integral if kind is int else Real)
                if not right or entry not in allowed:
                    raise UserError(f"{field.name} is {value!r}; it must be a{' whole' * (kind is int)} number, {allowed}.")


def range_of(declared: Any) -> tuple[type, Range] | None:
    """The type, int or float, and the range of a field declared so, or of its entries; None where it is no number."""
    kind = get_args(declared)[0] if get_origin(declared) is tuple else declared
    kind, *notes = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    if kind not in (int, float):
        return None
    own = Range(-LONGEST, LONGEST) if kind is int else Range()
    return kind, next((note for note in notes if isinstance(note, Range)), own)
