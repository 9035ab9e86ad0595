from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.audit.attackers import Attacker
from sluicegate.values.ranges import Positive, PositiveShare

if TYPE_CHECKING:
    from sluicegate.audit.target import Target, Trace


@dataclass(frozen=True)
class Steer(Attacker):
    """Add a steering vector behind a layer: the mean on retain rows, which are answered, minus that on owned questions.

    Effort is the dose: how many times the difference of the means is added.
    """

    NAME = "steer"
    UNIT = "dose"
    SUITE = "quick"
    SOURCE = "2411.02631, 2308.10248"
    NEEDS: ClassVar[tuple[str, ...]] = ("retain",)
    BY = "owned"

    doses: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    """How many times the vector is added."""
    depths: tuple[PositiveShare, ...] = (0.25, 0.5, 0.75, 1.0)
    """Behind which layers it is tried, as shares of all of them."""

    def traces(self, target: "Target") -> "Iterator[Trace]":
        import math

        from sluicegate.audit.attackers.directions import mean_states
        from sluicegate.audit.target import Trace, layers
        from sluicegate.engine.forward import hidden_of, hooked, with_hidden

        found, plain = layers(target.model), target.read()
        vectors = mean_states(target.model, target.retain) - mean_states(target.model, target.owned)  # type: ignore[arg-type]
        for number in sorted({math.ceil(depth * len(found)) - 1 for depth in self.depths}):
            trace = Trace(f"layer {number + 1}")
            trace.add(0.0, plain)
            for dose in sorted(self.doses):
                vector: Any = dose * vectors[number]
                with hooked(found[number], lambda m, a, out, v=vector: with_hidden(out, hidden_of(out) + v.to(hidden_of(out)))):
                    trace.add(dose, target.read())
            yield trace

    def passes(self, owned: int, held_out: int) -> float:
        return (owned + held_out) * (2.0 + len(self.doses) * len(self.depths))
