"""The trial of a split encoding: what it measures, that routing makes the difference, and that it resumes."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.experiments.recipe import load_recipe
from sluicegate.routing.router import Router
from sluicegate.runs.directory import RunContext, result_of
from sluicegate.runs.stage import from_config
from sluicegate.tasks.digits import Images, Part, load_images
from sluicegate.values.schedule import Schedule
from sluicegate_papers import split_stage as split
from sluicegate_papers.split_stage import Split, autoencoder, constants

TINY = Split(code=8, hidden=(32,), schedule=Schedule(steps=12, batch=32, lr=2e-3, clip=0.0))


def settled(arm, **changes):
    """A small net, trained as long as the split needs to show."""
    schedule = Schedule(steps=300, batch=64, lr=4e-3, decay="cosine", final=0.02, clip=0.0)
    return Split(variant=arm, code=16, hidden=(64,), l1=0.01, schedule=schedule, **changes).run(RunContext())["measures"]


@pytest.fixture(scope="module")
def routed():
    return settled("routed")


@pytest.fixture(scope="module")
def control():
    return settled("control")


def test_routing_splits_and_the_same_regularisers_without_it_do_not(routed, control):
    assert routed["wrong_mse"] > 1.6 * routed["own_mse"]
    # Units that L1 makes sparse lean towards single digits by themselves, so a small gap is no split.
    assert control["wrong_mse"] < 1.35 * control["own_mse"]
    for half, own, other in (("first", "low", "high"), ("second", "high", "low")):
        assert routed[f"{half}_on_{other}_mse"] > 1.3 * routed[f"{half}_on_{own}_mse"]


def test_what_is_measured_adds_up(routed):
    assert set(routed) == set(Split.MEASURES)
    assert routed["own_mse"] == pytest.approx((routed["first_on_low_mse"] + routed["second_on_high_mse"]) / 2)
    assert routed["wrong_mae"] == pytest.approx((routed["first_on_high_mae"] + routed["second_on_low_mae"]) / 2)
    assert routed["wrong_share"] == pytest.approx(routed["wrong_mse"] / routed["constant_mse"])
    assert routed["decoder_mse"] < routed["own_mse"]
    assert all(value > 0 for value in routed.values())


def test_the_best_constant_images_are_mean_and_median():
    draw = np.random.default_rng(0)
    part = Part(draw.integers(0, 256, (90, 4, 4), dtype=np.uint8), np.arange(90) % 3)
    found = constants(Images(part, part, part, 255), (0, 1))
    for group, classes in (("low", (0, 1)), ("high", (2,))):
        own = part.images[np.isin(part.labels, classes)] / 127.5 - 1
        assert found[f"constant_{group}_mse"] == pytest.approx(((own - own.mean(0)) ** 2).mean(), rel=1e-4)
        assert found[f"constant_{group}_mae"] == pytest.approx(np.abs(own - np.median(own, 0)).mean(), rel=1e-4)
    assert found["constant_mse"] == pytest.approx((found["constant_low_mse"] + found["constant_high_mse"]) / 2)


def test_a_certificate_sends_no_gradient_to_the_encoder():
    model = autoencoder(16, (8,), 4, seed=0)
    answers = split._decoded(model, torch.randn(3, 16))
    (answers["first"].sum() + answers["second"].sum()).backward()
    assert all(p.grad is None for p in model["encoder"].parameters())
    assert all(p.grad is not None for p in model["first"].parameters())


def test_each_certificate_sees_its_own_half_only():
    model = autoencoder(16, (8,), 4, seed=0)
    x = torch.randn(3, 16)
    before = split._decoded(model, x)
    with torch.no_grad():
        model["encoder"].code.weight[:2] += 1  # the first half
    after = split._decoded(model, x)
    assert not torch.equal(after["first"], before["first"])
    assert torch.equal(after["second"], before["second"])


def test_a_routed_row_moves_its_half_of_the_encoding_only():
    images, trial = load_images(), dataclasses.replace(TINY, low=tuple(range(9)))
    low = images.train.of(trial.low)
    only = dataclasses.replace(images, train=Part(images.train.images[low], images.train.labels[low]))
    model = autoencoder(64, trial.hidden, trial.code, 0)
    router = Router(model, {split.SITE: {"low": (0, 4), "high": (4, 8)}})
    batch = split._drawing(only, trial._labels(only.train), 32, 0)(0)["train"]
    with router(batch.labels):
        split._loss(model, batch, "mse", lambda share: torch.zeros(()), 12).value.backward()
    gradient = model["encoder"].code.weight.grad
    assert gradient[4:].abs().max() == 0 < gradient[:4].abs().max()


def test_labels_say_what_each_arm_routes():
    train = load_images().train
    low = train.of((0, 1, 2, 3, 4))
    assert np.array_equal(Split(variant="routed")._labels(train), np.where(low, 1, 2))
    assert np.array_equal(Split(variant="one_sided")._labels(train), np.where(low, 1, -1))
    few = Split(variant="routed", labelled=0.1)._labels(train)
    assert 0.06 < (few != -1).mean() < 0.14
    assert np.array_equal(few[few != -1], np.where(low, 1, 2)[few != -1])


def test_a_step_in_parts_is_the_same_step(tmp_path):
    whole = dataclasses.replace(TINY, variant="plain").run(RunContext())["measures"]
    parts = dataclasses.replace(TINY, variant="plain", schedule=dataclasses.replace(TINY.schedule, accumulate=4)).run(RunContext())[
        "measures"
    ]
    assert parts == pytest.approx(whole, rel=1e-4)


def test_a_killed_run_ends_with_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("SLUICEGATE_KEEP_SECONDS", "0")
    whole = execute(TINY, tmp_path / "whole", exact=True)

    class Killed(BaseException):
        pass

    def dies(title, done, total, numbers):
        if done == 7:
            raise Killed

    seen = []
    with pytest.raises(Killed):
        execute(TINY, tmp_path / "cut", exact=True, progress=dies)
    cut = execute(TINY, tmp_path / "cut", exact=True, progress=lambda title, done, total, numbers: seen.append(done))
    assert seen[0] == 7  # the resume point is written after the seventh step is told of
    assert result_of(cut)["measures"] == result_of(whole)["measures"]
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_the_run_folder_holds_a_picture_and_the_curves(tmp_path):
    folder = execute(TINY, tmp_path / "run", exact=True)
    picture = (folder / split.PICTURE).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000
    curves = json.loads((folder / "result.json").read_text())["curves"]
    assert set(curves) == {"wrong half", "own half"}
    assert curves["own half"]["x"][-1] == 12


def test_own_images_are_known_by_their_content(tmp_path):
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (200, 6, 6), dtype=np.uint8), np.arange(200) % 4
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels)
    a, b = (dataclasses.replace(TINY, data=str(tmp_path / f"{name}.npz"), low=(0, 1)).resolved() for name in "ab")
    assert a.content == b.content != ""
    assert Split().resolved().content == ""
    assert set(a.run(RunContext())["measures"]) == set(Split.MEASURES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"low": (0, 11)}, "low names class 11, but the classes are 0, 1, 2"),
        ({"low": tuple(range(10))}, "it must leave some of the classes"),
        ({"low": ()}, "it must leave some of the classes"),
        ({"data": "mnits"}, "no images 'mnits'"),
        ({"code": 7}, "code is 7; it must be an even number"),
        ({"hidden": ()}, "hidden is .*; give the width"),
        ({"labelled": 0.0}, "labelled is 0.0; it must be a number, more than 0 and at most 1"),
    ],
)
def test_wrong_settings_are_named(changes, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(TINY, **changes).resolved().run(RunContext())


@pytest.mark.parametrize("name", ["digits-split", "mnist-split"])
def test_the_recipes_are_sound(name):
    recipe = load_recipe(name)
    assert set(recipe.trials) == {"routed", "control", "plain", "one_sided", "few_labels"}
    for arm in recipe.arms:
        trial = from_config(recipe.stage_settings(arm, 0, {}))
        assert trial.data == name.removesuffix("-split")
