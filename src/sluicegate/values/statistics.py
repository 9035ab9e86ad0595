"""Estimates over seeds, rows or draws with 95 % intervals, Student's t, and the area under a ROC curve.

scipy is imported where it is needed, since reading a command line should not wait for it.
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


def estimate(values: Sequence[float], *, at_most: float = math.inf, at_least: float = -math.inf, confidence: float = 0.95) -> Estimate:
    """Mean and t-interval of `values`, one a seed; the interval is cut at what the quantity can be."""
    from scipy.special import stdtrit

    data = np.asarray(values, dtype=float)
    if data.size == 0:
        raise UserError("an estimate needs the value of at least one seed; got none.")
    mean = float(data.mean())
    if data.size == 1 or not np.isfinite(data).all():
        return Estimate(mean, math.nan, math.nan, int(data.size))
    half = float(stdtrit(data.size - 1, (1 + confidence) / 2)) * float(data.std(ddof=1)) / math.sqrt(data.size)
    return Estimate(mean, max(mean - half, at_least), min(mean + half, at_most), int(data.size))


def estimate_shares(
    values: Sequence[float], n: int, minus: Sequence[float] = (), *, parts: Sequence[float] = (1.0, 1.0), confidence: float = 0.95
) -> Estimate:
    """Mean of a share over seeds, or of its difference from `minus` (paired), with an interval that counts rows too.

    `values` and `minus` hold one share a seed, the mean over `n` rows (at least 1) of numbers in 0..1. Two variances
    are added. Rows: a binomial's over the rows of all seeds, with two successes and two failures added (one of each to
    either side of a difference), so that no interval has width zero (Agresti and Caffo 2000, The American Statistician
    54:280). Seeds: what the variance between seeds has beyond the rows'. The degrees of freedom are Satterthwaite's
    (1946): the normal's where seeds differ no more than rows alone would make them, else nearer to Student's over
    seeds. The interval is cut at what the quantity can be; with one seed it counts rows only. `parts` says for each
    side which part of a binomial's variance a row has, for rows that are means themselves.
    """
    from scipy.special import ndtri, stdtrit

    sides = [np.asarray(side, dtype=float) for side in (values, minus) if len(side)]
    found = sides[0] - sides[1] if len(sides) > 1 else sides[0]
    k, added = len(found), 2 / len(sides)
    rows = k * n + 2 * added
    shares = [float(side.sum() * n + added) / rows for side in sides]
    of_rows = sum(part * p * (1 - p) for part, p in zip(parts, shares, strict=False)) / rows
    of_seeds = max(0.0, float(found.var(ddof=1)) / k - of_rows) if k > 1 else 0.0
    width, tail = math.sqrt(of_rows + of_seeds), (1 + confidence) / 2
    half = width * float(stdtrit((k - 1) * (width**2 / of_seeds) ** 2, tail) if of_seeds else ndtri(tail))
    centre = shares[0] - sum(shares[1:])
    return Estimate(float(found.mean()), max(centre - half, 1.0 - len(sides)), min(centre + half, 1.0), k)


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
