"""Replay: which of the things learnt before go into a training step beside the new ones.

A network that learns lecture after lecture forgets the earlier ones. Replay spends a few rows of every step on them; a
policy says which. It is told how each row went (`saw`), from the forward pass that trains it anyway, and is asked for
rows (`draw`). Ties are broken by an order drawn from seed and step. What a policy knows is its history, so a run with
one is not resumed half-way.

Policies after the flash cards: Leitner's boxes (Leitner 1972), and a half-life that doubles and halves (after Settles
and Meeder 2016). None of them is claimed to be better than round robin, which is the control that such comparisons
need: see docs/reproduction.md.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sluicegate.errors import UserError, nearest

Array = NDArray[np.float64]
Losses = Callable[[Sequence[int]], Sequence[float]]
"""The loss of each of these items under the weights of the moment."""
FIRST_INTERVAL = 10.0
"""Steps until an item of the first box, or a new one, is due: as Leitner's first interval, and as the first
half-life."""


class Policy(Protocol):
    """Says how urgent items are; the most urgent are replayed."""

    def __call__(self, memory: "Memory", step: int, items: NDArray[np.int64]) -> Array:
        """[items] urgency of each at a step."""


class Memory:
    """What is known of `n` items from how they went: when each was last seen, with which loss, in which box, with which
    half-life."""

    def __init__(self, n: int) -> None:
        if n < 1:
            raise UserError(f"a memory of {n} items: expected at least 1.")
        self.last = np.full(n, -1.0)
        """[n] step at which it was last seen; -1: never."""
        self.loss = np.zeros(n)
        """[n] loss when it was last seen, in nats."""
        self.box = np.zeros(n)
        """[n] Leitner's box, from 0: one up when right and due, back to 0 when wrong."""
        self.half = np.full(n, FIRST_INTERVAL)
        """[n] half-life in steps, at least 1: doubled when right after at least one half-life (sooner: the less),
        halved when wrong."""

    def saw(self, step: int, items: Sequence[int], right: Sequence[bool], loss: Sequence[float]) -> None:
        """Take in how items went in a step. An item that stands there twice counts once, by its last place."""
        if not len(items) == len(right) == len(loss):
            raise UserError(f"{len(items)} items with {len(right)} results and {len(loss)} losses: expected one of each for every item.")
        if not len(items):
            return
        which, place = np.unique(np.asarray(items, dtype=np.int64)[::-1], return_index=True)
        good, value = np.asarray(right, dtype=bool)[::-1][place], np.asarray(loss, dtype=float)[::-1][place]
        waited = np.where(self.last[which] >= 0, step - self.last[which], 0.0)
        # What is right again at once tells little: a lecture's own rows come a hundred times and would never be due
        # again.
        box, half = self.box[which], self.half[which]
        self.box[which] = np.where(good, box + (waited >= self.interval(which)), 0)
        self.half[which] = np.maximum(half * np.where(good, 2.0 ** np.minimum(waited / half, 1.0), 0.5), 1.0)
        self.last[which], self.loss[which] = step, value

    def interval(self, items: Sequence[int] | NDArray[np.int64]) -> Array:
        """[items] steps until each is due by its box: `FIRST_INTERVAL`, and twice as many from box to box."""
        return np.asarray(FIRST_INTERVAL * 2.0 ** np.minimum(self.box[items], 12))


def uniform(memory: Memory, step: int, items: NDArray[np.int64]) -> Array:
    """All alike: drawn at random, without replacement within a step."""
    return np.zeros(len(items))


def round_robin(memory: Memory, step: int, items: NDArray[np.int64]) -> Array:
    """The one that was seen longest ago first."""
    return -memory.last[items]


def leitner(memory: Memory, step: int, items: NDArray[np.int64]) -> Array:
    """The most overdue first, in units of its interval, which doubles from box to box."""
    return np.asarray((step - memory.last[items]) / memory.interval(items))


def half_life(memory: Memory, step: int, items: NDArray[np.int64]) -> Array:
    """The lowest predicted recall first: 2^(-steps since / half-life)."""
    return np.asarray(-(2.0 ** (-(step - memory.last[items]) / memory.half[items])))


def stale_loss(memory: Memory, step: int, items: NDArray[np.int64]) -> Array:
    """The highest loss when last seen first."""
    return memory.loss[items]


POLICIES: dict[str, Policy] = {
    "uniform": uniform,
    "round_robin": round_robin,
    "leitner": leitner,
    "half_life": half_life,
    "stale_loss": stale_loss,
}


class Replay:
    """A sampler: `draw` rows to replay, then tell it how all rows of the step went with `saw`."""

    def __init__(self, policy: str, n: int, *, seed: int = 0, losses: Losses | None = None) -> None:
        """`policy` is none, oracle or one of `POLICIES`; an oracle needs `losses`, which is asked for the whole buffer
        at every draw. Raises `UserError` for another name."""
        known = ("none", *POLICIES, "oracle")
        if policy not in known:
            raise UserError(f"no replay policy {policy!r}. There are: {nearest(policy, list(known), most=9)}.")
        if policy == "oracle" and losses is None:
            raise UserError("the oracle replays what has the highest loss now, and needs a function of losses: Replay(..., losses=...).")
        self.policy, self.seed, self.losses = policy, seed, losses
        self.memory = Memory(n)

    def draw(self, step: int, size: int, among: Sequence[int]) -> list[int]:
        """At most `size` items of the buffer `among`, the most urgent first; fewer where the buffer is smaller, none
        for policy none."""
        if size < 0:
            raise UserError(f"a draw of {size} items: expected 0 or more.")
        if self.policy == "none" or not among or not size:
            return []
        items = np.random.default_rng([self.seed, step]).permutation(np.asarray(among, dtype=np.int64))
        if self.policy == "oracle":
            assert self.losses is not None
            urgency = np.asarray(self.losses(items.tolist()), dtype=float)
        else:
            urgency = POLICIES[self.policy](self.memory, step, items)
        return [int(i) for i in items[np.argsort(-urgency, kind="stable")[:size]]]

    def saw(self, step: int, items: Sequence[int], right: Sequence[bool], loss: Sequence[float]) -> None:
        """Take in how the rows of a step went, new ones and replayed ones: right or not, and the loss in nats."""
        self.memory.saw(step, items, right, loss)
