from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluicegate.audit.attackers import CannotAttack
from sluicegate.audit.attackers.tuned import Tuned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.audit.target import Target


@dataclass(frozen=True)
class Gains(Tuned):
    """Train the gains of the norms and the biases alone.

    They are too few to hold the facts, so what they bring back the other weights still hold.
    """

    NAME = "gains"
    SUITE = "quick"
    SOURCE = "ours"

    def trained(self, target: "Target") -> "Iterator[tuple[str, dict[str, Any], None]]":
        found = {name: p for name, p in target.model.named_parameters() if p.dim() == 1}
        if not found:
            raise CannotAttack("the model has no gains and no biases to train.")
        yield "", found, None

    def capacity(self, model: "PreTrainedModel") -> int:
        return sum(p.numel() for p in model.parameters() if p.dim() == 1)
