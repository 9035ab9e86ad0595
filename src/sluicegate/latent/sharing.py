"""Blocks learn what styles are together: a part of their weights is common while they are trained.

A block's own image is one in ten, so its style weights would see a tenth of what a net without routing learns from.
Each block's weights are therefore the sum of a common part, which learns from whichever block is on, and its own. That
is the same set of functions, and gradients still reach a block's code from rows of its own class only; after training
the sum is written down and the common part is gone. What the decoder draws with them is scaled down in its own part.
Adam's steps have one length for all weights, and a block's own gradient is ten times as noisy as the common one: a
smaller scale is a smaller rate for what is learnt from fewer images. Not so where the image is read: blocks that read
alike draw each other's images, and the amounts then name fewer of them.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sluicegate.latent.model import Autoencoder


class Common(nn.Module):
    """Adds one matrix to every block's part of a weight, whose own is scaled, [1] or [columns of a block]."""

    def __init__(self, like: Tensor, count: int, dim: int, scale: Tensor) -> None:
        super().__init__()
        self.count, self.dim = count, dim
        self.scale: Tensor
        self.register_buffer("scale", scale.to(like))
        self.common = nn.Parameter(like.detach().unflatten(dim, (count, -1)).select(dim, 0).clone())

    def forward(self, own: Tensor) -> Tensor:
        whole: Tensor = own.unflatten(self.dim, (self.count, -1)) * self.scale + self.common.unsqueeze(self.dim)
        return whole.flatten(self.dim, self.dim + 1)


def can_share(model: Autoencoder) -> bool:
    """Whether the blocks' weights are known: not in nets of the user's own, nor where there are no styles."""
    return model.k > 0 and not model.own_parts


def _shared(model: Autoencoder) -> list[tuple[nn.Linear, int]]:
    first = model.decoder[0]  # type: ignore[index]
    return [(model.style, 0), (model.spread, 0), (first, 1)]


@torch.no_grad()
def share(model: Autoencoder, own: float) -> None:
    """Begin: styles are read and drawn alike in all blocks; amounts are each block's own from the first."""
    count = len(model.classes)
    columns = torch.full((1 + model.k,), own)
    columns[0] = 1.0  # the amounts'
    for layer, dim in _shared(model):
        common = Common(layer.weight, count, dim, columns if dim else torch.ones(1))
        blocks = layer.weight.unflatten(dim, (count, -1))
        if dim:
            common.common[:, 0] = 0.0  # the amounts' columns
            blocks[:, :, 1:] = 0.0
        else:
            blocks[:] = 0.0
        parametrize.register_parametrization(layer, "weight", common)


def fold(model: Autoencoder) -> None:
    """End: the sums are the weights, and the model is as it was made."""
    for layer, _ in _shared(model):
        parametrize.remove_parametrizations(layer, "weight")


def own_weight(layer: nn.Linear) -> Tensor:
    """The weight that can be written to: the blocks' own part where a common one is added."""
    if parametrize.is_parametrized(layer, "weight"):
        return layer.parametrizations.weight.original  # type: ignore[union-attr,return-value]
    return layer.weight
