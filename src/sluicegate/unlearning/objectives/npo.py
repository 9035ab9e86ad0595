from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sluicegate.values.ranges import Checked, Positive, Weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.engine.encoding import Rows
    from sluicegate.engine.training import Batches, Ledger, Loss, Objective


@dataclass(frozen=True)
class NPO(Checked):
    """Negative preference optimisation: make the forget set's answers less likely than they were.

    ``L = -(2 / b) * mean log sigmoid(-b * (log p(y | x) - log p_ref(y | x))) + a * CE(retain)``

    Source: Zhang et al. 2024 (arXiv 2404.05868), eq. 3. Different here: the reference model is its
    cached log-probabilities of the forget answers, one number a row, not a second model in memory.
    """

    NAME: ClassVar[str] = "npo"

    beta: Positive = 0.1
    """b: inverse temperature; towards 0 this becomes gradient ascent."""
    retain_weight: Weight = 10.0
    """a: weight of the retain set's cross-entropy. At 1 a run of few steps ends before the retain set is back."""

    def prepare(self, model: "PreTrainedModel", forget: "Rows", retain: "Rows", ledger: "Ledger") -> "Objective":
        import torch

        from sluicegate.engine.forward import Meter
        from sluicegate.engine.losses import portions
        from sluicegate.unlearning.likelihood import answer_log_probability

        model.eval()
        with torch.no_grad():
            parts = []
            meter = Meter(model)
            for batch in portions(model, forget, 64):
                parts.append(answer_log_probability(model, batch))
                ledger.teacher += meter(batch)
        reference = torch.cat(parts)

        def loss(model: "PreTrainedModel", batches: "Batches") -> "Loss":
            import torch.nn.functional as F

            from sluicegate.engine.training import Loss
            from sluicegate.unlearning.likelihood import retain_loss

            batch = batches["forget"]
            ratio = answer_log_probability(model, batch) - reference[batch.index]
            down = -(2 / self.beta) * F.logsigmoid(-self.beta * ratio).sum() / batch.total("rows")
            kept = retain_loss(model, batches["retain"])
            return Loss(down + self.retain_weight * kept, {"forget_loss": down, "retain_loss": kept})

        return loss
