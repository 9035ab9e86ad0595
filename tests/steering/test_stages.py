"""Steering's stages on a tiny model: each is made from the last, resumes, and names a user's mistakes."""

import dataclasses
import json
import math

import pytest
import torch

import steering_tiny
from sluicegate.engine.models import load_tokenizer
from sluicegate.errors import UserError
from sluicegate.execution.execute import execute, identity
from sluicegate.runs.directory import RunContext, result_of
from sluicegate.runs.stage import from_config
from sluicegate.steering.fit_stage import SteerFit, places
from sluicegate.steering.io import load_set, load_vector, save
from sluicegate.steering.measured import counted, curves, preview
from sluicegate.steering.score_stage import MEASURES, SteerScore
from sluicegate.steering.twins_stage import SteerTwins
from sluicegate.steering.vector import SteeringSet, SteeringVector


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return steering_tiny.material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def fitted(own, tmp_path_factory):
    return execute(SteerFit(**own, new_tokens=4), tmp_path_factory.mktemp("fit"))


@pytest.fixture(scope="module")
def found(own, fitted, tmp_path_factory):
    return execute(twins(own, fitted), tmp_path_factory.mktemp("twins"))


def twins(own, fitted, **changes):
    settings = {"vector": str(fitted), "prompts": own["prompts"], "k": 5, "steps": 3, "along": 3, "searched": 1} | changes
    return SteerTwins(**settings)


def score(own, place, **changes):
    settings = {"vectors": str(place), "prompts": own["prompts"], "new_tokens": 4, "along": 3, "randoms": 2, "doses": (0.0, 1.0)}
    return SteerScore(**settings | changes)


def test_a_vector_is_fitted_kept_and_knows_what_it_was_made_from(own, fitted):
    vector, result = load_vector(fitted), result_of(fitted)
    assert vector.module == "model.layers.1"
    assert vector.norm == pytest.approx(result["measures"]["norm"])
    assert vector.made_from["model"] == own["model"]
    assert vector.made_from["behaviour"] == steering_tiny.RULE
    assert vector.made_from["positive"] == [p for p, _ in steering_tiny.PAIRS]
    assert set(result["measures"]) == set(SteerFit.MEASURES)
    assert all(len(texts) == 3 for texts in result["answers"].values())
    doses = result["curves"]["kl by dose"]
    assert (doses["x"][0], doses["y"][0]) == (0, pytest.approx(0, abs=1e-6))
    assert doses["y"][doses["x"].index(1.0)] == result["measures"]["kl"]
    rates = result["curves"]["rate by dose"]
    assert rates["y"][rates["x"].index(1.0)] == result["measures"]["rate"]


def test_a_vector_that_shows_nothing_is_said_to(own, tmp_path):
    result = result_of(execute(SteerFit(**own | {"behaviour": "words:nowhere"}, new_tokens=2), tmp_path))
    assert result["warnings"] == ["at dose 1 the vector shows the behaviour in 0% of the answers; it shows it at none of the doses"]
    every = result_of(execute(SteerFit(**own | {"behaviour": "regex:."}, new_tokens=2), tmp_path))
    assert (every["measures"]["rate"], every["warnings"]) == (1.0, [])


def test_pairs_and_two_files_are_the_same(own, fitted, tmp_path):
    folder = fitted.parents[0]
    two = {"positive": own["pairs"].replace("pairs.jsonl", "positive.txt"), "negative": own["pairs"].replace("pairs.jsonl", "negative.txt")}
    again = execute(SteerFit(**own | {"pairs": ""} | two, new_tokens=4), tmp_path)
    assert torch.equal(load_vector(again).values, load_vector(fitted).values)
    assert again.name != folder.name


def test_a_kl_budget_scales_the_vector(own, tmp_path):
    result = result_of(execute(SteerFit(**own, kl=0.05, new_tokens=2), tmp_path))
    assert result["measures"]["kl"] == pytest.approx(0.05, rel=0.03)


@pytest.mark.parametrize("arm", ["pca", "random"])
def test_other_ways_to_a_vector(own, fitted, tmp_path, arm):
    other = load_vector(execute(SteerFit(**own, variant=arm, new_tokens=2), tmp_path))
    mean = load_vector(fitted)
    cosine = float(other.values @ mean.values / (other.norm * mean.norm))
    if arm == "random":
        assert other.norm == pytest.approx(mean.norm, rel=1e-5)
        assert abs(cosine) < 0.6
    else:
        assert cosine > 0.5


def test_melbo_keeps_all_and_takes_the_one_that_shows_the_behaviour_most(own, tmp_path):
    folder = execute(SteerFit(**own, variant="melbo", count=4, climbed=1, steps=2, new_tokens=4), tmp_path)
    several, one = load_set(folder), load_vector(folder)
    assert len(several) == 4
    rates = one.made_from["rates"]
    assert one.made_from["chosen"] == rates.index(max(rates))
    assert len(one.made_from["prompts"]) == 1
    assert torch.equal(one.values, several.values[one.made_from["chosen"]])


def test_twins_are_orthogonal_no_longer_than_the_base_and_kept_beside_it(fitted, found):
    set_, base = load_set(found), load_vector(found / "base.safetensors")
    assert torch.equal(base.values, load_vector(fitted).values)
    assert len(set_) == 5
    assert set_.max_cos(base) < 1e-6
    assert float(set_.norms().max()) <= base.norm * (1 + 1e-5)
    measures = result_of(found)["measures"]
    assert set(measures) == set(SteerTwins.MEASURES)
    assert measures["max_norm_ratio"] == pytest.approx(float(set_.norms().max()) / base.norm)
    assert (
        json.loads((found / "parents.json").read_text())["parents"]["vector"] == json.loads((fitted / "parents.json").read_text())["hash"]
    )


def test_the_score_has_every_answer_of_every_vector_with_its_controls(own, found, tmp_path):
    result = result_of(execute(score(own, found, means=(2, 4)), tmp_path))
    groups = [row["group"] for row in result["rows"]]
    assert {g: groups.count(g) for g in groups} == {
        "unsteered": 1, "base": 1, "random": 2, "mean": 2, "raised": 2, "scaled": 2, "twins": 5,
    }  # fmt: skip
    assert result["prompts"] == steering_tiny.PROMPTS
    assert all(len(row[name]) == 3 for row in result["rows"] for name in ("kl", "kl_last", "shows", "texts"))
    by = {row["who"]: row for row in result["rows"]}
    assert by["base"]["kl"] == pytest.approx([0, 0, 0], abs=1e-5)
    assert by["random 0"]["norm"] == pytest.approx(by["base"]["norm"], rel=1e-5)
    assert by["mean of 4, at the base's norm"]["norm"] == pytest.approx(by["base"]["norm"], rel=1e-5)
    assert by["base, at the norm of the mean of 4"]["norm"] == pytest.approx(by["mean of 4"]["norm"], rel=1e-5)
    assert set(result["measures"]) <= set(MEASURES)
    assert {"twins", "rate", "kl_median", "max_cos", "mean_4_rate", "scaled_4_rate"} <= set(result["measures"])
    assert result["dose"]["kl"][0] == pytest.approx(0, abs=1e-6)
    assert result["model"] == own["model"]  # which the vector remembers


def test_scoring_that_was_interrupted_goes_on_where_it_stopped(own, found, tmp_path, monkeypatch):
    from sluicegate.steering import measured as steering_measured

    monkeypatch.setattr(steering_measured, "AT_ONCE", 4)
    real, calls = steering_measured.generate, []

    def run(place, stop=None):
        def generate(*args, **how):
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(args)
            return real(*args, **how)

        calls.clear()
        monkeypatch.setattr(steering_measured, "generate", generate)
        return result_of(execute(score(own, found), tmp_path / place, exact=True)), len(calls)

    with pytest.raises(KeyboardInterrupt):
        run("a", stop=2)
    resumed, left = run("a")
    whole, every = run("b")
    assert left == every - 2
    assert resumed["rows"] == whole["rows"]


def test_a_single_vector_is_its_own_base(own, fitted, tmp_path):
    result = result_of(execute(score(own, fitted), tmp_path))
    assert {row["group"] for row in result["rows"]} == {"unsteered", "base", "random"}
    assert "twins" not in result["measures"]


def test_files_serve_as_well_as_runs(own, fitted, found, tmp_path):
    base = save(load_vector(fitted), tmp_path / "base.safetensors")
    several = save(load_set(found), tmp_path / "several.safetensors")
    stage = score(own, several, base=str(base)).resolved()
    assert (stage.vectors, stage.vectors_file) == ("", str(several))
    assert len(stage.pair()[1]) == 5
    _, parents = identity(twins(own, base).resolved())
    assert set(parents) == {"model"}
    changed = save(load_vector(fitted) * 2.0, tmp_path / "base.safetensors")
    assert score(own, several, base=str(changed)).resolved().base_content != stage.base_content
    with pytest.raises(UserError, match=r"holds 5 vectors\. Give --base"):
        score(own, several).resolved()


def test_the_stages_are_found_by_their_verbs_and_come_back_from_their_settings(own, fitted):
    for stage in (SteerFit(**own).resolved(), twins(own, fitted).resolved(), score(own, fitted).resolved()):
        assert from_config(stage.config()).resolved().config() == stage.config()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"behaviour": "cod"}, "no rule 'cod'. Nearest: code"),
        ({"behaviour": "regex:("}, "no regular expression"),
        ({"pairs": ""}, "is a rule without prompts"),
        ({"positive": "x.txt"}, "--pairs stands for"),
        ({"pairs": "", "positive": "x.txt"}, "go together"),
        ({"pairs": "lost.jsonl"}, "no file 'lost.jsonl'"),
        ({"prompts": "lost.txt"}, "no file 'lost.txt'"),
        ({"scale": 0.0}, "scale is 0"),
        ({"kl": -1.0}, "kl is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"module": "model.layer.1"}, "no module 'model.layer.1' in this model. Nearest: model.layers.1"),
        ({"tokens": "second"}, "tokens is 'second'"),
    ],
)
def test_mistakes_in_fitting_are_named(own, changes, says):
    with pytest.raises(UserError, match=says):
        SteerFit(**own | {"new_tokens": 2} | changes).resolved().run(RunContext())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vector": ""}, "steer twins needs --vector"),
        ({"vector": "lost"}, "no steering vector 'lost'"),
        ({"k": 32}, "--k is 32; in 32 dimensions there are 1 to 31 twins beside the base"),
        ({"k": 0}, "k is 0"),
        ({"max_norm": -1.0}, "max_norm is -1"),
        ({"searched": 0}, "searched is 0"),
        ({"together": 0}, "together is 0"),
        ({"index": 3}, "holds a single vector"),
    ],
)
def test_mistakes_in_searching_are_named(own, fitted, changes, says):
    with pytest.raises(UserError, match=says):
        twins(own, fitted, **changes).resolved()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vectors": ""}, "steer score needs --vectors"),
        ({"behaviour": "nonsense"}, "no rule 'nonsense'"),
        ({"new_tokens": 0}, "new_tokens is 0"),
        ({"means": (3,)}, "--means has 3"),
        ({"base": "lost.safetensors"}, "no file 'lost.safetensors'"),
    ],
)
def test_mistakes_in_scoring_are_named(own, fitted, changes, says):
    with pytest.raises(UserError, match=says):
        score(own, fitted, **changes).resolved()


def test_a_vector_of_another_width_is_named(own, tmp_path):
    wide = save(SteeringVector(torch.ones(48), "model.layers.1"), tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"48 numbers, but the output of 'model.layers.1' has 32|expected \[b, 32\]"):
        score(own, wide, model=own["model"], behaviour=own["behaviour"]).resolved().run(RunContext())


def row(group, kl, shows, norm=2.0, **more):
    return {"who": group, "group": group, "norm": norm, "kl": kl, "kl_last": kl, "shows": shows, "texts": [""] * len(shows), **more}


def test_twins_count_that_are_near_and_show_the_behaviour():
    rows = [
        row("unsteered", [3.0, 3.0], [False, False], norm=0.0),
        row("base", [0.0, 0.0], [True, True]),
        row("random", [2.0, 4.0], [False, True]),
        row("mean", [0.3, 0.3], [True, False], k=2),
        row("twins", [0.4, 0.6], [True, True], norm=1.0),  # at the bound
        row("twins", [0.4, 0.8], [True, True]),  # too far
        row("twins", [0.1, 0.1], [True, False]),  # too rarely
    ]
    found = counted(rows, bound=0.5, share=0.6)
    assert (found["twins"], found["near"], found["near_third"]) == (1, 2, 3)
    assert found["rate"] == pytest.approx(5 / 6)
    assert found["kl_median"] == pytest.approx(0.5)
    assert found["kl_share"] == pytest.approx(0.5 / 3)
    assert (found["max_norm_ratio"], found["base_rate"], found["unsteered_kl"], found["random_kl"]) == (1.0, 1.0, 3.0, 3.0)
    assert (found["mean_2_rate"], found["mean_2_kl"]) == (0.5, 0.3)
    drawn = curves(rows, 0.6)
    assert dict(zip(*drawn["within"], strict=True))[0.5] == 2
    assert dict(zip(*drawn["good"], strict=True))[0.5] == 1
    assert dict(zip(*drawn["good"], strict=True))[0.65] == 2


def test_the_preview_colours_what_was_read_and_what_is_steered():
    tokenizer = load_tokenizer("arithmetic-tiny")
    made = {"read": "last", "positive": ["3 + 4"], "negative": ["ann fills 3"]}
    base = SteeringVector(torch.ones(4), "model.layers.1", "not_first", made)
    read, _, steered = preview(tokenizer, base, ["3 + 4"], False)
    assert [kind for _, kind in read["pieces"]] == ["", "", "", "read"]
    assert [kind for _, kind in steered["pieces"]] == ["spared", "steered", "steered", "steered"]
    assert preview(tokenizer, dataclasses.replace(base, made_from={}), ["3 + 4"], False)[0]["what"].startswith("steered")


def test_modules_are_taken_by_the_depth_where_none_is_named(own):
    assert places(own["model"], "", "") == ("model.layers.1", "model.layers.2")
    assert places(own["model"], "a", "b") == ("a", "b")


def test_a_set_made_of_another_base_is_measured_against_the_base_that_is_named(own, fitted, tmp_path):
    base = load_vector(fitted)
    other = save(base * 0.5, tmp_path / "half.safetensors")
    several = save(SteeringSet(base.values[None].repeat(2, 1), base.module, base.tokens, base.made_from), tmp_path / "s.safetensors")
    result = score(own, several, base=str(other), doses=(), randoms=0, means=()).resolved().run(RunContext())
    by = {row["who"]: row for row in result["rows"]}
    assert by["twin 0"]["norm"] == pytest.approx(2 * by["base"]["norm"])
    assert math.isfinite(by["twin 0"]["kl"][0])
    assert result["dose"] is None
