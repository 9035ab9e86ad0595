from pathlib import Path

import pytest

from sluicegate.engine.encoding import encode
from sluicegate.engine.models import load, save
from sluicegate.errors import UserError
from sluicegate.experiments.recipe import load_recipe
from sluicegate.runs.directory import RunContext
from sluicegate_papers.biographies_quiz_stage import BiographiesQuiz, _Quiz
from sluicegate_papers.tasks.biographies import biographies, people


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """A model that knows nothing."""
    folder = tmp_path_factory.mktemp("fresh") / "model"
    save(*load("biographies-tiny"), folder)
    return folder


def test_a_model_that_knows_nothing_is_at_chance_and_learns_what_it_is_shown(fresh):
    found = BiographiesQuiz(model=str(fresh), lrs=(3e-3,), steps=6, checkpoints=(0, 3)).run(RunContext())
    measured = found["measures"]
    assert measured["chance"] == pytest.approx(1 / 72)
    assert max(measured[name] for name in ("auc_forget", "auc_retain", "last_retain")) < 0.1
    assert measured["angle_a"] < 0.35
    assert 0.1 < measured["country"] < 0.45  # one in four
    assert found["curves"]["held"]["x"] == [0, 3, 6]
    assert measured["held_best"] == max(found["curves"]["held"]["y"])


def test_the_groups_of_facts(fresh, monkeypatch):
    """Each measure of facts is of the cards that it names: a model is played that knows some of them only."""
    quiz = _Quiz(*load(str(fresh)))
    lost = {p.key for p in people() if p.forgotten}
    asked = quiz.facts.asked

    def knows(wanted):
        class Read:
            right = __import__("numpy").array([[float(wanted(a))] for a in asked])

        monkeypatch.setattr(quiz, "read", lambda sheet: Read())
        return quiz.cards()

    def of_the_lost(a):
        return "-".join(a.key.split("-")[:2]) in lost

    only_a = knows(lambda a: of_the_lost(a) and a.angle == "a")
    assert (only_a["angle_a"], only_a["angles_bc"], only_a["angle_d"], only_a["facts_retain"]) == (1, 0, 0, 0)
    assert only_a["city"] == only_a["country"] == only_a["siblings"] == pytest.approx(1 / 3)
    pets = knows(lambda a: a.topic == "pet")
    assert pets["siblings"] == pytest.approx(1 / 3)
    assert (pets["city"], pets["country"], pets["lies"]) == (0, 0, 0)
    assert knows(lambda a: a.angle == "lies")["lies"] == 1
    kept = knows(lambda a: a.category == "retain")
    assert kept["facts_retain"] == kept["angle_d_retain"] == 1
    assert kept["angle_a"] == 0
    untrained = sum(p.angles == "abc" and not p.forgotten for p in people())
    assert untrained == 24


def test_the_attacker_owns_half_of_the_people(fresh, monkeypatch):
    seen = {}

    def areas(self, model, groups):
        seen.update(groups)
        return dict.fromkeys([*groups, "retain"], 0.0)

    monkeypatch.setattr(_Quiz, "areas", areas)
    BiographiesQuiz(model=str(fresh), lrs=(1e-3,), steps=1).run(RunContext())
    lost = {p.key for p in people() if p.forgotten}
    assert seen["owned"] | seen["held"] == lost
    assert not seen["owned"] & seen["held"]
    assert len(seen["owned"]) == 12


def test_no_attack_where_none_is_wanted(fresh):
    found = BiographiesQuiz(model=str(fresh), steps=0).run(RunContext())
    assert "held_best" not in found["measures"]
    assert found["curves"] == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs a model"),
        ({"model": "x", "lrs": ()}, "one rate"),
        ({"model": "x", "steps": -1}, "steps is -1; it must be a whole number"),
    ],
)
def test_mistakes(options, said):
    with pytest.raises(UserError, match=said):
        BiographiesQuiz(**options).run(RunContext())


def test_the_recipe_quizzes_the_control_too():
    recipe = load_recipe("quiz-biographies")
    assert {"before", "never_knew", "after_suppression", "after_undo", "after_distillation"} <= set(recipe.trials)
    assert recipe.arms["retain_only"]["learn"] == ["retain", "unlabelled"]
    rows = encode(load("biographies-tiny")[1], biographies().split().forget)
    assert len(rows) == 24 * 25
