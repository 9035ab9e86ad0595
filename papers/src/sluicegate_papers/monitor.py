"""Monitoring a module: how active a block is on each row, and how well that tells the data that was routed to it.

Whether a block is a detector is to be measured, not taken for granted. On a small model (3 seeds, held-out rows) the
norm told forget from retain rows where both trained the block: area .93 to 1.00 with form="gate". It did so
poorly where retain rows were computed without it (form="protect" with its default ablation: .27 to .86), since
nothing then keeps the block quiet on them; as poorly as where nothing was routed (.23 to .86).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sluicegate.engine.encoding import Rows
from sluicegate.errors import UserError, nearest
from sluicegate.routing.router import Router
from sluicegate.routing.sites import Site
from sluicegate.routing.views import view
from sluicegate.values.statistics import auroc


@dataclass(frozen=True, eq=False)
class Roc:
    """A receiver operating characteristic, from the strictest threshold to the laxest."""

    false: np.ndarray
    """False-positive rate at each threshold; begins at 0 and ends at 1."""
    true: np.ndarray
    """True-positive rate at each threshold."""
    thresholds: np.ndarray
    """Scores of this much or more count as positive; the first is infinite."""
    auroc: float
    """Area under the curve: the chance that a positive scores above a negative, ties counting half."""

    def at(self, false: float) -> float:
        """The largest true-positive rate whose false-positive rate is at most `false`."""
        return float(self.true[self.false <= false].max(initial=0.0))


def roc(scores: Tensor | Sequence[float] | np.ndarray, positive: Tensor | Sequence[bool] | np.ndarray) -> Roc:
    """The curve of scores [n] against truth [n]; raises `UserError` for scores that are not finite or truth of one
    kind."""
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(positive).astype(bool)
    if s.ndim != 1 or s.shape != y.shape:
        raise UserError(f"scores have shape {s.shape} and truth {y.shape}; both must be (n,). Of tokens, leave the padding out first.")
    if not np.isfinite(s).all():
        raise UserError(f"score {int(np.flatnonzero(~np.isfinite(s))[0])} is not finite.")
    if y.all() or not y.any():
        raise UserError(f"all {len(y)} are {'' if y.any() else 'not '}positive; a curve needs both kinds.")
    order = np.argsort(-s, kind="stable")
    s, y = s[order], y[order]
    last = np.append(np.flatnonzero(np.diff(s)), len(s) - 1)  # equal scores are passed together
    true = np.concatenate([[0.0], np.cumsum(y)[last] / y.sum()])
    false = np.concatenate([[0.0], np.cumsum(~y)[last] / (~y).sum()])
    return Roc(false, true, np.concatenate([[np.inf], s[last]]), auroc(s[y], s[~y]))


def activity(
    router: Router,
    batch: Any,
    block: str = "",
    *,
    per: Literal["row", "token"] = "row",
    relative: bool = False,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    size: int = 64,
) -> Tensor:
    """How active a block is: (b,) for rows or (b, t) for tokens.

    At each site the L2 norm of the block's units (where `relative`, over that of all the site's units), then the
    mean over sites; for rows, the mean of that over their real tokens. A row without tokens (an image) counts as
    one token. Padding is 0.

    `batch` is encoded rows, or whatever `views.view` takes; `forward(model, batch)` runs a model that takes
    neither `input_ids` and `attention_mask` nor the batch as its only argument. `block` may be left out where
    there is only one. The forward pass is an ordinary one: nothing is ablated, no gradient, dropout off.
    """
    if isinstance(batch, Rows):
        parts = [batch.batch(range(i, min(i + size, len(batch)))) for i in range(0, len(batch), size)]
        found = [activity(router, part, block, per=per, relative=relative, forward=forward) for part in parts]
        width = batch.ids.shape[1]
        return torch.cat([f if per == "row" else nn.functional.pad(f, (0, width - f.shape[1])) for f in found])
    if per not in ("row", "token"):
        raise UserError(f"per is {per!r}; it must be row or token.")
    places = _places(router, block)
    seen = view(batch)
    with _watched(router.model, [site for site, _ in places]) as taken, torch.no_grad():
        if forward is not None:
            forward(router.model, batch)
        elif seen.ids is None:
            router.model(batch)
        else:
            router.model(input_ids=seen.ids, attention_mask=None if seen.attention is None else seen.attention.long())
    scores = torch.stack([_score(site, extent, taken, relative, router.batch_dim) for site, extent in places]).mean(0)
    if seen.attention is None or scores.dim() == 1:
        return scores.mean(1) if per == "row" and scores.dim() == 2 else scores
    if scores.shape != seen.attention.shape:
        raise UserError(f"the sites' activations are {tuple(scores.shape)} and the batch's tokens {tuple(seen.attention.shape)}.")
    real = seen.attention.to(scores)
    scores = scores * real
    return scores if per == "token" else scores.sum(1) / real.sum(1).clamp(min=1)


def _places(router: Router, block: str) -> list[tuple[Site, tuple[int, int]]]:
    """Every site that has the block, with its units."""
    if not block and len(router.blocks) > 1:
        raise UserError(f"the router has several blocks; name one of {', '.join(router.blocks)}.")
    block = block or router.blocks[0]
    if block not in router.blocks:
        raise UserError(f"no block {block!r} on this router. There are: {nearest(block, list(router.blocks), most=20)}.")
    return [(site, placed[block]) for site, placed in router.sites if block in placed]


@contextmanager
def _watched(model: nn.Module, sites: Sequence[Site]) -> Iterator[dict[str, Tensor]]:
    """Keep what passes by the sites; the modules' modes are given back."""
    taken: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    modes = {name: module.training for name, module in modules.items()}
    hooks = []

    def keep(site: Site, x: Any) -> None:
        x = x[0] if isinstance(x, tuple) else x
        if isinstance(x, Tensor):
            taken[site.name] = x.detach()

    for site in sites:
        if site.hook_module not in modules:
            raise UserError(f"the model has no module {site.hook_module!r} any more; it was changed since the router was made.")
        if site.at == "input":
            hooks.append(modules[site.hook_module].register_forward_pre_hook(lambda m, args, site=site: keep(site, args)))
        else:
            hooks.append(modules[site.hook_module].register_forward_hook(lambda m, args, output, site=site: keep(site, output)))
    model.eval()
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()
        for name, module in modules.items():
            module.training = modes[name]


def _score(site: Site, extent: tuple[int, int], taken: dict[str, Tensor], relative: bool, batch_dim: int) -> Tensor:
    """(b,) or (b, t) at one site."""
    if site.name not in taken:
        raise UserError(f"nothing passed by the site {site.name!r} in the forward pass.")
    x = taken[site.name]
    x = x.movedim(site.axis(x.shape), -1).float()
    size, (start, stop) = x.shape[-1], (place * site.width for place in extent)
    first, last = (start + size, stop + size) if start < 0 else (start, stop)
    if not 0 <= first < last <= size:
        raise UserError(f"site {site.name!r}: the block is features {first} to {last}, but there are {size} now. Was it cut out?")
    if x.dim() > 3:  # positions of a picture are no tokens: a row's norm is over all of them
        x = x.flatten(1, -2).transpose(1, 2)
        whole, own = x.flatten(1), x[:, first:last].flatten(1)
    else:
        whole, own = x, x[..., first:last]
    norm = own.norm(dim=-1)
    found: Tensor = norm / whole.norm(dim=-1).clamp(min=1e-12) if relative else norm
    return found.transpose(0, batch_dim) if found.dim() == 2 else found
