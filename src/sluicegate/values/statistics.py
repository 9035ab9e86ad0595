"""Estimates over seeds or draws with 95 % intervals, Student's t, and the area under a ROC curve.

Distribution functions are scipy's. It is imported where it is needed, since reading a command line should not wait for
it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluicegate.errors import UserError

Array = NDArray[np.float64]
DRAWS = 1000
"""Draws of a bootstrap."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds (or another statistic over `n` units) with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    """Number of seeds. With one seed there is no interval: `low` and `high` are NaN."""
    bound: str = ""
    """"at least" or "at most" where some seed's curve ended before the level was reached."""

    def __str__(self) -> str:
        words = f"{self.bound} " if self.bound else ""
        if math.isnan(self.low):
            return f"{words}{self.mean:.2f} [one seed: no interval]"
        return f"{words}{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def as_list(self) -> list[float | None]:
        """[mean, low, high], with None for what is not known: JSON has no NaN."""
        return [None if not math.isfinite(v) else v for v in (self.mean, self.low, self.high)]


def estimate(values: Sequence[float], *, at_most: float = math.inf, at_least: float = -math.inf) -> Estimate:
    """Return mean and 95 % t-interval over seeds; the interval is cut at what the quantity can be.

    `values` holds one number a seed. Raises `UserError` when it is empty.
    """
    from scipy.special import stdtrit

    data = np.asarray(values, dtype=float)
    if data.size == 0:
        raise UserError("an estimate needs the value of at least one seed; got none.")
    mean = float(data.mean())
    if data.size == 1 or not np.isfinite(data).all():
        return Estimate(mean, math.nan, math.nan, int(data.size))
    half = float(stdtrit(data.size - 1, 0.975)) * float(data.std(ddof=1)) / math.sqrt(data.size)
    return Estimate(mean, max(mean - half, at_least), min(mean + half, at_most), int(data.size))


def student_cdf(t: float, freedom: float) -> float:
    """Probability that Student's t with `freedom` degrees of freedom is at most `t`."""
    from scipy.special import stdtr

    return float(stdtr(freedom, t))


def bootstrap_two_way(table: Sequence[Sequence[float]], reduce: Callable[[Array], float], *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """`reduce` of a table [k, p] with the 95 % percentiles of a bootstrap that draws both rows and columns anew.

    The entries of one column (the answers to one prompt, say) hang together, and so do those of one row; drawing
    entries one by one would give too narrow an interval. A table of one entry has no interval, an empty one is NaN.
    """
    data = np.asarray(table, dtype=float)
    if data.size == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    k, p = data.shape
    if data.size == 1:
        return Estimate(reduce(data), math.nan, math.nan, 1)
    draw = np.random.default_rng(seed)
    drawn = [reduce(data[draw.integers(0, k, k)][:, draw.integers(0, p, p)]) for _ in range(draws)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(reduce(data), float(low), float(high), k)


def auroc(positive: Array, negative: Array) -> float:
    """Probability that one of `positive` [n] is larger than one of `negative` [m], ties counting one half."""
    ordered = np.sort(negative)
    below, upto = (np.searchsorted(ordered, positive, side=side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(ordered)))
