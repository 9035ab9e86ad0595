"""What is measured of an autoencoder with blocks: all of it, since the numbers can pull apart."""

import numpy as np
import torch
from torch import Tensor

from sluicegate.latent.health import examine
from sluicegate.latent.judge import Judge
from sluicegate.latent.model import Autoencoder, Code


@torch.no_grad()
def measure(model: Autoencoder, judge: Judge, images: np.ndarray, labels: np.ndarray) -> tuple[dict[str, float], list[str]]:
    """The numbers of `Latent.MEASURES` on images [n, height, width, channels]; and the lost blocks."""
    x = model.rows(images)
    y = torch.from_numpy(labels).to(x.device)
    code, count = model.read(model.encoder(x)), len(model.classes)
    rows = torch.arange(len(y), device=x.device)
    drawn = _draw(model, code)
    without = Code(code.amounts.clone(), code.styles)
    without.amounts[rows, y] = 0.0
    ablated = _draw(model, without)
    others = (y + torch.from_numpy(np.random.default_rng(0).integers(1, count, len(labels))).to(y)) % count
    swapped = Code(without.amounts.clone(), code.styles.clone())
    usual = model.usual()
    swapped.amounts[rows, others], swapped.styles[rows, others] = usual.amounts[others, others], usual.styles[others, others]
    health = examine(model, x, y)
    lost = health.lost()
    alone = judge.read(_draw(model, usual))
    found = {
        "accuracy": _mean(code.read() == y),
        "mse": _error(drawn, x),
        "recognised": float((alone.cpu() == torch.arange(count)).sum()),
        "swap": _mean(judge.read(_draw(model, swapped)) == others),
        "ablate": _mean(judge.read(ablated) == y),
        "ablated_mse": _error(ablated, x),
        "purity": float((code.amounts[rows, y] / code.amounts.sum(1).clamp(min=1e-9)).double().mean()),
        "dead_blocks": float(len(lost)),
        "worst_class": min(health.recall),
        "empty_code": float(_draw(model, Code(torch.zeros_like(usual.amounts[:1]), usual.styles[:1])).max()),
        "judged": _mean(judge.read(x) == y),
        "redrawn": _mean(judge.read(drawn) == y),
    }
    return found, [model.classes[j] for j in lost]


def _draw(model: Autoencoder, code: Code) -> Tensor:
    return model.decode(code).flatten(1)


def _mean(right: Tensor) -> float:
    return float(right.double().mean())


def _error(drawn: Tensor, x: Tensor) -> float:
    return float((drawn - x).square().sum(1).double().mean())
