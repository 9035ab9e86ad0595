"""The benchmark of ranks compares what it says it compares; that ranks agree is tested in tests/slow."""

import json
from pathlib import Path

import pytest
import torch

from sluicegate_papers.benchmarks import ranks


@pytest.fixture
def found(monkeypatch):
    """What is found when every run but the first moves one weight by an amount of its own."""
    amounts = {ranks.MODEL: 0.5, "one": 0.0, "cut": 0.01, "several": -0.02, "divided": 0.04}
    said = []

    def execute(stage, out, **how):
        said.append((out.name, stage.schedule, how["procs"], how.get("shard", False)))
        out.mkdir()
        (out / "env.json").write_text(json.dumps({"world_size": how["procs"]}))
        return out

    def weights(name):
        return {"a": torch.zeros(3), "b": torch.tensor([[1.0, 2.0 + amounts[Path(name).name]]])}

    monkeypatch.setattr(ranks, "execute", execute)
    monkeypatch.setattr(ranks, "_weights", weights)
    return ranks.run(quick=True, procs=3), said


def test_every_difference_is_the_largest_against_one_process(found):
    figures, _ = found
    assert ranks.summary(figures) == pytest.approx(
        {
            "world_size": 3, "max_weight_difference": 0.02, "max_weight_difference_sharded": 0.04,
            "max_weight_difference_accumulate": 0.01, "max_weight_change": 0.5, "steps": 5,
        },
        rel=1e-5,
    )  # fmt: skip


def test_the_runs_differ_in_nothing_but_who_trains_and_the_control_in_how_the_batch_is_cut(found):
    _, said = found
    assert {name: (schedule.accumulate, procs, shard) for name, schedule, procs, shard in said} == {
        "one": (1, 1, False), "cut": (2, 1, False), "several": (1, 3, False), "divided": (1, 3, True),
    }  # fmt: skip
    assert len({(schedule.steps, schedule.batch, schedule.lr, schedule.warmup) for _, schedule, _, _ in said}) == 1


def test_the_figures_in_words(found):
    text = ranks.markdown(found[0])
    assert text.startswith("3 processes against one, 5 steps")
    for number in ("0.02", "0.04", "0.01", "0.5"):
        assert number in text
