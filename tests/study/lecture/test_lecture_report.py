"""The report of a lecture: its intervals cover, its verdict waits for numbers, its chains break where they broke."""

import math

import numpy as np
import pytest

from sluicegate_study.lecture.lecture import Claim
from sluicegate_study.lecture.record import Course, Record, draw_arms
from sluicegate_study.lecture.report import FEWEST, estimate_difference, estimate_gap, follow_chains, make_report


def simulated(seed, claims=40, distance=0.3, cards=0.0, arms=True):
    """A reader who predicts p and rebuilds with chance p - distance (plus `cards` where there are some)."""
    draw = np.random.default_rng(seed)
    made = [Claim(f"c{n}", f"text {n}") for n in range(claims)]
    coin = draw_arms(made, seed, cards=arms)
    records = []
    for claim in made:
        p = float(draw.choice([0.4, 0.5, 0.6, 0.7, 0.8, 0.9]))
        help_ = cards if coin[claim.name] == "cards" else 0.0
        right = bool(draw.random() < min(1.0, p - distance + help_))
        records.append(Record(claim, arm=coin[claim.name], predicted=p, right=right, sense=True, verdict="accept" if right else "reject"))
    return Course(records)


def test_the_interval_covers_the_gap_of_a_simulated_reader():
    found = [make_report(simulated(seed), draws=1000).all.gap for seed in range(300)]
    assert np.mean([g.low <= 0.3 <= g.high for g in found]) >= 0.93
    # It is no wider than it must be: the means spread by as much as the intervals say.
    spread = np.std([g.value for g in found])
    assert np.mean([(g.high - g.low) / 2 for g in found]) < 1.3 * 2 * spread


def test_the_interval_covers_at_the_least_number_of_claims():
    found = [make_report(simulated(seed, claims=FEWEST, arms=False), draws=1000).all.gap for seed in range(300)]
    assert np.mean([g.low <= 0.3 <= g.high for g in found]) >= 0.93


def test_what_cards_do_is_covered_too():
    found = [make_report(simulated(seed, claims=60, cards=0.3), draws=100).cards_help for seed in range(300)]
    assert np.mean([d.low <= 0.3 <= d.high for d in found]) >= 0.93


def test_the_verdict():
    assert make_report(simulated(1)).verdict.startswith("illusion")
    assert make_report(simulated(1, claims=60, distance=0)).verdict.startswith("not told apart")
    assert make_report(simulated(1, claims=60, distance=-0.3)).verdict.startswith("the other way round")


def test_below_twenty_an_arm_there_is_none():
    found = make_report(simulated(0, claims=38))
    assert found.missing == {"cards": 1, "none": 1}
    assert found.verdict == "too few claims to tell: 1 more with cards and 1 more without cards needed (20 an arm)"
    assert make_report(simulated(0, claims=40)).missing == {"cards": 0, "none": 0}
    alone = make_report(simulated(0, claims=19, arms=False))
    assert alone.verdict == "too few claims to tell: 1 more in all needed (20 an arm)"
    assert math.isnan(alone.cards_help.value)
    assert make_report(Course([])).verdict.startswith("too few")


def test_all_right_is_not_certainty():
    g = estimate_gap([0.5] * 20, [True] * 20)
    assert g.value == g.low == -0.5
    assert g.high == pytest.approx(-0.5 + 1 - 0.025 ** (1 / 20))
    assert estimate_gap([0.5] * 20, [False] * 20).low == pytest.approx(0.5 - 1 + 0.025 ** (1 / 20))
    assert math.isnan(estimate_gap([0.5], [True]).low)


def test_the_difference_is_newcombes():
    def arm(right, n):
        return [Record(Claim("a", "x"), right=k < right) for k in range(n)]

    # Newcombe (1998), table II, method 10: 56/70 - 48/80 and 10/10 - 0/10.
    found = estimate_difference(arm(56, 70), arm(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    found = estimate_difference(arm(10, 10), arm(0, 10))
    assert (found.low, found.high) == pytest.approx((0.6075, 1.0), abs=1e-4)


def chained(*right):
    needs = {"b": ("a",), "c": ("b",), "e": ("a", "d")}
    return [Record(Claim(n, n, needs.get(n, ())), predicted=0.5, right=r) for n, r in zip("abcde", right, strict=True)]


def test_chains_and_the_first_broken_link():
    course = Course(chained(True, True, True, False, True))
    found = make_report(course)
    assert follow_chains(course.records) == [("c", True), ("e", False)]
    assert (found.rebuild_rate, found.first_broken, found.broken) == (0.5, "d", ("d",))
    found = make_report(Course(chained(False, True, False, True, True)))
    assert (found.rebuild_rate, found.first_broken, found.broken) == (0.0, "a", ("a", "c"))
    assert follow_chains(chained(True, None, True, True, True)) == [("e", True)]
    void = chained(True, True, True, True, True)
    void[3].void = True
    assert follow_chains(void) == [("c", True)]
