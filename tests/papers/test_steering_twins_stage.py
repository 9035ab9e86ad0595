"""The trial of twins on a tiny model: every arm measures what it declares, and draws what its seed says."""

import functools
import math

import pytest
import torch

from architectures import CONFIGS
from sluicegate.engine.models import fresh, load, load_tokenizer, save
from sluicegate.errors import UserError
from sluicegate.experiments.recipe import load_recipe
from sluicegate.runs.directory import RunContext
from sluicegate.steering.fit_stage import SteerFit
from sluicegate.steering.parts import Slice
from sluicegate.steering.prompts import TRAINING, prompt_ids
from sluicegate.steering.vector import SteeringVector
from sluicegate_papers import steering_twins_stage as steering_twins
from sluicegate_papers.steering_twins_stage import SteeringTwins


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = CONFIGS["llama"]()
    config.num_hidden_layers = 3
    save(fresh(config, 0), load_tokenizer("arithmetic-tiny"), folder / "model")
    return str(folder / "model")


def trial(model, **changes):
    settings = {"k": 4, "steps": 2, "along": 2, "new_tokens": 2, "held_out": 2, "randoms": 2, "pairs": 0.25, "searched": 1, "scale": 30.0}
    return SteeringTwins(model=model, **settings | changes).resolved()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_norm": 0.0},
        {"objective": "activation"},
        {"mode": "sequential", "objective": "activation", "max_norm": 0.0, "k": 2},
        {"variant": "melbo"},
        {"variant": "random"},
        {"variant": "random_target", "objective": "activation"},
    ],
    ids=str,
)
def test_every_arm_measures_what_it_declares(model, changes, monkeypatch):
    # An untrained model hardly notices vectors as short as a trained one's.
    monkeypatch.setattr(steering_twins, "SteerFit", functools.partial(SteerFit, radius=0.4))
    made = trial(model, **changes)
    measures = made.run(RunContext())["measures"]
    assert set(measures) <= set(SteeringTwins.MEASURES)
    assert {"near", "near_third", "kl_median", "max_cos", "max_norm_ratio", "mean_2_kl", "kl_train"} <= set(measures)
    assert ("rate" in measures) == (made.variant not in ("random", "random_target"))
    assert ("relative_loss" in measures) == (made.objective == "activation")
    assert all(v is None or math.isfinite(v) for v in measures.values())


def test_without_answers_and_means_the_kls_are_the_same(model):
    whole, short = (trial(model, **changes).run(RunContext()) for changes in ({}, {"new_tokens": 0, "means": False}))
    left_out = {name for name in whole["measures"] if "rate" in name or name == "twins" or name.startswith("mean_")}
    assert left_out.isdisjoint(short["measures"])
    assert short["measures"].items() <= whole["measures"].items()
    assert [row["texts"] for row in short["rows"]] == [[]] * len(short["rows"])
    assert "mean" not in {row["group"] for row in short["rows"]}


def test_twins_of_random_activations_aim_at_them_and_not_at_the_bases(model):
    found = {arm: trial(model, variant=arm, objective="activation").run(RunContext()) for arm in ("meandiff", "random_target")}
    first, second = ([row["norm"] for row in found[arm]["rows"] if row["group"] == "twins"] for arm in found)
    assert first != second


def test_the_goals_lie_as_far_away_as_the_base_goes(model):
    made = trial(model, variant="random_target", objective="activation")
    net, tokenizer = load(model)
    net.requires_grad_(False)
    base = SteeringVector(torch.randn(32, generator=torch.Generator().manual_seed(0)), "model.layers.1")
    (goal,) = made._goals(net, tokenizer, base, ["3 + 4 ="])
    part = Slice(net, prompt_ids(tokenizer, "3 + 4 ="), source="model.layers.1", target="model.layers.2")
    plain, moved = part.target(torch.stack([torch.zeros(32), base.values]))[:, part.where].mean(1)
    assert float((goal - plain).norm()) == pytest.approx(float((moved - plain).norm()), rel=1e-4)
    assert float((goal - moved).norm()) > 0.1 * float((moved - plain).norm())


def test_it_is_a_function_of_its_seed(model):
    first, again, other = (trial(model, seed=seed).run(RunContext()) for seed in (0, 0, 1))
    assert first == again
    assert first["measures"] != other["measures"]


def test_a_seed_draws_prompts_in_their_order_without_repeating_any(model):
    drawn = [trial(model, seed=seed).drawn("searched", TRAINING, 3) for seed in range(6)]
    assert len({tuple(d) for d in drawn}) > 1
    for some in drawn:
        assert some == [p for p in TRAINING if p in some]
        assert len(some) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"behaviour": "cod"}, "behaviour is 'cod'; packaged are code"),
        ({"pairs": 1.5}, "pairs is 1.5; it must be a number, at least 0 and at most 1"),
        ({"searched": 0}, "searched is 0; it must be a whole number, at least 1"),
        ({"searched": 17}, "searched is 17; it must be 1 to 16"),
        ({"held_out": 9}, "held_out is 9; it must be 1 to 8"),
        ({"k": 0}, "k is 0"),
        ({"variant": "random_target"}, "aims at activations"),
    ],
)
def test_mistakes_are_named(model, changes, says):
    with pytest.raises(UserError, match=says):
        trial(model, **changes)


def test_more_twins_than_dimensions_are_refused(model):
    with pytest.raises(UserError, match="room for 1 to 31 twins"):
        trial(model, k=32).run(RunContext())


def test_every_claim_of_the_recipe_has_arms_that_can_bear_it_out():
    recipe = load_recipe("steering-twins")
    assert recipe.seeds == 3
    assert {settings.get("behaviour") for settings in recipe.arms.values()} >= {"list", "verse", "story"}
    assert recipe.arms["cap_1"]["k"] > 225  # a claim of 225 needs room for some that fail
    same = {name: recipe.arms[name] for name in ("cap_1_32", "cap_half", "cap_2", "list", "random_vector")}
    assert {settings["k"] for settings in same.values()} == {32}  # a count means nothing beside one of another search
