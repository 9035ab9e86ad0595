"""Surgery: units added to a model, and units taken out, so that it stays an ordinary model of its kind.

Expand and contract of ERA (Cloud et al. 2024, arXiv 2410.04332, s4.2), for MLP units, attention
heads and the ranks of LoRA adapters.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sluicegate.deprecated import renamed
from sluicegate.errors import UserError
from sluicegate.routing.gradient_hook import GradientHook
from sluicegate.routing.pass_context import PassContext
from sluicegate.routing.protect import MaskedForward
from sluicegate.routing.resized_reference import ResizedReference, Unfit, build, default_scale, owner_of, units_of_kind
from sluicegate.routing.resizing import Fill, dead, grow, held, remove, whole_groups, wrapped
from sluicegate.routing.sites import Kind, Part, Site, find, is_linear

Start = Literal["zero", "random"]


@renamed(sites="modules")
def expand(
    model: nn.Module,
    modules: Mapping[str, Mapping[str, int]],
    *,
    start: Start = "zero",
    seed: int = 0,
    in_memory: bool = False,
) -> dict[str, dict[str, int]]:
    """Add units at the end of each site, in place; return `modules`, ready for a router.

    ::

        router = Router(model, expand(model, {"model.layers.*.mlp": {"forget": 64}}))

    Sites are MLPs (units), attentions (heads) and LoRA layers (ranks); the counts of a site's blocks
    are added up. Of grouped-query attention, heads come with their key and value heads, so that each
    count is a multiple of the group's size. A LoRA adapter keeps its scaling, alpha / r.

    start "zero": the weights that make a new unit are drawn at the model's own `initializer_range`
    (torch's scale for a linear layer where there is none) and those that read it are zero, so that
    the outputs are what they were, up to the order of summation. start "random": both are drawn, for
    training from scratch. New biases are zero. Draws depend on `seed` and the parameter's name only.

    A Hugging Face configuration holds one width for all layers. If only some are named, the others
    get units whose weights are all zero, as in ERA: no gradient reaches them, because each side's
    gradient has the other side as a factor, so that they stay zero under any optimiser that leaves
    weights without gradient at zero. The configuration is changed too, and the model that transformers
    builds from it is compared with the one that was made, so `save_pretrained` and `from_pretrained`
    give it back. Where no such configuration exists (heads of GPT-2 and NeoX, whose heads share the
    width of the model), `in_memory` adds the units where they were named and leaves the configuration:
    such a model runs and trains, and can be saved again once the units are cut.

    Parameters stay the same objects (tied, frozen and in the same optimiser), with dtype, device
    and gradient; the new part of a gradient is zero. An optimiser that has already stepped must be made anew.

    Raises `UserError` for a site that is none of these or has adapters around its layers, counts that
    do not fit, a shape that transformers could not load, and a model that a router is attached to.
    """
    if start not in ("zero", "random"):
        raise UserError(f"start is {start!r}; it must be zero (outputs stay what they are) or random (for training from scratch).")
    for _, name in _routers(model):
        raise UserError(f"a router is attached to the model (at {name!r}). Call router.remove() first, expand, and make a new router.")
    chosen = _chosen(model, modules)
    # First only plan: how many units each site is to have, and how the new ones are drawn.
    scale, fitted = None, []
    plans = [_Plan(site, site.units + count, _drawn(start, seed, None)) for site, count in chosen.values() if site.units is not None]
    if (owned := owner_of(model)) is not None:
        prefix, owner = owned
        scale = float(getattr(owner.config.get_text_config(), "initializer_range", 0.02))
        for number, plan in enumerate(plans):
            if plan.site.kind != "lora" and plan.site.name.startswith(prefix):
                plans[number] = _Plan(plan.site, plan.units, _drawn(start, seed, scale))
        # The model that transformers would build from the changed configuration says which other sites must grow, too.
        if not in_memory:
            fitted = [reference for kind in ("mlp", "heads") if (reference := _fitted(model, prefix, owner, kind, plans)) is not None]
    for reference in fitted:
        everything = {**units_of_kind(model, "mlp"), **units_of_kind(model, "heads")}
        plans += [_Plan(everything[name], units, _zeros) for name, units in reference.others.items()]
    # Refuse before anything is changed: a model that is half expanded could not be used.
    for plan in plans:
        if (reason := held(model, plan.site)) is not None:
            raise UserError(f"site {plan.site.name!r}: {reason}.")
    for plan in plans:
        grow(model, plan.site, plan.units, plan.fill)
    # Now that the weights have the new shapes, the configuration and the modules' own counts must say the same.
    for reference in fitted:
        reference.adopt(model)
    return {pattern: dict(blocks) for pattern, blocks in modules.items()}


@dataclass(frozen=True)
class Shrunk:
    """What became of units that were cut: at each site all of them were taken out, or left as zeros. True if none were
    left."""

    removed: Mapping[str, int] = field(default_factory=dict)
    """Number of units taken out, by site."""
    left: Mapping[str, str] = field(default_factory=dict)
    """Why units were left as zeros, by site."""

    def __bool__(self) -> bool:
        return not self.left

    def __str__(self) -> str:
        gone = f"{sum(self.removed.values())} units taken out at {len(self.removed)} sites"
        reasons = dict.fromkeys(self.left.values())
        return "; ".join([gone, *(f"left as zeros at {sum(v == why for v in self.left.values())} sites: {why}" for why in reasons)])


def check_idle(model: nn.Module) -> None:
    """Raise `UserError` while a router on the model is entered: its blocks cannot go under it."""
    for context, name in _routers(model):
        if context.open:
            raise UserError(f"the router is entered (at {name!r}): leave its block before its blocks are taken out of the weights.")


def shrink(model: nn.Module, sites: Sequence[tuple[Site, Mapping[str, tuple[int, int]]]]) -> Shrunk:
    """Take the units of these blocks, whose weights are zero already, out of the weights where possible.

    Of a Hugging Face model, every layer loses the same number, and its configuration says so, since
    it holds one width for all; layers without a block give up units that are zero throughout (those
    that `expand` gave them). Grouped heads go in whole groups. What cannot go is left as zeros:
    the function is the same either way. A router that is still attached notices the new shapes
    and says so when it is entered.
    """
    check_idle(model)
    cut: dict[str, tuple[Site, Tensor]] = {}
    left: dict[str, str] = {}
    for site, placed in sites:
        try:
            cut[site.name] = site, _cut_units(model, site, placed)
        except Unfit as why:
            left[site.name] = str(why)
    owned = owner_of(model)
    alone = {name: own for name, own in cut.items() if owned is None or own[0].kind == "lora" or not name.startswith(owned[0])}
    removals, fitted = dict(alone), []
    if owned is not None:
        for kind in ("mlp", "heads"):
            mine = {name: own for name, own in cut.items() if name not in alone and own[0].kind == kind}
            try:
                if mine:
                    reference, goes = _together(model, *owned, kind, mine)
                    fitted.append(reference)
                    removals |= goes
            except Unfit as why:
                left |= dict.fromkeys(mine, str(why))
    removed = {}
    for name, (site, gone) in removals.items():
        remove(model, site, gone)
        removed[name] = int(gone.sum())
    for reference in fitted:
        reference.adopt(model)
    return Shrunk(removed, left)


# ------------------------------------------------------------------------------- what is asked for


@dataclass(frozen=True)
class _Plan:
    site: Site
    units: int
    """How many there will be."""
    fill: Fill
    """The new entries of a part."""


def _chosen(model: nn.Module, modules: Mapping[str, Mapping[str, int]]) -> dict[str, tuple[Site, int]]:
    found: dict[str, tuple[Site, int]] = {}
    if not modules:
        raise UserError("there is nothing to expand. Name at least one site, for example {'model.layers.*.mlp': {'forget': 64}}.")
    for pattern, blocks in modules.items():
        for site in find(model, pattern):
            if site.name in found:
                raise UserError(f"the site {site.name!r} is matched twice, also by {pattern!r}. Name all its blocks in one place.")
            if site.kind == "features" or site.units is None:
                raise UserError(
                    f"site {site.name!r} ({type(model.get_submodule(site.name)).__name__}) is no MLP, attention or LoRA layer, so it is "
                    "not known what reads its units. Name the module that holds both sides, for example 'model.layers.*.mlp'."
                )
            if (reason := wrapped(site)) is not None:
                raise UserError(f"site {site.name!r}: {reason}. Expand the model before it gets adapters, or merge them into it.")
            span = max(part.span for part in site.parts)
            for block, count in blocks.items():
                if type(count) is not int or count < 1:
                    raise UserError(f"site {site.name!r}: block {block!r} is {count!r}; give the number of units to add, at least 1.")
                if count % span:
                    raise UserError(
                        f"site {site.name!r}: block {block!r} has {count} heads, but {span} query heads share one key and value head "
                        f"here, so heads are added in groups of {span}. Give a multiple of {span}."
                    )
            if not blocks:
                raise UserError(f"site {site.name!r}: no block is named. Give each a name and a size, for example {{'forget': 64}}.")
            found[site.name] = site, sum(blocks.values())
    return found


def _routers(model: nn.Module) -> Iterator[tuple[PassContext, str]]:
    """The pass contexts of routers that are attached to a model, with where."""
    for name, module in model.named_modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values(), module.__dict__.get("forward")):
            own = hook if isinstance(hook, MaskedForward) else getattr(hook, "__self__", None)
            if isinstance(own, (MaskedForward, GradientHook)):
                yield own.context, name


def _fitted(model: nn.Module, prefix: str, owner: Any, kind: Kind, plans: Sequence[_Plan]) -> ResizedReference | None:
    """The reference of the model as planned, or an error that says what to do instead."""
    wanted = {plan.site.name: plan.units for plan in plans if plan.site.kind == kind and plan.site.name.startswith(prefix)}
    if not wanted:
        return None
    where = next(iter(wanted))
    try:
        reference = build(model, prefix, owner, kind, wanted)
    except Unfit as why:
        raise UserError(
            f"site {where!r} cannot have {wanted[where]} {'heads' if kind == 'heads' else 'units'} in a model that transformers loads: "
            f"{why}. Choose another number, or expand(..., in_memory=True) to add them all the same, for a model that can be saved only "
            "after they are cut."
        ) from None
    for name in reference.others:
        if wrapped(units_of_kind(model, kind)[name]) is not None:
            raise UserError(
                f"site {name!r} would get units as well, since all layers have one width, but adapters lie around its layers. Expand the "
                "model before it gets adapters, or expand(..., in_memory=True) where the units are cut again before it is saved."
            )
        if kind == "mlp" and (act := _awake(model.get_submodule(name))):
            raise UserError(
                f"site {name!r} would get units that must stay zero, since all layers have one width, but {act} of 0 is not 0, so they "
                "would learn. Name all layers."
            )
    return reference


def _awake(module: nn.Module) -> str | None:
    """The activation of an MLP that answers 0 with something else, or None."""
    for child in module.children():
        if is_linear(child) or any(True for _ in child.parameters()):
            continue
        with torch.no_grad():
            if bool((child(torch.zeros(2)) != 0).any()):
                return type(child).__name__
    return None


# ------------------------------------------------------------------------------- growing


def _zeros(part: Part, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape)


def _drawn(start: Start, seed: int, scale: float | None) -> Fill:
    def fill(part: Part, shape: tuple[int, ...]) -> Tensor:
        if len(shape) < 2 or (part.consumer and start == "zero"):
            return torch.zeros(shape)
        number = int.from_bytes(hashlib.sha256(f"{seed}:{part.parameter}".encode()).digest()[:7], "big")
        fan_in = len(part.unit) + shape[part.dim] if part.consumer else torch.Size(shape).numel() // shape[part.dim]
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(number))
        return noise * (default_scale(fan_in) if scale is None else scale)

    return fill


# ------------------------------------------------------------------------------- shrinking


def _cut_units(model: nn.Module, site: Site, placed: Mapping[str, tuple[int, int]]) -> Tensor:
    """[units] which units of a site are to go; raises `Unfit` where they cannot."""
    if site.kind == "features" or site.units is None:
        raise Unfit("only units of MLPs, attentions and LoRA layers can be taken out")
    if (reason := wrapped(site)) is not None:
        raise Unfit(reason)
    if (reason := held(model, site)) is not None:
        raise Unfit(reason)
    gone = torch.zeros(site.units, dtype=torch.bool)
    for start, stop in placed.values():
        gone[start:stop] = True
    if not torch.equal(whole_groups(site, gone), gone):
        raise Unfit("its heads share key and value heads with heads that stay")
    if gone.all():
        raise Unfit("nothing would remain of the module")
    return gone


def _together(
    model: nn.Module, prefix: str, owner: Any, kind: Kind, mine: Mapping[str, tuple[Site, Tensor]]
) -> tuple[ResizedReference, dict[str, tuple[Site, Tensor]]]:
    """What can go in all layers of a Hugging Face model alike, and the model that it then is."""
    sites = units_of_kind(model, kind)
    may_go = {name: gone for name, (_, gone) in mine.items()}
    width = max(len(gone) - int(gone.sum()) for gone in may_go.values())
    reference = build(model, prefix, owner, kind, dict.fromkeys(mine, width))
    for name in reference.others:
        may_go[name] = torch.zeros(sites[name].units or 0, dtype=torch.bool) if wrapped(sites[name]) else dead(model, sites[name])
    found = {}
    for name, gone in may_go.items():
        surplus = len(gone) - width
        if not 0 <= surplus <= int(gone.sum()) or (name in mine and surplus != int(gone.sum())):
            raise Unfit("its configuration holds one width for all layers, and not all of them can give up as many units")
        chosen = torch.zeros_like(gone)
        chosen[gone.nonzero().flatten()[int(gone.sum()) - surplus :]] = True
        if surplus:
            found[name] = sites[name], chosen
    for site, chosen in found.values():
        if site.name not in mine and (reason := held(model, site)) is not None:
            raise Unfit(reason)
        if not torch.equal(whole_groups(site, chosen), chosen):
            raise Unfit("its heads share key and value heads with heads that stay")
    return reference, found
