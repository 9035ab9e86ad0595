"""The context: what is passing through a routed model right now, shared by everything that is attached to it.

It is apart from the router so that a copy of the model copies it too, closed, and then trains plainly.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sluicegate.errors import UserError
from sluicegate.routing.gate import Columns, Stretch, stretches
from sluicegate.routing.labels import Assigned, Policy, Runs
from sluicegate.routing.partitioned import Layout, layout
from sluicegate.routing.siblings import Siblings

_KEPT = 256
Selection = slice | Tensor | None
"""Rows: all of them (None), a run, or numbers."""


class PassContext:
    """The open pass, if there is one."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.active = policy
        """The open pass's own, which may ablate more."""
        self.open = False
        self.late = False
        """Whether labels come only after the forward pass."""
        self.backward: Tensor | None = None
        self.forward: Tensor | None = None
        self.index: Tensor | None = None
        self.mutes = False
        """Whether some row of the open pass is computed without some block; True where that is not known."""
        self.ledgers: list[Tensor] = []
        """One a guard, [columns + 1]: whether some row has moved a column since its optimiser's last step; last, whether any was routed."""
        self.number = 0
        """Number of the pass."""
        self.applied = 0
        self.returned = 0
        self.unfinished = False
        """Whether the last pass was left before its backward pass."""
        self.runs: Runs | None = None
        self.layout: Layout | None = None
        """Where the rows of each column lie; None where they do not lie together, or labels are soft or late."""
        self.siblings = Siblings()
        self._rows: dict[int, list[tuple[Selection, float]]] = {}
        self._known: dict[Any, Any] = {}
        """Layouts and stretches of earlier passes: partitioned batches are often cut alike."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "PassContext":
        return PassContext(self.policy)

    def enter(self, assigned: Assigned | None, policy: Policy | None = None) -> None:
        if self.open:
            raise UserError(
                "the router is already entered. One block holds the forward and the backward pass of one batch: leave it before the "
                "next one begins (for rows of several kinds, give each row its label in one batch)."
            )
        self.active = policy or self.policy
        self.open, self.late, self.unfinished = True, assigned is None, False
        self.number, self.applied, self.returned = self.number + 1, 0, 0
        if assigned is not None:
            self.take(assigned)

    def take(self, assigned: Assigned) -> None:
        """Let these labels hold for the open pass."""
        self.backward, self.forward, self.index = assigned.backward, assigned.forward, assigned.index
        self.runs, self.mutes, self.layout = assigned.runs, assigned.mutes, None
        if assigned.runs is not None:
            self.layout = self._recalled((assigned.runs, self.active.shares), layout)
        if torch.is_grad_enabled():
            for ledger in self.ledgers:
                ledger[:-1] |= assigned.moved
                ledger[-1] = True
        self._rows.clear()

    def leave(self) -> None:
        self.open = self.late = False
        self.backward = self.forward = self.index = self.runs = self.layout = None
        self._rows.clear()
        self.siblings.leave()
        self.unfinished = self.applied > 0 and self.returned == 0

    def _recalled(self, key: tuple[Any, ...], make: Callable[..., Any]) -> Any:
        if key not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = make(*key)
        return self._known[key]

    def mask(self, column: int, dims: int) -> Tensor | None:
        """[b, 1, ...] of so many dimensions: the rows that move a column with weight 1; None where others move it, or rows are mixed."""
        found = self.layout
        if found is None or any(value != 1.0 for _, _, value in found.of(column)):
            return None
        assert self.backward is not None

        def made(found: Layout, column: int, dims: int, device: torch.device) -> Tensor:
            mask = torch.zeros(found.rows, dtype=torch.bool)
            for first, last, _ in found.of(column):
                mask[first:last] = True
            return mask.view(-1, *(1,) * (dims - 1)).to(device)

        return self._recalled((found, column, dims, self.backward.device), made)  # type: ignore[no-any-return]

    def rows(self, column: int) -> list[tuple[Selection, float]] | None:
        """The rows that move a column, with their weight, in groups of one weight; None for soft labels."""
        if self.index is None:
            return None
        if column not in self._rows:
            self._rows[column] = self._grouped(self.active.backward[:, column] * self.active.forward[:, column])
        return self._rows[column]

    def _grouped(self, table: Tensor) -> list[tuple[Selection, float]]:
        assert self.index is not None
        flat = table[self.index.flatten()]
        found: list[tuple[Selection, float]] = []
        for value in torch.unique(flat).tolist():
            if value:
                chosen = (flat == value).nonzero().flatten()
                first, count = int(chosen[0]), len(chosen)
                if count == len(flat):
                    found.append((None, value))
                elif int(chosen[-1]) - first + 1 == count:
                    found.append((slice(first, first + count), value))
                else:
                    found.append((chosen, value))
        return found

    def stretches(self, columns: Columns, size: int, dtype: torch.dtype) -> tuple[Stretch, ...] | None:
        """The batch as stretches of rows for a gate with these columns; None where it is not partitioned by label."""
        if self.runs is None:
            return None
        policy = self.active  # a pass's own gates weigh as the router's do, so its backward table is enough of a key

        def made(runs: Runs, columns: Columns, size: int, dtype: torch.dtype) -> tuple[Stretch, ...]:
            return stretches(runs, policy.backward.to(dtype).tolist(), columns, size)

        return self._recalled((self.runs, columns, size, dtype), made)  # type: ignore[no-any-return]

    def all_whole(self, columns: Sequence[int]) -> bool:
        """Whether every row moves all these columns with weight 1, so that nothing need be held back."""
        if (found := self.layout) is not None:
            return all(found.of(column) == ((0, found.rows, 1.0),) for column in columns)
        return all(self.rows(column) == [(None, 1.0)] for column in columns)

    def check(self, number: int, site: str) -> None:
        """Raise unless pass `number` is still open."""
        if not self.open or self.number != number:
            self.too_late(site)
        self.returned += 1

    def came_back(self, number: int) -> None:
        """Note that the backward pass of pass `number` began."""
        if self.number == number:
            self.returned += 1

    def idle(self, site: str) -> None:
        """Called by whatever is attached when a forward pass goes by and no pass is open."""
        if self.unfinished:
            if torch._C._current_graph_task_id() != -1:  # inside somebody's backward pass: a recomputation
                self.too_late(site)
            self.unfinished = False  # another pass has begun

    def too_late(self, site: str) -> None:
        raise UserError(
            f"site {site!r}: the router was left before backward. Put the call of backward() inside the block: with router(labels): "
            "loss = ...; loss.backward(). Under gradient checkpointing the forward pass is computed again there, and would not be routed."
        )


def laid(weights: Tensor, shape: Sequence[int], axis: int) -> Tensor | None:
    """`weights` [b, columns] or [b, t, columns] for an activation of this shape, or None where they do not fit.

    The activation may have rows and tokens in one dimension; `axis` is the first that labels cannot
    cover, because features lie along it.
    """
    lead = weights.shape[:-1]
    if len(lead) <= axis and tuple(shape[: len(lead)]) == tuple(lead):
        return weights
    if axis > 0 and shape[0] == lead.numel():
        return weights.reshape(-1, weights.shape[-1])
    return None
