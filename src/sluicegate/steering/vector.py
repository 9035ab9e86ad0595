"""Steering vectors as values: what is added to a module's output, at which tokens, and what it was made from.

::

    with (0.5 * v)(model): ...        # undone on leaving, also after an exception
    with twins.rows([0, 3, 7])(model): model(ids)      # ids [3, s]: a vector of its own for every row

A vector is an `Edit`: it can be scaled, added to others, and baked where the module has a bias to write it to.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from sluicegate.engine.forward import hidden_of, hooked, with_hidden
from sluicegate.errors import UserError, nearest
from sluicegate.steering.frames import unit
from sluicegate.steering.save import Steering
from sluicegate.values.edits import Applied

TOKENS = ("not_first", "all", "last", "prompt", "generated")
"""Names of selectors; the sixth is a slice of positions, "3:" or "2:10"."""
_SLICE = re.compile(r"(\d*):(\d*)")


def module_of(model: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path; raises `UserError` with the nearest ones where there is none."""
    named = dict(model.named_modules())
    if path not in named or not path:
        raise UserError(f"no module {path!r} in this model. Nearest: {nearest(path, [name for name in named if name])}.")
    return named[path]  # type: ignore[no-any-return]


def check_tokens(tokens: str) -> str:
    """Return a selector of tokens; raises `UserError` where it is none."""
    if tokens not in TOKENS and not _SLICE.fullmatch(tokens):
        raise UserError(f"tokens is {tokens!r}; it must be one of {', '.join(TOKENS)}, or positions such as '3:' or '2:10'.")
    return tokens


def steered(tokens: str, places: Tensor, *, begun: bool) -> Tensor:
    """[b, s] whether a position is steered, of `places` [b, s], each token's number in its row (below 0: padding);
    `begun`: the pass goes on from a cache, so that its tokens are generated ones."""
    real = places >= 0
    if tokens == "all":
        return real
    if tokens == "not_first":
        return places > 0
    if tokens in ("prompt", "generated"):
        return real & (begun == (tokens == "generated"))
    if tokens == "last":
        return places == (-1 if begun else places[:, -1:])
    low, high = _SLICE.fullmatch(check_tokens(tokens)).groups()  # type: ignore[union-attr]
    return (places >= int(low or 0)) & (places < int(high or places.max() + 1))


class _Places:
    """Where the tokens of the pass under way stand in their rows: learnt from what the model was called with."""

    def __init__(self) -> None:
        self.past = 0
        self.mask: Tensor | None = None

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        self.past = int(cache.get_seq_length()) if cache is not None and hasattr(cache, "get_seq_length") else 0
        self.mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None

    def __call__(self, rows: int, length: int) -> Tensor:
        """[rows, length] each token's number in its row; below 0 for padding on the left."""
        if self.mask is not None and self.mask.shape == (rows, self.past + length):
            return (self.mask.long().cumsum(1) - 1)[:, self.past :]
        return torch.arange(self.past, self.past + length).expand(rows, length)


class _Added(Steering, Applied):
    """The shared half of one vector and of one vector a row."""

    @contextmanager
    def _applied(self, model: nn.Module) -> Iterator[None]:
        place, places = module_of(model, self.module), _Places()
        cache: dict[tuple[torch.device, torch.dtype], Tensor] = {}

        def add(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            hidden = hidden_of(output)
            if not isinstance(hidden, Tensor) or hidden.dim() != 3:
                raise UserError(
                    f"the output of {self.module!r} is not [rows, tokens, width]; steer the output of a layer, or of its parts."
                )
            key = (hidden.device, hidden.dtype)
            if key not in cache:
                cache[key] = self.values.to(*key)
            new = hidden + _laid(cache[key], hidden, steered(self.tokens, places(*hidden.shape[:2]), begun=places.past > 0), self.module)
            return with_hidden(output, new)

        handles = [model.register_forward_pre_hook(places.enter, with_kwargs=True), place.register_forward_hook(add)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _laid(values: Tensor, hidden: Tensor, where: Tensor, module: str) -> Tensor:
    """[b, s, d] what is added; raises `UserError` where the vector is of another width, or there is not one a row."""
    if values.shape[-1] != hidden.shape[-1]:
        raise UserError(
            f"the vector has {values.shape[-1]} numbers, but the output of {module!r} has {hidden.shape[-1]}. It is for another module."
        )
    if values.dim() == 2:
        if len(values) != len(hidden):
            raise UserError(f"{len(values)} vectors for a batch of {len(hidden)} rows; give one a row.")
        values = values[:, None]
    return values * where.to(hidden.device)[..., None]


@dataclass(frozen=True, eq=False)
class SteeringVector(_Added):
    """A vector [d] that is added to a module's output."""

    def __post_init__(self) -> None:
        if self.values.dim() != 1:
            raise UserError(f"a steering vector has one dimension, not the shape {tuple(self.values.shape)}; several are a SteeringSet.")
        _check(self)

    @property
    def norm(self) -> float:
        """Euclidean length."""
        return float(self.values.double().norm())

    def __mul__(self, dose: float) -> Self:
        return replace(self, values=self.values * dose, made_from={**self.made_from, "dose": dose * float(self.made_from.get("dose", 1.0))})

    @torch.no_grad()
    def bake(self, model: nn.Module) -> None:
        """Add the vector to the bias that its module ends in, for good; `UserError` where there is no such bias."""
        if self.tokens != "all":
            raise UserError(
                f"this vector spares some tokens (tokens={self.tokens!r}), and a bias cannot. Make it for all, or use it as a block."
            )
        place = module_of(model, self.module)
        layers = [m for m in place.modules() if "norm" not in type(m).__name__.lower()]
        biases = [p for m in layers for name, p in m.named_parameters(recurse=False) if name == "bias"]
        if not biases or biases[-1].shape != self.values.shape:
            raise UserError(
                f"{self.module!r} ends in no layer with a bias of {len(self.values)} numbers to bake into; use the vector as a block."
            )
        bias = biases[-1]
        before, old = _output(model, place), bias.detach().clone()
        bias.add_(self.values.to(bias))
        moved = _output(model, place) - before
        if not torch.allclose(moved, self.values.to(moved).expand_as(moved), atol=1e-3 * float(self.values.abs().max() + 1e-9), rtol=1e-3):
            bias.copy_(old)
            raise UserError(f"the last bias in {self.module!r} is not simply added to its output, so it cannot stand for the vector.")


@dataclass(frozen=True, eq=False)
class RowVectors(_Added):
    """One vector for every row of a batch: of values [b, d], row i is added to row i."""

    def __mul__(self, dose: float) -> Self:
        return replace(self, values=self.values * dose)

    def bake(self, model: nn.Module) -> None:
        """Raises `UserError`: a weight is the same for every row."""
        raise UserError("one vector a row cannot be baked: a weight is the same for every row. Bake one of them.")


@dataclass(frozen=True, eq=False)
class SteeringSet(Steering):
    """Several vectors [k, d] for the same place."""

    def __post_init__(self) -> None:
        if self.values.dim() != 2:
            raise UserError(f"a set of steering vectors is [k, d], not {tuple(self.values.shape)}.")
        _check(self)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[SteeringVector]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> SteeringVector:
        if not -len(self) <= index < len(self):
            raise IndexError(f"no vector {index} in a set of {len(self)}")
        return SteeringVector(self.values[index], self.module, self.tokens, {**self.made_from, "index": index % len(self)})

    def rows(self, index: Sequence[int] | Tensor) -> RowVectors:
        """An edit that gives row i of a batch the vector ``index[i]``."""
        return RowVectors(self.values[torch.as_tensor(index, dtype=torch.long)], self.module, self.tokens)

    def mean(self, count: int = 0) -> SteeringVector:
        """The mean of the first `count` vectors (0: of all)."""
        count = count or len(self)
        return SteeringVector(self.values[:count].mean(0), self.module, self.tokens, {**self.made_from, "mean_of": count})

    def norms(self) -> Tensor:
        """[k] Euclidean lengths."""
        return self.values.double().norm(dim=1)  # type: ignore[no-any-return]

    def max_cos(self, base: SteeringVector | None = None) -> float:
        """The largest |cosine| between two of them, and with `base` where it is given; computed in float64."""
        rows = self.values.double()
        if base is not None:
            rows = torch.cat([rows, base.values.double()[None]])
        cosines = (unit(rows) @ unit(rows).T).abs()
        return float(cosines.fill_diagonal_(0).max()) if len(rows) > 1 else 0.0


def _check(steering: Steering) -> None:
    """Raise `UserError` for tokens that are none and numbers that are not finite; keep float32 on the CPU."""
    check_tokens(steering.tokens)
    if bad := int((~steering.values.isfinite()).sum()):
        raise UserError(f"a steering vector has {bad} numbers that are NaN or infinite. Was it made at too high a rate, or damaged?")
    object.__setattr__(steering, "values", steering.values.detach().float().cpu())


def _output(model: nn.Module, place: nn.Module) -> Tensor:
    """What a module gives out on three tokens."""
    kept: list[Tensor] = []
    with hooked(place, lambda _, __, output: kept.append(hidden_of(output))):
        model(input_ids=torch.tensor([[1, 2, 3]], device=next(model.parameters()).device), use_cache=False)
    return kept[0].clone()
