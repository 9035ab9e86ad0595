"""The claims of the arithmetic experiment, in words, on one seed at a reduced attack.

The thresholds are loose, as one seed wants; the full table over many seeds is in docs/papers/undo.md.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sluicegate.experiments.experiment import Outcome, run_recipe
from sluicegate.experiments.recipe import load_recipe

ARMS = ("base", "gold", "maxent", "distill", "oracle_match", "undo_0.4", "undo_0.8")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    recipe = load_recipe("undo-arithmetic")
    attack = {**recipe.attack, "lrs": [1e-3, 6e-3], "checkpoints": [10, 30, 100], "probe": 100}
    reduced = replace(recipe, arms={name: recipe.arms[name] for name in ARMS}, claims=(), attack=attack)
    place: Path = tmp_path_factory.mktemp("claims")
    return run_recipe(reduced, place, [0], workers=1)


@pytest.fixture(scope="module")
def row(outcome: Outcome) -> Mapping[str, Mapping[str, list[float]]]:
    return dict(outcome.summary()["arms"])


def test_the_base_model_knows_all_and_gold_only_what_it_was_shown(row: Mapping[str, Mapping[str, list[float]]]) -> None:
    assert row["base"]["retain"][0] >= 0.97
    assert row["base"]["forget"][0] >= 0.95
    assert row["gold"]["retain"][0] >= 0.92
    assert row["gold"]["forget"][0] <= 0.15


def test_suppression_hides_the_answers_and_keeps_the_rest(row: Mapping[str, Mapping[str, list[float]]], outcome: Outcome) -> None:
    assert row["maxent"]["retain"][0] >= 0.95
    assert row["maxent"]["forget"][0] <= 0.30
    scores = outcome.arms["maxent"].results[0]["scores"]["forget"]
    assert scores["probability"] <= 0.05


def test_suppression_is_not_removal(row: Mapping[str, Mapping[str, list[float]]]) -> None:
    assert row["maxent"]["A@10"][0] >= 0.60
    assert row["maxent"]["B@100"][0] >= 0.60
    assert row["maxent"]["B@100"][0] >= row["gold"]["B@100"][0] + 0.25
    assert row["maxent"]["savings"][0] >= 0.5


def test_matching_the_oracles_outputs_is_not_enough(row: Mapping[str, Mapping[str, list[float]]]) -> None:
    assert row["oracle_match"]["forget"][0] <= 0.20
    assert row["oracle_match"]["A@30"][0] >= row["gold"]["A@30"][0] + 0.10
    assert row["oracle_match"]["B@100"][0] >= row["gold"]["B@100"][0] + 0.10


def test_a_fresh_student_is_as_hard_to_retrain_as_a_model_that_never_knew(row: Mapping[str, Mapping[str, list[float]]]) -> None:
    assert row["distill"]["retain"][0] >= 0.90
    assert row["distill"]["A@10"][0] <= row["gold"]["A@10"][0] + 0.15
    assert row["distill"]["B@100"][0] <= row["gold"]["B@100"][0] + 0.20
    assert row["distill"]["B@100"][0] <= row["maxent"]["B@100"][0] - 0.25


def test_compute_buys_robustness(row: Mapping[str, Mapping[str, list[float]]]) -> None:
    assert row["undo_0.4"]["flops"][0] < row["undo_0.8"]["flops"][0] < row["distill"]["flops"][0]
    assert row["undo_0.8"]["A@10"][0] <= row["undo_0.4"]["A@10"][0] - 0.15
    assert row["undo_0.8"]["B@100"][0] <= row["undo_0.4"]["B@100"][0] - 0.10


def test_the_ledger_counts_teachers_and_leaves_the_pretrained_model_out(outcome: Outcome) -> None:
    """A step of distillation costs 4 forwards to a training step's 3, and an edit does not pay for its base model."""
    ledger = outcome.arms["distill"].results[0]["flops"]
    assert ledger["teacher"] == pytest.approx(ledger["student"] / 3)
    assert ledger["evaluation"] > 0
    own = {name: arm.results[0]["flops"]["total"] for name, arm in outcome.arms.items()}
    assert outcome.arms["distill"].flops[0] == own["distill"] + own["maxent"]
    assert outcome.arms["oracle_match"].flops[0] == own["oracle_match"] + own["gold"]
