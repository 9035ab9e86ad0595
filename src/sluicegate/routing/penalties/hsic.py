from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sluicegate.errors import UserError
from sluicegate.routing.penalties import Weighted, pairs

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HSIC(Weighted):
    """Blocks that are independent, not only uncorrelated: the Hilbert-Schmidt independence criterion.

    ``L = w * mean HSIC(A, B) / sqrt(HSIC(A, A) HSIC(B, B))`` over every two blocks (and the rest),
    with ``HSIC(A, B) = tr(K_A H K_B H)``, Gaussian kernels ``exp(-|a_i - a_j|^2 / (2 s^2))`` and
    H = I - 1/n.

    Source: Gretton et al. 2005 (Measuring statistical dependence with Hilbert-Schmidt norms), the
    biased estimate; the division, which makes it lie between 0 and 1, is that of Kornblith et al.
    2019 (arXiv 1905.00414). Different here: s^2 is the median squared distance of the batch, without
    a gradient, so that scaling the units changes nothing. With few rows even independent blocks
    score well above 0: use 64 or more.
    """

    NAME: ClassVar[str] = "hsic"

    rows: int = 512
    """Most rows (or tokens) that are compared with each other; of more, every n-th is taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows < 2:
            raise UserError(f"rows is {self.rows}; at least 2 rows are needed to compare them with each other.")

    def __call__(self, z: "Tensor", blocks: Mapping[str, tuple[int, int]], step_share: float = 1.0) -> "Tensor":
        import torch

        flat = z.reshape(-1, z.shape[-1])
        flat = flat[:: -(-len(flat) // self.rows) or 1]
        found = []
        for a, b in pairs(flat, blocks, self.NAME):
            ka, kb = _kernel(a), _kernel(b)
            own = (ka * ka).sum() * (kb * kb).sum()
            found.append((ka * kb).sum() * own.clamp_min(1e-12).rsqrt())
        return self.at(step_share) * torch.stack(found).mean()


def _kernel(group: "Tensor") -> "Tensor":
    """[n, n] the centred Gaussian kernel of the rows."""
    import torch

    # Of a constant block only rounding errors are left, and they are no dependence.
    floor = group.detach().square().sum(1).mean() * 1e-10
    group = group - group.mean(0)
    products = group @ group.t()
    lengths = products.diagonal()
    square = (lengths[:, None] + lengths[None] - 2 * products).clamp_min(0)
    width = square.detach()[~torch.eye(len(group), dtype=torch.bool, device=group.device)]
    scale = torch.maximum(width.median(), floor).clamp_min(1e-24) if len(width) else square.new_ones(())
    kernel = torch.exp(-square / (2 * scale))
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
