"""Labels: from what the user hands in to one weight per row and block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

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

    # Asked at every step, so worked out once, and in plain numbers.

    @cached_property
    def ablates(self) -> bool:
        """Whether some label is computed without some block."""
        return bool((self.forward != 1).any())

    @cached_property
    def muted(self) -> tuple[bool, ...]:
        """By label, whether it is computed without some block."""
        return tuple((self.forward != 1).any(1).tolist())

    def trains(self) -> Tensor:
        """[labels, columns] whether data of a label moves a column's units at all."""
        return (self.backward * self.forward) != 0

    def without(self, blocks: Sequence[str]) -> "Policy":
        """The same with these blocks ablated for every label but their own; raises `UserError` for a block that does
        not exist."""
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


Selection = slice | Tensor | None
"""Rows (or tokens, counted through): all of them (None), a run, or numbers."""
Groups = list[tuple[Selection, tuple[float, ...]]]
"""Rows whose gradients have the same weights, with these weights by column; last, for what is held back from no row,
1."""


@dataclass(frozen=True, eq=False)
class Assigned:
    """One batch's labels, ready for use."""

    policy: Policy
    backward: Tensor
    """[b, columns] or [b, t, columns]."""
    forward: Tensor | None
    """The same for the forward pass; None where no block is ablated."""
    index: Tensor | None
    """[b] or [b, t] label numbers on the CPU; None for soft labels and under function transforms."""
    moved: tuple[bool, ...]
    """By column, whether some row trains the column's units."""
    mutes: bool
    """Whether some row is computed without some block; True where that is not known."""

    @cached_property
    def groups(self) -> Groups:
        """The rows by the weights that their labels give them; for hard labels only."""
        assert self.index is not None
        flat, shares = self.index.flatten(), (self.policy.backward * self.policy.forward).tolist()
        by_weights: dict[tuple[float, ...], list[int]] = {}
        for label in torch.unique(flat).tolist():
            by_weights.setdefault((*shares[label], 1.0), []).append(label)
        # Rows that train everything come first: theirs are the widest products, and the others' are added to them.
        ordered = sorted(by_weights.items(), key=lambda item: len(set(item[0])))
        return [(_selection(flat, labels), weights) for weights, labels in ordered]

    @cached_property
    def whole(self) -> frozenset[int]:
        """The columns that every row trains with weight 1 (-1 among them), from which nothing need be held back."""
        every = [weights for _, weights in self.groups]
        return frozenset(c for c in range(-1, len(every[0]) - 1) if all(weights[c] == 1.0 for weights in every))


def _selection(flat: Tensor, labels: list[int]) -> Selection:
    """The rows with one of these labels."""
    chosen = torch.isin(flat, torch.tensor(labels)).nonzero().flatten()
    first, count = int(chosen[0]), len(chosen)
    if count == len(flat):
        return None
    # Rows that lie together are taken as a view, without copying them.
    return slice(first, first + count) if int(chosen[-1]) - first + 1 == count else chosen


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


_LONGEST = 1024
"""Rows of a batch whose weights are remembered."""


def assign(labels: Labels, policy: Policy, device: torch.device) -> Assigned:
    """Look up each row's weights; raises `UserError` for labels of the wrong shape or range."""
    given = as_index(labels, policy.labels)
    if given.is_floating_point():
        return _soft(given, policy, device)
    if given.dtype == torch.bool:
        raise UserError(f"labels are boolean; give numbers: {_legend(policy)}.")
    if given.dim() not in (1, 2) or not given.numel():
        raise UserError(f"labels have shape {tuple(given.shape)}; expected (batch,) for rows or (batch, tokens) for tokens.")
    if transformed():  # under vmap a label has no single value to look at
        where, forward = given.to(device), policy.forward.to(device) if policy.ablates else None
        every = (True,) * len(policy.columns)
        weights = policy.backward.to(device)[where], None if forward is None else forward[where]
        return Assigned(policy, *weights, None, every, policy.ablates)
    if given.dim() == 1 and len(given) <= _LONGEST and not torch.is_inference_mode_enabled():
        return _remembered(tuple(given.tolist()), policy, device)
    return _looked_up(given.detach().cpu().long(), policy, device)


@lru_cache(256)
def _remembered(labels: tuple[int, ...], policy: Policy, device: torch.device) -> Assigned:
    """Batches with fixed shares of labels bring the same ones again and again."""
    return _looked_up(torch.tensor(labels), policy, device)


def _looked_up(index: Tensor, policy: Policy, device: torch.device) -> Assigned:
    count, present = len(policy.labels), torch.unique(index).tolist()
    if present[0] < -1 or present[-1] >= count:
        raise UserError(f"a label is {present[-1] if present[-1] >= count else present[0]}; labels are {_legend(policy)}.")
    index, known = index % count, [label % count for label in present]
    where = index.to(device)
    return Assigned(
        policy,
        policy.backward.to(device)[where],
        policy.forward.to(device)[where] if policy.ablates else None,
        index,
        tuple(policy.trains()[known].any(0).tolist()),
        any(policy.muted[label] for label in known),
    )


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
    moved = (moving != 0).flatten(0, -2).any(0).tolist() if not transformed() else [True] * len(policy.columns)
    return Assigned(policy, backward, forward, None, tuple(moved), policy.ablates)


def _legend(policy: Policy) -> str:
    return ", ".join(f"{i} {name}" for i, name in enumerate(policy.labels)) + f" (or -1 for {UNLABELLED})"


def transformed() -> bool:
    """Whether a function transform (vmap, grad) is at work, under which values cannot be looked at."""
    return _innermost() is not None


_innermost = torch._C._functorch.peek_interpreter_stack
