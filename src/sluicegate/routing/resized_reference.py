"""The reference: the model that an architecture builds from a changed configuration, without memory for its weights.

It answers what no list of architectures could: which field of a configuration holds a width, which
layers share it, and whether transformers would load a model of the new shape.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sluicegate.deprecated import alias
from sluicegate.errors import first_line
from sluicegate.routing.sites import Kind, Site, attention_of, mlp_of, site_of

_MLP_FIELDS = (
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "d_ff",
    "ffn_hidden_size",
    "inner_dim",
    "hidden_dim",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
)


class Unfit(Exception):
    """Why an architecture has no model of the wanted shape."""


@dataclass(frozen=True)
class ResizedReference:
    """A model of the new shape, on the meta device."""

    model: nn.Module
    prefix: str
    """Where the same model lies in the user's: "" or a name with a dot behind it."""
    config: Any
    """The live configuration that has to change."""
    values: Mapping[str, int]
    """What it then says."""
    wanted: Mapping[str, int]
    """The sites that were named, with their new number of units."""
    others: Mapping[str, int]
    """Sites that were not named and change too, with their new number of units: one field holds for all of them."""

    def adopt(self, model: nn.Module) -> None:
        """Let the user's configuration, and the modules at the sites, say what the reference's say."""
        for name, value in self.values.items():
            setattr(self.config, name, value)
        for site in (*self.wanted, *self.others):
            mine, theirs = model.get_submodule(site), self.model.get_submodule(site.removeprefix(self.prefix))
            for attribute, value in vars(theirs).items():
                if type(value) is int and type(mine.__dict__.get(attribute)) is int:
                    setattr(mine, attribute, value)


def owner_of(model: nn.Module) -> tuple[str, Any] | None:
    """The Hugging Face model in `model` (itself, or inside a wrapper) with its name and a dot, or None."""
    from transformers import PreTrainedModel

    for name, module in model.named_modules():
        if isinstance(module, PreTrainedModel):
            return (f"{name}." if name else ""), module
    return None


def units_of_kind(model: nn.Module, kind: Kind) -> dict[str, Site]:
    """Every site of a kind, by name."""
    recognise = mlp_of if kind == "mlp" else attention_of
    return {name: site_of(model, name) for name, module in model.named_modules() if recognise(module) is not None}


def grown(site: Site, shape: torch.Size, part_dim: int, units: int) -> tuple[int, ...]:
    """A parameter's shape once its site has this many units."""
    assert site.units is not None
    new = list(shape)
    new[part_dim] = new[part_dim] * units // site.units
    return tuple(new)


def build(model: nn.Module, prefix: str, owner: Any, kind: Kind, wanted: Mapping[str, int]) -> ResizedReference:
    """The reference whose sites `wanted` have this many units each.

    Raises `Unfit` where no configuration of this architecture describes such a model.
    """
    if len(set(wanted.values())) != 1:
        raise Unfit("its configuration holds one width for all layers, and here they would differ")
    mine = {name: site for name, site in units_of_kind(model, kind).items() if name.startswith(prefix)}
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for part in (part for site in mine.values() for part in site.parts):
        if part.parameter not in known:
            raise Unfit(f"{part.parameter} is made from other weights at every call (weight_norm and the like)")
    site, units = mine[next(iter(wanted))], next(iter(wanted.values()))
    config = _governing(model, owner, site.name)
    reason = f"no field of {type(owner.config).__name__} holds this width"
    for values in _candidates(config, kind, site, units):
        try:
            reference = _built(owner, config, values)
        except Exception as error:  # whatever an architecture says against it
            reason = first_line(error.__cause__ or error)
            continue
        others = _others(reference, prefix, kind, mine, wanted)
        if (found := _mismatch(model, reference, prefix, mine, {**wanted, **others})) is None:
            return ResizedReference(reference, prefix, config, values, wanted, others)
        reason = f"{type(owner).__name__} would build {found}"
    raise Unfit(reason)


def _governing(model: nn.Module, owner: Any, name: str) -> Any:
    """The configuration that speaks of a site: the owner's own, or the one inside it for the text part."""
    inside = {id(value): value for value in vars(owner.config).values() if hasattr(value, "to_dict")}
    inside[id(owner.config)] = owner.config
    parts = name.split(".")
    for end in range(len(parts), -1, -1):
        config = getattr(model.get_submodule(".".join(parts[:end])), "config", None)
        if id(config) in inside:
            return config
    return owner.config


def _candidates(config: Any, kind: Kind, site: Site, units: int) -> Iterator[dict[str, int]]:
    if kind == "heads":
        span = max(part.span for part in site.parts)
        values = {"num_attention_heads": units}
        if getattr(config, "num_key_value_heads", None) is not None:
            values["num_key_value_heads"] = units // span
        if getattr(config, "head_dim", None) is not None or getattr(config, "hidden_size", 0) // units != site.width:
            values["head_dim"] = site.width
        yield values
        return
    same = [name for name, value in vars(config).items() if type(value) is int and value == site.units and name not in _MLP_FIELDS]
    there = [name for name in (*_MLP_FIELDS, *same) if hasattr(config, name)]
    likely = [name for name in there if getattr(config, name) in (site.units, None)]
    for name in likely:
        yield {name: units}
    if len(likely) > 1:
        yield dict.fromkeys(likely, units)
    for name in there:
        if name not in likely and isinstance(getattr(config, name), int):
            yield {name: units}


def _built(owner: Any, config: Any, values: Mapping[str, int]) -> nn.Module:
    """The owner's architecture from its configuration with other values, as saving and loading would give it."""
    changed = copy.deepcopy(owner.config)
    inside = next((getattr(changed, name) for name, value in vars(owner.config).items() if value is config), changed)
    for name, value in values.items():
        setattr(inside, name, value)
    again = type(changed).from_dict(changed.to_dict())
    with torch.random.fork_rng(), torch.device("meta"):
        reference: nn.Module = type(owner)(again)
    return reference


def _others(reference: nn.Module, prefix: str, kind: Kind, mine: Mapping[str, Site], wanted: Mapping[str, int]) -> dict[str, int]:
    theirs = units_of_kind(reference, kind)
    found = {}
    for name, site in mine.items():
        other = theirs.get(name.removeprefix(prefix))
        if name not in wanted and other is not None and other.units is not None and other.units != site.units:
            found[name] = other.units
    return found


def _mismatch(model: nn.Module, reference: nn.Module, prefix: str, sites: Mapping[str, Site], units: Mapping[str, int]) -> str | None:
    """The first parameter whose shape is not the reference's once these sites have these units, in words."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    for name, count in units.items():
        for part in sites[name].parts:
            shapes[part.parameter] = grown(sites[name], torch.Size(shapes[part.parameter]), part.dim, count)
    for name, parameter in reference.named_parameters():
        path = prefix + name
        if path not in shapes:  # an adapter's layer lies around it
            path = ".".join([*path.split(".")[:-1], "base_layer", path.split(".")[-1]])
        if shapes.get(path) != tuple(parameter.shape):
            return f"{name} as {tuple(parameter.shape)} where it would be {shapes.get(path)}"
    return None


def default_scale(fan_in: int) -> float:
    """Standard deviation of torch's own initialisation of a linear layer: uniform within 1 / sqrt(fan_in)."""
    return 1 / math.sqrt(3 * fan_in)


__getattr__ = alias(__name__, Twin="ResizedReference")
