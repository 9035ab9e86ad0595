from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sluicegate.routing.penalties import Weighted, pairs

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Correlation(Weighted):
    """Blocks that do not rise and fall together.

    ``L = w * mean_{k, h} |corr(top_k, bottom_h)|``: the absolute Pearson correlation over the rows of
    the batch, averaged over all pairs of units from different blocks (and the rest).

    Source: Cloud et al. 2024 (arXiv 2410.04332), the MNIST autoencoder (w 0.1). Different here: any
    number of blocks. A unit that is constant over the batch correlates 0 with everything, and so does
    a batch of one row.
    """

    NAME: ClassVar[str] = "correlation"

    def __call__(self, z: "Tensor", blocks: Mapping[str, tuple[int, int]], step_share: float = 1.0) -> "Tensor":
        import torch

        total, count = z.new_zeros((), dtype=torch.float32), 0
        for a, b in pairs(z, blocks, self.NAME):
            total = total + (_standard(a).t() @ _standard(b)).abs().sum()
            count += a.shape[1] * b.shape[1]
        return self.at(step_share) * total / count


def _standard(group: "Tensor") -> "Tensor":
    """[n, units] centred, every unit of length 1 over the rows."""
    centred = group - group.mean(0)
    # The clamp comes before the root, whose gradient at 0 is infinite. Its size is relative: a constant
    # unit leaves rounding errors behind, and they are no correlation.
    floor = (group.detach().square().sum(0) * 1e-10).clamp_min(1e-24)
    square = centred.square().sum(0)
    return centred * (square > floor) * square.clamp_min(floor).rsqrt()
