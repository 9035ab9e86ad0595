"""What follows from a quiz: recall against clues, when to buzz, calibration, all with intervals over questions; and two
models compared.

Clues of one question are not independent, so a bootstrap draws whole questions. Every question counts the same, however
many clues it has. A model chooses the candidate of the highest score; its confidence is the softmax of the scores over
the closed set.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sluicegate.values.curves import Curve
from sluicegate_study.errors import UserError
from sluicegate_study.game.players import OPPONENTS
from sluicegate_study.judge.calibration import Interval
from sluicegate_study.quiz.deck import Asked, by

Array = NDArray[np.float64]
Score = Literal["raw", "mean", "pmi"]
SCORES: tuple[Score, ...] = ("raw", "mean", "pmi")
BINS = 10
FINEST = 60
"""Points of a curve at most, where questions differ in their numbers of clues."""


@dataclass(frozen=True)
class Answers:
    """The scores of one model on a quiz; one array a question."""

    asked: tuple[Asked, ...]
    logp: tuple[Array, ...]
    """[clues, candidates] log-probability of each answer after each clue, in nats."""
    lengths: tuple[Array, ...]
    """[candidates] tokens of each answer."""
    prior: tuple[Array, ...]
    """[candidates] log-probability of each answer where no clue was read."""
    way: str = "rows"
    """How the scores were computed: tree, cache or rows (see `quiz.scoring`)."""

    def scores(self, score: Score) -> list[Array]:
        """What the candidates are compared by: `raw` log-probability, its `mean` over an answer's tokens, or `pmi`: how
        much the clues raise it, log p(answer | clues) - log p(answer | no clue) (Holtzman et al. 2021, arXiv
        2104.08315)."""
        if score == "raw":
            return list(self.logp)
        if score == "mean":
            return [logp / lengths for logp, lengths in zip(self.logp, self.lengths, strict=True)]
        if score == "pmi":
            return [logp - prior for logp, prior in zip(self.logp, self.prior, strict=True)]
        raise UserError(f"no score {score!r}. There are: {', '.join(SCORES)}.")

    def identity(self, score: Score) -> str:
        """Digest of what was asked and how it was scored: only quizzes that agree in it can be compared."""
        content = [[a.key, a.clues, a.candidates, a.right] for a in self.asked]
        return hashlib.sha256(json.dumps([score, content]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Weight:
    """What a right buzz is worth by where it comes: the chance that the opponent has not been right before (w of
    "expected wins")."""

    says: str
    at: Callable[[Array], Array]
    """From shares of the question read to weights in 0..1."""


def model_weight(opponent: str = "even") -> Weight:
    """1 - F of a modelled opponent, who would buzz by a share x of the question with chance F(x); no record of games is
    behind it."""
    other = OPPONENTS[opponent]
    return Weight(
        f"1 - F of the modelled {opponent} opponent (share {other.share}, shape {other.shape}), not fitted to any record",
        lambda x: 1 - other.share * np.clip(x, 0, 1) ** other.shape,
    )


def fitted_weight(places: Sequence[float], right: Sequence[bool], least: int = 200) -> Weight | None:
    """A cubic least-squares fit to 1 - (right buzzes of people before x) / (their buzzes), as QANTA's CurveScore does;
    None for too few."""
    if len(places) < least or sum(right) < 4:
        return None
    x = np.sort([place for place, good in zip(places, right, strict=True) if good])
    left = 1 - np.arange(len(x)) / len(places)
    cubic = np.polynomial.Polynomial.fit(x, left, 3)
    return Weight(f"cubic fit to {len(places)} logged buzzes of people", lambda at: np.clip(cubic(np.clip(at, x[0], x[-1])), 0, 1))


class Reading:
    """One model's answers under one score, question by question; what a question does not have is NaN."""

    def __init__(self, answers: Answers, score: Score = "pmi", threshold: float = 0.5, weight: Weight | None = None) -> None:
        if not 0 < threshold <= 1:
            raise UserError(f"the threshold is {threshold:g}: expected a chance above 0, up to 1.")
        self.answers, self.score, self.threshold = answers, score, threshold
        self.weight = weight or model_weight()
        self.asked = answers.asked
        clues = [len(a.clues) for a in self.asked]
        shape = (len(self.asked), max(clues))
        self.right, self.confidence, self.surprise = (np.full(shape, np.nan) for _ in range(3))
        self.guess = np.full(shape, -1)
        for n, (a, scores) in enumerate(zip(self.asked, answers.scores(score), strict=True)):
            shares = np.exp(scores - scores.max(1, keepdims=True))
            shares /= shares.sum(1, keepdims=True)
            best = scores.argmax(1)
            good = np.array(a.right)
            self.guess[n, : clues[n]] = best
            self.right[n, : clues[n]] = good[best]
            self.confidence[n, : clues[n]] = shares[np.arange(clues[n]), best]
            self.surprise[n, : clues[n]] = -np.log(np.maximum(shares[:, good].sum(1), 1e-12))
        self.clues = np.array(clues)
        self.place = np.arange(1, shape[1] + 1) / self.clues[:, None]
        self.place[np.isnan(self.right)] = np.nan

    # ------------------------------------------------------------------------------------- curves

    @cached_property
    def grid(self) -> Array:
        """Shares of the clues at which recall is read: all places of all questions, or 0, 1/60, ... where that is too
        fine."""
        steps = math.lcm(*set(self.clues.tolist()))
        return np.linspace(0, 1, min(steps, FINEST) + 1)

    @cached_property
    def recall(self) -> Array:
        """[questions, points] whether the guess is right at each share of the clues; before the first clue, by
        chance."""
        read = np.floor(self.grid * self.clues[:, None] + 1e-9).astype(int)  # clues that have been read in full
        chance = np.array([a.chance for a in self.asked])[:, None]
        found = np.take_along_axis(self.right, np.maximum(read - 1, 0), axis=1)
        return np.where(read == 0, chance, found)

    def curve(self, places: Sequence[int] | None = None) -> Curve:
        """Recall against the share of clues read, over all questions or those at `places`."""
        rows = self.recall if places is None else self.recall[list(places)]
        recall = tuple(float(v) for v in rows.mean(0))
        return Curve(tuple(float(x) for x in self.grid), (recall,), (0,), "share of clues", self.answers.identity(self.score))

    # --------------------------------------------------------------------------- one number a question

    @cached_property
    def area(self) -> Array:
        """[questions] the mean of being right over the clues: the area under recall."""
        return np.asarray(np.nanmean(self.right, 1))

    def first(self, stable: bool = False) -> Array:
        """[questions] the share of clues at which the guess is first right (`stable`: and stays so); NaN where
        never."""
        good = self.right == 1
        if stable:
            good = np.flip(np.minimum.accumulate(np.flip(np.where(np.isnan(self.right), True, good), 1), 1), 1) & ~np.isnan(self.right)
        where = good.argmax(1)
        return np.where(good.any(1), np.take_along_axis(self.place, where[:, None], 1)[:, 0], np.nan)

    @cached_property
    def buzz(self) -> NDArray[np.int64]:
        """[questions] the clue (from 0) after which the confidence first reaches the threshold; -1 where it never
        does."""
        sure = np.nan_to_num(self.confidence, nan=-1.0) >= self.threshold
        return np.where(sure.any(1), sure.argmax(1), -1)

    def at_buzz(self, what: Array) -> Array:
        """[questions] a value at the buzz; NaN where there is none."""
        found = np.take_along_axis(what, np.maximum(self.buzz, 0)[:, None], 1)[:, 0]
        return np.where(self.buzz >= 0, found, np.nan)

    def columns(self) -> dict[str, Array]:
        """[questions] everything that is a mean over questions; those that are NaN on a question leave it out."""
        buzzed = self.at_buzz(self.place)
        right = self.at_buzz(self.right)
        wins = np.where(np.isnan(buzzed), 0.0, self.weight.at(np.nan_to_num(buzzed)) * np.nan_to_num(right))
        first, stable = self.first(), self.first(stable=True)
        last = np.take_along_axis(self.right, self.clues[:, None] - 1, 1)[:, 0]
        return {
            "auc": self.area,
            "first_clue": self.right[:, 0],
            "last_clue": last,
            "first_right": first,
            "ever_right": (~np.isnan(first)).astype(float),
            "stable_right": stable,
            "stays_right": (~np.isnan(stable)).astype(float),
            "buzz": buzzed,
            "buzzed": (~np.isnan(buzzed)).astype(float),
            "right_at_buzz": right,
            "over_at_buzz": self.at_buzz(self.confidence - self.right),
            "expected_wins": wins,
            "brier": np.nanmean((self.confidence - self.right) ** 2, 1),
            "over": np.nanmean(self.confidence - self.right, 1),
            "log_loss": np.nanmean(self.surprise, 1),
            "chance": np.array([a.chance for a in self.asked]),
        }


MEANINGS: Mapping[str, str] = {
    "auc": "mean recall over the clues: the area under recall against clues",
    "first_clue": "recall after the first clue",
    "last_clue": "recall after the last clue",
    "first_right": "share of clues until the guess is first right, where it ever is",
    "ever_right": "share of questions that are right at some clue",
    "stable_right": "share of clues from which the guess stays right, where it does",
    "stays_right": "share of questions whose guess is right at the end",
    "buzz": "share of clues until the confidence reaches the threshold, where it does",
    "buzzed": "share of questions on which it does",
    "right_at_buzz": "share of buzzes that are right",
    "over_at_buzz": "confidence less share right, at the buzz",
    "expected_wins": "right buzzes, each weighed by the chance that the opponent has not been right before",
    "brier": "mean squared error of the confidence, over all clues",
    "reliability": "the part of it that comes of confidence that is not the share right (bins of about equal size)",
    "resolution": "the part taken off for telling questions apart",
    "uncertainty": "what always stating the share right would give",
    "ece": "mean distance of confidence and share right over bins of about equal size: a picture, never below 0",
    "over": "confidence less share right, over all clues; above 0: over-confident",
    "log_loss": "mean -log of the confidence in the right answer, over all clues, nats",
    "chance": "recall of a guess drawn at random",
}


def measure(reading: Reading, places: Sequence[int] | None = None, *, draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """All measures with 95 % intervals (percentiles of a bootstrap that draws whole questions), over all questions or
    those at `places`."""
    chosen = np.arange(len(reading.asked)) if places is None else np.asarray(places)
    counts = _counts(len(chosen), draws, seed)
    found = {name: _mean(column[chosen], counts) for name, column in reading.columns().items()}
    said, right = reading.confidence[chosen], reading.right[chosen]
    calibrated = np.array([_calibration(said[rows], right[rows]) for rows in _rows(counts)]) if len(chosen) > 1 else np.empty((0, 4))
    for n, (name, value) in enumerate(zip(("reliability", "resolution", "uncertainty", "ece"), _calibration(said, right), strict=True)):
        found[name] = _interval(value, calibrated[:, n])
    return {name: found[name] for name in MEANINGS}


def measure_groups(
    reading: Reading, what: Literal["category", "topic", "angle", "split"] = "category", *, draws: int = 1000
) -> dict[str, dict[str, Interval]]:
    """The measures of each category (topic, angle, split)."""
    return {name: measure(reading, places, draws=draws) for name, places in by(reading.asked, what).items()}


@dataclass(frozen=True)
class Change:
    """What became of a quiz from one model to another, question by question."""

    auc: Interval
    """AUC after less before."""
    over: Interval
    """Over-confidence after less before."""
    savings: Interval | None
    """1 - clues(after -> level) / clues(before -> level): below 0, more clues are needed. None where `before` is above
    the level without any clue, or never reaches it."""
    bound: str
    """"at most" where `after` never reaches the level: all clues stand in for what it would need."""
    level: float


def compare(
    before: Reading, after: Reading, places: Sequence[int] | None = None, *, level: float = 0.5, draws: int = 1000, seed: int = 0
) -> Change:
    """Set two models side by side on the same questions, with paired bootstrap intervals.

    Raises `UserError` where the two were not asked and scored alike."""
    one, other = before.curve(places), after.curve(places)
    if one.attack != other.attack:
        raise UserError("these quizzes differ in their questions or their score; compare two that were asked and scored alike.")
    chosen = np.arange(len(before.asked)) if places is None else np.asarray(places)
    counts = _counts(len(chosen), draws, seed)
    saved, bound = None, ""
    need, had = other.effort_to(level)[0], one.effort_to(level)[0]
    if 0 < had < math.inf:
        bound = "at most" if math.isinf(need) else ""
        again = [_efforts(r.recall[chosen], counts, before.grid, level) for r in (after, before)]
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = 1 - np.minimum(again[0], 1.0) / np.minimum(again[1], 1.0)
        saved = _interval(1 - min(need, 1.0) / had, drawn[np.isfinite(drawn)])
    over = [r.columns()["over"][chosen] for r in (after, before)]
    return Change(_mean(after.area[chosen] - before.area[chosen], counts), _mean(over[0] - over[1], counts), saved, bound, level)


def _efforts(recall: Array, counts: Array, grid: Array, level: float) -> Array:
    """[draws] the share of clues until mean recall reaches the level, by `Curve`; infinity where it never does."""
    rows = counts @ recall / counts.sum(1, keepdims=True)
    curve = Curve(tuple(grid.tolist()), tuple(map(tuple, rows.tolist())), tuple(range(len(rows))), "share of clues")
    return np.array(curve.effort_to(level))


# ------------------------------------------------------------------------------------------ bootstrap


def _counts(n: int, draws: int, seed: int) -> Array:
    """[draws, n] how often each question is in each draw; the same for the same n and seed, so that models are drawn
    alike."""
    random = np.random.default_rng(np.random.SeedSequence([seed, n]))
    return random.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)


def _rows(counts: Array) -> list[NDArray[np.int64]]:
    return [np.repeat(np.arange(counts.shape[1]), row.astype(int)) for row in counts]


def _mean(column: Array, counts: Array) -> Interval:
    there = ~np.isnan(column)
    if not there.any():
        return Interval(math.nan, math.nan, math.nan)
    weights = counts[:, there]
    with np.errstate(invalid="ignore"):
        drawn = weights @ column[there] / weights.sum(1)
    return _interval(float(column[there].mean()), drawn[np.isfinite(drawn)] if int(there.sum()) > 1 else np.empty(0))


def _interval(value: float, drawn: Array) -> Interval:
    if len(drawn) < 2:
        return Interval(float(value), math.nan, math.nan)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def _calibration(said: Array, right: Array) -> tuple[float, float, float, float]:
    """Reliability, resolution, uncertainty (Murphy 1973, over bins of equal size) and the expected calibration error;
    each question counts the same."""
    there = ~np.isnan(said)
    weights = (there / there.sum(1, keepdims=True))[there] / len(said)
    confidence, good = said[there], right[there]
    base = float(weights @ good)
    reliability = resolution = error = 0.0
    for part in bins(confidence):
        mass = float(weights[part].sum())
        mean, share = float(weights[part] @ confidence[part]) / mass, float(weights[part] @ good[part]) / mass
        reliability += mass * (mean - share) ** 2
        resolution += mass * (share - base) ** 2
        error += mass * abs(mean - share)
    return reliability, resolution, base * (1 - base), error


def bins(values: Array, most: int = BINS) -> list[NDArray[np.bool_]]:
    """Masks of bins of about equal size, the lowest values first; equal values are in one bin."""
    edges = np.unique(np.sort(values)[[n * len(values) // most for n in range(1, most)]])
    place = np.searchsorted(edges, values, side="right")
    return [place == n for n in range(len(edges) + 1) if (place == n).any()]


def intervals_to_lists(found: Mapping[str, Interval]) -> dict[str, list[float | None]]:
    """Measures as [value, low, high], with None for what cannot be told: JSON has no NaN."""
    return {name: interval_to_list(i) for name, i in found.items()}


def interval_to_list(found: Interval) -> list[float | None]:
    return [None if not math.isfinite(v) else v for v in (found.value, found.low, found.high)]


def curve_band(reading: Reading, places: Sequence[int] | None = None, *, draws: int = 1000, seed: int = 0) -> tuple[Array, Array, Array]:
    """(mean, low, high) of recall at each point of the grid, 95 % over questions."""
    rows = reading.recall if places is None else reading.recall[list(places)]
    counts = _counts(len(rows), draws, seed)
    drawn = counts @ rows / len(rows)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return rows.mean(0), low, high


def to_json(reading: Reading, draws: int = 1000) -> dict[str, Any]:
    """Everything about one model's quiz: measures, by category, the curve, and each question's guesses."""
    _, low, high = curve_band(reading, draws=draws)
    return {
        "score": reading.score,
        "threshold": reading.threshold,
        "expected_wins_weight": reading.weight.says,
        "measures": intervals_to_lists(measure(reading, draws=draws)),
        "by_category": {name: intervals_to_lists(found) for name, found in measure_groups(reading, draws=draws).items()},
        "curve": reading.curve().to_json() | {"low": low.tolist(), "high": high.tolist()},
        "auc_by_score": {s: float(Reading(reading.answers, s).area.mean()) for s in SCORES},
        "asked": [_question(reading, n) for n in range(len(reading.asked))],
    }


def _question(reading: Reading, n: int) -> dict[str, Any]:
    asked, count = reading.asked[n], int(reading.clues[n])
    return {
        "key": asked.key,
        "category": asked.category,
        "answer": next(c for c, good in zip(asked.candidates, asked.right, strict=True) if good),
        "guesses": [asked.candidates[g] for g in reading.guess[n, :count]],
        "right": [bool(r) for r in reading.right[n, :count]],
        "confidence": [round(float(c), 6) for c in reading.confidence[n, :count]],
        "buzz": int(reading.buzz[n]) + 1 if reading.buzz[n] >= 0 else None,
    }
