"""Resizing: a site's weights, and what its modules say of their own sizes, with more units or fewer."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sluicegate.routing.lora import set_rank
from sluicegate.routing.sites import Part, Site

Fill = Callable[[Part, tuple[int, ...]], Tensor]
"""Gives the new entries of a part, of this shape."""


@torch.no_grad()
def grow(model: nn.Module, site: Site, units: int, fill: Fill) -> None:
    """Give a site this many units, the new ones behind the old, with weights from `fill`."""
    more = units - (site.units or 0)
    for part in site.parts:
        parameter = model.get_parameter(part.parameter)
        # Query, key and value side by side count the units anew each time: every stretch gets its own new units.
        begins = [0, *((part.unit.diff() < 0).nonzero().flatten() + 1).tolist(), len(part.unit)]
        stretches = [b - a for a, b in itertools.pairwise(begins)]
        extra = [length * more // (site.units or 1) for length in stretches]
        shape = list(parameter.shape)
        shape[part.dim] = sum(extra)
        new = fill(part, tuple(shape)).to(parameter)
        _replace(model, part, _Woven(part.dim, stretches, extra), new)
    _settle(model, site, units)


@torch.no_grad()
def remove(model: nn.Module, site: Site, gone: Tensor) -> None:
    """Take units out of a site: those where `gone` [units] is true."""
    for part in site.parts:
        keep = (~gone[part.unit]).nonzero().flatten().to(model.get_parameter(part.parameter).device)
        _replace(model, part, _Kept(part.dim, keep), torch.empty(0))
    _settle(model, site, int((~gone).sum()))


def wrapped(site: Site) -> str | None:
    """Why adapters keep a site from changing its shape, or None."""
    return "adapters lie around its layers" if any(".base_layer." in part.parameter for part in site.parts) else None


@torch.no_grad()
def held(model: nn.Module, site: Site) -> str | None:
    """Why a site's weights cannot change their shape, or None."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for part in site.parts:
        names = owners[id(model.get_parameter(part.parameter))]
        if len(names) > 1:
            return f"{names[0]} is the same weight as {names[1]}, so neither can change its shape alone"
        if isinstance(model.get_parameter(part.parameter), DTensor):
            return f"{part.parameter} is sharded over several processes. Change the shape of a model before it is sharded"
        try:
            _replace(model, part, lambda old, _: old.clone(), torch.empty(0))
        except RuntimeError:
            return (
                f"{part.parameter} is part of a graph that is still held, of a forward pass without backward. Delete what that pass gave "
                "(its output or loss), and try again"
            )
    return None


def whole_groups(site: Site, gone: Tensor) -> Tensor:
    """[units] those of `gone` whose whole group goes: the heads that share key and value heads."""
    span = max(part.span for part in site.parts)
    return gone.view(-1, span).all(1).repeat_interleave(span)


def dead(model: nn.Module, site: Site) -> Tensor:
    """[units] whether all weights that make or read a unit are zero."""
    alive = torch.zeros(site.units or 0, dtype=torch.bool)
    for part in site.parts:
        value = model.get_parameter(part.parameter).detach()
        used = (value.movedim(part.dim, 0).reshape(len(part.unit), -1) != 0).any(1).cpu()
        for shift in range(part.span):
            alive[part.unit[used] + shift] = True
    return whole_groups(site, ~alive)


@dataclass(frozen=True)
class _Woven:
    """A tensor with new entries behind each of its stretches."""

    dim: int
    stretches: list[int]
    extra: list[int]

    def __call__(self, old: Tensor, new: Tensor) -> Tensor:
        pairs = zip(old.split(self.stretches, self.dim), new.split(self.extra, self.dim), strict=True)
        return torch.cat([piece for pair in pairs for piece in pair], self.dim)


@dataclass(frozen=True)
class _Kept:
    """A tensor without the entries that go."""

    dim: int
    keep: Tensor

    def __call__(self, old: Tensor, new: Tensor) -> Tensor:
        return old.index_select(self.dim, self.keep)


def _replace(model: nn.Module, part: Part, change: Callable[[Tensor, Tensor], Tensor], new: Tensor) -> None:
    """Give a parameter another shape: its value by `change(value, new)`, its gradient by `change(gradient, zeros)`."""
    old = model.get_parameter(part.parameter)
    fresh = nn.Parameter(change(old.detach(), new), requires_grad=old.requires_grad)
    if old.grad is not None:
        fresh.grad = change(old.grad, torch.zeros_like(new))
    fresh.__dict__.update(old.__dict__)
    torch.utils.swap_tensors(old, fresh)  # the object stays, for whoever else holds it: a tied module, an optimiser


def _settle(model: nn.Module, site: Site, units: int) -> None:
    """Let the modules around resized weights say their new sizes."""
    before = site.units or 1
    for part in site.parts:
        path, _, name = part.parameter.rpartition(".")
        layer = model.get_submodule(path)
        if name != "weight":
            continue
        size = model.get_parameter(part.parameter).shape[part.dim]
        for attribute in ("in_features", "in_channels", "nx") if part.consumer else ("out_features", "out_channels", "nf"):
            if hasattr(layer, attribute):
                setattr(layer, attribute, size)
    module = model.get_submodule(site.name)
    if site.kind == "lora":
        set_rank(model, module, units)
        return
    counts = (
        ("intermediate_size", "inner_dim", "ffn_dim") if site.kind == "mlp" else ("num_heads", "num_attention_heads", "n_head", "n_heads")
    )
    shared = () if site.kind == "mlp" else ("num_key_value_heads", "num_kv_heads", "split_size", "all_head_size")
    for attribute in (*counts, *shared):
        if type(value := module.__dict__.get(attribute)) is int and (attribute in shared or value == before):
            setattr(module, attribute, value * units // before)
