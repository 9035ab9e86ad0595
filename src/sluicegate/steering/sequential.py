"""The post's own search for orthogonal twins, for comparison: one by one, on the target's mean activation.

Source: Goldman-Wetzler 2024, "I found >800 orthogonal 'write code' steering vectors". With z(theta) the target's output
averaged over the positions of one prompt, minimise ||z(theta) - z(theta_0)|| by Adam; after every step theta is
projected onto the complement of theta_0 and of all vectors found so far. theta starts at theta_0, so at 0 after the
first projection. Position 0 is left out where the base spares it; with `tokens="all"` it counts.
"""

import time

import torch
from torch import Tensor

from sluicegate.runs.directory import RunContext
from sluicegate.steering.frames import basis, without
from sluicegate.steering.joint import Each, Loss

RATE = 0.065
"""The post's .01, for a base of norm 7 in 2048 dimensions, as a share of ||theta_0|| / sqrt(d)."""


def one_by_one(
    loss: Loss,
    prompts: int,
    base: Tensor,
    k: int,
    *,
    steps: int,
    rate: float = 0.0,
    cap: float = 0.0,
    run: RunContext | None = None,
    each: Each | None = None,
) -> Tensor:
    """[k, d] twins of `base` [d], one after the other, `steps` steps each; several prompts take turns.

    `rate` as a share of ||base||/sqrt(d) (0: the post's); `cap` the largest length (0: none, as in the post). `each`
    gets the step's number counted through, all vectors so far, CPU seconds and the loss, and may end the search of all.
    """
    run, begun, width = run or RunContext(), time.process_time(), len(base)
    base = base.double()
    length = float(base.norm())
    kept = run.load_checkpoint("twins")
    found = kept.tensors["found"] if kept else torch.zeros(0, width, dtype=torch.float64)
    step, ended = len(found) * steps, False
    while len(found) < k and not ended:
        spared = basis(torch.cat([base[None], found]))
        theta = base.clone().float().requires_grad_()
        optimiser = torch.optim.Adam([theta], lr=(rate or RATE) * length / width**0.5)
        for turn in range(steps):
            value = loss(turn % prompts, theta[None])[0]
            optimiser.zero_grad()
            (theta.grad,) = torch.autograd.grad(value, theta)
            value = value.detach()
            optimiser.step()
            with torch.no_grad():
                new = without(theta.double()[None], spared)[0]
                if cap:
                    new = new * min(1.0, cap / max(float(new.norm()), 1e-300))
                theta.copy_(new)
            step += 1
            run.progress("twins", step, k * steps, {"loss": float(value)})
            if each is not None and each(step, torch.cat([found, new[None]]), time.process_time() - begun, float(value)):
                ended = True
                break
        found = torch.cat([found, new[None]])
        run.log({"twin": len(found), "loss": float(value), "norm": float(new.norm())})
        run.save_checkpoint("twins", {"steps": step}, {"found": found}, finished=False)
    return found
