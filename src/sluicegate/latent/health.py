"""Blocks that are dead or collapsed: found, named, and where there is time yet, begun anew."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sluicegate.engine.sampling import seed_of
from sluicegate.latent.model import Autoencoder
from sluicegate.latent.sharing import own_weight

DEAD, COLLAPSED = 0.05, 0.5


@dataclass(frozen=True)
class Health:
    """How the blocks do on images of known class."""

    own: tuple[float, ...]
    """By class, the mean amount of its block on its own images."""
    recall: tuple[float, ...]
    """By class, the share of its images that its block reads."""

    def dead(self) -> list[int]:
        """Blocks that hardly stir on their own class: below a twentieth of the largest mean amount."""
        return [j for j, amount in enumerate(self.own) if amount <= DEAD * max(self.own) or amount == 0]

    def collapsed(self) -> list[int]:
        """Blocks that stir, but read less than half of their own class, which another block has taken over."""
        return [j for j, share in enumerate(self.recall) if share < COLLAPSED and j not in self.dead()]

    def lost(self) -> list[int]:
        """Both."""
        return sorted([*self.dead(), *self.collapsed()])


@torch.no_grad()
def examine(model: Autoencoder, x: Tensor, labels: Tensor) -> Health:
    """Look at a model's blocks on pixels [n, pixels] with classes [n]; classes without an image count as well."""
    code = model.read(model.encoder(x))
    read, labels = code.read().cpu(), labels.cpu()
    own, recall = [], []
    for j in range(len(model.classes)):
        rows = labels == j
        seen = bool(rows.any())
        own.append(float(code.amounts[rows.to(x.device), j].mean()) if seen else float(code.amounts[:, j].max()))
        recall.append(float((read[rows] == j).double().mean()) if seen else 1.0)
    return Health(tuple(own), tuple(recall))


@torch.no_grad()
def revive(model: Autoencoder, j: int, seed: int) -> None:
    """Begin a dead block anew: its amount and styles are drawn again as at the start, a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, j))
        for head, rows in ((model.amount, slice(j, j + 1)), (model.style, slice(j * model.k, (j + 1) * model.k))):
            fresh = torch.nn.Linear(head.in_features, head.out_features)
            own = own_weight(head)
            own[rows] = fresh.weight[rows].to(own) if own is head.weight else 0.0  # the common part stays
            head.bias[rows] = fresh.bias[rows].to(head.bias)
        model.amount.bias[j] = 1.0


@torch.no_grad()
def settle(model: Autoencoder, x: Tensor, labels: Tensor) -> None:
    """Write down each block's usual amount and styles: their means on pixels [n, pixels] of its own class."""
    code = model.read(model.encoder(x))
    for j in range(len(model.classes)):
        rows = (labels == j).to(x.device)
        if bool(rows.any()):
            model.usual_amounts[j] = code.amounts[rows, j].mean()
            model.usual_styles[j] = code.styles[rows, j].mean(0)
