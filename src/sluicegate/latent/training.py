"""Training: the label says where the gradient goes, and nothing else.

The decoder's gradient reaches the block of a row's label only (`routing.Router` on `Autoencoder.code`). The penalty on
the amounts is not routed: it pulls every block down on every image while reconstruction pulls up one, and that is what
tells the classes apart. Rows without a label train no block at first, and after `Settings.alone` of the steps the block
that reads them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sluicegate.engine.models import device
from sluicegate.engine.sampling import Order, seed_of
from sluicegate.engine.training import Evaluation, Ledger, every, fit
from sluicegate.errors import UserError
from sluicegate.latent.health import Health, examine, revive, settle
from sluicegate.latent.model import Autoencoder
from sluicegate.latent.objective import Objective, Rows
from sluicegate.latent.settings import UNKNOWN, Arm, Settings
from sluicegate.latent.sharing import can_share, fold, share
from sluicegate.runs.directory import RunContext
from sluicegate.values.schedule import Schedule

LOOKS = 12
"""How often training is interrupted to look at the blocks."""
_EXAMINED = 2000
SCHEDULE = Schedule(steps=3000, batch=128, lr=2e-3, warmup=100, decay="cosine", final=0.05, clip=0.0, beta2=0.999)


class Drawing:
    """Which images go into which step, a function of seed and step: where labels are few, half of a batch has one."""

    def __init__(
        self, model: Autoencoder, images: np.ndarray, labels: np.ndarray, size: int, seed: int, *, shift: int = 0, arm: Arm = "routed"
    ) -> None:
        self.model, self.images, self.labels, self.size, self.seed, self.shift = model, images, labels, size, seed, shift
        known, unknown = np.flatnonzero(labels != UNKNOWN), np.flatnonzero(labels == UNKNOWN)
        missing = sorted(set(range(len(model.classes))) - set(labels[known].tolist()))
        if missing and arm != "unrouted":
            raise UserError(f"no labelled image of class {model.classes[missing[0]]!r}. Give labels to some images of every class.")
        if arm == "unrouted" or not len(unknown):
            self.groups = [(np.arange(len(labels)), size)]
        elif arm == "labelled_only":
            self.groups = [(known, size)]
        else:
            self.groups = [(known, size // 2), (unknown, size - size // 2)]
        self.orders = [Order(len(group), seed_of(seed, f"rows{n}")) for n, (group, _) in enumerate(self.groups)]

    def __call__(self, step: int) -> dict[str, Rows]:
        each = [group[order.draw(step, count)] for order, (group, count) in zip(self.orders, self.groups, strict=True)]
        chosen = np.concatenate(each)
        images = self.images[chosen]
        x = unmoved = self.model.rows(images)
        if self.shift:
            x = self.model.rows(moved(images, self.shift, np.random.default_rng(seed_of(self.seed, step))))
        return {"train": Rows(x, torch.from_numpy(self.labels[chosen]), unmoved, step, self.size)}


def moved(images: np.ndarray, most: int, draw: np.random.Generator) -> np.ndarray:
    """Images [n, height, width, ...], each moved by up to `most` whole pixels; what comes in is 0."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (most, most), (most, most)) + ((0, 0),) * (images.ndim - 3))
    y, x = draw.integers(0, 2 * most + 1, (2, len(images), 1, 1))
    rows, columns = np.arange(height)[None, :, None] + y, np.arange(width)[None, None, :] + x
    return padded[np.arange(len(images))[:, None, None], rows, columns]  # type: ignore[no-any-return]


@dataclass
class Trained:
    """What training did."""

    flops: float
    records: list[dict[str, float]]
    """What `look` returned, with the step."""
    health: Health
    """Of the blocks on labelled training images, at the end."""
    revived: int
    """How often a dead block was begun anew."""


def fitted(
    model: Autoencoder,
    images: np.ndarray,
    labels: np.ndarray,
    settings: Settings,
    schedule: Schedule,
    *,
    seed: int,
    run: RunContext,
    arm: Arm = "routed",
    objective: Objective | None = None,
    look: Callable[[Autoencoder], dict[str, float]] = lambda model: {},
) -> Trained:
    """Train `model` in place on images [n, height, width, ...] and labels [n] (-1: not known); what is dead at a look
    in the first two thirds of the steps is begun anew (`health.revive`), and the metrics say so."""
    draw = Drawing(model, images, labels, schedule.batch, seed_of(seed, "train"), shift=settings.shift, arm=arm)
    objective = objective or Objective(model, settings, schedule.steps, arm)
    known = np.flatnonzero(labels != UNKNOWN)
    known = np.random.default_rng(seed_of(seed, "health")).permutation(known)[:_EXAMINED]
    own_x, own_y = model.rows(images[known]), torch.from_numpy(labels[known])
    interval = max(schedule.steps // LOOKS, 1)

    def looked(model: Any, ledger: Ledger) -> dict[str, float]:
        found = dict(look(model))
        if arm != "unrouted":
            dead = examine(model, own_x, own_y).dead()
            found["dead"] = float(len(dead))
            if objective.mends and schedule.steps / 6 <= objective.step <= schedule.steps * 2 / 3:
                for j in dead:
                    revive(model, j, seed_of(seed, objective.step))
                found["revived"] = float(len(dead))
        return found

    sharing = arm != "unrouted" and can_share(model)  # which only hinders a net that uses all styles of all blocks
    if sharing:
        share(model, settings.own)
    done = fit(
        model,
        objective,
        draw,
        schedule,
        seed=seed,
        run=run,
        name="autoencoder",
        evaluation=Evaluation(looked, every(interval, schedule.steps)),
        around=objective.around,
        meter=lambda rows: 2.0 * len(rows.x) * sum(p.numel() for p in model.parameters() if p.dim() == 2),
    )
    if sharing:
        fold(model)
    if objective.router is not None:
        objective.router.remove()
    model.eval()
    settle(model, own_x, own_y)
    revived = sum(int(record.get("revived", 0)) for record in done.records)
    return Trained(done.ledger.total, done.records, examine(model, own_x, own_y), revived)


def made(size: Sequence[int], classes: Sequence[str], seed: int, **how: Any) -> Autoencoder:
    """A new `Autoencoder`, whose weights are a function of the seed, on the device at hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "net"))
        return Autoencoder(size, classes, **how).to(device())


def train(
    images: Any,
    labels: Any,
    *,
    classes: Sequence[str] = (),
    settings: Settings | None = None,
    schedule: Schedule | None = None,
    arm: Arm = "routed",
    hidden: Sequence[int] = (256,),
    k: int = 4,
    seed: int = 0,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    run: RunContext | None = None,
) -> Autoencoder:
    """An autoencoder of images [n, height, width] or with channels last, uint8 or from 0 to 1, and whole labels [n]
    from 0, -1 where not known.

    `encoder` and `decoder` may be modules of your own (see `Autoencoder`). Lost blocks are named in
    `.numbers["dead_blocks"]`. Raises `UserError` where things do not fit together, or a class has no labelled image.
    """
    x, y = np.asarray(images), np.asarray(labels)
    if x.ndim not in (3, 4) or not len(x):
        raise UserError(f"images have shape {x.shape}; expected (n, height, width) or (n, height, width, channels), and not none.")
    if x.dtype != np.uint8 and not (x.dtype.kind == "f" and np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        raise UserError(f"images are {x.dtype} and not from 0 to 1. Divide by the largest value, or give bytes (uint8).")
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise UserError(f"labels are {y.dtype} of shape {y.shape} for {len(x)} images; give one whole number each, -1 where not known.")
    y = y.astype(np.int64)
    names = list(classes) or [str(j) for j in range(int(y.max()) + 1)]
    if y.min() < UNKNOWN or y.max() >= len(names):
        raise UserError(f"labels go from {y.min()} to {y.max()}, but there are {len(names)} classes; -1 is for images without a label.")
    size = (*x.shape[1:3], x.shape[3] if x.ndim == 4 else 1)
    model = made(size, names, seed, hidden=hidden, k=k, encoder=encoder, decoder=decoder)
    done = fitted(model, x, y, settings or Settings(), schedule or SCHEDULE, seed=seed, run=run or RunContext(), arm=arm)
    model.numbers = {"labels": float((y != UNKNOWN).mean()), "seeds": [seed], "dead_blocks": [names[j] for j in done.health.lost()]}
    return model
