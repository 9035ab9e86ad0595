import dataclasses
import math

import pytest
import torch

from architectures import build
from jsonl import write_jsonl
from sluicegate.engine.encoding import encode
from sluicegate.engine.models import load_tokenizer, save
from sluicegate.engine.scoring import score
from sluicegate.engine.training import Ledger
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule
from sluicegate_papers.access_control_stage import GENERAL, AccessControl, _commonest, _summary, _table, subsets

SHORT = AccessControl(width=32, units=8, relearn_steps=5, relearn_lrs=(1e-3,), schedule=Schedule(steps=3, batch=16, lr=3e-3))


class Listening(RunContext):
    """A room that remembers what is logged."""

    def __init__(self):
        super().__init__()
        self.records = []

    def log(self, record):
        self.records.append(record)


def run(**changes):
    run = Listening()
    return dataclasses.replace(SHORT, **changes).resolved().run(run), run.records


def test_three_capabilities_give_eight_choices():
    found = list(subsets("abc"))
    assert len(set(found)) == 8
    assert found[0] == ()
    assert found[-1] == ("a", "b", "c")


def test_the_summary_keeps_models_with_and_without_the_module_apart():
    there = {("a",), ("a", "b")}
    table = {(m, n): (0.0, 9.0) for m in subsets("ab") for n in ("a", "b", GENERAL)}
    table |= {(m, "a"): (0.9 if m == ("a",) else 0.7, 0.1) for m in there}
    table |= {(("b",), "a"): (0.3, 2.0), (("a",), GENERAL): (0.5, 1.0), (("a", "b"), GENERAL): (0.8, 1.0), (("a", "b"), "b"): (1.0, 0.3)}
    found = _summary(table, ["a", "b"], {"a": 0.25, "b": 0.1})
    assert found["with_mean"] == pytest.approx((0.9 + 0.7 + 0.0 + 1.0) / 4)
    assert found["with_worst"] == 0.0  # b, with its module alone
    assert found["without_mean"] == pytest.approx(0.3 / 4)
    assert found["without_best"] == 0.3
    assert found["without_excess"] == pytest.approx(0.05)
    assert found["full"] == pytest.approx((0.7 + 1.0) / 2)
    assert found["loss_without_least"] == 2.0
    assert (found["general_full"], found["general_worst"]) == (0.8, 0.0)


def test_every_choice_is_scored_on_the_model_that_bakes_it():
    trial = SHORT.resolved()
    _, scored = trial.material()
    model, tokenizer = trial._model()
    names = [name for name in scored if name != GENERAL]
    router = trial._router(model, names)
    router.remove()
    rows = {name: encode(tokenizer, items[:6]) for name, items in scored.items()}
    table = _table(model, router, rows, names, Ledger())
    assert len(table) == 8 * 4
    before = sum(p.numel() for p in model.parameters())
    router.ablate("divide", "subtract").bake(model)
    assert sum(p.numel() for p in model.parameters()) < before
    for name, own in rows.items():
        assert score(model, own).mean()["loss"] == pytest.approx(table[("multiply",), name][1], rel=1e-5)
    assert len({round(loss, 6) for (_, name), (_, loss) in table.items() if name == GENERAL}) == 8


def test_a_capabilitys_rows_train_its_module_and_nothing_else():
    trial = dataclasses.replace(SHORT, joint="").resolved()
    learnt, _ = trial.material()
    model, tokenizer = trial._model()
    names = [name for name in learnt if name != GENERAL]
    router = trial._router(model, names)
    batch = encode(tokenizer, learnt["multiply"][:4]).batch(range(4))
    with router(["multiply"] * 4):
        model(input_ids=batch.ids, attention_mask=batch.attention.long(), labels=batch.ids).loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert set(grads) == {f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    start, stop = dict(router.sites)[next(site for site, _ in router.sites)]["multiply"]
    rest = torch.ones(model.config.intermediate_size, dtype=torch.bool)
    rest[start:stop] = False
    assert not grads["model.layers.0.mlp.gate_proj.weight"][rest].any()
    assert not grads["model.layers.0.mlp.down_proj.weight"][:, rest].any()


@pytest.mark.parametrize("arm", ["routed", "control", "without"])
def test_it_measures_what_it_declares_and_is_a_function_of_its_seed(arm):
    found, records = run(variant=arm)
    assert found == run(variant=arm)[0]
    assert found["measures"].keys() <= AccessControl.MEASURES.keys()
    assert all(math.isfinite(v) for v in found["measures"].values())
    assert found["measures"]["parameters_without"] < found["measures"]["parameters"]
    assert len([r for r in records if r.get("kind") == "subset"]) == (0 if arm == "without" else 8 * 4)
    assert found["curves"]["relearning"]["x"][0] == 0


def test_the_reference_never_sees_what_is_dropped(monkeypatch):
    seen = {}
    real = AccessControl._train

    def spy(self, model, tokenizer, learnt, *rest):
        seen[self.variant] = set(learnt)
        return real(self, model, tokenizer, learnt, *rest)

    monkeypatch.setattr(AccessControl, "_train", spy)
    for arm in ("routed", "without"):
        run(variant=arm, drop="multiply", schedule=Schedule(steps=1, batch=16, lr=1e-3))
    assert seen["routed"] - seen["without"] == {"multiply"}


def test_a_constant_answer_scores_the_share_of_the_commonest_token(tokenizer):
    rows = encode(tokenizer, [Item("1 + 1 =", " 2"), Item("2 + 0 =", " 2"), Item("2 + 2 =", " 4"), Item("3 + 3 =", " 6")])
    assert _commonest(rows) == 0.5


@pytest.mark.slow
def test_modules_carry_their_capability():
    found = AccessControl(relearn_steps=1).resolved().run(RunContext())["measures"]
    assert found["with_mean"] > found["without_mean"] + 0.4


# ------------------------------------------------------------------------------- the user's own


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    rows = [
        Item(f"{a} {sign} {b} =", f" {a}", label=label)
        for sign, label in (("*", "left"), ("/", "right"), ("+", "general"))
        for a in range(1, 7)
        for b in range(1, 7)
    ]
    write_jsonl(rows, folder / "rows.jsonl")
    write_jsonl([dataclasses.replace(row, label="") for row in rows], folder / "bare.jsonl")
    write_jsonl([row for row in rows if row.label != "general"], folder / "no_general.jsonl")
    write_jsonl([row for row in rows if row.label != "left"] + rows[:2], folder / "few.jsonl")
    save(build("llama"), load_tokenizer("arithmetic-tiny"), folder / "model")
    return folder


def test_a_users_rows_and_model(own):
    found, records = run(data=str(own / "rows.jsonl"), model=str(own / "model"), held_out=0.25)
    assert {r["rows"] for r in records if r.get("kind") == "subset"} == {"left", "right", GENERAL}
    assert len([r for r in records if r.get("kind") == "subset"]) == 4 * 3
    assert found["measures"]["with_mean"] >= 0


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_models_whose_embeddings_are_tied_and_named_otherwise(own, tmp_path, name):
    save(build(name), load_tokenizer("arithmetic-tiny"), tmp_path / "model")
    found, _ = run(data=str(own / "rows.jsonl"), model=str(tmp_path / "model"), held_out=0.25)
    assert found["measures"]["parameters_without"] < found["measures"]["parameters"]


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("rows.jsonl", {"model": ""}, "data is given without model"),
        ("rows.jsonl", {"held_out": 1.0}, "held_out is 1"),
        ("rows.jsonl", {"drop": "lift"}, "drop is 'lift', which is no capability. Nearest: left"),
        ("bare.jsonl", {}, "has no label"),
        ("no_general.jsonl", {}, "0 general rows and 2 capabilities"),
        ("few.jsonl", {}, "2 rows have the label 'left'"),
    ],
)
def test_a_users_mistakes_are_named(own, file, changes, says):
    with pytest.raises(UserError, match=says):
        run(**{"data": str(own / file), "model": str(own / "model"), **changes})
