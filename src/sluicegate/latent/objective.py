"""What training minimises, and which block each row trains.

Reconstruction, a penalty on the amounts, and the divergence of the styles from a standard normal distribution. The
class is in none of them. `Objective.around` opens the router for a batch, and is the only place where the class of an
image is looked at.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sluicegate.engine.training import Batches, Loss
from sluicegate.latent.model import Autoencoder
from sluicegate.latent.settings import UNKNOWN, Arm, Settings
from sluicegate.routing.penalties import ramp
from sluicegate.routing.router import Router


@dataclass(frozen=True)
class Rows:
    """Images for one step."""

    x: Tensor
    """[b, pixels] from 0 to 1."""
    labels: Tensor
    """[b] class, or -1 where it is not known."""
    unmoved: Tensor
    """[b, pixels] the same before they were moved: what rows without a label are read from."""
    step: int
    total: int
    """Rows of the whole step, by which the parts' losses are divided."""

    def split(self, parts: int) -> "list[Rows]":
        cut = zip(*(t.tensor_split(parts) for t in (self.x, self.labels, self.unmoved)), strict=True)
        return [Rows(x, labels, unmoved, self.step, self.total) for x, labels, unmoved in cut]


def router_of(model: Autoencoder) -> Router:
    """The router on a model's code: label j + 1 trains the block of class j, "retain" trains no block."""
    each = 1 + model.k
    names = [f"block{j}" for j in range(len(model.classes))]
    places = {name: (j * each, (j + 1) * each) for j, name in enumerate(names)}
    return Router(model, {"code": places}, weights={"retain": dict.fromkeys(names, 0.0)})


class Objective:
    """The loss, and the block that each row trains."""

    mends = True
    """Whether dead blocks are begun anew on the way."""

    def __init__(self, model: Autoencoder, settings: Settings, steps: int, arm: Arm = "routed") -> None:
        self.model, self.settings, self.steps, self.arm = model, settings, steps, arm
        self.router = None if arm == "unrouted" else router_of(model)
        self.step = 0
        """The step of the last pass."""
        self.trained = torch.zeros(0, dtype=torch.long)
        """[b] the class whose block each row of the open pass trains, -1 for none."""

    def around(self, batches: Batches) -> AbstractContextManager[None]:
        """Open the router for a batch: the only use of the labels."""
        rows: Rows = batches["train"]
        self.step = rows.step
        if self.router is None:
            self.trained = torch.zeros_like(rows.labels)
            return nullcontext()
        self.trained = self._trained(rows)
        return self.router(self.trained + 1)

    def _trained(self, rows: Rows) -> Tensor:
        unknown = rows.labels == UNKNOWN
        if rows.step < self.settings.alone * self.steps or not bool(unknown.any()):
            return rows.labels
        with torch.no_grad():
            amounts = self.model.read(self.model.encoder(rows.unmoved[unknown.to(rows.x.device)])).amounts.cpu()
        first, second = amounts.topk(2, dim=1).values.unbind(1)
        labels = rows.labels.clone()
        labels[unknown] = torch.where(first - second >= self.settings.sure * first, amounts.argmax(1), UNKNOWN)
        return labels

    def _above(self, mean: Tensor) -> Tensor:
        """A ReLU, whose gradient leaks below 0."""
        below = self.settings.leak * mean.clamp(max=0)
        return mean.relu() + below - below.detach()

    def __call__(self, model: Autoencoder, batches: Batches) -> Loss:
        rows, settings = batches["train"], self.settings
        noise, weight = (ramp(share, rows.step / self.steps) for share in (settings.rise, settings.anneal))
        hidden = model.encoder(rows.x)
        mean = model.amount(hidden)
        amounts = self._above(mean + settings.sigma * noise * torch.randn_like(mean))
        shape = (len(model.classes), model.k)
        mu, log = model.style(hidden).unflatten(1, shape), model.spread(hidden).unflatten(1, shape).clamp(-8, 4)
        styles = mu + noise * (log / 2).exp() * torch.randn_like(mu)

        logits = model.decoder(model.code(amounts, styles, self._above(mean)))
        drawn = F.binary_cross_entropy_with_logits(logits, rows.x, reduction="none").sum(1)
        pulled = settings.penalty / 2 * (mean + settings.rest * noise).square()
        trained = self.trained.to(mean.device)
        if self.arm == "penalty_routed":
            pulled = pulled * F.one_hot(trained.clamp(min=0), len(model.classes)).to(mean)
        pulled = pulled.sum(1) * (trained != UNKNOWN)
        kl = 0.5 * (mu.square() + log.exp() - 1 - log).sum(-1)
        # A block that is off draws nothing, so its styles are free; one hardly on pays in full, since the decoder
        # can undo any scale: a net without routing would say everything in the styles of such blocks.
        held = (kl * (mean > 0)).sum(1)
        parts = {"drawn": drawn, "penalty": pulled, "divergence": settings.divergence * weight * held}
        log_of = {name: part.sum() / rows.total for name, part in parts.items()}
        if settings.empty:
            nothing = model.decoder(logits.new_zeros(1, shape[0] * (1 + model.k)))
            log_of["empty"] = settings.empty * F.softplus(nothing).sum() * len(rows.x) / rows.total
        value: Any = sum(log_of.values())
        return Loss(value, {name: part.detach() for name, part in log_of.items()})
