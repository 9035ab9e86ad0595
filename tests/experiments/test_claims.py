import math

import pytest

from sluicegate.errors import UserError
from sluicegate.experiments.claims import check, names, parse, shares
from sluicegate.experiments.recipe import OF_MODELS

VALUES = {"routed": {"wrong": [0.30, 0.32, 0.31], "right": [0.10, 0.11, 0.35]}, "control_1": {"wrong": [0.13, 0.13, 0.13]}}


def checked(test):
    return check({"says": "it is so", "source": "a paper", "test": test}, VALUES)


def test_a_claim_is_checked_on_every_seed():
    found = checked("routed.wrong > routed.right")
    assert found.holds == (True, True, False)
    assert found.word == "holds on 2 of 3 seeds"
    assert checked("routed.wrong > control_1.wrong").word == "holds on all 3 seeds"
    assert checked("routed.wrong < control_1.wrong").word == "does not hold"


@pytest.mark.parametrize(
    ("test", "holds"),
    [
        ("routed.wrong - 0.02 > 0.28", (False, True, True)),
        ("2 * routed.right / 2 <= 0.11", (True, True, False)),
        ("0.1 <= routed.right < routed.wrong", (True, True, False)),
        ("max(routed.right, control_1.wrong) == 1", None),
        ("min(routed.right, control_1.wrong) >= 0.11", (False, True, True)),
        ("abs(routed.right - routed.wrong) < 0.205 and routed.wrong > 0.305", (False, False, True)),
        ("-routed.wrong < 0", (True, True, True)),
    ],
)
def test_arithmetic_comparisons_and_their_joining(test, holds):
    if holds is None:
        with pytest.raises(UserError, match="no comparison"):
            checked(test)
    else:
        assert checked(test).holds == holds


ODD = {"undo_0.8": {"A@10": [0.3, 0.2, 0.9], "low": [0.1, 0.1, 0.1]}, "gold": {"A@10": [0.3, 0.3, 0.3], "low": [math.nan, 0.0, 0.0]}}


def test_a_name_in_quotes_may_hold_anything():
    (compared,) = (found := check({"test": '"undo_0.8.A@10" <= "gold.A@10" + 0.05'}, ODD)).comparisons
    assert (compared.left.written, compared.right.written) == ("undo_0.8.A@10", "gold.A@10 + 0.05")
    assert found.holds == (True, True, False)
    assert names('"undo_0.8.A@10" <= gold.low') == [("undo_0.8", "A@10"), ("gold", "low")]
    assert check({"test": '"gold.A@10" < 0.8 * log(2)\n  and 1 < 2'}, ODD).holds == (True, True, True)


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        ('"undo_0.8.A@10" <= "gold.A@10"', "holds on 2 of 3 seeds, and on the median"),
        ('"undo_0.8.A@10" >= 0.9', "holds on 1 of 3 seeds, not on the median"),
        ('"undo_0.8.A@10" <= "gold.A@10" and "undo_0.8.A@10" >= 0.25', "holds on 1 of 3 seeds, and on the median"),
        ("gold.low >= 0", "holds on 2 of 3 seeds, not on the median"),
        ('"undo_0.8.low" > 0', "holds on all 3 seeds"),
        ('"undo_0.8.low" > 1', "does not hold"),
    ],
)
def test_the_verdict_says_on_how_many_seeds_and_whether_on_the_median(test, verdict):
    assert check({"test": test}, ODD).verdict == verdict


def test_both_sides_come_with_their_intervals():
    (comparison,) = checked("routed.wrong > control_1.wrong + 0.1").comparisons
    assert comparison.left.written == "routed.wrong"
    assert comparison.left.value.mean == pytest.approx(0.31)
    assert comparison.left.value.low < 0.31 < comparison.left.value.high
    assert (comparison.sign, comparison.right.written) == (">", "control_1.wrong + 0.1")


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("routed.wrong", "no comparison"),
        ("routed.wrong >", "cannot read the test"),
        ("__import__('os').system('true') > 1", "cannot read"),
        ("routed.wrong > open('x')", "cannot read"),
        ("rooted.wrong > 1", "Nearest: routed"),
        ("routed.wrung > 1", "Nearest: wrong"),
        ("routed.wrong > 1 or routed.right > 1", "no comparison"),
    ],
)
def test_what_is_no_claim_is_named(test, message):
    with pytest.raises(UserError, match=message):
        checked(test)


def test_the_interval_of_a_share_is_cut_at_0_and_1():
    values = {"a": {"retain": [1.0, 0.99, 0.9], "loss": [0.9, 0.99, 1.0]}}
    within = shares({"loss": "loss, nats a token", "retain": "share answered right", "later": "the same after 30 steps"})
    assert within == {"retain", "later"}
    (bounded,) = check({"test": "a.retain > a.loss"}, values, within).comparisons
    assert bounded.left.value.high == 1
    assert bounded.right.value.high > 1
    assert {"retain", "forget", "probability", "A@10", "A@30", "B@10", "B@100"} == shares(OF_MODELS)


def test_the_names_that_a_test_speaks_of():
    assert names("a.x > 2 * b.y and a.z < 1") == [("a", "x"), ("b", "y"), ("a", "z")]
    assert len(parse("a.x < b.y < c.z and a.x > 1")) == 2
