from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluicegate.audit.attackers.tuned import Tuned
from sluicegate.values.ranges import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.audit.target import Target


@dataclass(frozen=True)
class Full(Tuned):
    """Fine-tune all weights on the facts that the attacker owns."""

    NAME = "full"
    SUITE = "standard"
    SOURCE = "2506.06278"

    batch: Rows = 32

    def at_width_64(self) -> tuple[float, ...]:
        return (3e-4, 1e-3, 3e-3)

    def trained(self, target: "Target") -> "Iterator[tuple[str, dict[str, Any], None]]":
        yield "", dict(target.model.named_parameters()), None

    def capacity(self, model: "PreTrainedModel") -> int:
        return sum(p.numel() for p in model.parameters())
