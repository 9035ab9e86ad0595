from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sluicegate.errors import UserError
from sluicegate.values.ranges import Checked, Place, Seed, Weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.engine.encoding import Rows
    from sluicegate.engine.training import Batches, Ledger, Loss, Objective


@dataclass(frozen=True)
class RMU(Checked):
    """Representation misdirection: steer one layer's hidden state on the forget set to a random vector.

    ``L = MSE(h_l(forget), c * u) + a * MSE(h_l(retain), h_l at the start (retain))``, with u a random
    direction of unit length drawn from `direction_seed`.

    Source: Li et al. 2024 (WMDP, arXiv 2403.03218), section 4. Different here: the retain set's
    hidden states come from the original values of the trained weights only, swapped in for one
    forward pass, not from a second model; which weights are trained is the stage's `params`
    (the paper: the MLPs' down projections of three layers up to l). The last layer's hidden state
    is read after the model's final norm.
    """

    NAME: ClassVar[str] = "rmu"
    SHARDS: ClassVar[bool] = False
    """Its reference swaps whole weights in for a pass, which FSDP2 would put its own over."""

    layer: Place = -1
    """l: whose output is steered, counted from 0; -1: the layer in the middle."""
    coefficient: Weight = 6.0
    """c: length of the target vector, in units of the hidden state."""
    retain_weight: Weight = 200.0
    """a: weight of keeping the retain set's hidden states."""
    direction_seed: Seed = 0
    """Seed of the random direction."""

    def prepare(self, model: "PreTrainedModel", forget: "Rows", retain: "Rows", ledger: "Ledger") -> "Objective":
        import torch

        from sluicegate.engine.forward import Meter

        config = model.config.get_text_config()
        layers = config.num_hidden_layers
        if not -1 <= self.layer < layers:
            raise UserError(f"layer is {self.layer}; this model has layers 0 to {layers - 1} (-1 takes the middle one).")
        layer = (layers - 1) // 2 if self.layer == -1 else self.layer
        direction = torch.randn(config.hidden_size, generator=torch.Generator().manual_seed(self.direction_seed))
        target = self.coefficient * direction / direction.norm()
        # Frozen weights need no copy: only what will move is kept.
        original = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        meter = Meter(model)

        def loss(model: "PreTrainedModel", batches: "Batches") -> "Loss":
            from sluicegate.engine.training import Loss
            from sluicegate.unlearning.likelihood import hidden_state

            away, keep = batches["forget"], batches["retain"]
            was_training = model.training
            model.eval()  # the reference is taken without dropout
            with torch.no_grad():
                frozen = hidden_state(model, keep, layer, original)
            model.train(was_training)
            error = (hidden_state(model, away, layer) - target.to(away.ids.device)).square().mean(-1)
            steered = (error * away.attention).sum() / away.total("attention")
            drift = (hidden_state(model, keep, layer) - frozen).square().mean(-1)
            kept = (drift * keep.attention).sum() / keep.total("attention")
            log = {"forget_mse": steered, "retain_mse": kept}
            return Loss(steered + self.retain_weight * kept, log, teacher_flops=meter(keep))

        return loss
