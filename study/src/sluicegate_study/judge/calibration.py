"""Stated confidence against being right: over-confidence with an interval, and the Brier score taken apart.

Answers to one question are not independent, so questions are the units: intervals are Student's t over questions (a
ratio estimator), or a bootstrap that draws whole questions. The proper score is Brier's; the binned error is a picture
of it.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluicegate_study.errors import UserError, program

Array = NDArray[np.float64]
FEWEST = 20
"""Questions below which no verdict is given."""


@dataclass(frozen=True)
class Said:
    """One answer: the stated chance of being right (0 to 1), whether it was, of which question, in which category."""

    confidence: float
    right: bool
    question: str
    category: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1:  # which nan is not either
            raise UserError(f"confidence is {self.confidence}: expected a chance from 0 to 1.")


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval (nan, nan where it cannot be told)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """The estimate as a signed difference, with its interval where it has one."""
        return f"{self.value:+.2f}" + ("" if math.isnan(self.low) else f" (95 %: {self.low:+.2f} to {self.high:+.2f})")


@dataclass(frozen=True)
class Calibration:
    """How far stated confidence can be trusted.

    `over` is mean confidence less the share of right answers (above 0: over-confident). `brier` is `reliability` -
    `resolution` + `uncertainty` (Murphy 1973), over groups of equal stated confidence. `binned` is the mean gap in ten
    bins of equal size. `verdict` is over-confident, under-confident, not told apart from calibrated, or too few
    questions."""

    answers: int
    questions: int
    right: float
    over: Interval
    brier: Interval
    reliability: float
    resolution: float
    uncertainty: float
    binned: Interval
    verdict: str


def parse_percent(percent: str) -> float | None:
    """Read a number from 0 to 100, with or without its sign, as a chance; None where it is none.

    With a decimal point, at most 1 and without a percent sign it is a chance already: whoever types 0.7 means 70 %."""
    said = percent.strip().replace(",", ".")
    try:
        number = float(said.rstrip("% "))
    except ValueError:
        return None
    if "." in said and "%" not in said and 0 <= number <= 1:
        return number
    return number / 100 if 0 <= number <= 100 else None


def calibrate(answers: Iterable[Said], *, draws: int = 1000, seed: int = 0) -> Calibration:
    """Measure the calibration of some answers. Raises `UserError` where there are none."""
    rows = list(answers)
    if not rows:
        raise UserError(
            f"no answer with a stated confidence: expected at least one. To state it: {program()} deck review DECK --confidence"
        )
    said = np.array([row.confidence for row in rows])
    right = np.array([float(row.right) for row in rows])
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row.question].append(place)
    units = [np.array(places) for places in groups.values()]
    over = _mean_interval(said - right, units)
    reliability, resolution, uncertainty = _murphy(said, right)
    random = np.random.default_rng(np.random.SeedSequence([seed, len(rows)]))
    again = [np.concatenate([units[n] for n in random.integers(0, len(units), len(units))]) for _ in range(draws)]
    spread = np.percentile([_binned(said[places], right[places]) for places in again], [2.5, 97.5])
    binned = Interval(_binned(said, right), float(spread[0]), float(spread[1]))
    return Calibration(
        answers=len(rows),
        questions=len(units),
        right=float(right.mean()),
        over=over,
        brier=_mean_interval((said - right) ** 2, units),
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        binned=binned,
        verdict=_verdict(over, len(units)),
    )


def calibrate_by_category(answers: Sequence[Said]) -> dict[str, Calibration]:
    """Measure the calibration of all answers ("all"), and, where there are two or more, of each category by its
    name."""
    groups: dict[str, list[Said]] = defaultdict(list)
    for row in answers:
        groups[row.category].append(row)
    parts = {f"category {name or '(none)'}": rows for name, rows in sorted(groups.items())} if len(groups) > 1 else {}
    return {name: calibrate(rows) for name, rows in {"all": answers, **parts}.items() if rows}


def _verdict(over: Interval, questions: int) -> str:
    if questions < FEWEST:
        return f"too few questions to tell ({questions}, expected {FEWEST})"
    if over.low > 0:
        return "over-confident"
    if over.high < 0:
        return "under-confident"
    return "not told apart from calibrated"


def _mean_interval(values: Array, units: Sequence[NDArray[np.int64]]) -> Interval:
    """The mean of all values, with Student's t interval over units of unequal size (Cochran 1977, ratio estimator)."""
    mean, count = float(values.mean()), len(units)
    if count < 2:
        return Interval(mean, math.nan, math.nan)
    sums = np.array([values[places].sum() - mean * len(places) for places in units])
    error = math.sqrt(count / (count - 1) * float(sums @ sums)) / len(values)
    half = student_quantile(count - 1) * error
    return Interval(mean, mean - half, mean + half)


def student_quantile(df: int) -> float:
    """The .975 quantile of Student's t (Cornish and Fisher's expansion; exact values for 1 to 3, where it is poor)."""
    if df <= 3:
        return (12.706205, 4.302653, 3.182446)[df - 1]
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / df**power for power, term in enumerate(terms, 1)))


def _murphy(said: Array, right: Array) -> tuple[float, float, float]:
    base = float(right.mean())
    reliability = resolution = 0.0
    for value in np.unique(said):
        inside = said == value
        share, rate = float(inside.mean()), float(right[inside].mean())
        reliability += share * (float(value) - rate) ** 2
        resolution += share * (rate - base) ** 2
    return reliability, resolution, base * (1 - base)


def _binned(said: Array, right: Array, bins: int = 10) -> float:
    """The mean distance of confidence and share right over bins of equal size (the expected calibration error)."""
    order = np.argsort(said, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    return float(sum(len(part) / len(said) * abs(said[part].mean() - right[part].mean()) for part in parts))
