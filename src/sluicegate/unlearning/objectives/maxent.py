from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sluicegate.values.ranges import Checked, Weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.engine.encoding import Rows
    from sluicegate.engine.training import Batches, Ledger, Loss


@dataclass(frozen=True)
class MaxEnt(Checked):
    """Maximum entropy: make every next token equally likely on the forget set.

    ``L = KL(uniform || p(. | x)) + w * CE(retain)``, where the first term is
    ``-log V - mean_v log p(v)``, averaged over the forget set's tokens.

    Source: Lee et al. 2025 (arXiv 2506.06278), the teacher used for UNDO on language and arithmetic.
    """

    NAME: ClassVar[str] = "maxent"

    retain_weight: Weight = 1.0
    """w: weight of the retain set's cross-entropy."""
    on: Literal["real", "answer"] = "real"
    """Which tokens count: all of them, or the answers' alone."""

    def prepare(self, model: "PreTrainedModel", forget: "Rows", retain: "Rows", ledger: "Ledger") -> "MaxEnt":
        return self

    def __call__(self, model: "PreTrainedModel", batches: "Batches") -> "Loss":
        import math

        from sluicegate.engine.losses import Outputs, token_losses
        from sluicegate.engine.training import Loss, masked_mean

        forget, retain = batches["forget"], batches["retain"]
        apart = Outputs(model, forget, self.on).values(lambda z, _: -math.log(z.shape[-1]) - z.log_softmax(-1).mean(-1))
        flat = masked_mean(apart, forget, self.on)
        kept = masked_mean(token_losses(model, retain, self.on), retain, self.on)
        return Loss(flat + self.retain_weight * kept, {"forget_kl": flat, "retain_loss": kept})
