"""The benchmark of the pipeline runs and counts what it says; timings themselves are no test."""

import dataclasses
import json

import pytest
import torch

from sluicegate.experiments import experiment
from sluicegate.experiments.recipe import load_recipe
from sluicegate_papers.benchmarks import pipeline
from sluicegate_papers.benchmarks.pipeline import Measured, Ran, markdown, product_share, shortened, summary, weighted
from throwaway import in_this_process


def made(**changes):
    own = {
        "recipe": "undo", "seeds": 2, "arms": 3, "cores": 2, "shares": {"train": 0.4, "relearn": 0.2},
        "piped": Ran(50.0, {"train": 20.0, "relearn": 60.0}), "in_order": Ran(120.0, {"train": 20.0, "relearn": 80.0}),
    }  # fmt: skip
    return Measured(**(own | changes))


def test_ratios_and_shares_are_those_of_the_whole():
    found = summary(made())
    assert found["cpu_ratio"] == 0.8
    assert found["wall_ratio"] == 50 / 120
    assert found["product_share"] == pytest.approx((0.4 * 20 + 0.2 * 60) / 80)
    assert weighted({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 3.0}) == 0.25
    assert json.loads(json.dumps(found)) == found


def test_the_tables_name_what_is_measured():
    lines = markdown(made()).splitlines()
    assert lines[0] == "| undo: 3 arms, 2 seed(s), 2 core(s) | as it runs | one after the other | ratio |"
    assert "| CPU seconds of the stages | 80.0 | 100.0 | 0.80 |" in lines
    assert "| ... relearn | 60.0 | 80.0 | 0.75 |" in lines
    assert lines[-1] == "Share in matrix products by verb: train 40%, relearn 20%."


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


def test_it_runs_the_pipeline_both_ways_and_profiles_every_verb(monkeypatch):
    ways, run_recipe = [], pipeline.run_recipe

    def spy(recipe, out, seeds, *, workers, progress):
        ways.append(workers)
        return run_recipe(recipe, out, seeds, workers=workers, progress=progress)

    monkeypatch.setattr(pipeline, "run_recipe", spy)
    monkeypatch.setattr(experiment, "run_jobs", in_this_process)  # starting a process takes longer than the jobs do
    monkeypatch.setattr(pipeline, "product_share", lambda work: (work(), 0.5)[1])  # the profiler takes longer than what it looks at
    monkeypatch.setitem(pipeline.SHORT, "relearn", {"steps": 2, "checkpoints": [0, 2]})
    recipe = shortened(load_recipe("undo-arithmetic"), ("base",), 2)
    recipe = dataclasses.replace(recipe, attack={**recipe.attack, "probe": 4, "lrs": [1e-3, 3e-3]})
    found = pipeline.measure(recipe, (0,), short=2)
    assert ways == [0, 1]
    assert set(found.piped.cpu) == set(found.in_order.cpu) == {"train", "relearn"}
    assert set(found.shares) == {"train", "relearn"}
    assert found.product_share == pytest.approx(0.5)
    assert min(found.piped.wall, found.piped.total, found.in_order.total) > 0
    assert markdown(found)


def test_a_shortened_recipe_is_a_recipe():
    short = shortened(load_recipe("undo-arithmetic"))
    assert set(short.arms) == {"base", "gold", "maxent"}
    assert {arm["steps"] for arm in short.arms.values()} == {60}
    assert short.attack["steps"] == 20
