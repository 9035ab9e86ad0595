"""The benchmark of the pipeline runs and counts what it says; timings themselves are no test."""

import dataclasses
import json
import os

import pytest
import torch

from sluicegate.audit import relearn as attacking
from sluicegate.audit.attack import Attack
from sluicegate.experiments import experiment
from sluicegate.experiments.recipe import load_recipe
from sluicegate_papers.benchmarks import pipeline
from sluicegate_papers.benchmarks.pipeline import (
    PLAIN,
    Attacked,
    Case,
    Measured,
    Ran,
    markdown,
    product_share,
    shortened,
    summary,
    weighted,
)
from throwaway import in_this_process

CASE = Case("arithmetic-tiny", "arithmetic", Attack(lrs=(1e-3, 3e-3), steps=2, checkpoints=(0, 2), batch=4, probe=4))


def made(**changes):
    own = {
        "recipe": "undo", "seeds": 2, "arms": 3, "cores": 2, "attacks": (Attacked(CASE, 2e8, 70_000, 5.0, 0.7, 0.6, 0.8),),
        "piped": Ran(50.0, {"train": 20.0, "relearn": 60.0}), "in_order": Ran(120.0, {"train": 20.0, "relearn": 80.0}),
        "shares": {"train": 0.4, "relearn": 0.2, PLAIN: 0.1},
    }  # fmt: skip
    return Measured(**(own | changes))


def test_ratios_and_shares_are_those_of_the_whole():
    found = summary(made())
    assert found["cpu_ratio"] == 0.8
    assert found["wall_ratio"] == 50 / 120
    assert found["product_share"] == pytest.approx((0.4 * 20 + 0.2 * 60) / 80)
    assert found["product_share_in_order"] == pytest.approx((0.4 * 20 + 0.1 * 80) / 100)
    assert weighted({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 3.0}) == 0.25
    assert json.loads(json.dumps(found))["attacks"][0]["used"] is True


def test_the_tables_name_what_is_measured():
    lines = markdown(made()).splitlines()
    assert lines[2] == "| arithmetic-tiny, 2 rates, 4 rows | 200 | 5.0 ms | 0.70 | 0.60 to 0.80 | yes |"
    assert "| CPU seconds of the stages | 80.0 | 100.0 | 0.80 |" in lines
    assert "| ... relearn | 60.0 | 80.0 | 0.75 |" in lines
    assert not Attacked(CASE, 1e12, 70_000, 5.0, 0.7, 0.6, 0.8).used
    assert not Attacked(CASE, 2e8, 500_000, 5.0, 0.7, 0.6, 0.8).used


def test_the_share_is_of_products_and_of_nothing_else():
    a = torch.randn(300, 300)
    many, few = (
        product_share(lambda times=times: [a @ a for _ in range(times)] + [a.sin() for _ in range(40 - times)]) for times in (40, 2)
    )
    assert 0.0 < few < many < 1.0
    assert product_share(lambda: [a.sin() for _ in range(40)]) == 0.0


@pytest.mark.parametrize("product", [lambda a: a @ a, lambda a: torch.bmm(a[None], a[None]), lambda a: torch.addmm(a, a, a),
                                     lambda a: torch.baddbmm(a[None], a[None], a[None]), lambda a: torch.nn.functional.linear(a, a),
                                     lambda a: torch.nn.functional.scaled_dot_product_attention(*[a.view(1, 1, 64, 64)] * 3)])  # fmt: skip
def test_every_product_is_counted(product):
    a = torch.randn(64, 64)
    assert product_share(lambda: product(a)) > 0


def test_an_attack_is_timed_both_ways(monkeypatch):
    calls, fit = [], attacking.fit
    monkeypatch.setattr(attacking, "fit", lambda *a, **k: (calls.append(k["name"]), fit(*a, **k))[1])
    monkeypatch.setenv("SLUICEGATE_STACK", "auto")
    found = pipeline.timed(CASE, 3)
    assert calls == ["lr 0.001", "lr 0.003"] * 4, "in turn to warm up and in each of three turns; at once never calls fit"
    assert found.low <= found.ratio <= found.high
    assert 0 < found.flops < 1e8
    assert found.weights == sum(p.numel() for p in pipeline.load(CASE.model)[0].parameters())
    assert os.environ["SLUICEGATE_STACK"] == "auto"


def test_the_switch_is_put_back(monkeypatch):
    monkeypatch.delenv("SLUICEGATE_STACK", raising=False)
    seen = []

    def fails():
        with pipeline.stacked("never"):
            seen.append(os.environ["SLUICEGATE_STACK"])
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert seen == ["never"]
    assert "SLUICEGATE_STACK" not in os.environ


def test_it_runs_the_pipeline_both_ways_and_profiles_every_verb(monkeypatch):
    ways, run_recipe = [], pipeline.run_recipe

    def spy(recipe, out, seeds, *, workers, progress):
        ways.append((os.environ["SLUICEGATE_STACK"], workers))
        return run_recipe(recipe, out, seeds, workers=workers, progress=progress)

    monkeypatch.setattr(pipeline, "run_recipe", spy)
    monkeypatch.setattr(experiment, "run_jobs", in_this_process)  # starting a process takes longer than the jobs do
    monkeypatch.setattr(pipeline, "product_share", lambda work: (work(), 0.5)[1])  # the profiler takes longer than what it looks at
    monkeypatch.setitem(pipeline.SHORT, "relearn", {"steps": 2, "checkpoints": [0, 2]})
    recipe = shortened(load_recipe("undo-arithmetic"), ("base",), 2)
    recipe = dataclasses.replace(recipe, attack={**recipe.attack, "probe": 4, "lrs": [1e-3, 3e-3]})
    found = pipeline.measure(recipe, (0,), [], turns=1, short=2)
    assert ways == [("auto", 0), ("never", 1)]
    assert set(found.piped.cpu) == set(found.in_order.cpu) == {"train", "relearn"}
    assert set(found.shares) == {"train", "relearn", PLAIN}
    assert found.product_share == pytest.approx(0.5)
    assert min(found.piped.wall, found.piped.total, found.in_order.total) > 0
    assert markdown(found)


def test_a_shortened_recipe_is_a_recipe():
    short = shortened(load_recipe("undo-arithmetic"))
    assert set(short.arms) == {"base", "gold", "maxent"}
    assert {arm["steps"] for arm in short.arms.values()} == {60}
    assert short.attack["steps"] == pipeline.ATTACK_STEPS
