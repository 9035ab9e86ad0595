import json
import math

import numpy as np
import pytest

from sluicegate_study.errors import UserError
from sluicegate_study.quiz.deck import Asked
from sluicegate_study.quiz.measures import (
    MEANINGS,
    Answers,
    Reading,
    Weight,
    compare,
    curve_band,
    fitted_weight,
    measure,
    measure_groups,
    model_weight,
    to_json,
)


def answers(*questions, candidates=4, prior=None):
    """Each question: a list of (guess, confidence in it) by clue; candidate 0 is right."""
    asked, logp = [], []
    for n, clues in enumerate(questions):
        names = tuple(f"c{k}" for k in range(candidates))
        right = tuple(k == 0 for k in range(candidates))
        asked.append(Asked(f"q{n}", "ab"[n % 2], tuple(f"clue {t}" for t in range(len(clues))), names, right))
        rows = np.zeros((len(clues), candidates))
        for t, (guess, sure) in enumerate(clues):
            rows[t] = np.log((1 - sure) / (candidates - 1))
            rows[t, guess] = np.log(sure)
        logp.append(rows)
    lengths = np.ones(candidates)
    start = np.zeros(candidates) if prior is None else np.array(prior, float)
    return Answers(tuple(asked), tuple(logp), (lengths,) * len(asked), (start,) * len(asked))


def reading(*questions, **options):
    return Reading(answers(*questions), "raw", **options)


WRONG, RIGHT = (1, 0.4), (0, 0.7)


def test_curve_and_area_by_hand():
    r = reading([WRONG, RIGHT], [WRONG, WRONG, RIGHT])
    assert r.area.tolist() == pytest.approx([1 / 2, 1 / 3])
    curve = r.curve()
    at = dict(zip(np.round(curve.effort, 6), curve.recall[0], strict=True))
    assert at[0] == 0.25  # chance, before any clue
    assert at[round(1 / 3, 6)] == pytest.approx((0.25 + 0) / 2)  # of two clues none is read, of three one
    assert at[0.5] == pytest.approx((1 + 0 * 1 + 0) / 2 - 0.5)  # both are wrong after their first clue
    assert at[1] == 1
    assert curve.unit == "share of clues"


def test_first_right_and_stable_right():
    r = reading([RIGHT, WRONG, RIGHT, RIGHT], [WRONG, WRONG], [RIGHT, WRONG])
    assert r.first().tolist() == pytest.approx([0.25, math.nan, 0.5], nan_ok=True)
    assert r.first(stable=True).tolist() == pytest.approx([0.75, math.nan, math.nan], nan_ok=True)
    found = measure(r)
    assert found["ever_right"].value == pytest.approx(2 / 3)
    assert found["stays_right"].value == pytest.approx(1 / 3)
    assert found["stable_right"].value == pytest.approx(0.75)
    assert found["first_clue"].value == pytest.approx(2 / 3)
    assert found["last_clue"].value == pytest.approx(1 / 3)


def test_the_buzz_comes_where_the_confidence_first_reaches_the_threshold():
    r = reading([WRONG, RIGHT], [(1, 0.9), RIGHT], [WRONG, WRONG], threshold=0.7, weight=Weight("half", lambda x: 1 - x / 2))
    assert r.buzz.tolist() == [1, 0, -1]
    found = measure(r)
    assert found["buzz"].value == pytest.approx(0.75)
    assert found["buzzed"].value == pytest.approx(2 / 3)
    assert found["right_at_buzz"].value == 0.5
    assert found["over_at_buzz"].value == pytest.approx(((0.7 - 1) + (0.9 - 0)) / 2)
    assert found["expected_wins"].value == pytest.approx(0.5 / 3)  # one right buzz at the very end


def test_brier_is_reliability_less_resolution_plus_uncertainty():
    """Exactly so where each bin holds one confidence."""
    clues = [[(0, 0.9)] * 2] * 8 + [[(1, 0.9)] * 2] * 2 + [[(0, 0.5)] * 2] * 5 + [[(1, 0.5)] * 2] * 5
    found = measure(reading(*clues))
    assert found["brier"].value == pytest.approx((8 * 0.01 + 2 * 0.81 + 10 * 0.25) / 20)
    parts = found["reliability"].value - found["resolution"].value + found["uncertainty"].value
    assert found["brier"].value == pytest.approx(parts)
    assert found["over"].value == pytest.approx((10 * 0.9 + 10 * 0.5) / 20 - 13 / 20)
    assert found["ece"].value == pytest.approx(0.05)  # .9 against .8 in half of the bins, .5 against .5 in the others
    assert found["log_loss"].value == pytest.approx(
        -(8 * math.log(0.9) + 2 * math.log(0.1 / 3) + 5 * math.log(0.5) + 5 * math.log(0.5 / 3)) / 20
    )


def test_every_question_counts_the_same_whatever_its_number_of_clues():
    r = reading([RIGHT] * 6, [WRONG])
    found = measure(r)
    assert found["auc"].value == 0.5
    assert found["over"].value == pytest.approx(((0.7 - 1) + (0.4 - 0)) / 2)
    assert found["uncertainty"].value == pytest.approx(0.25)


def test_intervals_are_over_questions_not_clues():
    """Ten copies of each clue tell no more than one."""
    questions = [[RIGHT], [WRONG], [RIGHT], [WRONG], [RIGHT], [RIGHT]]
    once, often = (measure(reading(*[q * n for q in questions])) for n in (1, 10))
    for name in ("auc", "over", "brier", "ece"):
        assert (often[name].low, often[name].high) == pytest.approx((once[name].low, once[name].high))
    spread = math.sqrt(4 / 6 * 2 / 6 / 6)
    assert once["auc"].high - once["auc"].low == pytest.approx(4 * spread, rel=0.25)


def test_intervals_cover():
    """Of a simulated model with over-confidence .2, in at least 88 of 100 quizzes (95 are expected)."""
    random = np.random.default_rng(0)
    held = 0
    for n in range(100):
        questions = [[(0 if random.random() < 0.5 else 1, 0.7)] * 3 for _ in range(60)]
        over = measure(reading(*questions), draws=300, seed=n)["over"]
        held += over.low <= 0.2 <= over.high
    assert held >= 88


def test_one_question_has_no_interval():
    found = measure(reading([WRONG, RIGHT]))
    assert all(math.isnan(i.low) for i in found.values())
    assert json.loads(json.dumps(to_json(reading([WRONG, RIGHT]))))["measures"]["auc"] == [0.5, None, None]


def test_the_scores():
    a = Answers(
        (Asked("q", "", ("x",), ("a", "b"), (True, False)),),
        (np.array([[-4.0, -3.0]]),),
        (np.array([4.0, 1.0]),),
        (np.array([-6.0, -3.5]),),
    )
    assert a.scores("raw")[0].tolist() == [[-4, -3]]
    assert a.scores("mean")[0].tolist() == [[-1, -3]]
    assert a.scores("pmi")[0].tolist() == [[2, 0.5]]
    assert Reading(a, "raw").right.tolist() == [[0]]
    assert Reading(a, "mean").right.tolist() == Reading(a, "pmi").right.tolist() == [[1]]
    assert Reading(a, "pmi").confidence[0, 0] == pytest.approx(1 / (1 + math.exp(-1.5)))
    with pytest.raises(UserError, match="raw, mean, pmi"):
        a.scores("best")


def test_several_right_candidates():
    a = answers([(1, 0.6)])
    both = Answers((Asked("q0", "", ("x",), a.asked[0].candidates, (True, True, False, False)),), a.logp, a.lengths, a.prior)
    r = Reading(both, "raw")
    assert r.right.tolist() == [[1]]
    assert r.surprise[0, 0] == pytest.approx(-math.log(0.6 + 0.4 / 3))
    assert r.curve().recall[0][0] == 0.5


def test_comparing_is_paired_and_signed():
    one = reading(*[[RIGHT, RIGHT, RIGHT, RIGHT]] * 6, *[[WRONG, WRONG, WRONG, RIGHT]] * 2)
    other = reading(*[[WRONG, WRONG, RIGHT, RIGHT]] * 6, *[[WRONG, WRONG, WRONG, RIGHT]] * 2)
    change = compare(one, other)
    assert change.auc.value == pytest.approx(-0.375)
    assert -0.5 <= change.auc.low <= -0.25 <= change.auc.high < -0.1
    # 3/4 right after the first clue against after the third: from chance at 0 and from 0 at 2/4 in a straight line to
    # 3/4.
    needed = (0.25 * 0.5, 0.5 + 0.25 * 2 / 3)
    assert change.savings.value == pytest.approx(1 - needed[1] / needed[0])
    assert change.bound == ""
    assert compare(one, one).auc.low == compare(one, one).auc.high == 0
    assert compare(one, one).savings.value == 0
    never = compare(one, reading(*[[WRONG] * 4] * 8))
    assert (never.bound, never.savings.value) == ("at most", pytest.approx(1 - 1 / needed[0]))
    assert compare(reading(*[[WRONG] * 4] * 8), one).savings is None
    assert compare(one, other, [6, 7]).auc.value == 0


def test_only_what_was_asked_alike_is_compared():
    one = reading([RIGHT, WRONG])
    with pytest.raises(UserError, match="alike"):
        compare(one, reading([RIGHT]))
    with pytest.raises(UserError, match="alike"):
        compare(one, Reading(answers([RIGHT, WRONG]), "pmi"))
    with pytest.raises(UserError, match="different attacks"):
        one.curve().savings(reading([RIGHT]).curve())


def test_weights_of_expected_wins():
    even = model_weight()
    assert even.at(np.array([0.0, 1.0])).tolist() == pytest.approx([1, 0.3])
    assert "not fitted" in even.says
    assert fitted_weight([0.5] * 199, [True] * 199) is None
    places = np.linspace(0, 1, 400)
    fitted = fitted_weight(places.tolist(), [True] * 400)
    assert fitted.at(np.array([0.0, 0.25, 1.0])).tolist() == pytest.approx([1, 0.75, 0], abs=0.01)
    half = fitted_weight(places.tolist(), [n % 2 == 0 for n in range(400)])
    assert half.at(np.array([1.0]))[0] == pytest.approx(0.5, abs=0.02)  # half of the records were never right
    assert "400" in half.says


def test_by_category_and_the_rest():
    r = reading([RIGHT], [WRONG], [RIGHT], [WRONG])
    found = measure_groups(r)
    assert {name: one["auc"].value for name, one in found.items()} == {"a": 1, "b": 0}
    assert set(found["a"]) == set(MEANINGS)
    mean, low, high = curve_band(r)
    assert mean.tolist() == [0.25, 0.5]
    assert low[1] < 0.5 < high[1]
    row = to_json(r)["asked"][1]
    assert row == {"key": "q1", "category": "b", "answer": "c0", "guesses": ["c1"], "right": [False], "confidence": [0.4], "buzz": None}


@pytest.mark.parametrize("threshold", [0, -1, 1.1, math.nan])
def test_a_threshold_is_a_chance(threshold):
    with pytest.raises(UserError, match="threshold"):
        reading([RIGHT], threshold=threshold)
