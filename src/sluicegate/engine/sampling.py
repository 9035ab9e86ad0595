"""Which rows go into which step: a pure function of the seed and the step.

Nothing is remembered between steps, so a resumed run draws exactly what an uninterrupted one
would have drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from sluicegate.engine.encoding import Batch, Rows
from sluicegate.errors import UserError


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from numbers and words, the same on every machine."""
    words = [p if isinstance(p, int) else int.from_bytes(p.encode().ljust(8, b"\0")[:8], "big") for p in parts]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass
class Order:
    """Rows drawn without replacement: every row once an epoch, each epoch in its own order."""

    n: int
    """Number of rows to draw from."""
    seed: int
    _epochs: dict[int, np.ndarray] = field(default_factory=dict)

    def draw(self, step: int, size: int) -> list[int]:
        """The `size` row numbers of step `step` (from 0)."""
        places = range(step * size, (step + 1) * size)
        return [int(self._epoch(place // self.n)[place % self.n]) for place in places]

    def _epoch(self, number: int) -> np.ndarray:
        if number not in self._epochs:
            if len(self._epochs) > 4:
                self._epochs.clear()
            self._epochs[number] = np.random.default_rng([self.seed, number]).permutation(self.n)
        return self._epochs[number]


@dataclass(frozen=True)
class Part:
    """A share of every batch, and the rows it is drawn from (numbers into one `Rows`)."""

    index: Sequence[int]
    share: float


class Mixture:
    """Batches of fixed composition from one `Rows`: `size` rows, each part its share of them."""

    def __init__(self, rows: Rows, size: int, seed: int, parts: Mapping[str, Part] | None = None) -> None:
        if size < 1:
            raise UserError(f"the batch size is {size}; it must be at least 1.")
        parts = {name: p for name, p in (parts or {"all": Part(range(len(rows)), 1.0)}).items() if p.share > 0}
        for name, part in parts.items():
            if not len(part.index):
                raise UserError(f"the batch should hold {part.share:.0%} {name} rows, but there are none.")
        self.rows = rows
        self._counts = _apportion(size, {name: p.share for name, p in parts.items()})
        self._parts = [(name, np.asarray(p.index), Order(len(p.index), seed_of(seed, name))) for name, p in parts.items()]

    def __call__(self, step: int) -> Batch:
        """The batch of step `step` (from 0)."""
        chosen = [index[order.draw(step, self._counts[name])] for name, index, order in self._parts]
        return self.rows.batch(torch.from_numpy(np.concatenate(chosen)))


def _apportion(size: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers of rows that add up to `size`, by largest remainder."""
    total = sum(shares.values())
    exact = {name: size * share / total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    left = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in left[: size - sum(counts.values())]:
        counts[name] += 1
    return counts
