"""What the oversight runs say, in words made from the numbers: nothing is called better whose interval holds 0."""

import math
from collections.abc import Sequence

from sluicegate.oversight.page_numbers import BEST, Found, apart, percent
from sluicegate.oversight.page_pictures import label_of
from sluicegate.report.numbers import has_interval, plain, short
from sluicegate.values.statistics import Estimate

STOPPED = ("naive_stopped", "naive_penalty_stopped")
NO_RIVAL = ("oracle", "placebo")
"""Arms that nobody could train (the oracle), or that are there to fail."""
CLOSE = 0.06
"""Return within which an arm is said to stand at the ceiling."""


def sentences(found: Found) -> list[tuple[str, str]]:
    """The conclusion, each part with a head: when routing helps, how far it gets, why, and what does better."""
    said = [("One seed.", _single_seed(found)), ("Against naive training.", _against_naive(found))]
    said += [
        ("Something simpler?", _against_all(found)),
        ("The ceiling.", _ceiling(found)),
        ("Routing, or its labels?", _labels_alone(found)),
    ]
    said += [
        ("What the repairs are worth.", _parts(found)),
        ("Past the ceiling?", _avoiding(found)),
        ("What the overseer sees.", _overseer(found)),
    ]
    said += [("Three policies in one net.", _experts(found)), ("Controls.", " ".join(filter(None, (_placebo(found), _oracle(found)))))]
    return [(head, text) for head, text in said if text]


def _single_seed(found: Found) -> str:
    return (
        f"Every number is a single measurement of seed {found.seeds[0]}: nothing is called better or worse."
        if len(found.seeds) == 1
        else ""
    )


def difference(e: Estimate) -> str:
    """+0.18 (0.10 to 0.26), with its sign."""
    text = ("+" if round(e.mean, 2) > 0 else "") + plain(e.mean)
    return f"{text} ({plain(e.low)} to {plain(e.high)})" if has_interval(e) else text


def _returned(e: Estimate) -> str:
    return f"{plain(e.mean)} ({plain(e.low)} to {plain(e.high)})" if has_interval(e) else plain(e.mean)


def _by_verdict(pairs: Sequence[tuple[float, Estimate]], ahead: str, behind: str, same: str) -> str:
    """Shares grouped by what the difference says: "ahead at 1 % (+0.18 ...) and 5 % (...), behind at 30 % (...)"."""
    words = {1: ahead, 0: same if any(has_interval(e) for _, e in pairs) else "different", -1: behind}
    parts = []
    for verdict, word in ((1, words[1]), (0, words[0]), (-1, words[-1])):
        those = [f"{percent(p)}: {difference(e)}" for p, e in pairs if apart(e) == verdict]
        if those:
            parts.append(f"{word} at {'; '.join(those)}")
    return short(parts) if len(parts) < 3 else "; ".join(parts)


def _against_naive(found: Found) -> str:
    """Routed against naive training with early stopping, at each share against the better of what there is of it."""
    if BEST not in found.names:
        return ""
    rivals = [name for name in STOPPED if name in found.names] or [name for name in ("naive_penalty", "naive") if name in found.names]
    if not rivals:
        return ""
    best = {share: max(rivals, key=lambda name: found.estimate(share, name).mean) for share in found.shares}
    pairs = [(share, found.ahead(share, rival)) for share, rival in best.items()]
    stopped = "stopped by overseen data alone" if rivals[0] in STOPPED else "without early stopping"
    which = f"naive training {stopped}" + (", at each share the one of its two forms that does better in truth" if len(rivals) > 1 else "")
    verdicts = {apart(e) for _, e in pairs}
    if verdicts == {1}:
        head = "Routing beats naive training"
    elif verdicts == {-1}:
        head = "Routing is worse than naive training"
    elif 1 in verdicts:
        helped = [share for share, e in pairs if apart(e) == 1]
        few = max(helped) < min((share for share, e in pairs if apart(e) != 1))
        head = "Routing helps where few squares are overseen" if few else "Routing helps at some shares of oversight"
    elif verdicts == {0} and len(found.seeds) > 1:
        head = "Routing is not told apart from naive training"
    else:
        head = "Routing against naive training"
    return f"{head}. Against {which}, its return is {_by_verdict(pairs, 'higher', 'lower', 'not told apart')}."


def _against_all(found: Found) -> str:
    """Which arms, that anybody could train, do better than the routed one, share by share."""
    if BEST not in found.names:
        return ""
    rivals = [name for name in found.names if name != BEST and not name.startswith(BEST) and name not in NO_RIVAL]
    if not rivals or len(found.seeds) == 1:
        return ""
    by_share = {}
    for share in found.shares:
        better = [name for name in rivals if apart(found.ahead(share, name)) == -1]
        by_share[share] = sorted(better, key=lambda name: -found.estimate(share, name).mean)
    if not any(by_share.values()):
        unsure = [share for share in found.shares if any(found.ahead(share, name).mean < 0 for name in rivals)]
        more = f" (at {short([percent(p) for p in unsure])} some are above it on average, but not told apart)" if unsure else ""
        return f"No other arm is shown to do better than routing at any share{more}."
    always = [label_of(name) for name in rivals if all(name in names for names in by_share.values())]
    head = f"{short(always)} {'do' if len(always) > 1 else 'does'} better than routing at every share tried." if always else ""
    told = []
    for share, names in by_share.items():
        at = ", ".join(f"{label_of(name)} {plain(found.estimate(share, name).mean)}" for name in names) or "nobody is shown to be"
        told.append(f"at {percent(share)} (routed {plain(found.estimate(share, BEST).mean)}): {at}")
    return f"{head[:1].upper()}{head[1:]} Better than routing are, {'; '.join(told)}.".strip()


def _ceiling(found: Found) -> str:
    """Where the routed arm stands beside a path that ignores the Ghost, and whether more labels move it."""
    if BEST not in found.names:
        return ""
    top, best = found.reference("ceiling"), found.reference("optimal")
    if math.isnan(top):
        return ""
    told = [found.estimate(share, BEST) for share in found.shares]
    at = ", ".join(f"{plain(e.mean)} at {percent(p)}" for p, e in zip(found.shares, told, strict=True))
    beside = (
        f"A shortest path to the Diamond that ignores the Ghost earns {plain(top, 3)}, the optimum {plain(best, 3)}; routed earns {at}."
    )
    gaps = [e.mean - top for e in told]
    if all(abs(gap) <= CLOSE for gap in gaps):
        why = "It learns to go to the Diamond and, since seen Ghosts only ever teach the other expert, not to go round the Ghost."
        flat = " More labels do not help it past that." if len(gaps) > 1 else ""
        return f"{beside} So it stands at that ceiling (within {CLOSE:g}). {why}{flat}"
    if all(gap > CLOSE for gap in gaps):
        return f"{beside} So it is above that ceiling at every share."
    if all(gap < -CLOSE for gap in gaps):
        return f"{beside} So it does not reach that ceiling."
    return beside


def _labels_alone(found: Found) -> str:
    """What is left of the gain next to one net with the same labels and losses."""
    if not {BEST, "single"} <= {*found.names}:
        return ""
    pairs = [(share, found.ahead(share, "single")) for share in found.shares]
    verdicts = [apart(e) for _, e in pairs]
    text = f"Next to a single net with the same labels and losses, routed is {_by_verdict(pairs, 'higher', 'lower', 'not told apart')}."
    if len(found.seeds) == 1:
        return text
    if 1 not in verdicts:
        return f"{text} So routing as such is not shown to add anything here."
    if -1 in verdicts or 0 in verdicts:
        return f"{text} So it is at {short([percent(p) for p, e in pairs if apart(e) == 1])} only that routing as such adds something."
    return f"{text} So routing as such adds something at every share."


def _parts(found: Found) -> str:
    """What each repair of the paper's losses is worth, where it was taken out."""
    if BEST not in found.names:
        return ""
    share, told = found.shares[0], []
    for name, what, why in (
        ("routed_baseline", "keeping the value baseline on labelled episodes",
         "A baseline is unbiased only where what learns does not depend on the outcome; under routing it does, and the baseline takes "
         "away what tells Diamond from Ghost."),
        ("routed_unweighted", "counting labelled episodes once", "So few labels are drowned by the rest."),
        ("routed_flags", "letting the gate see the flags", "On labelled episodes the flag gives the label away."),
        ("routed_constant", "a gate that is always a half", "Without a gate, nobody says which expert a square belongs to."),
        ("routed_paper", "leaving the paper's losses as they are", ""),
    ):  # fmt: skip
        if name not in found.names:
            continue
        e = found.ahead(share, name)
        pair = f"{plain(found.estimate(share, name).mean)} instead of {plain(found.estimate(share, BEST).mean)}"
        if apart(e) == 1:
            told.append(f"{what} gives {pair} ({difference(e)}). {why}".strip())
        elif apart(e) == -1:
            told.append(f"{what} gives {pair}: it is better without ({difference(e)}).")
        else:
            told.append(f"{what} gives {pair}, which is not told apart ({difference(e)}).")
    return f"At {percent(share)}: " + " ".join(text[0].upper() + text[1:] for text in told) if told else ""


def _avoiding(found: Found) -> str:
    """Whether what seen Ghosts teach breaks the ceiling, and whether routing is needed for it."""
    if BEST not in found.names:
        return ""
    told = []
    for name in ("routed_negative", "routed_avoid"):
        if name not in found.names:
            continue
        pairs = [(share, found.ahead(share, BEST, first=name)) for share in found.shares]
        text = f"Letting seen Ghosts count ({label_of(name)}), the return is {_by_verdict(pairs, 'higher', 'lower', 'not told apart')}."
        for control, what in (("single_avoid", "with a single net"), ("any_avoid", "with a net that walks to any end")):
            if name == "routed_avoid" and control in found.names:
                beside = [(share, found.ahead(share, control, first=name)) for share in found.shares]
                text += f" Beside the same {what} it is {_by_verdict(beside, 'higher', 'lower', 'not told apart')}."
        told.append(text)
    return " ".join(told)


def _overseer(found: Found) -> str:
    """What the overseer of naive training sees, and what is true."""
    if "naive" not in found.names:
        return ""
    share = found.shares[0]
    told, true = found.last(share, "naive", "overseen"), found.estimate(share, "naive")
    if told is None:
        return ""
    peek = found.estimate(share, "naive", rule="peek")
    late = told.mean - true.mean > 0.3 and peek.mean < 0.5 * found.reference("optimal")
    tail = (
        f" Even the best of its looks by true return, which nobody could pick, earns {_returned(peek)}: there is no good phase to stop in."
    )
    return (
        f"Naive training at {percent(share)} looks like {_returned(told)} to its overseer and is {_returned(true)}.{tail if late else ''}"
    )


def _experts(found: Found) -> str:
    """The three policies that one routed net holds."""
    if BEST not in found.names:
        return ""
    share = found.shares[0]
    mixture, ghost = (found.last(share, BEST, figure) for figure in ("mixture", "ghost_expert"))
    if mixture is None or ghost is None:
        return ""
    diamond = found.last(share, BEST, "return")
    assert diamond is not None
    gate = found.last(share, BEST, "gate_accuracy")
    right = f" On unseen boards the gate opens towards the nearer end in {plain(100 * gate.mean, 0)} % of the states." if gate else ""
    return (
        f"One routed net at {percent(share)} holds three policies: steered to its Diamond expert it earns {_returned(diamond)}, "
        f"as the mixture that it is trained as {_returned(mixture)}, steered to its Ghost expert {_returned(ghost)}.{right}"
    )


def _placebo(found: Found) -> str:
    if "placebo" not in found.names:
        return ""
    told = [found.estimate(share, "placebo") for share in found.shares]
    at = ", ".join(f"{plain(e.mean)} at {percent(p)}" for p, e in zip(found.shares, told, strict=True))
    held = [e for e in told if not math.isnan(e.low)]
    if held and all(e.low <= 0 <= e.high for e in held):
        return f"With labels by the toss of a coin the routed net earns {at}, not told apart from nothing: it is the labels that count."
    return f"With labels by the toss of a coin the routed net earns {at}."


def _oracle(found: Found) -> str:
    if "oracle" not in found.names:
        return ""
    told = [found.estimate(share, "oracle").mean for share in found.shares]
    low, best = min(told), found.reference("optimal")
    if math.isnan(best):
        return f"With every end judged rightly, the same net earns {plain(low)} at the least."
    enough = (
        "so the budget is enough to learn the task" if low > best - 0.05 else "so the budget itself is short: all arms are held back by it"
    )
    return f"With every end judged rightly, the same net earns {plain(low)} at the least (optimum {plain(best, 3)}), {enough}."
