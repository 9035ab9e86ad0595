"""Choose alpha for a compute budget: a short calibration, a line fitted to it, and a probability that the budget is
enough.

The calibration noises and distils small alphas until they meet the stop rule, the smallest first, for at most `SHARE`
of the budget. The number of steps n grows about as a power of the share of the weights that is left, so

    log n = a + b * (-log(1 - alpha)) + noise

is fitted by least squares. The alpha chosen is the largest whose steps fit into the rest of the budget with a
probability of at least `SURE`. That probability is of one new observation around the line, by Student's t.
"""

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.engine.encoding import encode, fitting
from sluicegate.engine.forward import Meter
from sluicegate.engine.sampling import seed_of
from sluicegate.engine.training import Ledger
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.unlearning.distill import StopRule, distill
from sluicegate.values.edits import Noise
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule
from sluicegate.values.statistics import student_cdf

LADDER = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Alphas that are tried, in order."""
SHARE = 0.3
"""Largest share of the budget, in FLOPs, that the calibration may take."""
SURE = 0.8
"""Probability with which the budget must be enough for the alpha that is chosen."""
MOST = 0.95
"""Largest alpha that is chosen: beyond, small noise is a bad start, and a fresh student costs about as much."""
SCATTER, WORTH = 0.25, 2
"""Prior on the noise: its standard deviation in log n, and the number of observations that it counts as. The value is
that between two seeds of the prototype (140 and 200 steps at alpha .8). Without it, a fit to three points would be too
sure."""


@dataclass(frozen=True)
class Tried:
    """One alpha of the calibration."""

    alpha: float
    steps: int
    reached: bool
    """Whether the stop rule was met by then; else these were all the steps there were."""


@dataclass(frozen=True)
class Law:
    """``log n = a + b x``, ``x = -log(1 - alpha)``, and how far a new observation may lie off it."""

    a: float
    b: float
    scatter: float
    """Standard deviation of log n around the line."""
    freedom: int
    xs: tuple[float, ...]

    def steps(self, alpha: float) -> float:
        """Predicted steps (their median)."""
        return math.exp(self.a + self.b * _x(alpha))

    def spread(self, alpha: float) -> float:
        """Standard deviation of a new log n at `alpha`: the noise, and how uncertain the line is there."""
        # The usual error of a prediction by regression: scatter * sqrt(1 + 1/m + (x - mean)^2 / sum (x_i - mean)^2).
        xs = np.asarray(self.xs)
        around = float(((xs - xs.mean()) ** 2).sum())
        away = (_x(alpha) - float(xs.mean())) ** 2 / around if around else 0.0
        return self.scatter * math.sqrt(1 + 1 / len(xs) + away)

    def chance(self, alpha: float, steps: float) -> float:
        """Probability that `steps` are enough."""
        if steps < 1:
            return 0.0
        return student_cdf((math.log(steps) - math.log(self.steps(alpha))) / self.spread(alpha), self.freedom)


def fit_law(tried: Sequence[Tried], interval: int) -> Law | None:
    """The least-squares line through the alphas that met the stop rule, or None below two of them.

    Two kinds of points are censored. One that met the rule at the first check, after `interval` steps, may have met it
    earlier: it is left out if two others remain. One that did not meet it needs more steps than it had: it is added, at
    the steps it had, only if the line predicts fewer than these.
    """
    reached = [t for t in tried if t.reached]
    later = [t for t in reached if t.steps > interval]
    points = later if len(later) >= 2 else reached
    if len(points) < 2:
        return None
    law = _line(points)
    missed = [t for t in tried if not t.reached and law.steps(t.alpha) < t.steps]
    return _line([*points, *missed]) if missed else law


def _line(points: Sequence[Tried]) -> Law:
    xs = np.array([_x(p.alpha) for p in points])
    ys = np.log([p.steps for p in points])
    b, a = np.polyfit(xs, ys, 1)
    if b < 0:  # by chance: more noise never takes fewer steps
        a, b = float(ys.mean()), 0.0
    left = float(((ys - a - b * xs) ** 2).sum())
    # The residual variance is pooled with the prior's, each weighted with its degrees of freedom.
    freedom = len(points) - 2 + WORTH
    return Law(float(a), float(b), math.sqrt((left + WORTH * SCATTER**2) / freedom), freedom, tuple(map(float, xs)))


def _x(alpha: float) -> float:
    return -math.log(1 - alpha)


@dataclass(frozen=True)
class Choice:
    """What the calibration came to."""

    alpha: float
    budget: float
    """FLOPs, the calibration's included."""
    affordable: int
    """Steps that are left for the distillation itself."""
    predicted: float
    """Steps that it should take."""
    low: float
    high: float
    """Between which they lie with a probability of about .8 (two standard deviations of the middle 80 %)."""
    sure: float
    """Probability that the affordable steps are enough."""
    tried: tuple[Tried, ...]
    ledger: Ledger

    def sentences(self) -> list[str]:
        known = ", ".join(f"{t.alpha:g}: {'' if t.reached else 'more than '}{t.steps}" for t in self.tried)
        spent = self.ledger.total / self.budget
        found = [
            f"alpha {self.alpha:g}: should take {self.predicted:.0f} steps [{self.low:.0f} to {self.high:.0f}] of the {self.affordable} "
            f"that the budget leaves, so it is enough with a probability of {self.sure:.2f}.",
            f"The calibration took {spent:.0%} of the budget. Steps by alpha: {known}.",
        ]
        if self.alpha > max(t.alpha for t in self.tried if t.reached) + 1e-9:
            found.append(
                "That alpha lies beyond those that were tried: the prediction goes on along a line that nothing there has checked."
            )
        if self.alpha >= MOST:
            found.append(
                f"The budget may be enough for more than alpha {MOST:g}; a fresh student (sluicegate distill) is then the better use of it."
            )
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "budget": self.budget,
            "affordable": self.affordable,
            "predicted_steps": [self.predicted, self.low, self.high],
            "probability": self.sure,
            "tried": [dataclasses.asdict(t) for t in self.tried],
            "calibration_flops": self.ledger.total,
        }


def choose(tried: Sequence[Tried], affordable: int, interval: int) -> tuple[float, Law | None]:
    """The largest alpha, in hundredths, that `affordable` steps are enough for with a probability of `SURE`; and the
    law.

    Where nothing is that sure, or one point makes no line, the largest that was itself reached within them.
    Raises `UserError` where there is none either.
    """
    law = fit_law(tried, interval)
    if law is not None:
        sure = [a / 100 for a in range(5, round(100 * MOST) + 1) if law.chance(a / 100, affordable) >= SURE]
        if sure:
            return max(sure), law
    measured = [t.alpha for t in tried if t.reached and t.steps <= affordable]
    if measured:
        return max(measured), law
    least = tried[0]
    first = f"alpha {least.alpha:g} took {least.steps}" if least.reached else f"{least.steps} were not enough for alpha {least.alpha:g}"
    raise UserError(
        f"the budget leaves {affordable} steps, and in the calibration {first}: too few to choose by. Raise --budget, lower --stop-at, or "
        "give --alpha and --steps instead."
    )


def calibrate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    unlabelled: Sequence[Item],
    schedule: Schedule,
    *,
    budget: float,
    stop: StopRule,
    beta: float = 0.1,
    params: str = "*",
    seed: int = 0,
    max_length: int = 256,
    template: bool = False,
    cache_teacher: bool = False,
    run: RunContext | None = None,
) -> Choice:
    """Choose alpha for `budget` FLOPs, which pay for the calibration and the distillation after it (`undo`).

    The suppressed `model` is left as it was. Raises `UserError` where the budget is too small to choose by.
    """
    run = run or RunContext()
    rows = encode(tokenizer, unlabelled, max_length=fitting(model, max_length), template=template)
    meter = Meter(model)
    # FLOPs: a student's step is three forward passes, the teacher's is one more unless it is cached, once over all
    # rows.
    forward = sum(meter(batch) for batch in rows.everything()) / len(rows) * schedule.batch
    step = forward * (3 if cache_teacher else 4)
    fixed = forward / schedule.batch * len(rows) if cache_teacher else 0.0
    # The calibration checks four times as often as the distillation itself, since its runs are short.
    interval = max(stop.interval // 4, 1)
    allowed = int(SHARE * budget / (4 * forward))
    if allowed < 2 * interval or budget <= fixed:
        least = max(2 * interval * 4 * forward / SHARE, 2 * fixed)
        raise UserError(f"a budget of {budget:.3g} FLOPs is too small to calibrate with, at {step:.3g} a step. The least is {least:.2g}.")
    # The learning rate's course shall not depend on how many steps can be paid for.
    course = dataclasses.replace(schedule, decay_steps=schedule.decay_steps or schedule.steps)
    look = dataclasses.replace(stop, interval=interval)
    ledger, tried = Ledger(), []
    for alpha in LADDER:
        if allowed < interval:
            break
        student = copy.deepcopy(model).requires_grad_(True)
        Noise(alpha, beta, seed_of(seed, "noise"), params).bake(student)
        done = distill(
            model,
            tokenizer,
            unlabelled,
            dataclasses.replace(course, steps=allowed),
            student=student,
            stop=look,
            seed=seed,
            max_length=max_length,
            template=template,
            run=run,
            name=f"calibrate {alpha:g}",
        )
        ledger.add(done.fitted.ledger)
        tried.append(Tried(alpha, done.fitted.steps, done.reached))
        allowed -= done.fitted.steps
        if not done.reached:  # a larger alpha would not be reached either
            break
    # The rest of the budget pays for the distillation; its schedule may ask for fewer steps than that.
    affordable = min(int((budget - ledger.total - fixed) / step), schedule.steps)
    alpha, law = choose(tried, affordable, interval)
    predicted = next((float(t.steps) for t in tried if t.alpha == alpha), math.nan) if law is None else law.steps(alpha)
    # With one point there is no line: its own steps are predicted, with the prior's noise. 1.28: the middle 80 % of a
    # normal.
    width = 1.28 * (SCATTER if law is None else law.spread(alpha))
    sure = student_cdf((math.log(affordable) - math.log(predicted)) / SCATTER, WORTH) if law is None else law.chance(alpha, affordable)
    low, high = predicted * math.exp(-width), predicted * math.exp(width)
    return Choice(alpha, budget, affordable, predicted, low, high, sure, tuple(tried), ledger)
