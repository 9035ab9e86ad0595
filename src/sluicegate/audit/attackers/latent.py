from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluicegate.audit.attackers.tuned import Tuned
from sluicegate.values.ranges import PositiveShare

if TYPE_CHECKING:
    from sluicegate.audit.target import Target


@dataclass(frozen=True)
class Latent(Tuned):
    """Train one vector that is added to the hidden states behind a layer, the same for every row and token."""

    NAME = "latent"
    SUITE = "standard"
    SOURCE = "2502.05209"

    depths: tuple[PositiveShare, ...] = (0.34, 0.67, 1.0)
    """Behind which layers it is tried, as shares of all of them."""

    def at_width_64(self) -> tuple[float, ...]:
        return (0.03, 0.1, 0.3)

    def trained(self, target: "Target") -> "Iterator[tuple[str, dict[str, Any], None]]":
        import math

        import torch

        from sluicegate.audit.target import layers
        from sluicegate.engine.forward import hidden_of, hooked, with_hidden
        from sluicegate.engine.models import width

        found = layers(target.model)
        vector = torch.nn.Parameter(torch.zeros(width(target.model), device=target.model.device))
        target.model.register_parameter("attack_latent", vector)
        for number in sorted({math.ceil(depth * len(found)) - 1 for depth in self.depths}):
            with hooked(found[number], lambda m, args, out: with_hidden(out, hidden_of(out) + vector.to(hidden_of(out)))):
                yield f"layer {number + 1}", {"attack_latent": vector}, None
                vector.data.zero_()

    def capacity(self, model: Any) -> int:
        return int(model.config.get_text_config().hidden_size)

    def passes(self, owned: int, held_out: int) -> float:
        return len(self.depths) * super().passes(owned, held_out)
