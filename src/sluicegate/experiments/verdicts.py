"""What an experiment's numbers allow to say: one verdict a question, with the numbers that it rests on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from sluicegate.experiments.experiment import Outcome, savings_by_seed
from sluicegate.experiments.rows import paired, rows
from sluicegate.report.arms import Row
from sluicegate.report.formatting import flops, has_interval, percent, plain, times, written
from sluicegate.report.html import Verdict
from sluicegate.runs.arm import Arm
from sluicegate.values.statistics import Estimate

Direction = Literal["more", "less", "same", "open"]

TELLING = 0.6
"""An interval wider than this, with zero inside, tells neither that there is a difference nor that there is none."""
CLOSE = 0.1
"""With one seed there is no interval; two numbers nearer than this are called equal."""
QUESTIONS = ("Hidden, or gone?", "Does distilling help?", "What does noise buy?")


def direction(difference: Estimate) -> Direction:
    """What an estimate of a difference allows to say: more, less, the same, or nothing (open)."""
    if not has_interval(difference):
        return "more" if difference.mean > CLOSE else "less" if difference.mean < -CLOSE else "same"
    if difference.low > 0:
        return "more"
    if difference.high < 0:
        return "less"
    return "same" if difference.high - difference.low <= TELLING else "open"


def verdicts(outcome: Outcome) -> list[Verdict]:
    """What suppression did, what distilling it did, and what the noise dial buys."""
    if not any(arm.attacks for arm in outcome.arms.values()):
        return [Verdict(QUESTIONS[0], "", "not measured: no attack was run, and scores alone cannot tell hidden from gone")]
    found = _Reading(outcome, rows(outcome))
    return [found.suppression(), found.distilled(), found.dial()]


@dataclass(frozen=True)
class _Reading:
    outcome: Outcome
    table: Sequence[Row]

    def attacked(self, role: str) -> list[Row]:
        return [row for row in self.table if row.role == role and self.outcome.arms[row.name].attacks]

    @property
    def suppressed(self) -> Row | None:
        """The suppressed arm that others are distilled from, else the first."""
        recipe = self.outcome.recipe
        later = [a for row in self.table if row.role in ("distilled", "dial") for a in recipe.ancestors(row.name)]
        candidates = self.attacked("suppressed")
        return next((row for row in candidates if row.name in later), candidates[0] if candidates else None)

    def steps(self, name: str) -> float:
        curve = self.outcome.arms[name].owned
        return max(curve.effort[0], min(10.0, curve.budget))

    def recall(self, name: str) -> float:
        return self.outcome.arms[name].owned.at(self.steps(name)).mean

    def recalled(self, *names: str) -> str:
        """The attacker's facts that come back in each arm."""
        curve = self.outcome.arms[names[0]].owned
        found = ", ".join(f"{percent(self.recall(name))} in {name}" for name in names)
        return f"recall after {self.steps(names[0]):g} {curve.unit}: {found}"

    def said(self, verdict: str) -> str:
        """The verdict, with the caveat of a single seed."""
        return f"{verdict} (one seed)" if len(self.outcome.seeds) == 1 else verdict

    def suppression(self) -> Verdict:
        row = self.suppressed
        beside = [self.outcome.reference.name] if self.outcome.reference else []
        if row is None:
            others = [r.name for r in self.table if r.role not in ("reference", "pretrained") and self.outcome.arms[r.name].attacks]
            if not others:
                return Verdict(QUESTIONS[0], "", "nothing to compare: no arm beside the reference was attacked")
            ends = sorted(others, key=self.recall)
            named = dict.fromkeys((ends[0], ends[-1], *beside))
            return Verdict(QUESTIONS[0], f"{ends[0]} to {ends[-1]}", "no arm suppresses (verb unlearn)", (self.recalled(*named),))
        numbers = [self.recalled(row.name, *beside)]
        forget = row.score("forget")
        hardly = "hardly suppressed; " if forget is not None and forget.mean >= 0.5 else ""
        if row.savings is None:
            verdict = "open: without savings against a reference nobody can say how much of its recall is plain learning"
            return Verdict(QUESTIONS[0], row.name, hardly + verdict, tuple(numbers))
        numbers.append(f"savings {written(row.savings)}")
        verdict = {
            "more": self.said("mostly hidden, not gone" if row.savings.mean >= 0.5 else "in part hidden, not gone"),
            "same": self.said("relearned no sooner than by a model that never knew"),
            "less": self.said("relearned later than by a model that never knew"),
            "open": f"open: savings are too wide to say from {row.savings.n} seeds",
        }[direction(row.savings)]
        return Verdict(QUESTIONS[0], row.name, hardly + verdict, tuple(numbers))

    def distilled(self) -> Verdict:
        rows, suppressed = self.attacked("distilled"), self.suppressed
        if not rows:
            return Verdict(QUESTIONS[1], "", "not measured: no arm distils a suppressed model into a fresh network")
        row = rows[0]
        numbers = [self.recalled(row.name), *([f"savings {written(row.savings)}"] if row.savings else [])]
        difference = self._drop(suppressed, row) if suppressed else None
        if difference is None or suppressed is None:
            return Verdict(QUESTIONS[1], row.name, "not measured: there is no suppressed arm to compare with", tuple(numbers))
        what = "savings" if row.savings and suppressed.savings else "recall"
        numbers.append(f"{what} lower by {written(difference)}")
        verdict = {
            "more": self.said("harder to bring back than the suppressed model"),
            "less": self.said("easier to bring back than the suppressed model"),
            "same": self.said("no harder to bring back than the suppressed model"),
            "open": f"open: the spread over {difference.n} seeds does not settle it",
        }[direction(difference)]
        return Verdict(QUESTIONS[1], f"{row.name} against {suppressed.name}", verdict, tuple(numbers))

    def _drop(self, first: Row, second: Row) -> Estimate | None:
        """How much savings (without them: recall after ten steps) fall from one arm to another, paired by seed."""
        arms, reference = [self.outcome.arms[row.name] for row in (first, second)], self.outcome.reference
        if reference and first.savings and second.savings:
            return paired(*(savings_by_seed(arm, reference, self.outcome.level) for arm in arms))
        return paired(*(dict(zip(arm.owned.seeds, arm.owned.per_seed(self.steps(arm.name)), strict=True)) for arm in arms))

    def dial(self) -> Verdict:
        points = sorted((r for r in self.attacked("dial") if r.alpha is not None), key=lambda r: r.alpha or 0.0)
        if len(points) < 2:
            which = f"only one arm ({points[0].name}) adds" if points else "no arm adds"
            return Verdict(QUESTIONS[2], "", f"not measured: {which} noise before distilling (undo)")
        low, high = points[0], points[-1]
        if low.savings and high.savings:
            values = [p.savings.mean if p.savings else self.recall(p.name) for p in points]
            numbers = [f"savings {plain(values[0])} to {plain(values[-1])}"]
        else:
            values = [self.recall(p.name) for p in points]
            numbers = [self.recalled(low.name, high.name)]
        start, end = (p.relative or p.cost for p in (low, high))
        write = times if low.relative else flops
        numbers += [f"cost {write(start.mean)} to {write(end.mean)}"] if start and end else []
        dearer = bool(start and end and end.mean > 1.02 * start.mean)
        difference = self._drop(low, high)
        how = direction(difference) if difference else "open"
        if how == "more":
            verdict = "robustness is bought with compute" if dearer else "robustness rises at no extra compute"
            verdict += ", though not at every step between" if any(b > a + 0.02 for a, b in pairwise(values)) else ""
        elif how == "open":
            verdict = f"open: the spread over {len(self.outcome.seeds)} seeds does not settle it"
        else:
            verdict = "the extra compute bought no robustness" if dearer else "more noise bought no robustness"
        return Verdict(
            QUESTIONS[2], f"{low.name} (alpha {low.alpha:g}) to {high.name} (alpha {high.alpha:g})", self.said(verdict), tuple(numbers)
        )


@dataclass(frozen=True)
class Seen:
    """How a suppressed arm's loss on the forget set compares with that of a model that never knew."""

    name: str
    loss: Estimate
    never_knew: float
    """The reference's loss on the same seeds."""
    verdict: str


def losses_against_reference(outcome: Outcome) -> list[Seen]:
    """Every suppressed arm whose loss can be compared with the reference's, paired by seed."""
    reference = outcome.arms.get(outcome.recipe.reference)
    never = _losses(reference) if reference else {}
    found = []
    for row in rows(outcome):
        loss, gap = row.score("forget", "loss"), paired(_losses(outcome.arms[row.name]), never)
        if row.role == "suppressed" and loss is not None and gap is not None:
            told = {
                "less": "still finds the answers likelier",
                "more": "avoids the answers more than ignorance would, which gives the suppression away",
                "same": "passes for that model",
                "open": f"open over {gap.n} seeds",
            }[direction(gap)]
            found.append(Seen(row.name, loss, loss.mean - gap.mean, told))
    return found


def _losses(arm: Arm) -> dict[int, float]:
    """Loss on the forget set, by seed."""
    found = {seed: result.get("scores", {}).get("forget", {}).get("loss") for seed, result in arm.results.items()}
    return {seed: float(loss) for seed, loss in found.items() if loss is not None}
