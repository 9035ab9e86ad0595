"""Probing: a logistic classifier on a model's own activations, to route data by what it means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sluicegate.engine.encoding import Rows
from sluicegate.errors import UserError, nearest
from sluicegate.routing.views import corpus, view

Forward = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Probabilities from a module's output: ``sigmoid(w . (h - m) / s + c)``; call it with a batch.

    The model is read, not copied: if it is trained, what it says of the data moves under the probe. Hand
    `fit_probe` a copy (``copy.deepcopy(model)``) where scores must stay as they are.
    """

    model: nn.Module = field(repr=False)
    module: str
    """Name of the module whose output is read."""
    per: Literal["row", "token"]
    """Whether a row's tokens are averaged before they are scored."""
    mean: Tensor = field(repr=False)
    """m: [d] of the rows it was fitted on."""
    scale: Tensor = field(repr=False)
    """s: [d]."""
    weight: Tensor = field(repr=False)
    """w: [d]."""
    bias: Tensor = field(repr=False)
    """c: scalar."""
    accuracy: float
    """Share of the rows (tokens) it was fitted on that fall on their own side of one half."""
    forward: Forward | None = field(default=None, repr=False)

    def __call__(self, batch: Any) -> Tensor:
        """(b,) or (b, t) probabilities; no gradient, dropout off, the model left as it was."""
        h = activations(self.model, self.module, batch, self.forward).float()  # half precision blurs a sum over features
        h = _pooled(h, batch) if self.per == "row" else h
        score: Tensor = ((h - self.mean.to(h)) / self.scale.to(h)) @ self.weight.to(h) + self.bias.to(h)
        return torch.sigmoid(score)


def fit_probe(
    model: nn.Module,
    rows: Rows | Any,
    positive: Tensor | Sequence[bool],
    module: str,
    *,
    per: Literal["row", "token"] = "row",
    decay: float = 1e-2,
    size: int = 64,
    forward: Forward | None = None,
) -> LinearProbe:
    """Fit a logistic probe on the outputs of `module` by minimising cross-entropy + decay/2 |w|^2 (LBFGS).

    `rows` are encoded rows, or one batch; `positive` says of each row (n,), or for ``per="token"`` of each row
    or token (n, t), whether it is what the probe looks for. Both kinds weigh the same, however many there are
    of each. `forward(model, batch)` runs a model that does not take `input_ids` and `attention_mask`.
    Raises `UserError` for a module that is not there and where one kind is missing.
    """
    if per not in ("row", "token"):
        raise UserError(f"per is {per!r}; it must be row or token.")
    if not decay > 0:
        raise UserError(f"decay is {decay:g}; it must be above 0, since a probe that separates its rows perfectly would grow without end.")
    truth = torch.as_tensor(positive).bool().cpu()
    count = len(rows) if isinstance(rows, Rows) else view(rows).rows
    if truth.dim() not in (1, 2) or len(truth) != count or (per == "row" and truth.dim() == 2):
        raise UserError(
            f"positive has shape {tuple(truth.shape)} for {count} rows; give one a row{', or a token' if per == 'token' else ''}."
        )
    features, wanted = [], []
    for start, batch in _batches(rows, size):
        h = activations(model, module, batch, forward).float()
        own = truth[start : start + len(h)]
        if per == "row":
            features.append(_pooled(h, batch))
            wanted.append(own)
        else:
            real = _real(batch, h).cpu()
            own = own[:, None].expand_as(real) if own.dim() == 1 else own[:, : real.shape[1]]
            if own.shape != real.shape:
                raise UserError(f"positive has shape {tuple(truth.shape)}, but rows are up to {real.shape[1]} tokens long.")
            features.append(h[real.to(h.device)])
            wanted.append(own[real])
    x, y = torch.cat(features), torch.cat(wanted)
    if y.all() or not y.any():
        raise UserError(f"all {len(y)} {per}s are {'' if y.all() else 'not '}positive; a probe needs both kinds.")
    return LinearProbe(model, module, per, *_logistic(x, y.to(x), decay), forward=forward)


def activations(model: nn.Module, module: str, batch: Any, forward: Forward | None = None) -> Tensor:
    """The output of one module (its first, where it gives a tuple) in a forward pass without gradients and dropout."""
    modules = dict(model.named_modules())
    if module not in modules:
        raise UserError(f"the model has no module {module!r}. Nearest: {nearest(module, [name for name in modules if name])}.")
    taken: list[Tensor] = []

    def take(_: nn.Module, args: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if not isinstance(output, Tensor):
            raise UserError(f"the module {module!r} gives a {type(output).__name__}; name one that gives a tensor.")
        taken.append(output.detach())

    hook = modules[module].register_forward_hook(take)
    modes = {name: part.training for name, part in modules.items()}
    model.eval()
    try:
        with torch.no_grad():
            (forward or _plain)(model, batch)
    finally:
        hook.remove()
        for name, part in modules.items():
            part.training = modes[name]
    if not taken:
        raise UserError(f"nothing passed by the module {module!r}.")
    return taken[-1]


def _plain(model: nn.Module, batch: Any) -> Any:
    seen = view(batch)
    if seen.ids is None:
        return model(batch)
    return model(input_ids=seen.ids, attention_mask=None if seen.attention is None else seen.attention.long())


def _batches(rows: Any, size: int) -> "list[tuple[int, Any]]":
    if not isinstance(rows, Rows):
        return [(0, rows)]
    return [(start, rows.batch(range(start, min(start + size, len(rows))))) for start in range(0, len(rows), size)]


def _real(batch: Any, h: Tensor) -> Tensor:
    """[b, t] where there is a token."""
    if h.dim() != 3:
        raise UserError(f"the module's output has shape {tuple(h.shape)}; tokens can be told apart in (batch, tokens, features) only.")
    seen = corpus(batch)
    return torch.ones(h.shape[:2], dtype=torch.bool) if seen.attention is None else seen.attention.bool()


def _pooled(h: Tensor, batch: Any) -> Tensor:
    """[b, d] the mean over a row's real tokens; of activations without tokens, themselves."""
    if h.dim() == 2:
        return h
    real = _real(batch, h).to(h)[..., None]
    return (h * real).sum(1) / real.sum(1).clamp(min=1)


def _logistic(x: Tensor, y: Tensor, decay: float) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 1e-6 * (1 + mean.abs()), scale, torch.ones_like(scale))  # a constant feature tells nothing
    z = (x - mean) / scale
    share = torch.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    weight, bias = z.new_zeros(z.shape[1], requires_grad=True), z.new_zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = nn.functional.binary_cross_entropy_with_logits(z @ weight + bias, y, reduction="none")
        loss = (share * losses).sum() + decay / 2 * weight.square().sum()
        loss.backward()
        return loss.detach()

    with torch.enable_grad():
        optimizer.step(closure)
    weight, bias = weight.detach(), bias.detach()
    right = ((z @ weight + bias) > 0) == (y > 0)
    return mean, scale, weight, bias, float(right.float().mean())
