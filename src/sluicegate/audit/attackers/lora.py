from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluicegate.audit.attackers.tuned import Tuned
from sluicegate.values.ranges import Rows, Width

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.audit.target import Target


@dataclass(frozen=True)
class Lora(Tuned):
    """Train a low-rank adapter on every linear layer."""

    NAME = "lora"
    SUITE = "standard"
    SOURCE = "2106.09685"

    batch: Rows = 32
    rank: Width = 8
    """Rank of the adapter."""

    def at_width_64(self) -> tuple[float, ...]:
        return (3e-3, 1.2e-2, 3e-2)

    def trained(self, target: "Target") -> "Iterator[tuple[str, dict[str, Any], None]]":
        from sluicegate.audit.adapter import add_adapter
        from sluicegate.engine.sampling import seed_of

        add_adapter(target.model, self.rank, seed_of(target.seed, "adapter"))
        yield "", {name: p for name, p in target.model.named_parameters() if "lora_" in name}, None

    def capacity(self, model: "PreTrainedModel") -> int:
        from sluicegate.engine.forward import matrices

        return sum(self.rank * (w.shape[-1] + w.shape[-2]) * (len(w) if w.dim() == 3 else 1) for _, _, _, w in matrices(model))
