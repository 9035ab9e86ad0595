from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sluicegate.errors import UserError
from sluicegate.values.ranges import Checked, Place, Seed, Weight

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from sluicegate.engine.encoding import Batch, Rows
    from sluicegate.engine.training import Batches, Ledger, Loss, Objective

CACHE_LIMIT = 4 * 2**30
"""Most bytes of hidden states that are kept."""


@dataclass(frozen=True)
class RMU(Checked):
    """Representation misdirection: steer one layer's hidden state on the forget set to a random vector.

    ``L = MSE(h_l(forget), c * u) + a * MSE(h_l(retain), h_l at the start (retain))``, with u a random
    direction of unit length drawn from `direction_seed`.

    Source: Li et al. 2024 (WMDP, arXiv 2403.03218), section 4. Different here: the retain set's
    hidden states at the start are computed once and kept in the host's memory, not a second model;
    where they would be more than 4 GiB, the original values of the trained weights are kept instead
    and swapped in for one forward pass a step. Which weights are trained is the stage's `params`
    (the paper: the MLPs' down projections of three layers up to l). The last layer's hidden state
    is read after the model's final norm.
    """

    NAME: ClassVar[str] = "rmu"

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
        from sluicegate.unlearning.likelihood import hidden_state

        config = model.config.get_text_config()
        layers = config.num_hidden_layers
        if not -1 <= self.layer < layers:
            raise UserError(f"layer is {self.layer}; this model has layers 0 to {layers - 1} (-1 takes the middle one).")
        layer = (layers - 1) // 2 if self.layer == -1 else self.layer
        direction = torch.randn(config.hidden_size, generator=torch.Generator().manual_seed(self.direction_seed))
        target = self.coefficient * direction / direction.norm()
        meter = Meter(model)
        size = int(retain.lengths.sum()) * config.hidden_size * model.dtype.itemsize
        small = size <= CACHE_LIMIT
        # Frozen weights need no copy: only what will move is kept.
        original = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad and not small}
        states: list[Tensor] = []  # [length, d] of each retain row
        model.eval()  # the reference is taken without dropout
        with torch.no_grad():
            for batch in retain.everything(64) if small else ():
                found = hidden_state(model, batch, layer)
                states += [row[real].cpu() for row, real in zip(found, batch.attention, strict=True)]
                ledger.teacher += meter(batch)

        def at_the_start(model: "PreTrainedModel", keep: "Batch") -> "Tensor":
            """[b, s, d] what the retain rows' hidden states were; anything in the padding."""
            if small:
                rows = torch.nn.utils.rnn.pad_sequence([states[i] for i in keep.index.tolist()], batch_first=True)
                return torch.nn.functional.pad(rows, (0, 0, 0, keep.ids.shape[1] - rows.shape[1])).to(keep.ids.device)
            if any(hasattr(p, "full_tensor") for p in model.parameters()):  # FSDP2 would put its own over what is swapped in
                raise UserError(
                    f"the hidden states of the retain rows take {size / 2**30:.1f} GiB, and at most {CACHE_LIMIT / 2**30:.0f} are kept; "
                    "the other way swaps whole weights in, which a divided model cannot do. Hand in fewer retain rows, or no --shard."
                )
            was_training = model.training
            model.eval()
            with torch.no_grad():
                frozen = hidden_state(model, keep, layer, original)
            model.train(was_training)
            return frozen

        def loss(model: "PreTrainedModel", batches: "Batches") -> "Loss":
            from sluicegate.engine.training import Loss

            away, keep = batches["forget"], batches["retain"]
            frozen = at_the_start(model, keep)
            error = (hidden_state(model, away, layer) - target.to(away.ids.device)).square().mean(-1)
            steered = (error * away.attention).sum() / away.total("attention")
            drift = (hidden_state(model, keep, layer) - frozen).square().mean(-1)
            kept = (drift * keep.attention).sum() / keep.total("attention")
            log = {"forget_mse": steered, "retain_mse": kept}
            return Loss(steered + self.retain_weight * kept, log, teacher_flops=0.0 if small else meter(keep))

        return loss
