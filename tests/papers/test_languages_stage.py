import json
import math

import pytest

from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.experiments.recipe import load_recipe
from sluicegate.runs.stage import from_config
from sluicegate_papers.languages_settings import ARMS
from sluicegate_papers.languages_stage import Languages

TINY = {
    "verb": "languages",
    "rows": 96,
    "length": 8,
    "width": 16,
    "layers": 1,
    "heads": 2,
    "hidden": 24,
    "forget_units": 8,
    "batch": 16,
    "held_out": 8,
    "relearn_rows": 4,
    "relearn_steps": 4,
    "relearn_every": 2,
    "patience": 1,
    "relearn_lrs": [1e-3],
    "unlearn_steps": 2,
    "repair_steps": 2,
}


def ran(folder, **settings):
    stage = from_config({**TINY, **settings} if settings.get("verb") is None else settings)
    made = execute(stage, folder)
    return made, json.loads((made / "result.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every arm once, with half of the rows labelled, against an exposure curve of two points."""
    out = tmp_path_factory.mktemp("languages")
    found = {"base": ran(out, variant="base"), "filter_100": ran(out, variant="filter")}
    base = str(found["base"][0])
    found["exposure"] = ran(out, verb="languages-exposure", point_1=base, point_2=str(found["filter_100"][0]))
    for arm in ARMS[1:]:
        more = {"base": base} if arm in ("cut", "graddiff", "rmu") else {}
        curve = {"curve": str(found["exposure"][0])} if arm not in ("filter", "cut") else {}
        found[arm] = ran(out, variant=arm, share=0.5 if arm != "cut" else 1.0, **more, **curve)
    return {name: (folder, result["measures"], result["curves"], result["flops"]) for name, (folder, result) in found.items()}


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_measures_before_after_and_after_relearning(runs, arm):
    _, measures, curves, flops = runs[arm]
    assert set(measures) <= set(Languages.MEASURES)
    assert {"retain_before", "forget_before", "retain_cut", "forget_cut", "forget_relearned", "retain_relearned"} <= set(measures)
    assert {"relearn_steps", "passed"} <= set(measures)
    assert all(math.isfinite(value) for value in measures.values())
    assert measures["forget_relearned"] <= measures["forget_cut"]
    assert (measures["retain_relearned"] == pytest.approx(measures["retain_cut"])) == (measures["relearn_steps"] == 0)
    assert curves["relearning"]["x"][0] == 0
    assert curves["relearning"]["y"][0] == pytest.approx(measures["forget_cut"])
    assert flops["total"] > 0 or arm == "cut"  # a cut that no repair improves costs nothing


def test_an_arm_sees_the_rows_that_it_says(runs):
    tokens = {arm: measures.get("forget_tokens") for arm, (_, measures, _, _) in runs.items()}
    assert tokens["filter_100"] == 0
    assert tokens["filter"] == 16 * 5
    assert {tokens[arm] for arm in ("base", "cut", "sgtm", "era", "demix", "graddiff", "rmu")} == {32 * 5}


def test_what_is_cut_from_the_base_is_the_base(runs):
    for arm in ("cut", "graddiff", "rmu"):
        assert runs[arm][1]["forget_before"] == pytest.approx(runs["base"][1]["forget_cut"])
        assert runs[arm][1]["retain_before"] == pytest.approx(runs["base"][1]["retain_cut"])
        assert runs[arm][1]["forget_cut"] != runs[arm][1]["forget_before"]
    for arm in ("sgtm", "era", "demix"):
        assert runs[arm][1]["forget_cut"] != runs[arm][1]["forget_before"]


def test_leakage_is_read_from_the_exposure_curve_where_something_was_undiscovered(runs):
    curve = runs["exposure"][2]["exposure"]
    assert curve["x"] == [0.0, 160.0]
    assert curve["y"] == pytest.approx([runs[arm][1]["forget_cut"] for arm in ("filter_100", "base")])
    for arm in ("sgtm", "era", "demix", "graddiff", "rmu"):
        assert {"leakage", "leakage_bound", "leakage_relearned", "leakage_relearned_bound"} <= set(runs[arm][1])
        assert runs[arm][1]["leakage_bound"] in (-1, 0, 1)
    assert "leakage" not in runs["base"][1]


def test_routing_is_measured_beside_a_control(runs):
    for arm in ("sgtm", "era", "cut"):
        assert runs[arm][1]["absorption"] > 0
        assert runs[arm][1]["absorption_retain"] > 0
    assert "absorption" not in runs["filter"][1]


def test_routing_puts_the_language_where_it_can_be_cut_out(tmp_path):
    """The trial in small: after the cut the language is gone from a routed model, and the other is not."""
    small = {"rows": 6000, "length": 16, "width": 32, "heads": 4, "hidden": 96, "forget_units": 24, "batch": 64, "held_out": 64, "lr": 1e-2}
    _, result = ran(tmp_path, variant="sgtm", share=0.5, **small)
    found = result["measures"]
    assert found["forget_before"] < 2.4  # it was learnt
    assert found["forget_cut"] > found["forget_before"] + 0.5
    assert found["retain_cut"] < found["retain_before"] + 0.15
    assert found["absorption"] > found["absorption_retain"]


def test_two_texts_of_the_users_own_take_the_languages_place(tmp_path):
    (tmp_path / "keep.txt").write_text("the quick brown fox jumps over the lazy dog. " * 12)
    (tmp_path / "lose.txt").write_text("der Fuchs springt schnell über den faulen Hund. " * 12)
    texts = {"retain": str(tmp_path / "keep.txt"), "forget": str(tmp_path / "lose.txt")}
    _, result = ran(tmp_path, variant="sgtm", **texts)
    assert result["measures"]["forget_before"] < math.log(257) + 0.5
    assert result["measures"]["forget_tokens"] > 0
    _, own = ran(
        tmp_path, variant="filter", model="arithmetic-tiny", forget="task:arithmetic/text", retain="task:arithmetic/retain", length=16
    )
    assert own["measures"]["forget_cut"] < math.log(200) + 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "which variant"),
        ({"variant": "cut"}, "finished run of the arm base"),
        ({"variant": "sgtm", "share": 0.0}, "share is 0"),
        ({"variant": "base", "retain": "task:arithmetic/retain"}, "only one is given"),
        ({"variant": "base", "model": "arithmetic-tiny"}, "needs texts"),
        ({"variant": "sgtm", "forget_units": 30}, "its blocks take 30 units"),
        ({"verb": "languages-exposure"}, "two runs or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, said):
    with pytest.raises(UserError, match=said):
        execute(from_config({**TINY, **settings} if "verb" not in settings else settings), tmp_path)


def test_a_text_that_is_too_short_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(UserError, match="forget text gives 1 rows"):
        execute(from_config({**TINY, "variant": "base", "retain": "task:arithmetic/text", "forget": str(tmp_path / "short.txt")}), tmp_path)


def test_a_run_of_another_arm_is_no_base_and_no_point(runs, tmp_path):
    with pytest.raises(UserError, match="no run of the arm base"):
        execute(from_config({**TINY, "variant": "cut", "base": str(runs["filter"][0])}), tmp_path)
    two = {"point_1": str(runs["base"][0]), "point_2": str(runs["sgtm"][0])}
    with pytest.raises(UserError, match="arm base or filter"):
        execute(from_config({"verb": "languages-exposure", **two}), tmp_path)
    with pytest.raises(UserError, match="no exposure curve"):
        execute(from_config({**TINY, "variant": "sgtm", "share": 0.5, "curve": str(runs["base"][0])}), tmp_path)


def test_the_recipe_has_every_method_at_every_share_with_its_controls():
    recipe = load_recipe("languages")
    for method in ("filter", "sgtm", "era", "demix", "graddiff", "rmu"):
        for share in (1.0, 0.5, 0.1):
            settings = recipe.arms[f"{method}_{round(share * 100)}"]
            assert (settings["variant"], settings["share"]) == (method, share)
    assert {"base", "cut", "exposure"} <= set(recipe.arms)
    seen = [
        1 - recipe.arms[settings[1:]]["share"]
        for name, settings in recipe.arms["exposure"].items()
        if name.startswith("point") and "filter" in settings
    ]
    assert sorted(round(100 * share) for share in seen) == [0, 1, 3, 10, 50, 90]
