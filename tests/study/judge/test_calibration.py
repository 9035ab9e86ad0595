"""Calibration: a known over-confidence is found, its interval covers as often as it says, and the parts of the score
add up."""

import numpy as np
import pytest

from sluicegate_study.errors import UserError
from sluicegate_study.judge.calibration import FEWEST, Said, calibrate, calibrate_by_category, parse_percent, student_quantile


def learner(seed, over=0.1, questions=60, repeats=1):
    """Answers of a learner whose stated confidence is `over` above the truth; answers to one question are alike when
    they repeat."""
    random = np.random.default_rng(seed)
    truth = random.uniform(0.1, 0.8, questions)
    rows = []
    for n, p in enumerate(truth):
        stuck = random.random() < p
        for _ in range(repeats):
            right = stuck if random.random() < 0.8 else random.random() < p
            rows.append(Said(round(float(p + over), 2), bool(right), f"q{n}", "even" if n % 2 else "odd"))
    return rows


@pytest.mark.parametrize("repeats", [1, 4])
def test_the_interval_covers_a_known_over_confidence(repeats):
    inside = 0
    for seed in range(300):
        found = calibrate(learner(seed, repeats=repeats), draws=2).over
        inside += found.low <= 0.1 <= found.high
    assert inside / 300 >= 0.93


def test_answers_taken_for_independent_would_not_cover():
    """The control: the same answers, each called a question of its own, give intervals that are too short."""
    inside = 0
    for seed in range(300):
        rows = [Said(r.confidence, r.right, f"{r.question}-{n}") for n, r in enumerate(learner(seed, repeats=4))]
        found = calibrate(rows, draws=2).over
        inside += found.low <= 0.1 <= found.high
    assert inside / 300 < 0.93


def test_the_parts_of_brier_add_up():
    found = calibrate(learner(0, questions=200))
    assert found.brier.value == pytest.approx(found.reliability - found.resolution + found.uncertainty, abs=1e-12)
    assert found.binned.low <= found.binned.high
    perfect = calibrate([Said(1.0, True, "a"), Said(0.0, False, "b")])
    assert (perfect.brier.value, perfect.reliability, perfect.binned.value) == (0, 0, 0)


@pytest.mark.parametrize(("over", "verdict"), [(0.2, "over-confident"), (-0.1, "under-confident"), (0.0, "not told apart from calibrated")])
def test_verdicts(over, verdict):
    assert calibrate(learner(3, over, questions=400)).verdict == verdict


def test_few_questions_get_no_verdict():
    assert "too few" in calibrate(learner(0, 0.2, questions=FEWEST - 1, repeats=50)).verdict
    assert np.isnan(calibrate([Said(0.5, True, "a")]).over.low)


def test_categories_apart():
    said = learner(0)
    found = calibrate_by_category(said)
    assert list(found) == ["all", "category even", "category odd"]
    assert [c.questions for c in found.values()] == [60, 30, 30]
    assert list(calibrate_by_category([answer for answer in said if answer.category == "odd"])) == ["all"]
    assert calibrate_by_category([]) == {}


def test_students_quantile():
    assert [student_quantile(df) for df in (1, 4, 9, 30, 10**6)] == pytest.approx([12.7062, 2.7764, 2.2622, 2.0423, 1.95996], abs=2e-3)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="0 to 1"):
        Said(float("nan"), True, "a")
    with pytest.raises(UserError, match="at least one"):
        calibrate([])


@pytest.mark.parametrize(
    ("typed", "chance"),
    [
        ("70", 0.7),
        ("70 %", 0.7),
        ("70.5", 0.705),
        ("0.7", 0.7),
        (".7", 0.7),
        ("0,7", 0.7),
        ("1.0", 1),
        ("0.7%", 0.007),
        ("1", 0.01),
        ("0", 0),
    ],
)
def test_a_chance_is_understood_in_percent_and_as_a_chance(typed, chance):
    assert parse_percent(typed) == pytest.approx(chance)


@pytest.mark.parametrize("typed", ["", "sure", "-1", "101", "nan", "-0.5", "1.2.3"])
def test_what_is_no_chance_is_asked_again(typed):
    assert parse_percent(typed) is None
