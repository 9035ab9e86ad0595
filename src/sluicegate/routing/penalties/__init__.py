"""Penalties on activations that help a routed model to split: one file each, found by looking.

Routing alone seldom keeps blocks apart; a penalty beside it does (Cloud et al. 2024, arXiv
2410.04332, table 2). A penalty is a frozen dataclass in a file of this folder, or in a module that
another package names under the entry-point group ``sluicegate.plugins``. Its ``NAME`` is what it
is called by. Files here import torch inside their functions only.

`sluicegate.routing.watch` collects the activations that a penalty is put on.
"""

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from sluicegate.errors import UserError, called
from sluicegate.registry import classes

if TYPE_CHECKING:
    from torch import Tensor

REST = "rest"
"""Name of the units that are in no block."""


@runtime_checkable
class Penalty(Protocol):
    """What a penalty has to offer."""

    NAME: ClassVar[str]

    def __call__(self, z: "Tensor", blocks: Mapping[str, tuple[int, int]], step_share: float = 1.0) -> "Tensor":
        """Return a scalar, its coefficient included.

        `z` is [..., d] activations, one row a data point (or token); `blocks` says which of the d
        features are whose, as (start, stop), where negative places count from the end, and what is in
        no block is "rest"; `step_share` is how much of the training schedule is over, 0 to 1.
        """
        ...


def penalties() -> dict[str, type[Penalty]]:
    """Every penalty that can be found, by name."""
    return classes("penalties", "NAME", _takes_blocks)


def _takes_blocks(cls: type) -> bool:
    """Whether instances are called with activations and blocks, which tells a penalty from a plugin of another kind."""
    call = cls.__dict__.get("__call__")
    return call is not None and {"z", "blocks", "step_share"} <= set(inspect.signature(call).parameters)


def penalty(name: str) -> type[Penalty]:
    """The penalty called `name`; raises `UserError` that lists what there is."""
    return called("penalty", name, penalties())


# ------------------------------------------------------------------------- what penalties share


def check(weight: float, warmup: float) -> None:
    """Raise `UserError` for a coefficient or a warm-up that makes no sense."""
    if not (math.isfinite(weight) and weight >= 0):
        raise UserError(f"weight is {weight:g}; a penalty's coefficient is a finite number, 0 or more.")
    if not 0 <= warmup <= 1:
        raise UserError(f"warmup is {warmup:g}; it is a share of the schedule, 0 to 1. For n of N steps, give n / N.")


def ramp(warmup: float, step_share: float) -> float:
    """The share of its coefficient that a penalty has: from 0, in a straight line, to 1 when `warmup` of the schedule
    is over."""
    return 1.0 if warmup == 0 else min(max(step_share / warmup, 0.0), 1.0)


@dataclass(frozen=True)
class Weighted:
    """The settings that all penalties here have."""

    weight: float = 0.1
    """w: the coefficient, for a mean between 0 and 1."""
    warmup: float = 0.0
    """Share of the schedule over which w rises from 0 in a straight line; 0: full from the first step."""

    def __post_init__(self) -> None:
        check(self.weight, self.warmup)

    def at(self, step_share: float) -> float:
        """The coefficient when so much of the schedule is over."""
        return self.weight * ramp(self.warmup, step_share)


def groups(z: "Tensor", blocks: Mapping[str, tuple[int, int]]) -> "dict[str, Tensor]":
    """Divide activations [..., d] into one [n, units] each block, and "rest" where some feature is in none.

    Half precision becomes float32, as sums over a batch need. Raises `UserError` for blocks that do not fit.
    """
    import torch

    flat = z.reshape(-1, z.shape[-1])
    flat = flat.float() if flat.dtype.itemsize < 4 else flat
    size = flat.shape[-1]
    found: dict[str, Tensor] = {}
    rest = torch.ones(size, dtype=torch.bool)
    for name, (start, stop) in blocks.items():
        # As the router has it, (-64, 0) are the last 64.
        first, last = (start + size, stop + size) if start < 0 else (start, stop)
        if not 0 <= first < last <= size:
            raise UserError(f"block {name!r} is features {start} to {stop}, but there are {size}.")
        if not rest[first:last].all():
            raise UserError(f"block {name!r} ({first} to {last}) overlaps another one. Set them apart.")
        rest[first:last] = False
        found[name] = flat[:, first:last]
    if rest.any():
        found[REST] = flat[:, rest.to(flat.device)]
    return found


def pairs(z: "Tensor", blocks: Mapping[str, tuple[int, int]], name: str) -> "Iterator[tuple[Tensor, Tensor]]":
    """Every two groups of units; raises `UserError` where there is only one, which has nothing to be apart from."""
    found = list(groups(z, blocks).values())
    if len(found) < 2:
        raise UserError(f"the penalty {name!r} compares blocks, but all {z.shape[-1]} features are one block. Leave some out of it.")
    yield from combinations(found, 2)
