from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sluicegate.values.ranges import Checked, Weight

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from sluicegate.engine.encoding import Batch, Rows
    from sluicegate.engine.training import Batches, Ledger, Loss, Objective

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the kernels, as multiples of the mean squared distance."""


@dataclass(frozen=True)
class RepNoise(Checked):
    """Representation noising: on the forget set, make every layer's states look like Gaussian noise.

    ``L = a * CE(retain) + b * mean_l MMD(h_l(forget), N(0, I)) - c * log(1 + mean_l CE(lens_l(forget)))``,
    with lens_l the output layer read at layer l.

    Source: Rosati et al. 2024 (arXiv 2405.14577), eq. 4, as used for a baseline in Lee et al. 2025
    (arXiv 2506.06278). Different here: the distance to the Gaussian (squared maximum mean discrepancy
    under a sum of Gaussian kernels) is taken in its closed form instead of from samples, and it and the
    logarithm are per row and then averaged, so that a batch in parts is the whole. The last layer's
    states are read after the model's final norm; the lens of the layers below goes through that norm.
    """

    NAME: ClassVar[str] = "repnoise"

    retain_weight: Weight = 3.0
    """a: weight of the retain set's cross-entropy."""
    noise_weight: Weight = 1.0
    """b: weight of the distance to noise."""
    ascent_weight: Weight = 1.0
    """c: weight of the forget set's loss, which is raised."""

    def prepare(self, model: "PreTrainedModel", forget: "Rows", retain: "Rows", ledger: "Ledger") -> "Objective":
        from sluicegate.engine.training import Loss
        from sluicegate.unlearning.likelihood import retain_loss

        config = model.config.get_text_config()
        # What the lens adds to a step: forward and backward of the output layer, at every layer but the last.
        lens = 3 * 2 * config.hidden_size * config.vocab_size * (config.num_hidden_layers - 1)

        def loss(model: "PreTrainedModel", batches: "Batches") -> "Loss":
            batch, keep = batches["forget"], batches["retain"]
            rows = batch.total("rows")
            noise, climbed = self._terms(model, batch)
            noise, climbed = noise.sum() / rows, climbed.sum() / rows
            kept = retain_loss(model, keep)
            value = self.retain_weight * kept + self.noise_weight * noise - self.ascent_weight * climbed
            log = {"forget_mmd": noise, "forget_log_loss": climbed, "retain_loss": kept}
            return Loss(value, log, teacher_flops=float(lens * batch.ids.numel()))

        return loss

    def _terms(self, model: "PreTrainedModel", batch: "Batch") -> "tuple[Tensor, Tensor]":
        """[b] distance to noise, and [b] log(1 + the loss at every layer), both means over layers."""
        import torch

        from sluicegate.engine.losses import Outputs, cross_entropy

        out = Outputs(model, batch, "answer", output_hidden_states=True)
        states = out.answer.hidden_states[1:]  # without the embeddings; the last one is already normalised
        norm, head = final_norm(model), model.get_output_embeddings()
        seen = [out.through(norm(state), head) for state in states[:-1]] + [out]
        count = batch.answer.sum(1).clamp(min=1)
        each = (o.values(lambda z, piece: cross_entropy(z, out.pick(batch.ids[:, 1:], piece))) for o in seen)
        losses = [loss.sum(1) / count for loss in each]
        noise = torch.stack([distance_to_noise(state, batch.attention) for state in states]).mean(0)
        return noise, torch.log1p(torch.stack(losses).mean(0))


def final_norm(model: "PreTrainedModel") -> "nn.Module":
    """The norm between the last layer and the output layer; the identity where there is none."""
    import torch

    found = [m for m in model.base_model.children() if "norm" in type(m).__name__.lower()]
    return found[-1] if found else torch.nn.Identity()


def distance_to_noise(states: "Tensor", attention: "Tensor") -> "Tensor":
    """[b] squared maximum mean discrepancy between each row's states [b, s, d] and N(0, I), biased estimate.

    Kernels ``exp(-||x - y||^2 / (2 h))``; of a Gaussian y their means are known:
    ``E k(x, y) = (h / (h + 1))^(d/2) exp(-||x||^2 / (2 (h + 1)))`` and ``E k(y, y') = (h / (h + 2))^(d/2)``.
    """
    import torch

    d = states.shape[-1]
    real = attention.to(states.dtype)
    count = real.sum(1)
    squares = states.square().sum(-1)
    gaps = (squares[:, :, None] + squares[:, None, :] - 2 * states @ states.transpose(1, 2)).clamp(min=0)
    # E ||x - y||^2 = ||x||^2 + d, at the row's own scale, so that the kernels reach it wherever it is.
    scale = ((squares * real).sum(1) / count).detach() + d
    # MMD^2 = E k(x, x') - 2 E k(x, y) + E k(y, y'), summed over the kernels: pairs of the row's own states, its states
    # with the Gaussian, and the Gaussian with itself. A power of d / 2 is taken as an exponential, which does not
    # underflow early.
    total = torch.zeros_like(count)
    for share in BANDWIDTHS:
        h = (share * scale / 2)[:, None]
        own = (torch.exp(-gaps / (2 * h[:, :, None])) * real[:, :, None] * real[:, None, :]).sum((1, 2)) / count.square()
        shrink = torch.exp(0.5 * d * torch.log(h / (h + 1)))
        across = (shrink * torch.exp(-squares / (2 * (h + 1))) * real).sum(1) / count
        total = total + own - 2 * across + torch.exp(0.5 * d * torch.log(h / (h + 2)))[:, 0]
    return total / len(BANDWIDTHS)
