"""Labels: from what the user hands in to one weight per row and block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from sluicegate.errors import UserError, nearest

RETAIN, UNLABELLED, REST = "retain", "unlabelled", "rest"

Weights = Mapping[str, float | Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Policy:
    """Which label trains which block, and which blocks it is computed without.

    Labels are numbered 0 for retain, 1 to k for the blocks in order, k + 1 (or -1) for unlabelled;
    columns are numbered 0 for the rest, 1 to k for the blocks.
    """

    blocks: tuple[str, ...]
    backward: Tensor
    """[labels, columns] by what a gradient is multiplied."""
    forward: Tensor
    """[labels, columns] by what an activation is multiplied: 0 where a block is ablated."""

    @property
    def labels(self) -> tuple[str, ...]:
        return (RETAIN, *self.blocks, UNLABELLED)

    @property
    def columns(self) -> tuple[str, ...]:
        return (REST, *self.blocks)

    # What is asked at every step is worked out once, and in plain numbers: on small models the asking would cost more than the routing.

    @cached_property
    def ablates(self) -> bool:
        return bool((self.forward != 1).any())

    @cached_property
    def muted(self) -> tuple[bool, ...]:
        """By label, whether it is computed without some block."""
        return tuple((self.forward != 1).any(1).tolist())

    @cached_property
    def shares(self) -> tuple[tuple[float, ...], ...]:
        """By label and column, by what a weight's gradient ends up multiplied."""
        return tuple(tuple(row) for row in (self.backward * self.forward).tolist())

    @cached_property
    def _moved(self) -> dict[frozenset[int], Tensor]:
        return {}

    def moved(self, present: frozenset[int]) -> Tensor:
        """[columns] whether rows with these labels move a column's units at all."""
        if present not in self._moved:
            self._moved[present] = self.trains()[sorted(present)].any(0)
        return self._moved[present]

    def trains(self) -> Tensor:
        """[labels, columns] whether data of a label moves a column's units at all."""
        return (self.backward * self.forward) != 0

    def without(self, blocks: Sequence[str]) -> "Policy":
        """The same with these blocks ablated for every label but their own; raises `UserError` for a block that does not exist."""
        forward = self.forward.clone()
        for name in blocks:
            own = 1 + _number("block", name, list(self.blocks))
            kept = forward[own, own].clone()
            forward[:, own] = 0.0
            forward[own, own] = kept
        return replace(self, forward=forward)


def policy(blocks: Sequence[str], weights: Weights, ablate: Mapping[str, Sequence[str]]) -> Policy:
    """Make the tables; raises `UserError` for a label or block that does not exist."""
    for name in blocks:
        if name in (RETAIN, UNLABELLED, REST) or not name:
            raise UserError(f"a block cannot be called {name!r}: {RETAIN}, {UNLABELLED} and {REST} have a meaning of their own.")
    labels, columns = [RETAIN, *blocks, UNLABELLED], [REST, *blocks]
    backward = torch.ones(len(labels), len(columns))
    forward = torch.ones(len(labels), len(columns))
    for i, _ in enumerate(blocks, start=1):
        backward[i] = 0.0
        backward[i, i] = 1.0
    for label, given in weights.items():
        row = backward[_number("label", label, labels)]
        for column, value in (given if isinstance(given, Mapping) else {REST: given}).items():
            if not torch.isfinite(torch.tensor(float(value))):
                raise UserError(f"the weight of label {label!r} on {column!r} is {value}; it must be a finite number.")
            row[_number("block", column, columns)] = float(value)
    for label, without in ablate.items():
        for column in [without] if isinstance(without, str) else without:
            if column == REST:
                raise UserError(f"label {label!r} cannot be computed without {REST!r}: only blocks can be ablated ({', '.join(blocks)}).")
            forward[_number("label", label, labels), _number("block", column, columns)] = 0.0
    return Policy(tuple(blocks), backward, forward)


def _number(what: str, name: str, known: list[str]) -> int:
    if name not in known:
        raise UserError(f"no {what} {name!r}. There are: {nearest(name, known, most=20)}.")
    return known.index(name)


@dataclass(frozen=True, eq=False)
class Assigned:
    """One batch's labels, ready for use."""

    backward: Tensor
    """[b, columns] or [b, t, columns]."""
    forward: Tensor | None
    """The same for the forward pass; None where no block is ablated."""
    index: Tensor | None
    """[b] or [b, t] label numbers on the CPU; None for soft labels."""
    moved: Tensor
    """[columns] whether some row moves the column's units, on the CPU."""
    runs: "Runs | None"
    """The batch as runs of rows with one label; None where it is too mixed, or labels are soft or per token."""
    mutes: bool
    """Whether some row is computed without some block; True where that is not known."""


Runs = tuple[tuple[int, int], ...]
"""Label and number of rows, in the order of the batch."""
MOST_RUNS = 16
"""Runs beyond which a batch counts as mixed, and is routed row by row."""
Labels = Tensor | Sequence[str] | Sequence[int]


def as_index(labels: Labels, names: Sequence[str]) -> Tensor:
    """Turn names or numbers into a tensor; soft labels are handed through."""
    if isinstance(labels, Tensor):
        return labels
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise UserError(f"labels are {type(labels).__name__}; give a tensor, or one name or number a row. Names: {', '.join(names)}.")
    if labels and all(isinstance(label, str) for label in labels):
        known = list(names)
        return torch.tensor([_number("label", str(label), known) for label in labels])
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot read the labels ({error}); give one name or number a row. Names: {', '.join(names)}.") from None


def assign(labels: Labels, policy: Policy, device: torch.device) -> Assigned:
    """Look up each row's weights; raises `UserError` for labels of the wrong shape or range."""
    given = as_index(labels, policy.labels)
    count = len(policy.labels)
    if given.is_floating_point():
        return _soft(given, policy, device)
    if given.dtype == torch.bool:
        raise UserError(f"labels are boolean; give numbers: {_legend(policy)}.")
    if given.dim() not in (1, 2) or not given.numel():
        raise UserError(f"labels have shape {tuple(given.shape)}; expected (batch,) for rows or (batch, tokens) for tokens.")
    tables = policy.backward.to(device), policy.forward.to(device) if policy.ablates else None
    if transformed():  # under vmap a label has no single value to look at
        where = given.to(device)
        every = torch.ones(len(policy.columns), dtype=torch.bool)
        return Assigned(tables[0][where], None if tables[1] is None else tables[1][where], None, every, None, policy.ablates)
    plain = given.detach().cpu().long()
    found = _runs(plain.flatten())
    present = {label for label, _ in found}
    lowest, highest = min(present), max(present)
    if lowest < -1 or highest >= count:
        raise UserError(f"a label is {highest if highest >= count else lowest}; labels are {_legend(policy)}.")
    if lowest < 0:
        plain = plain % count
        found = tuple((label % count, rows) for label, rows in found)
    where = plain.to(device)
    known = frozenset(label for label, _ in found)
    return Assigned(
        tables[0][where],
        None if tables[1] is None else tables[1][where],
        plain,
        policy.moved(known),
        found if plain.dim() == 1 and len(found) <= MOST_RUNS else None,
        any(policy.muted[label] for label in known),
    )


def _runs(flat: Tensor) -> Runs:
    if len(flat) <= 64:  # where calling torch takes longer than counting
        return tuple((label, len(list(rows))) for label, rows in groupby(flat.tolist()))
    labels, counts = torch.unique_consecutive(flat, return_counts=True)
    return tuple(zip(labels.tolist(), counts.tolist(), strict=True))


def _soft(given: Tensor, policy: Policy, device: torch.device) -> Assigned:
    count = len(policy.labels)
    if given.dim() not in (2, 3) or given.shape[-1] != count:
        raise UserError(
            f"soft labels have shape {tuple(given.shape)}; expected (batch, {count}) or (batch, tokens, {count}), the last dimension "
            f"the shares of {', '.join(policy.labels)}. Labels that are not shares must be whole numbers."
        )
    shares = given.to(device).float()
    if not transformed():
        total = shares.sum(-1)
        if bool((shares < 0).any()) or not bool(torch.isfinite(total).all()) or bool(((total - 1).abs() > 1e-2).any()):
            raise UserError("soft labels must be shares: 0 or more, adding up to 1 for every row (or token).")
    backward = shares @ policy.backward.to(device)
    forward = shares @ policy.forward.to(device) if policy.ablates else None
    moving = backward if forward is None else backward * forward
    moved = (moving != 0).flatten(0, -2).any(0).cpu() if not transformed() else torch.ones(len(policy.columns), dtype=torch.bool)
    return Assigned(backward, forward, None, moved, None, policy.ablates)


def _legend(policy: Policy) -> str:
    return ", ".join(f"{i} {name}" for i, name in enumerate(policy.labels)) + f" (or -1 for {UNLABELLED})"


def transformed() -> bool:
    """Whether a function transform (vmap, grad) is at work, under which values cannot be looked at."""
    return _innermost() is not None


_innermost = torch._C._functorch.peek_interpreter_stack
