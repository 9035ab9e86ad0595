"""The context of the current forward and backward pass: its labels' weights, shared by everything that a router
attached.

It is apart from the router so that a copy of the model copies it too, closed, and then trains plainly.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sluicegate.deprecated import alias
from sluicegate.errors import UserError
from sluicegate.routing.labels import Assigned, Policy


class PassContext:
    """The open pass, if there is one."""

    def __init__(self, policy: Policy, batch_dim: int = 0) -> None:
        self.policy = policy
        self.batch_dim = batch_dim
        """Which dimension of an activation counts the rows: 1 where time comes first."""
        self.open = False
        self.late = False
        """Whether labels come only after the forward pass."""
        self.labels: Assigned | None = None
        """The weights of the open pass's rows."""
        self.ledgers: list[set[tuple[bool, ...]]] = []
        """One an optimiser mask: of the passes since its optimiser's last step, which columns each could train."""
        self.number = 0
        """Number of the pass."""
        self.met: set[object] = set()
        """What of all that is attached the forward pass has gone through."""
        self.returned = 0
        """How many of them the backward pass has come back to."""
        self.compiled = False
        """Whether something attached was compiled, which then does not say that it is called."""
        self.graded = False
        """Whether gradients were on when the pass began."""
        self.unfinished = False
        """Whether the last pass was left before its backward pass."""
        self.suspect = False
        """Whether a backward pass that runs now may be an earlier pass's."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "PassContext":
        return PassContext(self.policy, self.batch_dim)

    def enter(self, labels: Assigned | None) -> None:
        """Open a pass with these labels, or without, where they come later."""
        if self.open:
            raise UserError(
                "the router is already entered. One block holds the forward and the backward pass of one batch: leave it before the "
                "next one begins (for rows of several kinds, give each row its label in one batch)."
            )
        self.open, self.late, self.unfinished = True, labels is None, False
        self.number, self.met, self.returned, self.graded = self.number + 1, set(), 0, torch.is_grad_enabled()
        if labels is not None:
            self.take(labels)

    def take(self, labels: Assigned) -> None:
        """Let these labels hold for the open pass."""
        self.labels = labels
        if torch.is_grad_enabled():
            for ledger in self.ledgers:
                ledger.add(labels.moved)

    def leave(self) -> None:
        """Close the pass."""
        self.open = self.late = False
        self.labels = None
        self.unfinished, self.suspect = self.graded and bool(self.met) and self.returned == 0, False

    def check(self, number: int, site: str) -> None:
        """Raise unless pass `number` is still open; called at a site when the backward pass arrives."""
        if not self.open or self.number != number:
            self.raise_too_late(site)
        self.returned += 1

    def came_back(self, number: int) -> None:
        """Note that the backward pass of pass `number` goes on."""
        self.suspect = self.number != number
        self.returned += not self.suspect

    def check_own(self, site: str) -> None:
        """Raise where an earlier pass is computed again (gradient checkpointing): it would get this one's labels."""
        if torch._C._current_graph_task_id() != -1:
            self.raise_too_late(site)

    def idle(self, site: str) -> None:
        """Called by whatever is attached when it is computed while no pass is open."""
        if self.unfinished:
            if torch._C._current_graph_task_id() != -1:  # inside a backward pass: a recomputation
                self.raise_too_late(site)
            self.unfinished = False  # another pass has begun

    def raise_too_late(self, site: str) -> None:
        raise UserError(
            f"site {site!r}: the router was left before backward. Put the call of backward() inside the block: with router(labels): "
            "loss = ...; loss.backward(). Under gradient checkpointing the forward pass is computed again there, and would not be routed, "
            "or as the next batch. A pass that needs no backward belongs under torch.no_grad()."
        )


def laid(weights: Tensor, shape: Sequence[int], axis: int, batch_dim: int = 0) -> Tensor | None:
    """`weights` [b, columns] or [b, t, columns] for an activation of this shape, or None where they do not fit.

    The activation may have rows and tokens in one dimension; `axis` is the first that labels cannot
    cover, because features lie along it. With `batch_dim` 1 it is [t, b, ...], and so is what is returned.
    """
    if batch_dim and weights.dim() == 3:
        weights = weights.transpose(0, 1)
    elif batch_dim and axis > 1:
        weights = weights.expand(shape[0], *weights.shape)
    lead = weights.shape[:-1]
    if len(lead) <= axis and tuple(shape[: len(lead)]) == tuple(lead):
        return weights
    if axis > 0 and shape[0] == lead.numel():
        return weights.reshape(-1, weights.shape[-1])
    return None


__getattr__ = alias(__name__, Flow="PassContext")
