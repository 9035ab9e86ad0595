import json
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sluicegate.errors import UserError
from sluicegate.values.curves import Curve, stack

shares = st.floats(0, 1)


@st.composite
def curves(draw):
    points, n = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    efforts = draw(st.lists(st.integers(0, 200), min_size=points, max_size=points, unique=True))
    row = st.lists(shares, min_size=points, max_size=points).map(tuple)
    return Curve(tuple(map(float, sorted(efforts))), tuple(draw(st.lists(row, min_size=n, max_size=n))), tuple(range(n)), attack="a")


@given(curve=curves(), s=st.floats(0.01, 1))
def test_savings_of_a_curve_against_itself_are_nothing(curve, s):
    assume(curve.budget > 0 and min(curve.effort_to(s)) > 0)
    assert curve.savings(curve, s).mean == 0


@given(curve=curves(), low=st.floats(0.01, 1), high=st.floats(0.01, 1))
def test_more_recall_never_costs_less_effort(curve, low, high):
    low, high = sorted((low, high))
    assert all(a <= b for a, b in zip(curve.effort_to(low), curve.effort_to(high), strict=True))


@given(curve=curves(), place=shares)
def test_recall_at_an_effort_lies_within_what_was_measured(curve, place):
    effort = curve.effort[0] + place * (curve.budget - curve.effort[0])
    for value, row in zip(curve.per_seed(min(effort, curve.budget)), curve.recall, strict=True):
        assert min(row) - 1e-9 <= value <= max(row) + 1e-9
    found = curve.at(min(effort, curve.budget))
    assert math.isnan(found.low) == (found.n == 1)
    assert found.n == 1 or -1e-9 <= found.low <= found.mean + 1e-9 <= found.high + 2e-9 <= 1 + 3e-9


@given(curve=curves(), s=st.floats(0.01, 1))
def test_recall_at_the_effort_to_a_level_is_that_level(curve, s):
    for seed, effort in enumerate(curve.effort_to(s)):
        row = curve.recall[seed]
        if math.isinf(effort):
            assert max(row) < s
        elif effort > curve.effort[0]:
            assert curve.per_seed(effort)[seed] == pytest.approx(s, abs=1e-6)


@given(curve=curves())
def test_json_round_trip(curve):
    assert Curve.from_json(json.loads(curve.dumps())) == curve


def line(slope, *, seed=0, attack="a", unit="attack steps", budget=100.0):
    effort = (0.0, budget / 2, budget)
    return Curve(effort, (tuple(min(slope * e, 1.0) for e in effort),), (seed,), unit, attack)


def test_savings_read_off_two_known_lines():
    assert line(0.01).effort_to(0.5) == (50.0,)
    assert line(0.02).effort_to(0.5) == (25.0,)
    assert line(0.02).savings(line(0.01), 0.5).mean == pytest.approx(0.5)
    assert line(0.01).savings(line(0.02), 0.5).mean == pytest.approx(-1.0)
    assert line(0.02).savings(line(0.01), 0.5).bound == ""


def test_different_attacks_cannot_be_compared():
    with pytest.raises(UserError, match="equal effort"):
        line(0.01).savings(line(0.01, attack="b"))
    with pytest.raises(UserError, match="equal effort"):
        line(0.01).savings(line(0.01, unit="examples"))


def test_no_shared_seed_is_an_error_and_only_shared_seeds_count():
    with pytest.raises(UserError, match="no seed is in both"):
        line(0.01).savings(line(0.01, seed=1))
    two = stack([line(0.02), line(0.01, seed=1)])
    assert two.savings(line(0.01, seed=1)).n == 1
    assert two.savings(line(0.01, seed=1)).mean == 0


def test_a_reference_that_already_knows_is_no_reference():
    knows = Curve((0.0, 10.0), ((0.9, 1.0),), (0,), attack="a")
    with pytest.raises(UserError, match="before any effort"):
        line(0.01).savings(knows)


def test_savings_pair_the_seeds_by_name_and_not_by_place():
    mine = stack([line(0.02, seed=0), line(0.01, seed=1)])
    theirs = stack([line(0.01, seed=1), line(0.02, seed=0)])
    found = mine.savings(theirs)
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_a_curve_that_never_gets_there_gives_a_bound():
    reached, never = line(0.01), line(0.001)
    assert never.effort_to(0.5) == (math.inf,)
    least = reached.savings(never)
    assert (least.bound, least.mean) == ("at least", pytest.approx(0.5))
    most = never.savings(reached)
    assert (most.bound, most.mean) == ("at most", pytest.approx(-1.0))
    assert never.savings(never).bound == "about"
    assert str(least).startswith("at least 0.50 [one seed")


def test_the_interval_is_cut_at_what_the_quantity_can_be():
    curve = Curve((0.0,), ((1.0,), (0.9,), (0.1,)), (0, 1, 2))
    assert curve.at(0).low == 0
    assert curve.at(0).high == 1


def test_effort_outside_what_was_measured_is_named():
    with pytest.raises(UserError, match="effort 101 lies outside what was measured: 0 to 100 attack steps"):
        line(0.01).at(101)
    for s in (0, 1.5):
        with pytest.raises(UserError, match="recall level"):
            line(0.01).effort_to(s)


@pytest.mark.parametrize(
    ("effort", "recall", "seeds"),
    [((0, 0), ((0, 0),), (0,)), ((1, 0), ((0, 0),), (0,)), ((), ((),), (0,)), ((0, 1), ((0, 0),), (0, 1)), ((0, 1), ((0,),), (0,))],
)
def test_a_curve_that_does_not_add_up_is_refused(effort, recall, seeds):
    with pytest.raises(UserError):
        Curve(effort, recall, seeds)


def test_stacking_joins_seeds_and_refuses_strangers():
    assert stack([line(0.01), line(0.02, seed=7)]).seeds == (0, 7)
    for other in (line(0.01, seed=1, attack="b"), line(0.01, seed=1, budget=50.0)):
        with pytest.raises(UserError, match="only curves of one attack"):
            stack([line(0.01), other])
    with pytest.raises(UserError, match="twice"):
        stack([line(0.01), line(0.02)])
    with pytest.raises(UserError, match="at least one"):
        stack([])


def test_past_peak_says_which_curves_were_cut_short():
    recall = ((0.0, 0.5, 0.6), (0.0, 0.6, 0.6), (0.0, 0.7, 0.6), (0.0, 0.5, 1.0))
    assert Curve((0.0, 1.0, 2.0), recall, (0, 1, 2, 3)).past_peak() == (False, True, True, True)


def test_halfway_is_between_the_start_and_the_highest_of_the_means():
    assert Curve((0, 1, 2), ((0.0, 0.4, 0.2), (0.2, 0.8, 0.2)), (0, 1)).halfway() == pytest.approx((0.1 + 0.6) / 2)
