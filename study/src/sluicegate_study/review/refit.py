"""FSRS-6's 21 weights fitted to a learner's own reviews, by numpy alone.

The loss is the package's: minus the log of the chance that was given to what happened (recalled or not), over all
reviews that come a day or more after the one before. The states of all cards are computed side by side, one review at a
time, with their derivatives by every weight (forward mode), so Fisher scoring with Levenberg's damping needs some ten
passes. A normal prior around the published weights holds what the reviews do not tell: its standard deviation is a
sixteenth of the range that a weight may have, and 1/2 in the logarithm of the four first stabilities. The `fsrs`
package has an optimiser of its own, which needs torch and pandas, and 25 times as long to say no more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from fsrs.scheduler import DEFAULT_PARAMETERS, LOWER_BOUNDS_PARAMETERS, UPPER_BOUNDS_PARAMETERS
from numpy.typing import NDArray

from sluicegate_study.deck.log import Log
from sluicegate_study.review.memory import replay_links, resolve_link

Array = NDArray[np.float64]
FEWEST = 512
"""Reviews that count below which the published weights are kept, as the package does (silently)."""
HELD_OUT = 0.2
"""The share of the reviews, the latest, on which a fit to the others must be better than the published weights to be
taken."""
DEFAULT = np.array(DEFAULT_PARAMETERS)
LOW, HIGH = np.array(LOWER_BOUNDS_PARAMETERS), np.array(UPPER_BOUNDS_PARAMETERS)
_LEAST = 1e-6


@dataclass(frozen=True)
class History:
    """All reviews of a learner, a row a card, padded on the right: grades (0: none), whole days since the one before,
    and when.

    `counts` marks what the loss is over."""

    grades: NDArray[np.int64]
    days: NDArray[np.int64]
    times: Array

    @property
    def counts(self) -> NDArray[np.bool_]:
        return (self.grades > 0) & (self.days >= 1)

    @classmethod
    def of(cls, log: Log, learner: str) -> "History":
        """A learner's reviews as `Memory.replay` sees them: edited cards go on, and a clock that went back stood
        still."""
        links = replay_links(log.events)
        rows: dict[str, list[tuple[int, int, float]]] = {}
        last: dict[str, datetime] = {}
        for event in log.timeline:
            if event.kind == "card" and event.learner == learner:
                key = resolve_link(links, event.item)
                at = max(event.t, last.get(key, event.t))
                rows.setdefault(key, []).append((event.grade, (at - last[key]).days if key in last else 0, at.timestamp()))
                last[key] = at
        long = max(map(len, rows.values()), default=0)
        padded = np.array([row + [(0, 0, 0.0)] * (long - len(row)) for row in rows.values()], float).reshape(len(rows), long, 3)
        return cls(padded[..., 0].astype(np.int64), padded[..., 1].astype(np.int64), padded[..., 2])


@dataclass(frozen=True)
class FitResult:
    """What a fit found. `weights` are those to use: the fitted ones, or the published where `kept` says why.

    The losses are on the held-out reviews (mean minus log chance), by a fit to the others; `reviews` is how many
    count."""

    weights: tuple[float, ...]
    kept: str
    reviews: int
    held_out: int = 0
    loss: float = math.nan
    default_loss: float = math.nan


def refit(history: History) -> FitResult:
    """Fit the weights, and take them if they say more about reviews that they were not fitted to."""
    reviews = int(history.counts.sum())
    if reviews < FEWEST:
        said = f"{reviews} reviews a day or more after the one before, {FEWEST} needed: defaults kept"
        return FitResult(tuple(DEFAULT_PARAMETERS), said, reviews)
    cut = np.quantile(history.times[history.counts], 1 - HELD_OUT)
    late = history.counts & (history.times > cut)
    weights = fit(history, history.counts & ~late)
    loss, default = mean_loss(history, weights, late), mean_loss(history, DEFAULT, late)
    number = int(late.sum())
    if not loss < default:
        said = f"a fit to the others says no more about the latest {number} reviews ({loss:.4f}, published {default:.4f}): defaults kept"
        return FitResult(tuple(DEFAULT_PARAMETERS), said, reviews, number, loss, default)
    return FitResult(tuple(map(float, fit(history, history.counts))), "", reviews, number, loss, default)


def fit(history: History, among: NDArray[np.bool_], *, steps: int = 60, prior: float = 0.5) -> Array:
    """The weights (21) with the greatest posterior density given the reviews `among`; `prior` is its standard
    deviation, in eighths of the range of a weight, or of the logarithm of a first stability."""
    free = DEFAULT.copy()
    spread = prior * np.where(np.arange(21) < 4, 1.0, (HIGH - LOW) / 8)
    slope = np.where(np.arange(21) < 4, free, 1.0)  # the first four move by their logarithm
    weights, damping = DEFAULT.copy(), 1e-3
    value, gradient, curve = _posterior(history, among, weights, spread)
    for _ in range(steps):
        slope[:4] = weights[:4]
        g, h = gradient * slope, curve * np.outer(slope, slope) + np.diag(1 / spread**2)
        g = g + _away(weights) / spread**2
        stuck = ((weights <= LOW) & (g > 0)) | ((weights >= HIGH) & (g < 0))
        inside = ~stuck
        step = np.zeros(21)
        step[inside] = -np.linalg.solve(h[np.ix_(inside, inside)] + damping * np.diag(np.diag(h)[inside]), g[inside])
        step[:4] = np.clip(step[:4], -1, 1)
        tried = np.clip(np.where(np.arange(21) < 4, weights * np.exp(np.where(np.arange(21) < 4, step, 0)), weights + step), LOW, HIGH)
        better = _posterior(history, among, tried, spread)
        if better[0] < value:
            gain, weights, damping = value - better[0], tried, max(damping / 4, 1e-9)
            value, gradient, curve = better
            if gain < 1e-6 * max(1.0, abs(value)):
                break
        else:
            damping *= 4
            if damping > 1e9:
                break
    return weights


def _away(weights: Array) -> Array:
    """How far weights are from the published ones, in the coordinates in which they move."""
    return np.concatenate([np.log(weights[:4] / DEFAULT[:4]), weights[4:] - DEFAULT[4:]])


def _posterior(history: History, among: NDArray[np.bool_], weights: Array, spread: Array) -> tuple[float, Array, Array]:
    """Minus the log posterior, and of its likelihood part the gradient (21) and Fisher's information (21, 21) by the
    weights."""
    chance, change = predictions(history, weights, derivatives=True)
    p, was, by = np.clip(chance[among], _LEAST, 1 - _LEAST), history.grades[among] > 1, change[among]
    loss = float(-np.where(was, np.log(p), np.log1p(-p)).sum())
    gradient = by.T @ ((p - was) / (p * (1 - p)))
    curve = by.T @ (by / (p * (1 - p))[:, None])
    return loss + 0.5 * float(np.sum((_away(weights) / spread) ** 2)), gradient, curve


def mean_loss(history: History, weights: Sequence[float] | Array, among: NDArray[np.bool_]) -> float:
    """Mean minus log chance, in nats, of what happened in the reviews `among`."""
    p = np.clip(predictions(history, np.asarray(weights, float))[0][among], _LEAST, 1 - _LEAST)
    return float(-np.where(history.grades[among] > 1, np.log(p), np.log1p(-p)).mean())


def predictions(history: History, weights: Array, *, derivatives: bool = False) -> tuple[Array, Array]:
    """The chance of recall at every review (cards, steps), and its derivatives by the weights (cards, steps, 21), or
    (cards, steps, 0).

    The equations of FSRS-6 with the package's clamps; a first review has chance 0 there, and does not count."""
    cards, steps = history.grades.shape
    size = 21 if derivatives else 0
    unit = np.eye(21)[:, :size]
    w = weights
    stability, difficulty = np.ones(cards), np.ones(cards)
    ds, dd = np.zeros((cards, size)), np.zeros((cards, size))
    chance, change = np.zeros((cards, steps)), np.zeros((cards, steps, size))
    for k in range(steps):
        here = history.grades[:, k] > 0
        g, t = history.grades[here, k], history.days[here, k].astype(float)
        s, d, s_, d_ = stability[here], difficulty[here], ds[here], dd[here]
        if k == 0:
            s, s_ = w[g - 1], unit[g - 1]
            d = w[4] - np.exp(w[5] * (g - 1)) + 1
            d_ = unit[4] - ((g - 1) * np.exp(w[5] * (g - 1)))[:, None] * unit[5]
        else:
            r, r_ = _recall(w, unit, t, s, s_)
            chance[here, k], change[here, k] = r, r_
            s, s_ = _next_stability(w, unit, g, t, s, s_, d, d_, r, r_)
            d, d_ = _next_difficulty(w, unit, g, d, d_)
        low, far = s < 0.001, (d < 1) | (d > 10)
        stability[here], ds[here] = np.maximum(s, 0.001), np.where(low[:, None], 0, s_)
        difficulty[here], dd[here] = np.clip(d, 1, 10), np.where(far[:, None], 0, d_)
    return chance, change


def _recall(w: Array, unit: Array, t: Array, s: Array, s_: Array) -> tuple[Array, Array]:
    """R = (1 + F t / S) ^ -w20 with F = .9 ^ (-1 / w20) - 1, and its derivatives."""
    factor = 0.9 ** (-1 / w[20]) - 1
    base = 1 + factor * t / s
    r = base ** -w[20]
    by_s = w[20] * r / base * factor * t / s**2
    by_w = r * (-np.log(base) - w[20] / base * (t / s) * (factor + 1) * math.log(0.9) / w[20] ** 2)
    return r, by_s[:, None] * s_ + by_w[:, None] * unit[20]


def _next_stability(
    w: Array, unit: Array, g: NDArray[np.int64], t: Array, s: Array, s_: Array, d: Array, d_: Array, r: Array, r_: Array
) -> tuple[Array, Array]:
    """Stability after a review, and its derivatives: the same day, after a success, after a lapse."""
    # A success: S (1 + e^w8 (11 - D) S^-w9 (e^(w10 (1 - R)) - 1) [w15 if hard] [w16 if easy])
    extra = np.where(g == 2, w[15], np.where(g == 4, w[16], 1.0))
    rise = np.exp(w[10] * (1 - r))
    scale = np.exp(w[8]) * s ** -w[9] * extra
    grown = scale * (11 - d) * (rise - 1)
    up = s * (1 + grown)
    safe = np.where(extra == 0, 1.0, extra)
    up_ = (
        ((1 + grown) - w[9] * grown)[:, None] * s_
        - (s * scale * (rise - 1))[:, None] * d_
        - (s * scale * (11 - d) * rise * w[10])[:, None] * r_
        + (s * grown)[:, None] * unit[8]
        - (s * grown * np.log(s))[:, None] * unit[9]
        + (s * scale * (11 - d) * rise * (1 - r))[:, None] * unit[10]
        + (np.where(g == 2, s * grown / safe, 0))[:, None] * unit[15]
        + (np.where(g == 4, s * grown / safe, 0))[:, None] * unit[16]
    )
    # A lapse: min(w11 D^-w12 ((S + 1)^w13 - 1) e^(w14 (1 - R)), S / e^(w17 w18))
    power = (s + 1) ** w[13]
    spur = d ** -w[12] * np.exp(w[14] * (1 - r))
    lost = w[11] * spur * (power - 1)
    lost_ = (
        (w[11] * spur * w[13] * power / (s + 1))[:, None] * s_
        - (w[12] * lost / d)[:, None] * d_
        - (w[14] * lost)[:, None] * r_
        + (spur * (power - 1))[:, None] * unit[11]
        - (lost * np.log(d))[:, None] * unit[12]
        + (w[11] * spur * power * np.log(s + 1))[:, None] * unit[13]
        + (lost * (1 - r))[:, None] * unit[14]
    )
    most = s * math.exp(-w[17] * w[18])
    most_ = math.exp(-w[17] * w[18]) * s_ - most[:, None] * (w[18] * unit[17] + w[17] * unit[18])
    short = most < lost
    down, down_ = np.where(short, most, lost), np.where(short[:, None], most_, lost_)
    # The same day: S e^(w17 (G - 3 + w18)) S^-w19, at least S after a success
    factor = np.exp(w[17] * (g - 3 + w[18])) * s ** -w[19]
    held = (g >= 2) & (factor < 1)
    same = np.where(held, s, s * factor)
    same_ = np.where(
        held[:, None],
        s_,
        ((1 - w[19]) * factor)[:, None] * s_
        + (s * factor)[:, None] * ((g - 3 + w[18])[:, None] * unit[17] + w[17] * unit[18] - np.log(s)[:, None] * unit[19]),
    )
    today, lapsed = t < 1, g == 1
    after = np.where(today, same, np.where(lapsed, down, up))
    return after, np.where(today[:, None], same_, np.where(lapsed[:, None], down_, up_))


def _next_difficulty(w: Array, unit: Array, g: NDArray[np.int64], d: Array, d_: Array) -> tuple[Array, Array]:
    """D' = w7 D0(4) + (1 - w7) (D + (10 - D) / 9 * -w6 (G - 3)), and its derivatives."""
    easy = w[4] - math.exp(3 * w[5]) + 1
    easy_ = unit[4] - 3 * math.exp(3 * w[5]) * unit[5]
    moved = d - (10 - d) / 9 * w[6] * (g - 3)
    moved_ = (1 + w[6] * (g - 3) / 9)[:, None] * d_ - ((10 - d) / 9 * (g - 3))[:, None] * unit[6]
    after = w[7] * easy + (1 - w[7]) * moved
    return after, w[7] * easy_ + (1 - w[7]) * moved_ + (easy - moved)[:, None] * unit[7]
