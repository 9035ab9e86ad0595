"""Cost against what comes back: the reference's three budgets, the front, and what may be concluded."""

import dataclasses
import re

import pytest

from report_synthetic import FULL, MIDDLE, SLOW, experiment
from sluicegate.errors import UserError
from sluicegate.experiments.page import report_experiment
from sluicegate.experiments.pareto import _apart, budgets, conclusion, front
from sluicegate.experiments.recipe import Recipe, load_recipe, packaged_recipes
from sluicegate.experiments.rows import rows
from sluicegate.report.charts import Point
from sluicegate.report.figures import Series
from sluicegate.values.statistics import Estimate

PICTURE = {"kind": "pareto", "y": "B@100", "title": "Every variant"}
COURSE = [[20, 0.3], [40, 0.95], [60, 0.9], [80, 0.99]]


def with_course(outcome, course=COURSE):
    """The reference's results, its course among them; it took 80 + seed steps."""
    gold = outcome.arms["gold"]
    results = {seed: {**result, "steps": 80, "course": course} for seed, result in gold.results.items()}
    return dataclasses.replace(outcome, arms={**outcome.arms, "gold": dataclasses.replace(gold, results=results)})


def test_the_reference_is_charged_for_three_schedules():
    full, own, theirs = budgets(with_course(experiment()))
    assert full.cost.mean == 1
    assert own.cost.mean == 40 / 80, "95 % of .99 is .94"
    assert theirs.cost.mean == 40 / 80, "95 % of the teacher's .98 is .931"
    late = with_course(experiment(), [[20, 0.3], [40, 0.93], [60, 0.9], [80, 0.96]])
    assert [b.cost.mean for b in budgets(late)] == [1, 0.5, 1]


def test_a_budget_that_is_not_known_or_never_met_is_not_made_up():
    full, own, theirs = budgets(experiment())
    assert full.cost.mean == 1
    assert (own.cost, own.missed, theirs.cost) == (None, 0, None)
    poor = budgets(with_course(experiment(), [[20, 0.3], [80, 0.6]]))
    assert poor[1].cost.mean == 1
    assert (poor[2].cost, poor[2].missed) == (None, 3)
    said = conclusion(with_course(experiment(), [[20, 0.3], [80, 0.6]]), rows(experiment()))
    assert any("never came to the students' retain score" in text for text in said)


def test_what_is_as_robust_and_cheaper_is_named_and_nothing_else():
    none = with_course(experiment())
    assert all(text.endswith(": none.") for text in conclusion(none, rows(none)))
    curves = {"base": (1.0,) * 6, "gold": SLOW, "maxent": MIDDLE, "distill": SLOW, "gentle": SLOW, "harsh": MIDDLE}
    some = with_course(experiment(curves=curves), [[20, 0.3], [60, 0.95], [80, 0.99]])
    full, own, _ = conclusion(some, rows(some))
    assert full.endswith("at its full schedule or less: gentle."), (
        "distill is as robust and dearer; harsh is cheaper than dear and not robust"
    )
    assert "gentle" in own, "four tenths of the full cost, and .75 * .8 are six"
    dear = with_course(experiment(curves=curves), [[20, 0.95], [80, 0.99]])
    assert conclusion(dear, rows(dear))[1].endswith(": none."), "what trains that soon is cheaper still"


def test_an_attack_that_is_too_short_concludes_nothing():
    short = experiment(effort=(0.0, 1.0, 3.0, 10.0))
    assert conclusion(short, rows(short)) == ["The attack was too short to tell whether any arm is as robust as the reference."]


def test_the_front_is_what_nothing_beats_in_both():
    def point(name, x, y):
        return Point(Series(name, name, "other"), Estimate(x, x, x, 1), Estimate(y, y, y, 1))

    points = [point("a", 1, 0.9), point("b", 2, 0.4), point("c", 3, 0.5), point("d", 4, 0.1), point("e", 2, 0.6)]
    assert [p.series.name for p in front(points)] == ["a", "b", "d"]


def test_the_page_shows_every_arm_and_every_budget(tmp_path):
    outcome = with_course(experiment(pictures=[PICTURE, {**PICTURE, "y": "A@10", "title": "Owned"}]))
    page = report_experiment(outcome, tmp_path / "report.html").read_text()
    assert "Every variant" in page
    pictures = re.findall(r'<svg class="picture" role="img" viewBox="[^"]*" aria-label="((?:B@100|A@10) against compute[^"]*)"', page)
    assert len(pictures) == 2
    for label in pictures:
        assert all(f"{name} " in label for name in FULL if name != "base")
        assert label.count("0.50") >= 2
        assert "its full schedule 1.00" in label
    assert "As robust as the reference" in page


def test_variants_of_undo_have_no_place_on_the_dial():
    arms = FULL | {
        "aimed": {"verb": "undo", "model": "@maxent", "aim": "fisher", "forget": "a", "retain": "b"},
        "twice": {"verb": "undo", "model": "@harsh"},
        "states": {"verb": "undo", "model": "@maxent", "match_hidden": 1.0},
    }
    table = {row.name: row for row in rows(experiment(arms))}
    assert {name for name, row in table.items() if row.role == "dial"} == {"gentle", "harsh"}
    assert table["aimed"].alpha is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"y": "C@10"}, "y is 'C@10'; it must be one of A@10"),
        ({"y": ""}, "needs 'y'"),
        ({"arms": ["haarsh"]}, "shows the arm 'haarsh'. Nearest: harsh"),
        ({"measures": ["x"]}, "has no 'measures'"),
        ({"kind": "bars"}, "pictures of the kind pareto"),
    ],
)
def test_a_wrong_picture_is_named(wrong, said):
    with pytest.raises(UserError, match=said):
        experiment(pictures=[PICTURE | wrong])


def test_a_picture_of_pareto_needs_an_attack_and_a_reference():
    with pytest.raises(UserError, match="needs both"):
        Recipe(name="x", arms=FULL, attack={"steps": 5}, pictures=[PICTURE])


@pytest.mark.parametrize("name", [name for name in packaged_recipes() if name.endswith(("-methods", "-variants", "-texts"))])
def test_the_packaged_ones_can_be_read_and_compare_with_a_reference(name):
    recipe = load_recipe(name)
    assert recipe.reference == "gold"
    assert recipe.attack
    verbs = [settings["verb"] for settings in recipe.arms.values()]
    if name.endswith("-methods"):
        from sluicegate.unlearning.objectives import methods

        assert {s.get("method") for s in recipe.arms.values()} >= set(methods())
        assert any("sam" in s for s in recipe.arms.values())
    if name.endswith("-variants"):
        assert recipe.arms["gold"]["check_every"] > 0
        assert {"route", "ablate", "undo", "distill"} <= set(verbs)


def test_numbers_of_lines_that_lie_close_are_written_together():
    assert _apart([1.0, 0.69, 0.72], 0.1) == [("2, 3", pytest.approx((0.69 * 0.72) ** 0.5)), ("1", 1.0)]
    assert _apart([1.0, 0.5], 0.1) == [("2", 0.5), ("1", 1.0)]
    assert _apart([], 0.1) == []
