"""How much is forgotten against how much is kept: what each number is of, and what is paid for."""

import json

import pytest

from sluicegate.engine.models import load, save
from sluicegate.errors import UserError
from sluicegate.experiments.recipe import load_recipe
from sluicegate.runs.directory import RunContext
from sluicegate_papers.biographies_share_stage import BiographiesShare, groups
from sluicegate_papers.tasks.biographies import VALUES, biographies


def run_folder(place, flops, steps, **more):
    place.mkdir()
    (place / "DONE").touch()
    (place / "result.json").write_text(json.dumps({"flops": {"total": flops}, "steps": steps, **more}))
    return str(place)


def found(count):
    task = biographies(count=count)
    split = task.split()
    return task.lost(), groups(task.lost(), split.forget, split.retain)


def test_the_groups_that_are_scored():
    lost, rows = found(6)
    keys = {p.key for p in lost}
    names = {name for p in lost for name in p.name.split()}
    assert {i.fact for i in rows["forget"]} == {i.fact for i in rows["angle_d"]} == {i.fact for i in rows["country"]} == keys
    assert not {i.fact for name in ("retain", "kin", "strangers", "lies") for i in rows[name]} & keys
    assert all(set(i.fact.split("-")) & names for i in rows["kin"])
    assert not any(set(i.fact.split("-")) & names for i in rows["strangers"])
    assert {i.label for i in rows["kin"]} == {i.label for i in rows["strangers"]} == set(VALUES)
    assert {i.label for i in rows["lies"]} == {"lies"}
    assert not {i.prompt for i in rows["angle_d"]} & {i.prompt for i in rows["forget"]}


def test_with_many_forgotten_nobody_is_a_stranger():
    assert found(24)[1]["strangers"] == ()
    assert found(48)[1]["kin"]


def test_the_cost_counts_what_a_model_was_made_from_and_nothing_else(tmp_path):
    """.. and is set against the reference's whole course, and against its course to the same retain score."""
    gold = run_folder(tmp_path / "gold", 1000.0, 400, course=[[100, 0.5], [200, 0.8], [300, 0.95]])
    before = run_folder(tmp_path / "before", 100.0, 200)
    own = run_folder(tmp_path / "own", 500.0, 80)
    trial = BiographiesShare(model=own, reference=gold, made_from=before)
    assert trial.costs(0.8) == {"steps": 80.0, "cost": 0.6, "cost_equal": pytest.approx(600 / 500)}
    assert trial.costs(0.96)["cost_equal"] != trial.costs(0.96)["cost_equal"]  # it never came there
    assert BiographiesShare(model=own, reference=gold).costs(0.8)["cost"] == 0.5
    assert BiographiesShare(model=own).costs(0.8) == {"steps": 80.0}


def test_a_model_that_knows_nothing(tmp_path):
    folder = tmp_path / "fresh"
    save(*load("biographies-tiny"), folder)
    result = BiographiesShare(model=str(folder), people=6, lrs=(1e-3,), steps=2, probe=8).run(RunContext())
    measured = result["measures"]
    assert max(measured[name] for name in ("forget", "retain", "angle_d", "kin", "strangers")) < 0.3
    assert measured["owned_10"] is None  # the attack ended before
    assert measured["held_best"] == max(result["curves"]["held"]["y"])
    assert result["curves"]["held"]["x"] == [0, 1, 2]
    assert "cost" not in measured


def test_mistakes():
    with pytest.raises(UserError, match="needs a model"):
        BiographiesShare().run(RunContext())


def test_the_recipe_sets_every_arm_beside_a_model_that_never_saw_the_same_people():
    recipe = load_recipe("undo-biographies-share")
    for arm in recipe.trials:
        settings = recipe.arms[arm]
        count = settings["people"]
        assert arm.endswith(f"_{count}")
        if not arm.startswith(("before", "never")):
            assert settings["reference"] == f"@kept_{count}"
        made = [recipe.arms[a] for a in recipe.ancestors(arm) if recipe.arms[a]["verb"] in ("train", "unlearn", "undo", "distill")]
        named = {a.get("forget", recipe.common["forget"]) for a in made if a is not recipe.arms["trained"]}
        assert named <= {f"task:biographies{'' if count == 24 else f'-{count}'}/forget"}
    assert all(recipe.arms[f"kept_{count}"]["learn"] == ["retain", "unlabelled"] for count in (6, 24, 48))


def test_the_table_of_ripples_has_every_objective_and_the_control():
    recipe = load_recipe("ripple-biographies")
    methods = {a["method"] for a in recipe.arms.values() if a["verb"] == "unlearn"}
    assert methods == {"maxent", "graddiff", "npo", "simnpo", "rmu", "repnoise"}
    assert {"before", "never_knew", "undo", "distil", *methods} == set(recipe.trials)
    assert recipe.arms["trained"]["forget"] == "task:biographies/forget"
    assert recipe.common["forget"] == "task:biographies-city/forget"
    assert recipe.arms["kept"]["learn"] == ["retain", "unlabelled"]
