from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sluicegate.values.ranges import Checked, Weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.engine.encoding import Rows
    from sluicegate.engine.training import Batches, Ledger, Loss


@dataclass(frozen=True)
class GradDiff(Checked):
    """Gradient difference: raise the loss on the forget set while lowering it on the retain set.

    ``L = -CE(forget) + a * CE(retain)``

    Source: Liu et al. 2022 (Continual Learning and Private Unlearning, arXiv 2203.12817);
    as used in Lee et al. 2025 (arXiv 2506.06278). Different here: the loss of a forget token
    counts up to `cap` only, since the first term has no lower bound.
    """

    NAME: ClassVar[str] = "graddiff"

    retain_weight: Weight = 10.0
    """a: weight of the retain set's cross-entropy."""
    cap: Weight = 12.0
    """Largest loss of a forget token that is still raised, in nats."""
    on: Literal["real", "answer"] = "real"
    """Which tokens count: all of them, or the answers' alone."""

    def prepare(self, model: "PreTrainedModel", forget: "Rows", retain: "Rows", ledger: "Ledger") -> "GradDiff":
        return self

    def __call__(self, model: "PreTrainedModel", batches: "Batches") -> "Loss":
        from sluicegate.engine.losses import token_losses
        from sluicegate.engine.training import Loss, masked_mean

        forget, retain = batches["forget"], batches["retain"]
        known = masked_mean(token_losses(model, forget, self.on).clamp(max=self.cap), forget, self.on)
        kept = masked_mean(token_losses(model, retain, self.on), retain, self.on)
        return Loss(-known + self.retain_weight * kept, {"forget_loss": known, "retain_loss": kept})
