from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sluicegate.values.ranges import Checked, Number, Positive, Weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.engine.encoding import Rows
    from sluicegate.engine.training import Batches, Ledger, Loss


@dataclass(frozen=True)
class SimNPO(Checked):
    """NPO without a reference: the answer's log-probability per token is pushed below a margin.

    ``L = -(2 / b) * mean log sigmoid(-(b / |y|) * log p(y | x) - g) + a * CE(retain)``

    Source: Fan et al. 2024 (Simplicity Prevails, arXiv 2410.07163), eq. 4.
    """

    NAME: ClassVar[str] = "simnpo"

    beta: Positive = 2.5
    """b: inverse temperature."""
    margin: Number = 0.0
    """g: the margin."""
    retain_weight: Weight = 1.0
    """a: weight of the retain set's cross-entropy."""

    def prepare(self, model: "PreTrainedModel", forget: "Rows", retain: "Rows", ledger: "Ledger") -> "SimNPO":
        return self

    def __call__(self, model: "PreTrainedModel", batches: "Batches") -> "Loss":
        import torch.nn.functional as F

        from sluicegate.engine.training import Loss
        from sluicegate.unlearning.likelihood import answer_log_probability, retain_loss

        batch = batches["forget"]
        per_token = answer_log_probability(model, batch) / batch.answer.sum(1)
        down = -(2 / self.beta) * F.logsigmoid(-self.beta * per_token - self.margin).sum() / batch.total("rows")
        kept = retain_loss(model, batches["retain"])
        return Loss(down + self.retain_weight * kept, {"forget_loss": down, "retain_loss": kept})
