from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluicegate.audit.attackers import Attacker, CannotAttack, spread
from sluicegate.values.ranges import Count

if TYPE_CHECKING:
    from sluicegate.audit.target import Target, Trace


@dataclass(frozen=True)
class Lens(Attacker):
    """Read the answer off an earlier layer: the layers behind it give back what they are given (logit lens).

    Effort is the number of layers left out. What the last layers only hide shows before them.
    """

    NAME = "lens"
    UNIT = "layers left out"
    SUITE = "quick"
    SOURCE = "2409.18025"
    BY = "owned"

    most: Count = 8
    """Layers at which it is tried, evenly spread."""

    def traces(self, target: "Target") -> "Iterator[Trace]":
        from sluicegate.audit.target import Trace, layers
        from sluicegate.engine.forward import with_hidden

        found, trace = layers(target.model), Trace("")
        if len(found) < 2:
            raise CannotAttack("the model has one layer, so there is no earlier one to read an answer off.")

        def passing(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            return with_hidden(output, args[0] if args else kwargs["hidden_states"])

        for left_out in spread(len(found), self.most):
            with ExitStack() as stack:
                for layer in found[len(found) - left_out :]:
                    stack.callback(layer.register_forward_hook(passing, with_kwargs=True).remove)
                trace.add(float(left_out), target.read())
        yield trace

    def passes(self, owned: int, held_out: int) -> float:
        return float(self.most * (owned + held_out))
