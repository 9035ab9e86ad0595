"""What the oversight runs allow to say: a verdict a question, with a number for each share.

Nothing is called better whose interval holds 0.
"""

import math
from collections.abc import Iterable, Sequence

from sluicegate.report.formatting import has_interval, plain
from sluicegate.report.html import Verdict
from sluicegate.values.statistics import Estimate
from sluicegate_papers.oversight.page_numbers import BEST, Found, apart, percent
from sluicegate_papers.oversight.page_pictures import label_of

NO_RIVAL = ("oracle", "placebo")
"""Arms that nobody could train (the oracle), or that are there to fail."""
CLOSE = 0.06
"""Return within which an arm is said to stand at the ceiling."""
COMPARED = (
    ("Does routing beat naive training?", BEST, ("naive_stopped", "naive_penalty_stopped")),
    ("Does routing add to its labels?", BEST, ("single",)),
    ("Does it matter to keep the baseline off labelled episodes?", BEST, ("routed_baseline",)),
    ("Does it matter to count labelled episodes more than once?", BEST, ("routed_unweighted",)),
    ("Does it matter to hide the flags from the gate?", BEST, ("routed_flags",)),
    ("Does it matter that the gate learns?", BEST, ("routed_constant",)),
    ("Do all repairs of the paper's losses matter?", BEST, ("routed_paper",)),
    ("Does it help to count seen Ghosts?", "routed_negative", (BEST,)),
    ("Does it help to avoid seen Ghosts?", "routed_avoid", (BEST,)),
    ("Is routing needed to avoid them?", "routed_avoid", ("single_avoid",)),
    ("Is an expert for each end needed to avoid them?", "routed_avoid", ("any_avoid",)),
)
"""Question, an arm, and what it is compared with: of several, at each share the one with the highest return."""
UNSTOPPED = ("naive_penalty", "naive")
"""What stands in for naive training with early stopping where there is none."""


def verdicts(found: Found) -> list[Verdict]:
    """All questions that these arms can answer."""
    rows = [row for question in COMPARED if (row := _compare(found, *question))]
    more = (_better(found), _ceiling(found), _overseer(found), _placebo(found), _oracle(found))
    return rows + [row for row in more if row is not None]


def policies(found: Found) -> list[tuple[str, list[Estimate | None]]]:
    """The three policies that one routed net holds, at each share, and on how many unseen states the gate opens to the
    nearer end."""
    if BEST not in found.names:
        return []
    rows = [(percent(p), [found.last(p, BEST, f) for f in ("return", "mixture", "ghost_expert", "gate_accuracy")]) for p in found.shares]
    return [(share, cells) for share, cells in rows if any(cells[1:])]


def difference(e: Estimate) -> str:
    """+0.18 (0.10 to 0.26), with its sign."""
    text = ("+" if round(e.mean, 2) > 0 else "") + plain(e.mean)
    return f"{text} ({plain(e.low)} to {plain(e.high)})" if has_interval(e) else text


def _compare(found: Found, question: str, first: str, others: Sequence[str]) -> Verdict | None:
    """One arm less another at every share, paired by seed."""
    there = [name for name in others if name in found.names]
    if "naive_stopped" in others and not there:
        there = [name for name in UNSTOPPED if name in found.names]
    if first not in found.names or not there:
        return None
    best = [max(there, key=lambda name: found.estimate(share, name).mean) for share in found.shares]
    gaps = [found.ahead(share, name, first=first) for share, name in zip(found.shares, best, strict=True)]
    arms = f"{label_of(first)} less {' or '.join(map(label_of, there))}"
    verdict = _over_shares(found, list(map(apart, gaps))) if len(found.seeds) > 1 else "one seed: not told apart"
    return Verdict(question, arms, verdict, _by_share(found, map(difference, gaps)))


def _by_share(found: Found, numbers: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{percent(share)}: {number}" for share, number in zip(found.shares, numbers, strict=True) if number)


def _over_shares(found: Found, signs: Sequence[int], words: Sequence[str] = ("lower", "not told apart", "higher")) -> str:
    """At which shares the number lies to which side: signs -1, 0, 1."""
    if len({*signs}) == 1:
        return f"{words[signs[0] + 1]} at every share"
    at = {sign: ", ".join(percent(p) for p, s in zip(found.shares, signs, strict=True) if s == sign) for sign in (1, 0, -1)}
    return "; ".join(f"{words[sign + 1]} at {shares}" for sign, shares in at.items() if shares)


def _better(found: Found) -> Verdict | None:
    """Which arms that anybody could train do better than the routed one, share by share."""
    rivals = [name for name in found.names if not name.startswith(BEST) and name not in NO_RIVAL]
    if BEST not in found.names or not rivals or len(found.seeds) == 1:
        return None
    better = [[name for name in rivals if apart(found.ahead(share, name)) == -1] for share in found.shares]
    cells = _by_share(found, (", ".join(map(label_of, names)) or "none" for names in better))
    always = [label_of(name) for name in rivals if all(name in names for names in better)]
    verdict = f"{', '.join(always)} at every share" if always else "at some shares" if any(better) else "no other arm is shown to"
    return Verdict("Does something simpler do better?", f"arms above {label_of(BEST)}", verdict, cells)


def _ceiling(found: Found) -> Verdict | None:
    """Where the routed arm stands beside a shortest path to the Diamond that ignores the Ghost."""
    top = found.reference("ceiling")
    if BEST not in found.names or math.isnan(top):
        return None
    gaps = [found.estimate(share, BEST).mean - top for share in found.shares]
    signs = [0 if abs(gap) <= CLOSE else int(math.copysign(1, gap)) for gap in gaps]
    verdict = _over_shares(found, signs, ("below it", f"at it (within {CLOSE:g})", "above it"))
    return Verdict(
        "Does routing pass the ceiling?",
        f"{label_of(BEST)} less the ceiling of {plain(top, 3)}",
        verdict,
        _by_share(found, map(plain, gaps)),
    )


def _overseer(found: Found) -> Verdict | None:
    """What the overseer of naive training sees, less what is true, and whether training had a phase that was good in
    truth."""
    if "naive" not in found.names:
        return None
    seen = [found.last(share, "naive", "overseen") for share in found.shares]
    true, peek = ([found.estimate(share, "naive", rule=rule) for share in found.shares] for rule in ("", "peek"))
    if seen[0] is None:
        return None
    late = seen[0].mean - true[0].mean > 0.3 and peek[0].mean < 0.5 * found.reference("optimal")
    cells = _by_share(found, (f"{plain(s.mean)} seen, {plain(t.mean)} true" if s else "" for s, t in zip(seen, true, strict=True)))
    best = f"its best look by true return earns {plain(peek[0].mean)} at {percent(found.shares[0])}"
    return Verdict("What does the overseer see?", label_of("naive"), f"{best}: no good phase to stop in" if late else best, cells)


def _placebo(found: Found) -> Verdict | None:
    if "placebo" not in found.names:
        return None
    told = [found.estimate(share, "placebo") for share in found.shares]
    nothing = len(found.seeds) > 1 and all(e.low <= 0 <= e.high for e in told)
    verdict = "nothing is learnt from labels by chance: it is the labels that count" if nothing else "its return is told apart from 0"
    return Verdict("Is it the labels?", label_of("placebo"), verdict, _by_share(found, (plain(e.mean) for e in told)))


def _oracle(found: Found) -> Verdict | None:
    if "oracle" not in found.names:
        return None
    told, best = [found.estimate(share, "oracle").mean for share in found.shares], found.reference("optimal")
    short = "the budget itself is short: all arms are held back by it"
    verdict = "the optimum is not known" if math.isnan(best) else "the budget is enough" if min(told) > best - 0.05 else short
    return Verdict("Can the net learn the task?", label_of("oracle"), verdict, _by_share(found, map(plain, told)))
