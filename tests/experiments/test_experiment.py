import json
import math

import pytest
import tomli_w

import report_synthetic
from sluicegate.errors import UserError
from sluicegate.experiments.experiment import Outcome, gather, run_recipe
from sluicegate.experiments.recipe import Recipe, load_recipe, override, packaged_recipes
from sluicegate.runs.arm import Arm
from sluicegate.values.curves import Curve
from tiny_stages import material

LABELLED = {"batch": 8, "lr": 1e-2}


def table(own):
    return {
        "name": "small",
        "reference": "gold",
        "pretrained": "base",
        "level": 0.3,
        "common": {name: own[name] for name in ("forget", "retain", "unlabelled")} | {"max_length": 32},
        "arms": {
            "base": LABELLED | {"verb": "train", "model": own["model"], "steps": 30},
            "gold": LABELLED | {"verb": "train", "model": own["model"], "steps": 20, "learn": ["retain"]},
            "maxent": LABELLED | {"verb": "unlearn", "method": "maxent", "model": "@base", "steps": 4},
            "undo": LABELLED | {"verb": "undo", "model": "@maxent", "steps": 3, "stop_at": 0.0},
            "copy": LABELLED | {"verb": "distill", "model": "@gold", "student": "@base", "steps_of": "@undo"},
        },
        "attack": {"lrs": [1e-2], "steps": 12, "batch": 8, "checkpoints": [3, 6, 10]},
    }


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def ran(own, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    recipe = Recipe(**table(own))
    return recipe, out, run_recipe(recipe, out / "small", (0, 1), workers=2)


def test_every_arm_is_run_and_attacked_over_the_seeds(ran):
    _recipe, out, outcome = ran
    folders = list((out / "small").glob("*/DONE"))
    assert len(folders) == 2 * 2 * 5
    for arm in outcome.arms.values():
        assert set(arm.results) == set(arm.attacks) == {0, 1}
        assert arm.owned.seeds == arm.held_out.seeds == (0, 1)
        assert arm.owned.effort == (0, 3, 6, 10, 12)
    assert outcome.arms["copy"].results[0]["steps"] == 3


def test_claims_speak_of_what_models_gave_under_attack():
    """Recall is read off the curves of each seed, cost is counted from the pretrained arm on, and what nobody measured
    is NaN."""
    tests = ['"maxent.A@10" > "gold.A@10" + 0.5', '"harsh.B@100" <= 0.57', "maxent.savings > 0.8", "gold.divergence < 1"]
    outcome = report_synthetic.experiment(claims=[{"says": "so", "test": test} for test in tests], seeds=(0, 1, 2))
    numbers = outcome.numbers("maxent")
    assert numbers["A@10"] == pytest.approx([0.95, 0.9595, 0.969])
    assert numbers["B@100"] == pytest.approx([0.6] * 3)
    assert numbers["flops"] == [2e9] * 3
    assert numbers["loss"] == [4.0] * 3
    assert numbers["savings"] == pytest.approx([1 - (1 + 2 * 0.1 / 0.3) / 30, *numbers["savings"][1:]])
    assert all(map(math.isnan, numbers["divergence"]))
    assert [claim.verdict for claim in outcome.checked()] == [
        "holds on all 3 seeds",
        "holds on 1 of 3 seeds, not on the median",
        "holds on all 3 seeds",
        "cannot be told",
    ]
    assert [claim["holds"] for claim in outcome.summary()["claims"]] == [[True] * 3, [True, False, False], [True] * 3, [False] * 3]


def test_a_short_attack_leaves_what_comes_later_untold():
    claims = [{"test": '"maxent.A@10" > 0'}, {"test": '"maxent.A@30" > 0'}]
    outcome = report_synthetic.experiment(claims=claims, effort=(0.0, 1.0, 3.0, 10.0))
    assert [claim.word for claim in outcome.checked()] == ["holds on all 3 seeds", "cannot be told"]


def test_the_table_in_summary_json_is_what_the_runs_found(ran):
    _, out, outcome = ran
    summary = json.loads((out / "small" / "summary.json").read_text())
    assert summary == json.loads(json.dumps(outcome.summary()))
    row = summary["arms"]["maxent"]
    assert row["retain"] == [outcome.arms["maxent"].results[seed]["scores"]["retain"]["exact"] for seed in (0, 1)]
    assert row["A@10"] == [curve[3] for curve in outcome.arms["maxent"].owned.recall]
    assert "A@30" not in row, "the attack was shorter than that"
    assert summary["seeds"] == [0, 1]


def test_what_an_arm_costs_counts_what_it_was_made_from_but_not_the_pretraining(ran):
    _, _, outcome = ran
    spent = {name: arm.results[0]["flops"]["total"] for name, arm in outcome.arms.items()}
    cost = {name: arm.flops[0] for name, arm in outcome.arms.items()}
    assert cost["base"] == spent["base"]
    assert cost["maxent"] == spent["maxent"]
    assert cost["undo"] == spent["maxent"] + spent["undo"]
    assert cost["copy"] == spent["gold"] + spent["maxent"] + spent["undo"] + spent["copy"]


def test_running_it_again_runs_nothing_and_finds_the_same(ran):
    recipe, out, outcome = ran

    def stamps():
        return {path: path.stat().st_mtime_ns for path in out.glob("small/*/**/*")}

    before = stamps()
    again = run_recipe(recipe, out / "small", (0, 1), workers=1)
    assert again.summary() == outcome.summary()
    assert len(before) > 200
    assert stamps() == before


def curve(row, seeds=(0, 1), attack="a"):
    return Curve((0.0, 10.0, 30.0, 100.0), (tuple(row),) * len(seeds), seeds, attack=attack)


def arm(name, row, warnings=(), reached=True):
    attacks = {
        seed: {"owned": curve(row, (seed,)).to_json(), "held_out": curve((0, 0, 0, 0), (seed,)).to_json(), "warnings": list(warnings)}
        for seed in (0, 1)
    }
    results = {seed: {"scores": {"retain": {"exact": 1.0}}, "steps": 1, "reached": reached} for seed in (0, 1)}
    return Arm(name, results, attacks, {0: 1.0, 1: 1.0}, {})


def made(own, reference=(0, 0, 0.5, 1), edited=(0, 0.5, 1, 1), **settings):
    recipe = Recipe(**table(own) | {"level": 0.5})
    return Outcome(recipe, (0, 1), {"gold": arm("gold", reference), "maxent": arm("maxent", edited, **settings)})


def test_savings_are_against_the_reference_at_the_recipes_level(own):
    outcome = made(own)
    assert outcome.savings("maxent").mean == pytest.approx(1 - 10 / 30)
    assert outcome.savings("gold").mean == 0
    assert outcome.summary()["arms"]["maxent"]["savings"] == pytest.approx([2 / 3, 2 / 3, 2 / 3])


def test_warnings_name_the_arm_and_every_seed(own):
    text = " ".join(made(own, warnings=("recall was still rising.",), reached=False).warnings())
    assert "recall was still rising" in text
    assert "did not reach its stop score" in text
    assert "maxent" in text
    assert "0" in text
    assert "1" in text
    assert "gold" not in text
    assert made(own).warnings() == []


def test_a_warning_of_the_training_is_in_the_report_once_with_its_arms_and_seeds(own):
    outcome = made(own)
    for result in outcome.arms["maxent"].results.values():
        result["warnings"] = ["the retain score fell by more than a tenth: try more --steps."]
    assert "the retain score fell by more than a tenth: try more --steps: maxent (seed 0, 1)." in outcome.warnings()


def test_the_cost_of_a_chain_is_counted_once(own):
    recipe = Recipe(**table(own))
    assert recipe.ancestors("copy") == ["base", "gold", "maxent", "undo", "copy"] or set(recipe.ancestors("copy")) == set(recipe.arms)
    assert len(recipe.ancestors("copy")) == len(set(recipe.ancestors("copy")))
    assert recipe.ancestors("base") == ["base"]


def test_common_settings_reach_the_stages_that_have_them_and_are_overruled(own):
    recipe = Recipe(**table(own))
    assert recipe.stage_settings("base", 3, {})["unlabelled"] == own["unlabelled"]
    assert "unlabelled" not in recipe.stage_settings("maxent", 3, {})
    assert recipe.stage_settings("base", 3, {})["seed"] == 3
    overruled = override(recipe, {"base.max_length": 48})
    assert overruled.stage_settings("base", 0, {})["max_length"] == 48
    assert overruled.stage_settings("gold", 0, {})["max_length"] == 32


def test_settings_are_overridden_by_their_place(own):
    recipe = Recipe(**table(own))
    changed = override(recipe, {"undo.alpha": 0.25, "attack.steps": 5, "common.max_length": 64})
    assert changed.arms["undo"]["alpha"] == 0.25
    assert changed.attack["steps"] == 5
    assert changed.common["max_length"] == 64
    assert "alpha" not in recipe.arms["undo"]
    for wrong in ("alpha", "nowhere.alpha", "undo."):
        with pytest.raises(UserError, match=r"Write PLACE\.FIELD, where PLACE is one of attack, common, base"):
            override(recipe, {wrong: 1})
    with pytest.raises(UserError, match="undo has no setting 'alfa'"):
        override(recipe, {"undo.alfa": 1})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update(reference="glod"), "reference is 'glod', which is no arm"),
        (lambda t: t["arms"]["maxent"].update(model="@bse"), "@bse is no arm. Nearest: base"),
        (lambda t: t["arms"]["maxent"].update(step=3), "unlearn has no setting 'step'"),
        (lambda t: t["arms"]["maxent"].update(decay="linear"), "decay is 'linear'"),
        (lambda t: t["arms"]["maxent"].update(verb="forget"), "no verb 'forget'"),
        (lambda t: t["attack"].update(kind="retian"), "kind is 'retian'"),
        (lambda t: t["attack"].update(step=3), "relearn has no setting 'step'"),
        (lambda t: t.update(arm={}), "a recipe has no 'arm'. Nearest: arms"),
        (lambda t: t.update(arms={}), "needs at least one"),
    ],
)
def test_a_mistake_in_a_recipe_is_named_before_anything_runs(own, tmp_path, change, said):
    content = table(own)
    change(content)
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(content))
    with pytest.raises(UserError, match=said):
        load_recipe(str(path))


def test_arms_that_wait_for_one_another_are_named(own, tmp_path):
    content = table(own)
    content["arms"]["maxent"]["model"] = "@undo"
    content["arms"]["gold"] |= {"model": "@undo"}
    arms = {name: content["arms"][name] for name in ("gold", "maxent", "undo")}
    with pytest.raises(UserError, match=r"maxent"):
        run_recipe(Recipe(**content | {"attack": {}, "pretrained": "", "arms": arms}), tmp_path, (0,))


def test_a_file_that_is_no_recipe(tmp_path):
    with pytest.raises(UserError, match=r"neither a file nor packaged.*undo-arithmetic"):
        load_recipe("nothing")
    (tmp_path / "x.toml").write_text("a = ")
    with pytest.raises(UserError, match="not valid TOML"):
        load_recipe(str(tmp_path / "x.toml"))


@pytest.mark.parametrize("name", packaged_recipes())
def test_the_packaged_recipes_load(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert recipe.about


def test_an_arm_whose_score_is_missing_is_not_made_up(ran):
    _, _, outcome = ran
    assert outcome.arms["base"].scores("adjacent") == []
    assert all(math.isfinite(value) for value in outcome.arms["base"].scores("retain", "loss"))


def test_gathering_reads_the_folders_it_is_given(ran):
    recipe, _, outcome = ran
    folders = {f"{name} seed {seed}": arm.folders[seed] for name, arm in outcome.arms.items() for seed in (0, 1)}
    attackless = Recipe(**{**recipe.__dict__, "attack": {}})
    assert gather(attackless, (1,), folders).arms["base"].results == {1: outcome.arms["base"].results[1]}
    assert gather(attackless, (1,), folders).savings("base") is None
