"""Choose the weights that matter more for the forget set than for the retain set, and draw them anew."""

import copy
import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sluicegate.engine.encoding import Rows
from sluicegate.engine.forward import Meter, logits
from sluicegate.engine.models import fresh
from sluicegate.engine.sampling import seed_of
from sluicegate.engine.training import Ledger, masked_mean, token_losses
from sluicegate.errors import UserError
from sluicegate.values.edits import match_parameters

By = Literal["fisher", "gradient"]
ROWS = 512
"""Rows of either set that the gradients are taken on, at most: evenly spaced ones."""
TOGETHER = 4
"""Rows of one backward pass, whose mean gradient is squared. One row a pass is the exact Fisher diagonal and costs four
times as much; what differs is mostly a factor, which the ratio of two importances drops."""


def measure_importance(model: PreTrainedModel, rows: Rows, by: By, ledger: Ledger) -> dict[str, Tensor]:
    """How much the loss of the answers in `rows` depends on each weight of a matrix, by parameter name.

    fisher: mean squared gradient of the cross-entropy, over batches of `TOGETHER` rows (the diagonal of the empirical
    Fisher information). gradient: absolute value of the mean gradient. The passes are entered in `ledger` as the
    teacher's.
    """
    named = {name: p for name, p in model.named_parameters() if p.dim() >= 2}
    found = {name: torch.zeros_like(p) for name, p in named.items()}
    meter, batches = Meter(model), 0
    was = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(True).eval()
    for batch in rows.select(range(0, len(rows), -(-len(rows) // ROWS))).everything(TOGETHER):
        loss = masked_mean(token_losses(logits(model, batch), batch), batch, "answer")
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                found[name] += gradient.square() if by == "fisher" else gradient
        ledger.teacher += 3 * meter(batch)
        batches += 1
    for name, p in model.named_parameters():
        p.requires_grad_(was[name])
    return {name: value.abs() / batches for name, value in found.items()}


def choose_by_importance(
    model: PreTrainedModel, forget: Rows, retain: Rows, alpha: float, by: By, ledger: Ledger, *, params: str = "*"
) -> dict[str, Tensor]:
    """Which weights to draw anew, as masks by name: the share `alpha` with the largest importance for `forget` over
    that for `retain`.

    Only matrices that match `params` count. The nearest published use of such a ratio is selective dampening (Foster et
    al. 2024, arXiv 2308.07707), which shrinks the weights where we draw new ones.
    """
    names = _candidates(model, alpha, params)
    for_forget, for_retain = (measure_importance(model, rows, by, ledger) for rows in (forget, retain))
    # Without a floor, a weight that neither set depends on would be 0 / 0.
    floor = 1e-6 * torch.cat([for_retain[name].flatten() for name in names]).mean()
    return _largest({name: for_forget.pop(name) / (for_retain.pop(name) + floor) for name in names}, alpha)


def choose_at_random(model: PreTrainedModel, alpha: float, seed: int, *, params: str = "*") -> dict[str, Tensor]:
    """The control of `choose_by_importance`: as many weights, any."""
    draw = torch.Generator().manual_seed(seed_of(seed, "aim"))
    matrices = _candidates(model, alpha, params)
    return _largest({name: torch.rand(matrix.shape, generator=draw).to(matrix.device) for name, matrix in matrices.items()}, alpha)


def _candidates(model: PreTrainedModel, alpha: float, params: str) -> dict[str, Tensor]:
    """The matrices that match `params`, by name; `UserError` where there is none, or `alpha` is no share."""
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha is {alpha:g}; it is a share of the weights, from 0 (none) to 1 (all).")
    named = dict(model.named_parameters())
    matrices: dict[str, Tensor] = {name: named[name] for name in match_parameters(model, params) if named[name].dim() >= 2}
    if not matrices:
        raise UserError(f"the parameters {params!r} hold no matrices, and only those are drawn anew. Give others with --noise-params.")
    return matrices


def _largest(ratios: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Masks of the share `alpha` of all numbers, the largest ones."""
    flat = torch.cat([ratio.flatten() for ratio in ratios.values()])
    count = round(alpha * len(flat))
    # The least of them is found in one copy; a sort would hold an index of 8 bytes for each number besides.
    least = float(np.partition(flat.float().cpu().numpy(), -count)[-count]) if count else math.inf
    chosen = flat > least
    chosen[(flat == least).nonzero().flatten()[: count - int(chosen.sum())]] = True  # of equal ones, the first
    parts = chosen.split([ratio.numel() for ratio in ratios.values()])
    return {name: part.view_as(ratio) for (name, ratio), part in zip(ratios.items(), parts, strict=True)}


@torch.no_grad()
def redraw_weights(model: PreTrainedModel, masks: dict[str, Tensor], seed: int) -> PreTrainedModel:
    """A copy of `model` whose masked weights are those of a newly initialised model of its shape, drawn from `seed`."""
    student = copy.deepcopy(model).requires_grad_(True)
    new = dict(fresh(copy.deepcopy(model.config), seed_of(seed, "student")).named_parameters())
    for name, parameter in student.named_parameters():
        if name in masks:
            parameter.copy_(torch.where(masks[name], new[name], parameter))
    return student
