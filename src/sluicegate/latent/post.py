"""The model of the post that started this, as a control: one number a class, no styles.

Goldman-Wetzler 2024, "Creating Interpretable Latent Spaces with Gradient Routing": 784-2048-512-10 and back,
ReLU(mean + c * noise), 0.3 * squared error + mean(mean^2 + exp(c) - c), Adam at 1e-3 * 0.95^epoch. The squared error is
summed over pixels here: as a mean it would be a thousandth of the penalty, and nothing would be learnt.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sluicegate.engine.training import Batches, Loss
from sluicegate.latent.model import Autoencoder
from sluicegate.latent.objective import Objective, Rows
from sluicegate.latent.settings import Settings
from sluicegate.values.schedule import Schedule


class Post(Autoencoder):
    """The same interface; torch's own initial biases, and the head `noise` for c. Not made to be saved."""

    def __init__(self, size: Sequence[int], classes: Sequence[str], hidden: Sequence[int]) -> None:
        super().__init__(size, classes, hidden=hidden, k=0)
        self.amount.reset_parameters()
        self.noise = nn.Linear(hidden[-1], len(self.classes))


class PostObjective(Objective):
    """The post's loss. The router is the same: it detached every number but the label's."""

    mends = False

    def __init__(self, model: Post, steps: int) -> None:
        super().__init__(model, Settings(), steps)

    def __call__(self, model: Any, batches: Batches) -> Loss:
        rows: Rows = batches["train"]
        hidden = model.encoder(rows.x)
        mean, c = model.amount(hidden), model.noise(hidden)
        amounts = (mean + c * torch.randn_like(mean)).relu()
        drawn = model.decoder(model.code(amounts, mean.new_zeros(*mean.shape, 0))).sigmoid()
        share = len(rows.x) / rows.total
        error = 0.3 * (drawn - rows.x).square().sum(1).mean() * share
        penalty = (mean.square() + c.exp() - c).mean() * share
        return Loss(error + penalty, {"drawn": error.detach(), "penalty": penalty.detach()})


@dataclass(frozen=True)
class Decaying(Schedule):
    """A learning rate that falls by a twentieth every epoch."""

    epoch: int = 1
    """Steps of an epoch."""

    def rate(self, step: int) -> float:
        return self.lr * math.pow(0.95, step // self.epoch)


def schedule_of(steps: int, batch: int, images: int) -> Decaying:
    """The post's schedule over `steps` steps."""
    return Decaying(steps=steps, batch=batch, lr=1e-3, clip=0.0, beta2=0.999, epoch=max(images // batch, 1))
