from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.audit.attackers import Attacker, spread
from sluicegate.values.ranges import Count

if TYPE_CHECKING:
    from sluicegate.audit.target import Target, Trace


@dataclass(frozen=True)
class Direction(Attacker):
    """Project a direction out of the hidden states: the mean on owned questions minus that on retain rows.

    At each layer alone, and at all. Where unlearning works by a direction that says "do not answer", the answer comes
    back. Effort is the number of layers at which it is taken out.
    """

    NAME = "direction"
    UNIT = "layers edited"
    SUITE = "quick"
    SOURCE = "2409.18025, 2406.11717"
    NEEDS: ClassVar[tuple[str, ...]] = ("retain",)
    BY = "owned"

    most: Count = 8
    """Layers at which it is tried alone, evenly spread."""

    def traces(self, target: "Target") -> "Iterator[Trace]":
        import torch

        from sluicegate.audit.attackers.directions import mean_states
        from sluicegate.audit.target import Trace, layers
        from sluicegate.engine.forward import hidden_of, hooked, with_hidden

        found, plain = layers(target.model), target.read()
        apart = mean_states(target.model, target.owned) - mean_states(target.model, target.retain)  # type: ignore[arg-type]
        apart = torch.nn.functional.normalize(apart, dim=1)

        def without(direction: Any) -> Any:
            def hook(module: Any, args: Any, out: Any) -> Any:
                hidden = hidden_of(out)
                own = direction.to(hidden)
                return with_hidden(out, hidden - (hidden @ own)[..., None] * own)

            return hook

        with ExitStack() as stack:
            for layer, direction in zip(found, apart, strict=True):
                stack.enter_context(hooked(layer, without(direction)))
            everywhere = target.read()
        for number in spread(len(found), self.most):
            with hooked(found[number], without(apart[number])):
                trace = Trace(f"layer {number + 1}")
                for effort, reading in ((0.0, plain), (1.0, target.read()), (float(len(found)), everywhere)):
                    if effort not in trace.effort:
                        trace.add(effort, reading)
            yield trace

    def passes(self, owned: int, held_out: int) -> float:
        return (4.0 + self.most) * (owned + held_out)
