"""What a cold test says: how far felt understanding was from real, where the chain broke first, and whether cards
helped.

Claims are the units. Means have a bootstrap interval whose percentiles are widened to what Student's t would give at
that size (Hesterberg 2015, the expanded percentile interval): the plain one is too narrow for small n. The difference
between the arms has Newcombe's (1998) hybrid score interval, which does not collapse where all or none are right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from sluicegate_study.formatting import nan_to_none
from sluicegate_study.judge.calibration import Interval, student_quantile
from sluicegate_study.lecture.record import Course, Record

FEWEST = 20
"""Claims an arm below which no verdict is given."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Outcome:
    """The claims of one arm, or all: how many, mean predicted chance, share rebuilt cold, and their difference."""

    claims: int
    predicted: float
    accuracy: float
    gap: Interval


@dataclass(frozen=True)
class Report:
    """A lecture's report. `chains` are (name of the last claim, whether every step of it was right); `broken` the
    claims that were not rebuilt, in the order in which they build on each other; `sense` the share that made sense when
    shown again."""

    all: Outcome
    arms: dict[str, Outcome]
    cards_help: Interval
    missing: dict[str, int]
    verdict: str
    chains: tuple[tuple[str, bool], ...]
    broken: tuple[str, ...]
    sense: float
    confidence: float
    days: float
    overruled: int
    void: int
    withdrawn: int

    @property
    def rebuild_rate(self) -> float:
        """The share of chains whose every step was right; nan without a whole chain."""
        return float(np.mean([right for _, right in self.chains])) if self.chains else math.nan

    @property
    def first_broken(self) -> str:
        """The earliest claim that was not rebuilt; empty where all were."""
        return self.broken[0] if self.broken else ""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, null for what cannot be told."""

        def outcome(found: Outcome) -> dict[str, Any]:
            return {**vars(found), "gap": vars(found.gap)}

        found: dict[str, Any] = nan_to_none(
            {
                **outcome(self.all),
                "arms": {name: outcome(found) for name, found in self.arms.items()},
                "cards_help": vars(self.cards_help),
                "missing": self.missing,
                "verdict": self.verdict,
                "rebuild_rate": self.rebuild_rate,
                "chains": len(self.chains),
                "first_broken": self.first_broken,
                "broken": self.broken,
                **{name: getattr(self, name) for name in ("sense", "confidence", "days", "overruled", "void", "withdrawn")},
            }
        )
        return found


def make_report(course: Course, *, draws: int = 4000, seed: int = 0) -> Report:
    """Gather what the finished claims say. With none of them every number is nan, and the verdict says what is
    missing."""
    done = course.done
    arms = {arm: [record for record in done if record.arm == arm] for arm in ("cards", "none")}
    if not arms["cards"] and all(record.arm == "none" for record in course.records if record.arm):
        del arms["cards"]  # a reading without cards has one arm
    outcomes = {arm: _outcome(records, draws, seed) for arm, records in arms.items()}
    missing = {arm: max(0, FEWEST - len(records)) for arm, records in arms.items()}
    whole = _outcome(done, draws, seed)
    broken = tuple(record.claim.name for record in done if not record.right)
    sure = [record.confidence for record in done if record.confidence is not None]
    waited = [(r.tested - r.read).total_seconds() / 86400 for r in done if r.tested and r.read]
    return Report(
        all=whole,
        arms=outcomes,
        cards_help=estimate_difference(arms["cards"], arms["none"]) if "cards" in arms else Interval(math.nan, math.nan, math.nan),
        missing=missing,
        verdict=_verdict(whole, missing),
        chains=tuple(follow_chains(course.records)),
        broken=broken,
        sense=float(np.mean([bool(record.sense) for record in done])) if done else math.nan,
        confidence=float(np.mean(sure)) if sure else math.nan,
        days=float(np.mean(waited)) if waited else math.nan,
        overruled=sum(record.overruled for record in done),
        void=sum(record.void for record in course.records),
        withdrawn=course.withdrawn,
    )


def estimate_gap(predicted: Sequence[float], right: Sequence[bool], *, draws: int = 4000, seed: int = 0) -> Interval:
    """Mean predicted chance less the share right, with its 95 % bootstrap interval over claims.

    Where all are right, or none, drawing again shows no chance at all; the share's exact binomial limit (Clopper and
    Pearson 1934) stands in on that side. nan, nan below two claims."""
    said, was = np.asarray(predicted, float), np.asarray(right, float)
    n = len(said)
    if n < 2:
        return Interval(float(said.mean() - was.mean()) if n else math.nan, math.nan, math.nan)
    value = float(said.mean() - was.mean())
    tail = _NORMAL.cdf(-math.sqrt(n / (n - 1)) * student_quantile(n - 1))
    random = np.random.default_rng(np.random.SeedSequence([seed, n]))
    means = (said - was)[random.integers(0, n, (draws, n))].mean(1)
    low, high = np.quantile(means, [tail, 1 - tail])
    limit = 1 - 0.025 ** (1 / n)
    if was.all():
        high = max(high, value + limit)
    if not was.any():
        low = min(low, value - limit)
    return Interval(value, float(low), float(high))


def estimate_difference(with_cards: Sequence[Record], without: Sequence[Record]) -> Interval:
    """Share right with cards less share right without, with Newcombe's 95 % interval; nan where an arm is empty."""
    if not with_cards or not without:
        return Interval(math.nan, math.nan, math.nan)
    (p, low_p, high_p), (q, low_q, high_q) = (_wilson(sum(bool(r.right) for r in arm), len(arm)) for arm in (with_cards, without))
    return Interval(p - q, p - q - math.hypot(p - low_p, high_q - q), p - q + math.hypot(high_p - p, q - low_q))


def follow_chains(records: Sequence[Record]) -> list[tuple[str, bool]]:
    """Each chain by its last claim (one that no other needs), and whether it and all beneath were right; chains with a
    claim that was not tested, or whose gap was void, are left out."""
    by_name = {record.claim.name: record for record in records}
    needed = {need for record in records for need in record.claim.needs}
    found = []
    for name in by_name:
        if name in needed:
            continue
        queue = [name]
        for inside in queue:
            queue += [need for need in by_name[inside].claim.needs if need in by_name and need not in queue]
        steps = [by_name[inside] for inside in queue]
        if all(step.right is not None and not step.void for step in steps):
            found.append((name, all(bool(step.right) for step in steps)))
    return found


def _outcome(records: Sequence[Record], draws: int, seed: int) -> Outcome:
    said, right = [record.predicted or 0.0 for record in records], [bool(record.right) for record in records]
    if not records:
        return Outcome(0, math.nan, math.nan, Interval(math.nan, math.nan, math.nan))
    return Outcome(len(records), float(np.mean(said)), float(np.mean(right)), estimate_gap(said, right, draws=draws, seed=seed))


def _verdict(whole: Outcome, missing: dict[str, int]) -> str:
    short = {arm: count for arm, count in missing.items() if count}
    if short:
        names = {"cards": "with cards", "none": "without cards"} if len(missing) > 1 else {"none": "in all"}
        told = " and ".join(f"{count} more {names[arm]}" for arm, count in short.items())
        return f"too few claims to tell: {told} needed ({FEWEST} an arm)"
    if whole.gap.low > 0:
        return "illusion: you could rebuild less than you felt you would"
    if whole.gap.high < 0:
        return "the other way round: you could rebuild more than you felt you would"
    return "not told apart from none: what you felt was about what you could do"


def _wilson(right: int, n: int) -> tuple[float, float, float]:
    z = 1.959964
    p = right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
