"""What an experiment means, in sentences computed from its numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from sluicegate.experiments.experiment import Outcome, savings_by_seed
from sluicegate.experiments.rows import paired, rows
from sluicegate.report.arms import Row
from sluicegate.report.numbers import flops, has_interval, percent, plain, short, times
from sluicegate.runs.arm import Arm
from sluicegate.values.statistics import Estimate

Direction = Literal["more", "less", "same", "open"]

TELLING = 0.6
"""An interval wider than this, with zero inside, tells neither that there is a difference nor that there is none."""
CLOSE = 0.1
"""With one seed there is no interval; two numbers nearer than this are called equal."""
_MOST = 3
"""Suppressed arms whose scores are put in words."""


def direction(difference: Estimate) -> Direction:
    """What an estimate of a difference allows to say: more, less, the same, or nothing (open)."""
    if not has_interval(difference):
        return "more" if difference.mean > CLOSE else "less" if difference.mean < -CLOSE else "same"
    if difference.low > 0:
        return "more"
    if difference.high < 0:
        return "less"
    return "same" if difference.high - difference.low <= TELLING else "open"


def sentences(outcome: Outcome) -> list[str]:
    """Three sentences: what suppression did, what distilling it did, and what the dial buys."""
    table = rows(outcome)
    if not any(arm.attacks for arm in outcome.arms.values()):
        return _without_attack(table)
    found = _Reading(outcome, table)
    return [found.suppression(), found.distilled(), found.dial()]


def seeds_note(outcome: Outcome) -> str:
    """What the intervals on this page are."""
    n = len(outcome.seeds)
    if n == 1:
        return "One seed: every number is a single measurement, and there are no intervals. A second run could come out differently."
    note = f"Means over {n} seeds; brackets are 95 % intervals (Student's t over seeds)."
    return note + " With so few seeds they are wide, and rightly so." if n < 4 else note


def in_words(found: Estimate) -> str:
    """An estimate inside a sentence: at least 0.55 [0.41 to 0.69]."""
    bound = f"{found.bound} " if found.bound else ""
    return f"{bound}{plain(found.mean)}" + (f" [{plain(found.low)} to {plain(found.high)}]" if has_interval(found) else "")


@dataclass(frozen=True)
class _Reading:
    outcome: Outcome
    table: Sequence[Row]

    def first(self, role: str) -> Row | None:
        attacked = [row for row in self.table if row.role == role and self.outcome.arms[row.name].attacks]
        return attacked[0] if attacked else None

    @property
    def suppressed(self) -> Row | None:
        """The suppressed arm that others are distilled from, else the first."""
        recipe = self.outcome.recipe
        later = [a for row in self.table if row.role in ("distilled", "dial") for a in recipe.ancestors(row.name)]
        candidates = [row for row in self.table if row.role == "suppressed" and self.outcome.arms[row.name].attacks]
        return next((row for row in candidates if row.name in later), candidates[0] if candidates else None)

    def recall(self, name: str) -> Estimate:
        curve = self.outcome.arms[name].owned
        return curve.at(self.steps(name))

    def steps(self, name: str) -> float:
        curve = self.outcome.arms[name].owned
        return max(curve.effort[0], min(10.0, curve.budget))

    def effort(self, name: str) -> str:
        return f"{self.steps(name):g} {self.outcome.arms[name].owned.unit}"

    def never_knew(self) -> str:
        reference = self.outcome.arms.get(self.outcome.recipe.reference)
        if reference is None or not reference.attacks:
            return ""
        return f" (a model that never knew: {percent(self.recall(reference.name).mean)})"

    def chance(self) -> str:
        """The caveat of a single seed."""
        return " (one seed)" if len(self.outcome.seeds) == 1 else ""

    def suppression(self) -> str:
        row = self.suppressed
        if row is None:
            return self._extremes()
        forget, retain = row.score("forget"), row.score("retain")
        of = "set" if row.by == "exact" else "tokens"
        shown = (("forget", forget), ("retain", retain))
        knows = ", ".join(f"{percent(score.mean)} of the {group} {of}" for group, score in shown if score is not None)
        does = "answers" if row.by == "exact" else "has for first choice"
        knows = f"the model {does} {knows.replace(', ', ' and ')}" if knows else "the model was not scored"
        hardly = forget is not None and forget.mean >= 0.5
        head = f"{'Hardly suppressed' if hardly else 'Suppressed'} ({row.name}), {knows}"
        back = f"{self.effort(row.name)} bring {percent(self.recall(row.name).mean)} of the attacker's facts back{self.never_knew()}"
        if row.savings is None:
            return f"{head}; {back}; without savings against a reference nobody can say how much of that is plain learning."
        words = in_words(row.savings)
        how = direction(row.savings)
        if how == "more":
            kept = "mostly hidden, not gone" if row.savings.mean >= 0.5 else "in part hidden, not gone"
            return f"{head}, but {back}: savings are {words}, so the knowledge was {kept}{self.chance()}."
        if how == "open":
            return f"{head}; {back}; savings are {words}, too wide to say from {row.savings.n} seeds whether it was hidden or is gone."
        sooner = "no sooner" if how == "same" else "later"
        return f"{head}, and {back}: savings are {words}, so it is relearned {sooner} than by a model that never knew{self.chance()}."

    def _extremes(self) -> str:
        others = [r for r in self.table if r.role not in ("reference", "pretrained") and self.outcome.arms[r.name].attacks]
        ranked = sorted(others, key=lambda r: self.recall(r.name).mean)
        if not ranked:
            return "No arm beside the reference was attacked, so there is nothing to compare."
        slow, fast = ranked[0], ranked[-1]
        back = percent(self.recall(slow.name).mean)
        text = f"No arm suppresses (verb unlearn); {self.effort(slow.name)} bring back {back} in {slow.name}"
        if fast is not slow:
            text += f", the slowest, and {percent(self.recall(fast.name).mean)} in {fast.name}, the fastest"
        return f"{text}{self.never_knew()}."

    def distilled(self) -> str:
        row = self.first("distilled")
        if row is None:
            return "No arm distils a suppressed model into a fresh network, so what that would do was not measured here."
        retain = row.score("retain")
        keeps = f" keeps {percent(retain.mean)} of the retain set and" if retain else ""
        into = "another network" if any(key == "student" for key, _ in row.made_from) else "a fresh network"
        back = f"gives back {percent(self.recall(row.name).mean)} after {self.effort(row.name)}"
        head = f"Distilled into {into} ({row.name}), the suppressed model{keeps} {back}"
        if row.savings is not None:
            head += f", savings {in_words(row.savings)}"
        cost = f", at {times(row.relative.mean)} the reference's FLOPs" if row.relative else ""
        suppressed = self.suppressed
        difference = self._drop(suppressed, row) if suppressed else None
        if difference is None or suppressed is None:
            return f"{head}{cost}."
        unit = f"{plain(abs(difference.mean))} {'lower' if difference.mean >= 0 else 'higher'} than {suppressed.name}'s"
        verdict = {
            "more": f"harder to bring back than the suppressed model{self.chance()}",
            "less": f"easier to bring back than the suppressed model{self.chance()}",
            "same": f"no harder to bring back than the suppressed model{self.chance()}",
            "open": f"{unit}, which the spread over {difference.n} seeds does not settle",
        }[direction(difference)]
        return f"{head}: {verdict}{cost}."

    def _drop(self, first: Row, second: Row) -> Estimate | None:
        """How much savings (without them: recall after ten steps) fall from one arm to another, paired by seed."""
        outcome = self.outcome
        one, two = outcome.arms[first.name], outcome.arms[second.name]
        reference = outcome.arms.get(outcome.recipe.reference)
        if reference is not None and reference.attacks and first.savings and second.savings:
            level = outcome.level
            return paired(savings_by_seed(one, reference, level), savings_by_seed(two, reference, level))
        recalls = [dict(zip(arm.owned.seeds, arm.owned.per_seed(self.steps(arm.name)), strict=True)) for arm in (one, two)]
        return paired(*recalls)

    def dial(self) -> str:
        points = sorted(
            (r for r in self.table if r.role == "dial" and r.alpha is not None and self.outcome.arms[r.name].attacks),
            key=lambda r: r.alpha or 0.0,
        )
        if len(points) < 2:
            which = f"Only one arm ({points[0].name}) adds" if points else "No arm adds"
            return f"{which} noise before distilling (undo), so what robustness costs along that dial was not measured here."
        low, high = points[0], points[-1]
        by_savings = low.savings is not None and high.savings is not None
        what = "savings" if by_savings else f"recall after {self.effort(low.name)}"
        values = [p.savings.mean if by_savings and p.savings else self.recall(p.name).mean for p in points]
        way = f"from {plain(values[0])} to {plain(values[-1])}" if by_savings else f"from {percent(values[0])} to {percent(values[-1])}"
        costs = [(p.relative or p.cost) for p in points]
        start, end = (c.mean if c else math.nan for c in (costs[0], costs[-1]))
        write, of = (times, " the reference's FLOPs") if low.relative else (_in_flops, "")
        price = f"at {write(start)} to {write(end)}{of}" if math.isfinite(start + end) else "at a cost that was not recorded"
        head = f"Turning the noise up from alpha {low.alpha:g} to {high.alpha:g} takes {what} {way}, {price}"
        difference = self._drop(low, high)
        how = direction(difference) if difference else "open"
        dearer = end > 1.02 * start
        if how == "more":
            verdict = "robustness is bought with compute" if dearer else "robustness rises at no extra compute"
            if any(later > earlier + 0.02 for earlier, later in pairwise(values)):
                verdict += ", though not at every step between"
        elif how == "open":
            verdict = f"the spread over {len(self.outcome.seeds)} seeds does not settle whether that is robustness"
        else:
            verdict = "the extra compute bought no robustness" if dearer else "more noise bought no robustness"
        return f"{head}: {verdict}{self.chance()}."


def _in_flops(value: float) -> str:
    return f"{flops(value)}FLOPs"


def _without_attack(table: Sequence[Row]) -> list[str]:
    found = ["No attack was run, so nothing here says how easily anything comes back: scores alone cannot tell hidden from gone."]
    answered = [(row, row.score("forget")) for row in table]
    known = [f"{row.name} {percent(score.mean)}" for row, score in answered if score]
    found.append(f"Of the forget set the arms answer: {short(known)}." if known else "No arm was scored on a forget set.")
    kept = [f"{row.name} {percent(score.mean)}" for row in table if (score := row.score("retain"))]
    found.append(f"Of the retain set they answer: {short(kept)}." if kept else "No arm was scored on a retain set.")
    return found


def what_the_scores_show(outcome: Outcome) -> list[str]:
    """How every suppressed arm looks by its first choice, and how by probability and loss against the reference."""
    reference = outcome.arms.get(outcome.recipe.reference)
    never = _losses(reference) if reference else {}
    found = []
    for row in rows(outcome):
        exact, probability, loss = (row.score("forget", m) for m in ("exact", "probability", "loss"))
        if row.role != "suppressed" or not (exact and probability and loss):
            continue
        text = (
            f"{row.name} answers {percent(exact.mean)} of the forget set by first choice; it gives the right answers a probability of "
            f"{percent(probability.mean)} on average, at a loss of {plain(loss.mean)} nats a token"
            if row.by == "exact"
            else f"{row.name} reads the forget set at a loss of {plain(loss.mean)} nats a token"
        )
        gap = paired(_losses(outcome.arms[row.name]), never)
        if gap is None:
            found.append(f"{text}.")
            continue
        told = {
            "less": "it still finds the answers likelier than that model does",
            "more": "it avoids the answers more than ignorance would, which itself gives away that something was suppressed",
            "same": "by its loss it passes for that model",
            "open": f"the spread over {gap.n} seeds does not settle whether its loss gives it away",
        }[direction(gap)]
        found.append(f"{text}, where a model that never knew has {plain(loss.mean - gap.mean)}: {told}.")
    if len(found) > _MOST:
        return [*found[:_MOST], f"The table has the other {len(found) - _MOST} suppressed arms."]
    return found


def _losses(arm: Arm) -> dict[int, float]:
    """Loss on the forget set, by seed."""
    found = {seed: result.get("scores", {}).get("forget", {}).get("loss") for seed, result in arm.results.items()}
    return {seed: float(loss) for seed, loss in found.items() if loss is not None}
