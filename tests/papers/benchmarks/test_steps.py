"""The benchmark of steps at a real model's size, on a tiny shape."""

import pytest
import torch

from sluicegate_papers.benchmarks import steps
from sluicegate_papers.benchmarks.steps import Measured

TINY = steps.SHAPE | {"hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 5000}


@pytest.mark.parametrize("what", steps.METHODS)
def test_both_sides_take_the_same_steps_on_the_same_rows(what):
    torch.manual_seed(0)
    forget, retain = steps.rows(1, TINY), steps.rows(2, TINY)
    models, ticks = [steps.drawn(TINY), steps.drawn(TINY)], [0, 0]

    def tick(which):
        ticks[which] += 1

    steps.ours(what, models[0], forget, retain, 2, lambda: tick(0))
    if what == "train":
        steps.shortest(models[1], forget, 2, lambda: tick(1))
        for p, q in zip(*(m.parameters() for m in models), strict=True):
            torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-4)
    else:
        steps.trainer(what, models[1], forget, retain, 2, lambda: tick(1))
    start = steps.drawn(TINY)
    moved = [[(p - q).abs().max() for p, q in zip(m.parameters(), start.parameters(), strict=True)] for m in models]
    for mine, theirs in zip(*moved, strict=True):
        assert 0.5 < float((mine / theirs).detach()) < 2
    assert ticks == [3, 3]


@pytest.mark.slow
def test_turns_give_a_ratio_and_a_peak():
    found = steps.run(quick=True, shape=TINY)
    figures = steps.summary(found)
    assert set(figures) == set(steps.METHODS)
    assert all(each["ratio"] > 0 and each["peak_over_weights"] > 0 for each in figures.values())


def test_the_figures_are_medians_and_the_table_names_both_sides():
    found = Measured({"npo": (0.8, 0.9, 1.2), "train": (1.0, 1.01, 1.1)}, {"npo": (3.5, 4.6), "train": (3.1, 3.4)})
    assert steps.summary(found)["npo"] == {"ratio": 0.9, "peak_over_weights": 3.5, "their_peak_over_weights": 4.6}
    assert "| npo | Hugging Face Trainer | 0.90 | 0.80 to 1.20 | 3.50 | 4.60 |" in steps.markdown(found)
    assert "| train | the shortest loop | 1.01 |" in steps.markdown(found)
