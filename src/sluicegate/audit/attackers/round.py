from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from sluicegate.audit.attackers import Attacker
from sluicegate.values.ranges import Range, Whole

if TYPE_CHECKING:
    from sluicegate.audit.target import Target, Trace


@dataclass(frozen=True)
class Round(Attacker):
    """Round the weights to few bits, as a quantised copy has them: what small updates hid may come back."""

    NAME = "round"
    UNIT = "bits taken away"
    SUITE = "standard"
    SOURCE = "2410.16454, 2605.02196"

    bits: tuple[Annotated[int, Range(2, 16)], ...] = (8, 6, 4, 3)
    """Bits of a weight, of 16."""
    groups: tuple[Whole, ...] = (0, 32)
    """Weights that share a scale; 0: a row."""

    def traces(self, target: "Target") -> "Iterator[Trace]":
        from sluicegate.audit.target import Trace
        from sluicegate.values.edits import Rounded

        plain = target.read()
        for group in self.groups:
            trace = Trace(f"groups of {group}" if group else "rows")
            trace.add(0.0, plain)
            for bits in sorted(self.bits, reverse=True):
                with Rounded(bits, group)(target.model):
                    trace.add(float(16 - bits), target.read())
            yield trace

    def passes(self, owned: int, held_out: int) -> float:
        return (owned + held_out) * (1.0 + len(self.bits) * len(self.groups))
