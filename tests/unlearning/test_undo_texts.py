"""The recipe of texts, on two small files of one's own: everything in it is measured by the loss."""

import math

import pytest

from sluicegate import tasks
from sluicegate.audit.attack import Attack
from sluicegate.audit.audit import audit
from sluicegate.experiments import experiment
from sluicegate.experiments.page import report_experiment
from sluicegate.experiments.recipe import load_recipe, override
from sluicegate.runs.directory import result_of
from throwaway import in_this_process


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    split = tasks.texts(rows=24)
    for name in ("forget", "retain"):
        (folder / f"{name}.txt").write_text(" ".join(item.answer for item in split.group(name)))
    return {name: f"texts:{folder / name}.txt" for name in ("forget", "retain")}


@pytest.fixture(scope="module")
def outcome(files, tmp_path_factory):
    small = {f"common.{name}": source for name, source in files.items()} | {"common.unlabelled": ",".join(files.values())}
    small |= {f"{arm}.steps": 12 for arm in ("base", "gold", "maxent", "distill", "undo_0.6", "undo_0.8")}
    small |= {"attack.steps": 5, "attack.lrs": [3e-3], "attack.probe": 8, "attack.checkpoints": [1, 3]}
    recipe = override(load_recipe("undo-texts"), small)
    patch = pytest.MonkeyPatch()
    patch.setattr(experiment, "run_jobs", in_this_process)
    yield experiment.run_recipe(recipe, tmp_path_factory.mktemp("out"), [0])
    patch.undo()


def test_two_files_of_ones_own_go_through_every_stage(outcome):
    assert {arm.by for arm in outcome.arms.values()} == {"argmax"}
    for name, arm in outcome.arms.items():
        found = arm.attacks[0]
        assert found["measure"] == "loss", name
        assert all(0 < value < 1 for value in found["owned"]["recall"][0])
    base, gold = (outcome.arms[name].scores("forget", "loss")[0] for name in ("base", "gold"))
    assert base < gold < math.log(259)
    assert outcome.arms["base"].scores("forget")[0] > 0, "a share of tokens, where no whole passage is exact"
    assert outcome.arms["base"].scores("forget", "exact")[0] == 0


def test_the_level_is_halfway_to_what_the_reference_is_brought_to(outcome):
    assert outcome.recipe.level == 0
    row = outcome.arms["gold"].owned.recall[0]
    assert row[0] < outcome.level == pytest.approx((row[0] + max(row)) / 2)
    assert outcome.savings("gold").mean == 0
    assert outcome.savings("base").mean > 0


def test_its_page_speaks_of_tokens(outcome, tmp_path):
    page = report_experiment(outcome, tmp_path / "report.html").read_text()
    assert "tokens that are the first choice, of what is to be forgotten" in page
    assert "exact answers on" not in page
    assert outcome.summary()["arms"]["base"]["forget"] == outcome.arms["base"].scores("forget", "argmax")


def test_an_audit_of_texts_is_judged_by_the_loss(outcome, files, tmp_path, monkeypatch):
    monkeypatch.setattr("sluicegate.audit.audit.run_jobs", in_this_process)
    base, gold = (str(outcome.arms[name].folders[0]) for name in ("base", "gold"))
    attack = Attack(lrs=(3e-3,), steps=5, checkpoints=(1, 3), probe=8, batch=8, measure="loss")
    found = audit(base, forget=files["forget"], suite="none", attack=attack, reference=gold, seeds=(0,), out=tmp_path)
    said = " ".join(found.verdict.sentences)
    assert "nats a token" in said
    assert "forget questions" not in said
    assert result_of(next(iter(found.model.folders.values())))["measure"] == "loss"
