"""Training: the label says where the gradient goes, and nothing else.

The decoder's gradient reaches the block of a row's label only (`routing.Router` on `Autoencoder.code`). The penalty on the amounts is
not routed: it pulls every block down on every image while reconstruction pulls up one, and that is what tells the classes apart. Rows
without a label train no block at first, and after `Settings.alone` of the steps the block that reads them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sluicegate.errors import UserError
from sluicegate.latent.model import Autoencoder, Noise, noisy
from sluicegate.routing.router import Router
from sluicegate.runs.room import Room
from sluicegate.sampling import Order, seed_of
from sluicegate.schedule import Schedule
from sluicegate.training import Batches, Evaluation, Ledger, Loss, every, fit

Arm = Literal["routed", "unrouted", "penalty_routed", "labelled_only"]
UNKNOWN = -1


@dataclass(frozen=True)
class Settings:
    """What is trained for. Chosen on validation images of MNIST and of the 8 x 8 digits."""

    arm: Arm = "routed"
    """routed; or a control: unrouted, penalty_routed (each block is pulled down on its own class only), labelled_only."""
    penalty: float = 3.0
    """Half of it times the squared amount, before its ReLU, is added for every block of every row."""
    sigma: float = 0.3
    """Standard deviation of the noise on the amounts."""
    alone: float = 0.3
    """Share of the steps in which rows without a label train no block."""
    shift: int = 0
    """Pixels by which training images are moved at random, up, down, left and right."""


@dataclass(frozen=True)
class Rows:
    """Images for one step."""

    x: Tensor
    """[b, pixels] from 0 to 1."""
    labels: Tensor
    """[b] class, or -1 where it is not known."""
    step: int
    total: int

    def split(self, parts: int) -> "list[Rows]":
        cut = zip(self.x.tensor_split(parts), self.labels.tensor_split(parts), strict=True)
        return [Rows(x, labels, self.step, self.total) for x, labels in cut]


class Drawing:
    """Which images go into which step, a function of seed and step: where labels are few, half of a batch has one."""

    def __init__(self, model: Autoencoder, images: np.ndarray, labels: np.ndarray, size: int, seed: int, settings: Settings) -> None:
        self.model, self.images, self.labels, self.size, self.seed, self.shift = model, images, labels, size, seed, settings.shift
        known, unknown = np.flatnonzero(labels != UNKNOWN), np.flatnonzero(labels == UNKNOWN)
        missing = sorted(set(range(len(model.classes))) - set(labels[known].tolist()))
        if missing and settings.arm != "unrouted":
            raise UserError(f"no labelled image of class {model.classes[missing[0]]!r}. Give labels to some images of every class.")
        if settings.arm in ("labelled_only", "unrouted") or not len(unknown):
            self.groups = [(known if settings.arm == "labelled_only" else np.arange(len(labels)), size)]
        else:
            self.groups = [(known, size // 2), (unknown, size - size // 2)]
        self.orders = [Order(len(group), seed_of(seed, f"rows{n}")) for n, (group, _) in enumerate(self.groups)]

    def __call__(self, step: int) -> dict[str, Rows]:
        each = [group[order.draw(step, count)] for order, (group, count) in zip(self.orders, self.groups, strict=True)]
        chosen = np.concatenate(each)
        images = self.images[chosen]
        if self.shift:
            images = moved(images, self.shift, np.random.default_rng(seed_of(self.seed, step)))
        return {"train": Rows(self.model.rows(images), torch.from_numpy(self.labels[chosen]), step, self.size)}


def moved(images: np.ndarray, most: int, draw: np.random.Generator) -> np.ndarray:
    """Images [n, height, width, ...], each moved by its own whole number of pixels, up to `most`; what comes in is 0."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (most, most), (most, most)) + ((0, 0),) * (images.ndim - 3))
    y, x = draw.integers(0, 2 * most + 1, (2, len(images), 1, 1))
    rows, columns = np.arange(height)[None, :, None] + y, np.arange(width)[None, None, :] + x
    return padded[np.arange(len(images))[:, None, None], rows, columns]  # type: ignore[no-any-return]


def router_of(model: Autoencoder) -> Router:
    """The router on a model's code: label j + 1 trains the block of class j, "retain" trains no block."""
    each = 1 + model.k
    names = [f"block{j}" for j in range(len(model.classes))]
    places = {name: (j * each, (j + 1) * each) for j, name in enumerate(names)}
    return Router(model, {"code": places}, weights={"retain": dict.fromkeys(names, 0.0)})


def targets(model: Autoencoder, rows: Rows, late: bool) -> Tensor:
    """[b] the router's labels: the known class's block; where it is not known none, or, `late`, the block that reads the row."""
    labels = rows.labels + 1
    if late and bool((unknown := labels == 0).any()):
        with torch.no_grad():
            read = model.read(model.encoder(rows.x[unknown.to(rows.x.device)])).read()
        labels = labels.clone()
        labels[unknown] = read.cpu() + 1
    return labels


def objective(settings: Settings, steps: int) -> Callable[[Any, Batches], Loss]:
    """Cross-entropy summed over pixels, the penalty on the amounts, and the styles' KL where their block is in use; means over rows."""

    def loss(model: Autoencoder, batches: Batches) -> Loss:
        rows: Rows = batches["train"]
        mean, amounts, styles, kl = noisy(model, model.encoder(rows.x), Noise(settings.sigma))
        logits = model.decoder(model.code(amounts, styles))
        drawn = F.binary_cross_entropy_with_logits(logits, rows.x, reduction="none").sum(1)
        pulled = settings.penalty / 2 * mean.square()
        known = (rows.labels != UNKNOWN).to(mean.device)
        if settings.arm == "penalty_routed":
            pulled = pulled * F.one_hot(rows.labels.clamp(min=0), len(model.classes)).to(mean)
        if settings.arm != "unrouted" and rows.step < settings.alone * steps:
            pulled = pulled * known[:, None]
        held = (kl * amounts.detach().clamp(max=1.0)).sum(1)
        parts = {"drawn": drawn.sum() / rows.total, "penalty": pulled.sum() / rows.total, "kl": held.sum() / rows.total}
        return Loss(sum(parts.values()), {name: part.detach() for name, part in parts.items()})  # type: ignore[arg-type]

    return loss


def fitted(
    model: Autoencoder,
    images: np.ndarray,
    labels: np.ndarray,
    settings: Settings,
    schedule: Schedule,
    *,
    seed: int,
    room: Room,
    name: str = "autoencoder",
    look: Callable[[Autoencoder], dict[str, float]] | None = None,
) -> float:
    """Train `model` in place on images [n, height, width, ...] and labels [n] (-1: not known); returns FLOPs."""
    draw = Drawing(model, images, labels, schedule.batch, seed_of(seed, "train"), settings)
    router = None if settings.arm == "unrouted" else router_of(model)

    def around(batches: Batches) -> AbstractContextManager[None]:
        rows = batches["train"]
        return nullcontext() if router is None else router(targets(model, rows, rows.step >= settings.alone * schedule.steps))

    def looked(model: Any, ledger: Ledger) -> dict[str, float]:
        return look(model) if look is not None else {}

    done = fit(
        model,
        objective(settings, schedule.steps),
        draw,
        schedule,
        seed=seed,
        room=room,
        name=name,
        evaluation=Evaluation(looked, every(max(schedule.steps // 10, 1), schedule.steps)),
        around=around,
        meter=lambda rows: 2.0 * len(rows.x) * sum(p.numel() for p in model.parameters() if p.dim() == 2),
    )
    if router is not None:
        router.remove()
    model.eval()
    return done.ledger.total


def train(
    images: Any,
    labels: Any,
    *,
    classes: "list[str] | None" = None,
    settings: Settings | None = None,
    schedule: Schedule | None = None,
    hidden: tuple[int, ...] = (256, 128),
    k: int = 4,
    seed: int = 0,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    room: Room | None = None,
) -> Autoencoder:
    """An autoencoder of images [n, height, width] or with channels last, and labels [n]: whole numbers from 0, -1 where not known.

    uint8, or fractions from 0 to 1. `encoder` and `decoder` may be modules of your own (see `Autoencoder`). Raises `UserError`
    where images and labels do not fit together, or a class has no labelled image.
    """
    x, y = np.asarray(images), np.asarray(labels)
    if x.ndim not in (3, 4) or not len(x):
        raise UserError(f"images have shape {x.shape}; expected (n, height, width) or (n, height, width, channels), and not none.")
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise UserError(f"labels are {y.dtype} of shape {y.shape} for {len(x)} images; give one whole number each, -1 where not known.")
    count = len(classes) if classes else int(y.max()) + 1
    if y.min() < UNKNOWN or y.max() >= count:
        raise UserError(f"labels go from {y.min()} to {y.max()}, but there are {count} classes; -1 is for images without a label.")
    names = classes or [str(j) for j in range(count)]
    size = (*x.shape[1:3], x.shape[3] if x.ndim == 4 else 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "net"))
        model = Autoencoder(size, names, hidden=hidden, k=k, encoder=encoder, decoder=decoder)
    schedule = schedule or Schedule(steps=2000, batch=128, lr=2e-3, warmup=100, decay="cosine", final=0.05, clip=0.0, beta2=0.999)
    fitted(model, x, y.astype(np.int64), settings or Settings(), schedule, seed=seed, room=room or Room())
    return model
