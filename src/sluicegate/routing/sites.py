"""Sites: a module, its units, which can be set apart, and which weights belong to which unit.

A site is named by its module. What its units are follows from the module: hidden units of an MLP,
heads of an attention, ranks of a LoRA adapter, and for any other module the features of its output
(or input). Structure is recognised by the modules' children, not by the model's class, so that
nothing is tied to an architecture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from operator import index
from typing import Literal

import torch
from torch import Tensor, nn

from sluicegate.errors import UserError, nearest

At = Literal["auto", "input", "output"]
Kind = Literal["mlp", "heads", "lora", "features"]

_UP = (("gate_proj", "up_proj"), ("up_proj",), ("c_fc",), ("fc1",), ("fc_in",), ("dense_h_to_4h",), ("wi",))
_DOWN = ("down_proj", "c_proj", "fc2", "fc_out", "dense_4h_to_h", "wo")
CHANNELS_FIRST = (
    *(nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LocalResponseNorm, nn.Upsample, nn.PixelShuffle),
    *(nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._LPPoolNd, nn.Dropout1d, nn.Dropout2d),
    *(nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd, nn.Dropout3d),
)
"""Modules whose features lie along dimension 1."""
_FEATURES_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)

ALIASES: dict[str, Kind] = {"mlp_hidden": "mlp", "heads": "heads", "lora_rank": "lora"}
"""Names that stand for all sites of a kind."""
_NAMED = (*ALIASES, "resid", "experts")
"""With "resid" for the outputs of the decoder's layers, and "experts" for all `experts.Experts`."""


@dataclass(frozen=True, eq=False)
class Part:
    """How one parameter belongs to a site's units: index i along `dim` belongs to unit ``unit[i]``."""

    parameter: str
    dim: int
    unit: Tensor
    """[size of dim] number of the unit that each index belongs to."""
    span: int = 1
    """How many units, from ``unit[i]`` on, share an index (grouped key and value heads)."""
    consumer: bool = False
    """Whether the parameter reads the units (a down projection) instead of making them."""

    def belongs(self, start: int, stop: int) -> Tensor:
        """[size of dim] whether an index serves units of [start, stop) and no others."""
        return (self.unit >= start) & (self.unit + self.span <= stop)

    def touches(self, start: int, stop: int) -> Tensor:
        """[size of dim] whether an index serves some unit of [start, stop)."""
        return (self.unit < stop) & (self.unit + self.span > start)


@dataclass(frozen=True, eq=False)
class Site:
    """A module whose units can be set apart."""

    name: str
    """Dotted name of the module, as in `model.named_modules()`."""
    kind: Kind
    hook_module: str
    """The module at whose input or output the units' activations context by."""
    at: Literal["input", "output"]
    units: int | None
    """How many units there are; None where only a forward pass can tell."""
    width: int = 1
    """Features of one unit: 1 for an MLP unit, the head's size for a head."""
    dim: int = -1
    """The activation's dimension along which the units lie."""
    doubt: int = 0
    """From how many dimensions on `dim` is a guess, because the module does not tell; 0: it is known."""
    parts: tuple[Part, ...] = field(default=(), repr=False)
    """The weights that belong to units; empty for a module without weights of its own."""

    def axis(self, shape: Sequence[int]) -> int:
        """The dimension of an activation of this shape along which the units lie; raises `UserError` where only the
        user can know it."""
        if self.doubt and len(shape) >= self.doubt:
            raise UserError(
                f"site {self.name!r}: its activations are {tuple(shape)}, and the module does not tell along which dimension the units "
                "lie. Say dim=1 (channels first) or dim=-1 (features last)."
            )
        if not -len(shape) <= self.dim < len(shape) or self.dim % len(shape) == 0:
            raise UserError(
                f"site {self.name!r}: the units cannot lie along dim={self.dim} of activations {tuple(shape)}. Give another dim=."
            )
        return self.dim % len(shape)


def find(model: nn.Module, pattern: str, at: At = "auto", dim: int | None = None) -> list[Site]:
    """Return the sites that `pattern` names, in the model's order.

    `pattern` is a glob (`fnmatch`) over full module names, whose ``*`` crosses dots ("model.layers.*.mlp",
    "transformer.h.[0-4].mlp.act", "*.mlp"; "" is the model itself), or an alias: mlp_hidden, heads, resid,
    lora_rank, experts. Of modules that match and lie inside each other the outermost counts, so that
    "transformer.h.*" are the layers. A module of that very name comes before an alias. `dim` is the dimension
    along which the units of a module lie that does not tell: a block of one's own, an activation function.
    Raises `UserError` that lists the nearest names when it matches nothing.
    """
    modules = dict(model.named_modules())
    if pattern in _NAMED and pattern not in modules:
        names = _by_kind(modules, pattern)
        if not names:
            raise UserError(f"the model has no site of the kind {pattern!r}. Name a module instead, for example {_examples(modules)}.")
    else:
        names = []
        for name in modules:  # each followed by what lies inside it
            if fnmatchcase(name, pattern) and (name or not pattern) and not (names and name.startswith(f"{names[-1]}.")):
                names.append(name)
    if not names:
        raise UserError(
            f"the site {pattern!r} matches no module. Nearest: {nearest(pattern, [n for n in modules if n])}. A site is a module's "
            f"name or a glob over full names, for example 'model.layers.*.mlp', or one of {', '.join(_NAMED)}."
        )
    first = {id(p): name for name, p in model.named_parameters()}
    known = {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    return [_canonical(site_of(model, name, at, dim), known) for name in names]


def _canonical(site: Site, known: dict[str, str]) -> Site:
    """The site with its parameters by the name that `named_parameters` gives, which a tied weight has only one of.

    Where a weight is made from other parameters at every call (weight_norm, orthogonal, pruning), those have no units,
    and so the site has no weights.
    """
    if any(part.parameter not in known for part in site.parts):
        return replace(site, kind="features", parts=())
    return replace(site, parts=tuple(replace(part, parameter=known.get(part.parameter, part.parameter)) for part in site.parts))


def _examples(modules: dict[str, nn.Module]) -> str:
    return repr(next((name for name in modules if name.count(".") >= 1), next(iter(modules), "")))


def _by_kind(modules: dict[str, nn.Module], alias: str) -> list[str]:
    if alias == "resid":
        stacks = [n for n, m in modules.items() if isinstance(m, nn.ModuleList) and len(m) and _is_layer(m[0])]
        return [f"{n}.{i}" for n in stacks[:1] for i in range(len(modules[n]))]  # type: ignore[arg-type]
    if alias == "experts":
        return [name for name, module in modules.items() if callable(getattr(module, "routing_site", None))]
    recognise = {"mlp": mlp_of, "heads": attention_of, "lora": lora_of}[ALIASES[alias]]
    return [name for name, module in modules.items() if recognise(module) is not None]


def _is_layer(module: nn.Module) -> bool:
    return any(mlp_of(child) or attention_of(child) for child in module.children())


# ------------------------------------------------------------------------------ what a module is


@dataclass(frozen=True)
class Projections:
    """The linear layers that make a site's units, and the one that reads them, by their names in the module."""

    makers: tuple[str, ...]
    reader: str


def is_linear(module: nn.Module | None) -> bool:
    """Whether a module multiplies by a matrix: `nn.Linear`, or the transposed `Conv1D` of GPT-2."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def only_multiplies(module: nn.Module) -> bool:
    """Whether its class's `forward` is the plain product: `nn.Linear` itself, not a subclass that does something else,
    or `Conv1D`."""
    return is_linear(module) and (not isinstance(module, nn.Linear) or type(module).forward is nn.Linear.forward)


def fan(linear: nn.Module) -> tuple[int, int]:
    """Number of inputs and outputs of a linear layer of either orientation."""
    rows, columns = linear.weight.shape  # type: ignore[misc]
    return (int(columns), int(rows)) if isinstance(linear, nn.Linear) else (int(rows), int(columns))


def out_dim(linear: nn.Module) -> int:
    """The weight's dimension along which the outputs lie."""
    return 0 if isinstance(linear, nn.Linear) else 1


def _plain(module: nn.Module) -> nn.Module:
    """The layer under an adapter that wraps it, else the module itself."""
    base = getattr(module, "base_layer", None)
    return base if isinstance(base, nn.Module) else module


def mlp_of(module: nn.Module) -> Projections | None:
    """How a module works as an MLP with one hidden layer, or None."""
    children = dict(module.named_children())
    linears = {name: _plain(child) for name, child in children.items() if is_linear(_plain(child))}
    down = next((name for name in _DOWN if name in linears), None)
    for makers in _UP:
        if down and all(name in linears for name in makers) and len(linears) == len(makers) + 1:
            found = Projections(makers, down)
            return found if all(fan(linears[m])[1] == fan(linears[down])[0] for m in makers) else None
    if (
        isinstance(module, nn.Sequential)
        and len(linears) == 2
        and not any(list(c.parameters()) for n, c in children.items() if n not in linears)
    ):
        first, second = linears
        if fan(linears[first])[1] == fan(linears[second])[0]:
            return Projections((first,), second)
    return None


def attention_of(module: nn.Module) -> Projections | None:
    """How a module works as self-attention, or None."""
    linears = {name for name, child in module.named_children() if is_linear(_plain(child))}
    for makers, reader in (
        (("q_proj", "k_proj", "v_proj"), "o_proj"),
        (("q_proj", "k_proj", "v_proj"), "out_proj"),
        (("c_attn",), "c_proj"),
        (("query_key_value",), "dense"),
    ):
        if reader in linears and all(name in linears for name in makers):
            return Projections(makers, reader)
    return None


def lora_of(module: nn.Module) -> str | None:
    """The name of the adapter that a PEFT LoRA layer holds, or None."""
    a, b = getattr(module, "lora_A", None), getattr(module, "lora_B", None)
    if isinstance(a, nn.ModuleDict) and isinstance(b, nn.ModuleDict) and len(a):
        active = [name for name in getattr(module, "active_adapters", list(a)) if name in a]
        return active[0] if active else next(iter(a))
    return None


def head_size(module: nn.Module) -> int:
    """Features of one head of an attention module."""
    for name in ("head_dim", "head_size"):
        if isinstance(size := getattr(module, name, None), int):
            return size
    raise UserError(f"cannot tell the size of a head of {type(module).__name__}: it has neither head_dim nor head_size.")


def site_of(model: nn.Module, name: str, at: At = "auto", dim: int | None = None) -> Site:
    """The site at one module; `at` chooses the side for a module whose units are plain features, `dim` where they
    lie if it does not tell."""
    module = model.get_submodule(name)
    prefix = f"{name}." if name else ""
    if at == "auto":
        if callable(own := getattr(module, "routing_site", None)):  # a module that knows its own units
            return own(name)  # type: ignore[no-any-return]
        if adapter := lora_of(module):
            return _lora_site(module, name, prefix, adapter)
        if (found := mlp_of(module)) is not None:
            return _mlp_site(module, name, prefix, found)
        if (found := attention_of(module)) is not None:
            return _attention_site(module, name, prefix, found)
    site = _feature_site(module, name, prefix, "output" if at == "auto" else at)
    if (known := _axis(module, site.at)) is None:
        known = dim
    if known is not None:
        return replace(site, dim=known)
    # What such a module gives may be (batch, channels, places) where the model convolves sequences.
    sequences = any(isinstance(m, (nn.Conv1d, nn.ConvTranspose1d)) for m in model.modules())
    return replace(site, doubt=3 if sequences and not _is_layer(module) else 4)


def _axis(module: nn.Module, at: Literal["input", "output"]) -> int | None:
    """The dimension of a module's activation along which its units lie, or None where the module does not tell."""
    if isinstance(module, CHANNELS_FIRST):
        return 1
    if isinstance(module, _FEATURES_LAST) or is_linear(module):
        return -1
    if isinstance(module, nn.Sequential):  # the first that tells, past those that work number by number
        for child in module if at == "input" else reversed(module):
            by_number = type(child).__module__ == "torch.nn.modules.activation" or isinstance(child, (nn.Identity, nn.Dropout))
            if (found := _axis(child, at)) is not None or not by_number:
                return found
    return None


def _mlp_site(module: nn.Module, name: str, prefix: str, found: Projections) -> Site:
    units = fan(_plain(module.get_submodule(found.reader)))[0]
    number = torch.arange(units)
    parts = [part for maker in found.makers for part in _linear_parts(module, prefix, maker, number, consumer=False)]
    parts += _linear_parts(module, prefix, found.reader, number, consumer=True)
    return Site(name, "mlp", f"{prefix}{found.reader}", "input", units, parts=tuple(parts))


def _linear_parts(module: nn.Module, prefix: str, child: str, unit: Tensor, *, consumer: bool, span: int = 1) -> list[Part]:
    """The parts of one linear layer: along its outputs for a maker, along its inputs for a reader.

    With those of the adapters that wrap it: a LoRA layer writes its outputs with B and reads its inputs with A.
    """
    layer = module.get_submodule(child)
    linear = _plain(layer)
    path = f"{prefix}{child}" + ("" if linear is layer else ".base_layer")
    dim = out_dim(linear) if not consumer else 1 - out_dim(linear)
    parts = [Part(f"{path}.weight", dim, unit, span, consumer)]
    if not consumer and getattr(linear, "bias", None) is not None:
        parts.append(Part(f"{path}.bias", 0, unit, span))
    if lora_of(layer) is not None:
        side = "lora_A" if consumer else "lora_B"
        for adapter in getattr(layer, side):
            parts += _linear_parts(module, prefix, f"{child}.{side}.{adapter}", unit, consumer=consumer, span=span)
    return parts


def _attention_site(module: nn.Module, name: str, prefix: str, found: Projections) -> Site:
    size = head_size(module)
    heads = fan(_plain(module.get_submodule(found.reader)))[0] // size
    number = torch.arange(heads).repeat_interleave(size)
    parts: list[Part] = []
    for maker in found.makers:
        outputs = fan(_plain(module.get_submodule(maker)))[1]
        if maker == "c_attn":  # query, key and value side by side
            parts += _linear_parts(module, prefix, maker, number.repeat(3), consumer=False)
        elif maker == "query_key_value":  # interleaved: each head holds its own three
            parts += _linear_parts(module, prefix, maker, torch.arange(heads).repeat_interleave(3 * size), consumer=False)
        else:  # key and value heads may serve several query heads
            span = heads * size // outputs
            first = torch.arange(0, heads, span).repeat_interleave(size)
            parts += _linear_parts(module, prefix, maker, first, consumer=False, span=span)
    parts += _linear_parts(module, prefix, found.reader, number, consumer=True)
    return Site(name, "heads", f"{prefix}{found.reader}", "input", heads, width=size, parts=tuple(parts))


def _lora_site(module: nn.Module, name: str, prefix: str, adapter: str) -> Site:
    rank = int(module.lora_A[adapter].weight.shape[0])  # type: ignore[index, union-attr]
    number = torch.arange(rank)
    parts = (
        Part(f"{prefix}lora_A.{adapter}.weight", 0, number),
        Part(f"{prefix}lora_B.{adapter}.weight", 1, number, consumer=True),
    )
    return Site(name, "lora", f"{prefix}lora_B.{adapter}", "input", rank, parts=parts)


def _feature_site(module: nn.Module, name: str, prefix: str, at: Literal["input", "output"]) -> Site:
    if isinstance(module, nn.modules.conv._ConvNd):
        (inputs, outputs), out = (module.in_channels, module.out_channels), 0
    elif is_linear(module):
        (inputs, outputs), out = fan(module), out_dim(module)
    else:
        return Site(name, "features", name, at, None)
    consumer = at == "input"
    number = torch.arange(inputs if consumer else outputs)
    if getattr(module, "groups", 1) != 1 or getattr(module, "transposed", False):
        return Site(name, "features", name, at, len(number))
    own = Part(f"{prefix}weight", 1 - out if consumer else out, number, consumer=consumer)
    bias = [] if consumer or getattr(module, "bias", None) is None else [Part(f"{prefix}bias", 0, number)]
    return Site(name, "features", name, at, len(number), parts=(own, *bias))


# ------------------------------------------------------------------------------------- blocks

Extent = int | tuple[int, int] | range | slice
"""A block's units: how many at the end, or from where to where."""


def place(site: Site, blocks: dict[str, Extent]) -> dict[str, tuple[int, int]]:
    """Return each block's units as (start, stop); counts take their units from the end, in order.

    Where the number of units is unknown, places are negative and count from the end. Raises
    `UserError` for blocks that overlap or reach outside.
    """
    counted = sum(extent for extent in blocks.values() if isinstance(extent, int))
    total = site.units if site.units is not None else 0
    if site.units is not None and counted > site.units:
        wanted = " and ".join(f"{name!r}: {extent}" for name, extent in blocks.items() if isinstance(extent, int))
        raise UserError(f"site {site.name!r}: its blocks take {counted} units ({wanted}), but the site has {site.units}. Take fewer.")
    cursor, placed = total - counted, {}
    for name, extent in blocks.items():
        if isinstance(extent, int):
            if extent < 1:
                raise UserError(f"site {site.name!r}: block {name!r} has {extent} units; give it at least 1.")
            placed[name] = (cursor, cursor + extent)
            cursor += extent
        else:
            placed[name] = _bounds(site, name, extent)
    for name, (start, stop) in placed.items():
        if stop <= start or (site.units is not None and not 0 <= start < stop <= site.units):
            has = f"the site has {site.units} units" if site.units is not None else "name it as a count, or as (start, stop)"
            raise UserError(f"site {site.name!r}: block {name!r} is units {start} to {stop}, but {has}.")
        for other, (a, b) in placed.items():
            if other != name and start < b and a < stop:
                raise UserError(
                    f"site {site.name!r}: blocks {name!r} ({start} to {stop}) and {other!r} ({a} to {b}) overlap. Set them apart."
                )
    return placed


def _bounds(site: Site, name: str, extent: tuple[int, int] | range | slice | Sequence[int]) -> tuple[int, int]:
    if isinstance(extent, (range, slice)):
        start, stop, step = extent.start or 0, extent.stop, extent.step
        if step not in (None, 1):
            raise UserError(f"site {site.name!r}: block {name!r} skips units ({extent}); a block is one run of units.")
        if stop is None:
            stop = site.units if site.units is not None else 0
    else:
        try:
            start, stop = (index(edge) for edge in extent)
        except (TypeError, ValueError):
            raise UserError(f"site {site.name!r}: block {name!r} is {extent!r}; give a number of units, or (start, stop).") from None
    if site.units is not None:
        start, stop = (edge + site.units if edge < 0 else edge for edge in (start, stop))
    return int(start), int(stop)


def runs(mask: Tensor) -> tuple[tuple[int, int], ...]:
    """The runs of True in a mask, as (start, stop)."""
    edges = torch.diff(mask.int(), prepend=torch.zeros(1, dtype=torch.int32), append=torch.zeros(1, dtype=torch.int32))
    starts, stops = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    return tuple(zip(starts, stops, strict=True))
