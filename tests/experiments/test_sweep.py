"""A sweep runs every combination, shares what two variants have in common, and keeps each one's summary."""

import json

import pytest

from sluicegate.errors import UserError
from sluicegate.experiments.experiment import load_outcome
from sluicegate.experiments.recipe import Recipe
from sluicegate.experiments.sweep import combinations, run_sweep
from tiny_stages import material


def test_combinations_are_all_of_them_in_order():
    assert list(combinations({"a.x": [1, 2], "b.y": ["u"]})) == [{"a.x": 1, "b.y": "u"}, {"a.x": 2, "b.y": "u"}]


def test_an_axis_that_is_no_list_is_named():
    with pytest.raises(UserError, match=r"a\.x has the values 3; expected a list"):
        list(combinations({"a.x": 3}))


def test_shared_stages_run_once_and_variants_keep_their_own_summaries(tmp_path):
    own = material(tmp_path / "material")
    common = {name: own[name] for name in ("forget", "retain")} | {"max_length": 32, "batch": 8, "lr": 1e-2}
    arms = {
        "base": {"verb": "train", "model": own["model"], "steps": 3},
        "maxent": {"verb": "unlearn", "method": "maxent", "model": "@base", "steps": 2},
    }
    recipe = Recipe("small", arms, {}, common)
    told = set()
    found = run_sweep(
        recipe, combinations({"maxent.steps": [1, 2]}), tmp_path / "out", [0], workers=1, progress=lambda part, *_: told.add(part)
    )
    # All variants' stages in one go, so that they can be shown together; the second variant's base is the first one's.
    assert told - {"all stages"} == {"v0 base seed 0 train", "v0 maxent seed 0 unlearn", "v1 maxent seed 0 unlearn"}
    assert [changes for changes, _ in found] == [{"maxent.steps": 1}, {"maxent.steps": 2}]
    assert len(list((tmp_path / "out" / "stages").glob("train-*/DONE"))) == 1
    assert len(list((tmp_path / "out" / "stages").glob("unlearn-*/DONE"))) == 2
    for number, (_, outcome) in enumerate(found):
        assert load_outcome(tmp_path / "out" / f"variant-{number}").summary() == outcome.summary()
        assert outcome.arms["maxent"].results[0]["steps"] == number + 1
    content = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [row["arms"]["maxent"]["steps"] for row in content["variants"]] == [[1], [2]]


def test_a_wrong_field_is_named_before_anything_runs(tmp_path):
    own = material(tmp_path / "material")
    arms = {"base": {"verb": "train", "model": own["model"], "retain": own["retain"], "steps": 1}}
    with pytest.raises(UserError, match="stesp"):
        run_sweep(Recipe("small", arms, {}), combinations({"base.stesp": [1]}), tmp_path / "out", [0])
    assert not (tmp_path / "out").exists()


def test_a_field_in_common_that_no_stage_has_is_named_and_not_left_out(tmp_path):
    arms = {"base": {"verb": "train", "model": "arithmetic-tiny", "steps": 1}}
    recipe = Recipe("small", arms, {}, {"retain": "task:arithmetic/retain"})
    with pytest.raises(UserError, match=r"no stage of the recipe 'small' has a setting 'bacth'. Nearest: batch"):
        run_sweep(recipe, combinations({"common.bacth": [1, 2]}), tmp_path / "out", [0])
    with pytest.raises(UserError, match=r"no setting 'bsae.batch'. Write PLACE.FIELD"):
        run_sweep(recipe, combinations({"bsae.batch": [1, 2]}), tmp_path / "out", [0])
    assert not (tmp_path / "out").exists()
