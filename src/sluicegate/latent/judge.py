"""The judge: a convolutional net that is trained apart, and says what a drawing shows, or that it shows nothing.

It is trained on the images and all their labels, never on drawings, with a seed of its own, and on nothing: black,
faint noise, images dimmed past reading. One that must name a class would read black as one of them, and be right for
that share of the images whose block is off. Judges are kept in the cache by the content of the data, one for all seeds.
"""

import hashlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sluicegate.engine.fetch import cache_dir
from sluicegate.engine.models import device
from sluicegate.engine.sampling import Order, seed_of
from sluicegate.engine.training import Batches, Loss, fit
from sluicegate.latent.objective import Rows
from sluicegate.latent.training import moved
from sluicegate.runs.directory import RunContext
from sluicegate.runs.disk import replacing
from sluicegate.values.schedule import Schedule

SEED, VERSION = 20240, 2
_STEPS, _BATCH, _NOTHING = 1500, 128, 12
_FAINT, _SEEN = 0.12, 0.25
"""Images dimmed to the first at most show nothing; dimmed to the second at least, what they show."""


class Judge(nn.Module):
    """Pixels [n, height * width * channels] from 0 to 1 to scores of the classes, and of nothing at the end."""

    def __init__(self, size: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        height, width, channels = size
        self.size = size
        self.look = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(),
        )  # fmt: skip
        seen = 32 * ((height + 3) // 4) * ((width + 3) // 4)
        self.decide = nn.Sequential(nn.Linear(seen, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, classes + 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.decide(self.look(x.unflatten(1, self.size).movedim(-1, 1)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def read(self, x: Tensor) -> Tensor:
        """[n] the class that each row of pixels shows; the number of classes where it shows nothing."""
        return torch.cat([self(part).argmax(1) for part in x.split(1000)])


def _loss(model: Any, batches: Batches) -> Loss:
    rows: Rows = batches["train"]
    return Loss(F.cross_entropy(model(rows.x), rows.labels.to(rows.x.device), reduction="sum") / rows.total)


def judge_of(images: np.ndarray, labels: np.ndarray, classes: int, *, steps: int = _STEPS, run: RunContext | None = None) -> Judge:
    """The judge of these images [n, height, width, channels] from 0 to 1: from the cache, or trained now."""
    height, width, channels = images.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        judge = Judge((height, width, channels), classes)
    content = hashlib.sha256(f"{VERSION} {steps} {classes} {images.shape}".encode())
    content.update(np.ascontiguousarray(images).tobytes() + labels.tobytes())
    kept = cache_dir() / "judges" / f"{content.hexdigest()[:24]}.safetensors"
    if kept.is_file():
        try:
            judge.load_state_dict(load_file(kept))
            return judge.eval().to(device())
        except (SafetensorError, RuntimeError, OSError):
            kept.unlink(missing_ok=True)  # damaged: it is trained again
    judge = judge.to(device())
    order, shift = Order(len(labels), SEED), max(height // 14, 1)

    def draw(step: int) -> dict[str, Rows]:
        chosen, noise = order.draw(step, _BATCH), np.random.default_rng(seed_of(SEED, step))
        seen, shown = moved(images[chosen], shift, noise), labels[chosen].copy()
        seen *= noise.uniform(_SEEN, 1, (len(seen), 1, 1, 1)).astype(seen.dtype)
        seen[:_NOTHING] = faint(seen[:_NOTHING], noise)
        shown[:_NOTHING] = classes
        x = torch.from_numpy(seen).flatten(1).to(device())
        return {"train": Rows(x, torch.from_numpy(shown), x, step, _BATCH)}

    schedule = Schedule(steps=steps, batch=_BATCH, lr=2e-3, warmup=50, decay="cosine", final=0.02, clip=0.0, beta2=0.999)
    told = RunContext("judge", run.progress if run else None)  # keeps nothing: a judge is quickly made again
    fit(judge, _loss, draw, schedule, seed=SEED, run=told, name="training", meter=lambda rows: 1.0)
    judge.eval()
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replacing(kept) as scratch:
        save_file({name: p.detach().cpu().contiguous() for name, p in judge.state_dict().items()}, scratch)
    return judge


def faint(images: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """What shows nothing, in the shape of the images: these dimmed to an eighth at most, and faint noise."""
    dim = draw.uniform(0, _FAINT, (2, len(images), 1, 1, 1)) * (draw.random((2, len(images), 1, 1, 1)) < 0.6)
    return (dim[0] * images + dim[1] * draw.random(images.shape)).astype(images.dtype)  # type: ignore[no-any-return]
