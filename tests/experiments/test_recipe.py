"""Recipes of trials as they are written down: what they may hold, and mistakes named before anything runs."""

import pytest
import tomli_w

from sluicegate.errors import UserError
from sluicegate.experiments.recipe import Recipe, load_recipe, override, packaged_recipes, titles
from sluicegate.runs.stage import from_config, identify
from throwaway import at_hand, table


@pytest.fixture(autouse=True)
def found(monkeypatch):
    at_hand(monkeypatch)


def loaded(tmp_path, content):
    path = tmp_path / "by-hand.toml"
    path.write_text(tomli_w.dumps(content))
    return load_recipe(str(path))


def test_a_recipe_of_trials_is_read_from_its_file(tmp_path):
    recipe = loaded(tmp_path, table())
    assert recipe.is_trial
    assert recipe.trials == ("routed", "control", "another")
    assert recipe.measures_of("another") == ("loss", "speed")
    assert override(recipe, {"routed.level": 5.0}).stage_settings("routed", 4, {})["level"] == 5.0


def test_a_measure_that_two_trials_mean_differently_is_explained_by_each(tmp_path):
    meanings = loaded(tmp_path, table()).measures()
    assert meanings["loss"] == "throwaway: loss, nats; other-trial: loss, bits"
    assert meanings["speed"] == "m/s"


def with_parent(**parent):
    arms = {"base": {"verb": "train", "model": "arithmetic-tiny", "retain": "task:arithmetic/retain", "steps": 1} | parent}
    return table(arms=arms | table()["arms"] | {"routed": table()["arms"]["routed"] | {"model": "@base"}})


def test_a_stage_that_trials_are_made_from_may_stand_beside_them(tmp_path):
    recipe = loaded(tmp_path, with_parent())
    assert recipe.is_trial
    assert recipe.trials == ("routed", "control", "another")
    assert recipe.ancestors("routed") == ["base", "routed"]
    assert recipe.measures_of("base") == ()


def claim(test):
    return lambda t: t["claims"].append({"test": test})


def picture(**settings):
    return lambda t: t["pictures"].append(settings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (claim("rooted.loss > 1"), "a claim speaks of the arm 'rooted'. Nearest: routed"),
        (claim("routed.lost > 1"), r"a claim speaks of routed\.lost\. Nearest: loss"),
        (claim("another.share > 1"), r"a claim speaks of another\.share\. Nearest"),
        (claim("routed.loss"), "no comparison"),
        (claim("routed.loss > open('x')"), "cannot read"),
        (claim("routed.loss > abs(1, 2)"), "abs takes one number"),
        (lambda t: t["claims"].append({"says": "so"}), "a claim needs 'test'"),
        (lambda t: t["claims"].append({"test": "routed.loss > 1", "say": "so"}), "a claim has no 'say'. Nearest: says"),
        (picture(kind="pie"), "a picture's kind is 'pie'; it must be one of bars, lines, image"),
        (picture(kind="bars"), "a picture of bars needs 'measures'"),
        (picture(kind="bars", measures=["lost"]), "a picture shows 'lost'. Nearest: loss"),
        (picture(kind="bars", measures=["loss"], curve="x"), "a picture of bars has no 'curve'"),
        (picture(kind="lines"), "a picture of lines needs 'curve'"),
        (picture(kind="lines", curve="training", arms=["rooted"]), "a picture shows the arm 'rooted'. Nearest: routed"),
        (picture(kind="image", file="../secret.png"), r"it must be a \.png inside the run folder"),
        (picture(kind="image", file="look.svg"), r"it must be a \.png inside the run folder"),
        (lambda t: t["arms"]["routed"].update(levle=1.0), "throwaway has no setting 'levle'. Nearest: .*level"),
        (lambda t: t.update(attack={"steps": 3}), "'routed' is a trial, which measures itself"),
        (
            lambda t: t["arms"].update(lone={"verb": "train", "model": "arithmetic-tiny"}),
            "'lone' is no trial, and no trial is made from it",
        ),
        (lambda t: t["arms"]["routed"].update(model="@bse"), "@bse is no arm"),
    ],
)
def test_a_mistake_in_a_recipe_of_trials_is_named_before_anything_runs(tmp_path, change, said):
    content = table()
    change(content)
    with pytest.raises(UserError, match=said):
        loaded(tmp_path, content)


def test_a_claim_about_a_parent_says_why_there_is_nothing_to_claim(tmp_path):
    content = with_parent()
    content["claims"].append({"test": "base.loss > 1"})
    with pytest.raises(UserError, match="The arm 'base' is no trial and measures nothing"):
        loaded(tmp_path, content)


MODELS = {"base": {"verb": "train", "model": "arithmetic-tiny"}, "base_0.5": {"verb": "train", "model": "arithmetic-tiny"}}


def test_claims_speak_of_models_that_are_attacked():
    claim = {"test": '"base_0.5.A@10" < "base.A@10" - 0.1 and base.retain > 0.9'}
    assert Recipe(name="x", arms=MODELS, attack={}, claims=[claim]).measures_of("base_0.5")[:2] == ("retain", "forget")


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ('"base_0.6.A@10" > 1', r"speaks of the arm 'base_0\.6'. Nearest: .*base_0\.5"),
        ('"base_0.5.A@11" > 1', r"speaks of base_0\.5\.A@11. Nearest: A@10"),
        ('"base" > 1', "cannot read"),
        ("base.A@10 > 1", "a name with @ stands in quotes"),
        ('"base.A@10" + "base.A@30" > log(1, 2)', "log too"),
    ],
)
def test_a_mistake_in_a_claim_about_models_is_named(test, said):
    with pytest.raises(UserError, match=said):
        Recipe(name="x", arms=MODELS, attack={}, claims=[{"test": test}])


def test_pictures_other_than_pareto_are_for_trials_only():
    with pytest.raises(UserError, match="such pictures are for recipes of trials"):
        Recipe(name="x", arms=MODELS, attack={}, pictures=[{"kind": "bars", "measures": ["loss"]}])


def test_titles_are_those_of_the_packaged_recipes():
    assert set(titles()) == set(packaged_recipes())
    assert titles()["undo-arithmetic"] == "Unlearn and distil: arithmetic"


def test_what_a_trial_is_called_now_and_was_called_before_is_one_setting(tmp_path):
    """Recipes and runs made before have `arm`; both are read, and neither changes who a run is."""
    old = loaded(tmp_path, table())
    arms = {name: {"variant" if key == "arm" else key: value for key, value in own.items()} for name, own in table()["arms"].items()}
    new = loaded(tmp_path, table(arms=arms))
    for arm in old.arms:
        one, two = (from_config(recipe.stage_settings(arm, 3, {})) for recipe in (old, new))
        assert one == two
        assert identify(one, {}) == identify(two, {})
        assert one.config()["variant"] == table()["arms"][arm]["arm"]
        for name in ("arm", "variant"):
            changed = [override(recipe, {f"{arm}.{name}": "plain"}).stage_settings(arm, 3, {}) for recipe in (old, new)]
            assert [from_config(settings).config()["variant"] for settings in changed] == ["plain", "plain"]


@pytest.mark.parametrize("name", ["../../../", "..", ".hidden", "a/b", "a\\b", "-rf", "", "x" * 101, "a\nb", 5, "<b>"])
def test_no_name_leads_out_of_the_folder_of_runs(tmp_path, name):
    with pytest.raises(UserError, match=r"a recipe's name is .*: it names a folder"):
        Recipe(name=name, arms={"a": {"verb": "score"}}, attack={})
    with pytest.raises(UserError, match=r"an arm's name is .*: it names a folder"):
        Recipe(name="good-name_1.0", arms={name: {"verb": "score"}}, attack={})
