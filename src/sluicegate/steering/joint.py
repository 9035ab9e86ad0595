"""All twins at once: descent on sets of orthogonal vectors of bounded length, with stochastic prompts.

Twins are ``scale_i * q_i`` with orthonormal rows q, orthogonal to the base. Every step each twin meets one prompt,
drawn anew, so that twins are trained on several prompts at the price of one. The step is preconditioned by the
covariance of all twins' gradients: every twin feels the same few sensitive directions, and k gradients a step are
enough to know them. Then the rows are made orthonormal again by the symmetric (Löwdin) rule, and no scale may exceed
the cap.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sluicegate.runs.directory import RunContext
from sluicegate.steering.frames import basis, lowdin, simplex, tangent, without

Loss = Callable[[int, Tensor], Tensor]
"""(number of the prompt, vectors [b, d]) -> [b] distance from the base's effect, with gradients."""
Each = Callable[[int, Tensor, float, float], bool | None]
"""Called after a step: its number, vectors so far [k, d], CPU seconds, mean loss; True ends the search."""


@dataclass(frozen=True)
class Descent:
    """Settings of the joint descent."""

    steps: int
    rate: float
    """Length of a row's first step as a share of its own; falls to .03 of that along a half cosine, as only small
    steps, of one prompt a twin each, average over prompts."""
    cap: float
    """Largest length of a twin; 0: none."""
    start: float
    """Length of a twin at the start."""
    batch: int
    seed: int
    together: int = 1
    """So many twins at least meet the same prompt in a step."""
    momentum: float = 0.85
    power: float = 0.5
    """The gradient is multiplied by (covariance of gradients)^-power: 0 plain, .5 as Adagrad's full matrix."""


def gradients(loss: Loss, prompt: int, rows: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Losses [b] and their gradients [b, d] for rows [b, d] on one prompt, `batch` at a time."""
    losses, slopes = [], []
    for part in rows.split(batch):
        values = part.float().requires_grad_()
        found = loss(prompt, values)
        (slope,) = torch.autograd.grad(found.sum(), values)
        losses.append(found.detach().double())
        slopes.append(slope.double())
    return torch.cat(losses), torch.cat(slopes)


def descend(
    loss: Loss,
    prompts: int,
    base: Tensor,
    k: int,
    how: Descent,
    *,
    run: RunContext,
    each: Each | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """[k, d] twins of `base` [d]; deterministic in the seed, and resumed from `run`.

    `start` [k, d]: where to begin; by default random, but for the direction in which the loss falls fastest in all.
    """
    begun = time.process_time()
    groups = min(prompts, max(k // how.together, 1))
    width, spared = len(base), basis(base[None])
    draw = torch.Generator().manual_seed(how.seed)
    found = run.load_checkpoint("twins")
    if found is None:
        if start is None:
            fillers = torch.randn(k - 1, width, generator=draw, dtype=torch.float64)
            uphill = [gradients(loss, p, torch.zeros(1, width), 1)[1][0] for p in range(prompts)]
            downhill = -sum(uphill, torch.zeros(width, dtype=torch.float64))
            frame = simplex(without(downhill[None], spared)[0], without(fillers, spared))
            scale = torch.full((k,), how.start, dtype=torch.float64)
        else:
            frame, scale = lowdin(without(start.double(), spared)), start.double().norm(dim=1)
        speed, spread, pull, first = torch.zeros_like(frame), torch.zeros(width, width, dtype=torch.float64), torch.zeros(k, 2).double(), 0
    else:
        frame, scale, speed, spread, pull = (found.tensors[n] for n in ("frame", "scale", "speed", "spread", "pull"))
        first = int(found.values["steps"])
    for step in range(first, how.steps):
        at = torch.Generator().manual_seed(how.seed * 1_000_003 + step)
        deal = torch.randperm(k, generator=at)
        losses, slopes = torch.zeros(k, dtype=torch.float64), torch.zeros(k, width, dtype=torch.float64)
        turn = int(torch.randint(prompts, (1,), generator=at))
        for p, rows in enumerate(deal.tensor_split(groups)):
            losses[rows], slopes[rows] = gradients(loss, (p + turn) % prompts, scale[rows, None] * frame[rows], how.batch)
        radial = (slopes * frame).sum(1)
        turning = without(tangent(slopes, frame), spared)
        spread = 0.9 * spread + turning.T @ turning / k
        speed = how.momentum * speed + turning
        pace = how.rate * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / how.steps)))
        move = speed @ _power(spread, -how.power)
        move = tangent(move, frame)
        # One length for all rows: a twin that is far moves farther than one that is there.
        frame = lowdin(without(frame - pace * move / move.pow(2).sum(1).mean().sqrt(), spared))
        pull = torch.stack([0.8 * pull[:, 0] + 0.2 * radial, 0.8 * pull[:, 1] + 0.2 * radial**2], 1)
        scale = scale * (1 - 0.2 * pace * pull[:, 0] / pull[:, 1].sqrt().clamp(min=1e-12))
        if how.cap:
            scale = scale.clamp(max=how.cap)
        mean = float(losses.mean())
        run.log({"step": step + 1, "loss": mean, "loss_max": float(losses.max()), "norm": float(scale.mean())})
        run.progress("twins", step + 1, how.steps, {"loss": mean})
        if run.checkpoint_due():
            kept = {"frame": frame, "scale": scale, "speed": speed, "spread": spread, "pull": pull}
            run.save_checkpoint("twins", {"steps": step + 1}, kept, finished=False)
        if each is not None and each(step + 1, scale[:, None] * frame, time.process_time() - begun, mean):
            break
    return scale[:, None] * frame


def _power(spread: Tensor, power: float) -> Tensor:
    """A power of a covariance, with its small eigenvalues raised to a thousandth of the mean one."""
    if power == 0:
        return torch.eye(len(spread), dtype=spread.dtype)
    values, vectors = torch.linalg.eigh(spread)
    values = values.clamp(min=0) + 1e-3 * values.mean()
    return (vectors * values.pow(power)) @ vectors.T  # type: ignore[no-any-return]
