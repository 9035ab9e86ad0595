"""Edits: changes to a model's parameters, as values.

An edit is applied for the length of a block, or baked in for good::

    with edit(model):        # undone on leaving, bitwise, also after an exception
        ...
    (0.5 * edit).bake(model)

Parameters are chosen by globs over their full names ("model.layers.*.mlp.*"), see `match_names`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from inspect import signature
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from sluicegate.deprecated import renamed
from sluicegate.errors import UserError, nearest


@runtime_checkable
class Edit(Protocol):
    """A change to a model, as a value: apply it for a block, scale it, add it, bake it."""

    def __call__(self, model: nn.Module) -> AbstractContextManager[None]: ...

    def __mul__(self, dose: float) -> "Edit": ...

    def __add__(self, other: "Edit") -> "Edit": ...

    def bake(self, model: nn.Module) -> object: ...


def match_names(names: Iterable[str], patterns: str, what: str = "parameter") -> list[str]:
    """Those of a model's `names` that match a glob, in their order. Several globs are joined by commas.

    The globs are `fnmatch`'s, on the full name: ``*`` stands for any characters, dots included, ``?`` for one,
    ``[0-3]`` for one of a range. Raises `UserError` with the nearest names where one matches nothing, as no `what`.
    """
    known = list(names)
    chosen: set[str] = set()
    for pattern in (part.strip() for part in patterns.split(",")):
        found = {name for name in known if fnmatchcase(name, pattern)}
        if not found:
            raise UserError(
                f"{pattern!r} matches no {what}. Nearest: {nearest(pattern, known)}. "
                "Give full names or globs, in which a star crosses dots, for example 'model.layers.*.mlp.*'."
            )
        chosen |= found
    return [name for name in known if name in chosen]


def match_parameters(model: nn.Module, patterns: str) -> dict[str, nn.Parameter]:
    """The parameters whose names match `patterns` (see `match_names`), each tied weight once."""
    named = dict(model.named_parameters())
    return {name: named[name] for name in match_names(named, patterns)}


class Applied:
    """The shared half of every edit: what it does for the length of a block is its `_applied`."""

    def __call__(self, model: nn.Module) -> AbstractContextManager[None]:
        return self._applied(model)

    def _applied(self, model: nn.Module) -> AbstractContextManager[None]:
        raise NotImplementedError

    def bake(self, model: nn.Module) -> object:
        """Make the change for good; what it returns, if anything, says what became of the model."""
        raise NotImplementedError

    def __add__(self, other: Edit) -> Edit:
        return Both(self, other)

    def __mul__(self, dose: float) -> Self:
        raise NotImplementedError

    def __rmul__(self, dose: float) -> Self:
        return self * dose


class WeightEdit(Applied):
    """An edit that maps weights to weights; a concrete one writes one of the first two."""

    def changes(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Name and new value of each parameter, written before the next is asked for: no second model is held."""
        yield from self.new_weights(model).items()

    def new_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The same, all at once."""
        return dict(self.changes(model))

    @contextmanager
    def _applied(self, model: nn.Module) -> Iterator[None]:
        old: dict[str, Tensor] = {}
        try:
            self._write(model, old)
            yield
        finally:
            with torch.no_grad():
                for name, value in old.items():
                    model.get_parameter(name).copy_(value)

    def bake(self, model: nn.Module) -> object:
        """Write the change into the weights for good; what it returns, if anything, says what else became of them."""
        self._write(model)
        return None

    @torch.no_grad()
    def _write(self, model: nn.Module, old: dict[str, Tensor] | None = None) -> None:
        """Make the change, parameter by parameter; what they were goes into `old`."""
        for name, value in self.changes(model):
            parameter = model.get_parameter(name)
            if old is not None:
                old[name] = parameter.detach().clone()
            parameter.copy_(value)


@dataclass(frozen=True)
class Both(Applied):
    """Two edits, one after the other."""

    first: Edit
    second: Edit

    @contextmanager
    def _applied(self, model: nn.Module) -> Iterator[None]:
        with self.first(model), self.second(model):
            yield

    def __mul__(self, dose: float) -> Self:
        return replace(self, first=self.first * dose, second=self.second * dose)

    def bake(self, model: nn.Module) -> None:
        self.first.bake(model)
        self.second.bake(model)


@dataclass(frozen=True)
class Noise(WeightEdit):
    """Shrink and perturb, the corruption of UNDO.

    ``theta' = (1 - alpha) * (theta - c) + c + alpha * beta * N``

    For parameters of two or more dimensions N is Xavier-uniform, ``U[-b, b]`` with
    ``b = sqrt(6 / (fan_in + fan_out))``, and c is 0. A stack of matrices, as of fused experts, is drawn
    matrix by matrix: its fans are those of one. For the rest N is 0, and c is what makes the
    parameter the identity: 1 for a norm's gain that multiplies directly (Llama, GPT-2), 0 for a
    gain stored as ``1 + g`` (Gemma) and for every bias.

    Source: Lee et al. 2025 (arXiv 2506.06278), after Ash & Adams 2020 (shrink and perturb).
    Different here: the noise has its own seed and does not touch torch's global generator; each
    parameter's noise depends on its name only, so that restricting them leaves the others'
    unchanged; and classical gains shrink to 1, where the paper's rule would send them to 0.
    """

    alpha: float
    """Share of the weights that is replaced, 0 (nothing) to 1 (noise only)."""
    beta: float = 0.1
    """Scale of the noise, in units of a Xavier-uniform initialisation."""
    seed: int = 0
    """Seed of the noise."""
    params: str = "*"
    """Which parameters: globs over their full names, joined by commas; a star crosses dots."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha is {self.alpha:g}; it is a share, from 0 (no change) to 1 (noise only).")
        if not self.beta >= 0:
            raise UserError(f"beta is {self.beta:g}; the scale of the noise is a number, 0 or more.")

    def __mul__(self, dose: float) -> Self:
        return replace(self, alpha=self.alpha * dose)

    @torch.no_grad()
    def changes(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        chosen = match_parameters(model, self.params)
        if self.alpha == 0:
            return  # the identity, bitwise
        centres = identity_gains(model)
        convolved = {id(p) for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd) for p in m.parameters(recurse=False)}
        for name, parameter in chosen.items():
            centre = centres.get(name, 0.0)
            value = (1 - self.alpha) * (parameter - centre) + centre
            stacked = parameter.dim() == 3 and parameter.shape[1] > 1 and id(parameter) not in convolved
            if parameter.dim() >= 2 and not name.endswith("bias"):  # a stack of biases has two dimensions
                value = value + self.alpha * self.beta * _xavier(parameter, name, self.seed, stacked)
            yield name, value.to(parameter.dtype)


@dataclass(frozen=True)
class Rounded(WeightEdit):
    """Weights rounded to `bits` bits and back: what a quantised copy of the model would compute with.

    ``theta' = (1 - dose) * theta + dose * s * round(theta / s)``, with ``s = max |theta| / (2^(bits-1) - 1)`` over each
    group of `group` neighbours in a row (0: the whole row). Vectors, such as biases and gains, stay as they are.

    Symmetric round-to-nearest. That it can bring back what was unlearned: Zhang et al. 2024 (arXiv 2410.16454).
    """

    bits: int
    """Bits of a weight, 2 to 16; 8 and 4 are usual."""
    group: int = 0
    """Weights that share a scale; 0: a row."""
    params: str = "*"
    """Which parameters: globs over their full names, joined by commas; a star crosses dots."""
    dose: float = 1.0
    """Share of the way."""

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise UserError(f"bits is {self.bits}; weights are rounded to 2 to 16 bits, usually 8 or 4.")
        if self.group < 0:
            raise UserError(f"group is {self.group}; give the number of weights that share a scale, or 0 for a row.")

    def __mul__(self, dose: float) -> Self:
        return replace(self, dose=self.dose * dose)

    @torch.no_grad()
    def changes(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        chosen = match_parameters(model, self.params)
        if self.dose == 0:
            return  # the identity, bitwise
        yield from ((name, torch.lerp(p, self._rounded(p), self.dose)) for name, p in chosen.items() if p.dim() >= 2)

    def _rounded(self, weights: Tensor) -> Tensor:
        size = min(self.group or weights.shape[-1], weights.shape[-1])
        short = -weights.shape[-1] % size
        blocks = nn.functional.pad(weights, (0, short)).unflatten(-1, (-1, size))  # zeros change no largest value
        scale = blocks.abs().amax(-1, keepdim=True) / (2 ** (self.bits - 1) - 1)
        found = torch.where(scale > 0, (blocks / scale).round() * scale, blocks)
        return found.flatten(-2)[..., : weights.shape[-1]]


for _edit in (Noise, Rounded):
    _edit.__init__ = renamed(sites="params")(_edit.__init__)  # type: ignore[method-assign, assignment]


def note_structure(model: nn.Module) -> Callable[..., None]:
    """Note what every module of `model` is: its class, parameters, submodules, hooks and other attributes, not the
    numbers in them. The function returned puts it back, with ``training=False`` all but whether they are in training.

    What wraps modules, changes their classes or adds hooks (an adapter, FSDP2) is so taken off again, wherever it
    stopped. Dictionaries are refilled in place, since hooks' handles refer to them.
    """
    noted = [(m, m.__class__, [(k, v, dict(v) if isinstance(v, dict) else None) for k, v in vars(m).items()]) for m in model.modules()]

    def put_back(*, training: bool = True) -> None:
        for module, cls, attributes in noted:
            now = module.training
            module.__class__ = cls
            own = vars(module)
            own.clear()
            for name, value, content in attributes:
                own[name] = value
                if content is not None:
                    value.clear()
                    value.update(content)
            if not training:
                own["training"] = now

    return put_back


def identity_gains(model: nn.Module) -> dict[str, float]:
    """For every norm's gain the value at which the norm only normalises: 1, or 0 where it multiplies by 1 + g. The norm
    is asked itself: with all gains zero, the former answers zero to any input and the latter does not."""
    gains = {}
    for prefix, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if "norm" not in type(module).__name__.lower() or not isinstance(weight, nn.Parameter) or weight.dim() != 1:
            continue
        probe = torch.linspace(-1, 1, weight.numel(), device=weight.device, dtype=weight.dtype)[None, None]
        zeroed = {name: torch.zeros_like(p) for name, p in module.named_parameters(recurse=False)}
        # A gated norm is handed its gate as well.
        asked = [p for p in signature(module.forward).parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        answer = torch.func.functional_call(module, zeroed, (probe,) * max(len(asked), 1))
        gains[f"{prefix}.weight".lstrip(".")] = 1.0 if bool((answer == 0).all()) else 0.0
    return gains


def _xavier(parameter: Tensor, name: str, seed: int, stacked: bool) -> Tensor:
    """Xavier-uniform noise of the parameter's shape, or of a stack's matrices, drawn from (seed, name)."""
    number = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")
    noise = torch.empty(parameter.shape, dtype=torch.float32)
    generator = torch.Generator().manual_seed(number)
    for matrix in noise if stacked else (noise,):
        nn.init.xavier_uniform_(matrix, generator=generator)
    return noise.to(parameter.device)
