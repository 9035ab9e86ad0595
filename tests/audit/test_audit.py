"""An audit attacks model and reference alike, and its page and numbers agree with the runs."""

import dataclasses
import functools
import json
import shutil
import sys
from pathlib import Path

import pytest

import architectures
import sluicegate as sg
from sluicegate.app import main
from sluicegate.audit.attack import Attack
from sluicegate.audit.audit import audit as audit_by
from sluicegate.audit.stage import Relearn
from sluicegate.engine import models
from sluicegate.errors import UserError
from sluicegate.execution.here import Here
from sluicegate.execution.local import LocalPool
from sluicegate.values import items
from throwaway import in_this_process
from tiny_stages import material

audit = functools.partial(audit_by, suite="none")
ONE_STEP = Attack(lrs=(1e-2,), steps=1, checkpoints=(), batch=4)


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return material(tmp_path / "material")


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr("sluicegate.audit.audit.run_jobs", in_this_process)


def test_model_and_reference_are_attacked_alike_and_gathered(own, tmp_path):
    attack = Attack(lrs=(1e-2,), steps=4, checkpoints=(2,), batch=8)
    rows = {"forget": own["forget"], "retain": own["retain"], "max_length": 32}
    found = audit(own["model"], **rows, attack=attack, reference=own["model"], seeds=2, out=tmp_path / "audit", workers=2)
    assert found.reference is not None
    assert found.harmless is not None
    assert found.model.owned == found.reference.owned  # the same model under the same attack
    assert found.model.held_out.effort == (0.0, 2.0, 4.0)
    assert found.harmless.attacks[0]["method"] == "retain"
    assert found.verdict.excess is not None
    assert found.verdict.excess.mean == 0
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == found.summary()
    assert found.summary()["seeds"] == [0, 1]
    assert found.page == tmp_path / "audit" / "report.html"
    assert found.verdict.sentences[0].split(".")[0] in found.page.read_text()


def test_attacks_by_several_processes_run_one_after_another(own, tmp_path, monkeypatch):
    asked = []

    def run(jobs, executor, *more):
        asked.append(executor)
        return in_this_process(jobs, executor, *more)

    monkeypatch.setattr("sluicegate.audit.audit.run_jobs", run)
    how = {"forget": own["forget"], "attack": ONE_STEP, "seeds": 1, "out": tmp_path / "audit"}
    audit(own["model"], **how, procs=2, shard=True)
    audit(own["model"], **how, workers=3)
    assert asked == [Here(2, True), LocalPool(3)]
    for wrong, text in (
        ({"procs": 2, "workers": 2}, "--procs is 2 and --workers 2"),
        ({"shard": True}, "divides a model among processes"),
        ({"procs": -1}, "--procs is -1"),
    ):
        with pytest.raises(UserError, match=text):
            audit(own["model"], **how, **wrong)


def test_without_retain_rows_there_is_no_harmless_attack(own, tmp_path, at_once):
    found = audit(own["model"], forget=own["forget"], attack=ONE_STEP, seeds=(3,), out=tmp_path / "audit")
    assert found.harmless is None
    assert found.verdict.word == "no reference"
    assert list(found.model.attacks) == [3]


def test_python_writes_the_page_that_the_command_writes(own, tmp_path, at_once, capsys):
    """The package `sluicegate.audit` answers the call, under the name that the import system gave it."""
    assert sg.audit is sys.modules["sluicegate.audit"]
    words = [
        "--forget",
        own["forget"],
        "--seeds",
        "1",
        "--steps",
        "1",
        "--batch",
        "4",
        "--lrs",
        "1e-2",
        "--checkpoints",
        "0",
        "--suite",
        "none",
    ]
    assert main(["audit", own["model"], *words, "--out", "command"]) == 0
    assert main(["audit", "--model", own["model"], *words, "--out", "option"]) == 0
    attack = Attack(lrs=(1e-2,), steps=1, checkpoints=(0,), batch=4)
    found = sg.audit(own["model"], forget=own["forget"], suite="none", attack=attack, seeds=1, out="python")
    pages = [(tmp_path / folder / "report.html").read_text() for folder in ("command", "option", "python")]
    assert pages[0] == pages[1] == pages[2]
    assert json.loads((tmp_path / "command" / "audit.json").read_text()) == found.summary()
    assert "report: command/report.html" in capsys.readouterr().out


def test_two_models_are_refused(own, capsys):
    assert main(["audit", own["model"], "--model", "arithmetic-tiny", "--forget", own["forget"]]) == 2
    assert "two models are given" in capsys.readouterr().err


def test_by_default_no_audit_overwrites_anothers_page(own, tmp_path, at_once):
    shutil.copytree(own["model"], tmp_path / "other")
    pages = {
        audit(model, forget=own["forget"], attack=ONE_STEP, seeds=seeds).page
        for model, seeds in ((own["model"], 1), (tmp_path / "other", 1), (own["model"], 2))
    }
    assert len(pages) == 3
    assert {page.parent.parent.as_posix() for page in pages} == {"runs/audit"}
    assert {page.parent.name.rpartition("-")[0] for page in pages} == {"model", "other"}
    assert audit(own["model"], forget=own["forget"], attack=ONE_STEP, seeds=1).page in pages, "the same audit has one page"
    assert len(list((tmp_path / "runs" / "audit").glob("relearn-*"))) == 2, "two seeds; equal content is attacked once"


def test_model_and_rows_are_read_once_a_process(own, tmp_path, at_once, monkeypatch):
    calls = []

    def counted(module, name):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: (calls.append((name, str(a[0]))), real(*a, **k))[1])

    counted(models, "load")
    counted(models.hashlib, "file_digest")
    counted(items, "read")
    found = audit(own["model"], forget=own["forget"], retain=own["retain"], attack=ONE_STEP, seeds=2, out=tmp_path / "audit")
    assert len(found.model.attacks) == 2
    assert found.harmless is not None
    assert calls.count(("load", own["model"])) == 1
    assert len(set(calls)) == len(calls)
    assert {name for name, _ in calls} == {"load", "file_digest", "read"}


def test_what_changed_is_read_again(own, tmp_path, at_once):
    first = audit(own["model"], forget=own["forget"], attack=ONE_STEP, seeds=1)
    rows = (tmp_path / "material" / "forget.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "material" / "forget.jsonl").write_text("".join(rows[:-1]))
    second = audit(own["model"], forget=own["forget"], attack=ONE_STEP, seeds=1)
    assert first.page != second.page
    assert first.model.owned.attack != second.model.owned.attack, "another forget set"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"forget": ""}, "audit needs a forget set"),
        ({"model": ""}, "audit needs a model"),
        ({"forget": "none.jsonl"}, "no file 'none.jsonl'"),
        ({"model": "nowhere"}, "no model 'nowhere'"),
        ({"reference": "./gone"}, "no model './gone'"),
        ({"model": object()}, "model is of type object"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": (1, 1)}, "different seeds"),
    ],
)
def test_what_cannot_be_audited_is_named_before_anything_runs(own, monkeypatch, wrong, text):
    monkeypatch.setattr("sluicegate.audit.audit.run_jobs", None)
    settings = {"model": own["model"], "forget": own["forget"], "attack": ONE_STEP, **wrong}
    with pytest.raises(UserError, match=text):
        audit(settings.pop("model"), **settings)


@pytest.fixture
def other(own, tmp_path):
    """A reference of two layers, and one whose tokenizer has two words' ids the other way round."""
    shape = architectures.learner().config
    shape.num_hidden_layers = 2
    models.save(models.fresh(shape, 0), models.load_tokenizer("arithmetic-tiny"), tmp_path / "layers")
    shutil.copytree(own["model"], tmp_path / "words")
    file = tmp_path / "words" / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    words["1"], words["2"] = words["2"], words["1"]
    file.write_text(json.dumps(content))
    return {"shape": str(tmp_path / "layers"), "tokenizer": str(tmp_path / "words")}


@pytest.mark.parametrize(
    ("kind", "told"), [("shape", "num_hidden_layers is 2, and 1 in the model"), ("tokenizer", "it has another tokenizer")]
)
def test_a_reference_that_is_built_otherwise_is_told_in_verdict_page_and_json(own, other, tmp_path, at_once, kind, told):
    found = audit(own["model"], forget=own["forget"], attack=ONE_STEP, seeds=1, reference=other[kind], out=tmp_path / "audit")
    assert told in found.verdict.sentences[-1]
    assert any(told in text for text in found.summary()["warnings"])
    assert told in found.page.read_text()
    same = audit(own["model"], forget=own["forget"], attack=ONE_STEP, seeds=1, reference=own["model"], out=tmp_path / "audit")
    assert not same.differs


def test_a_reference_that_cannot_be_compared_is_refused_before_anything_runs(own, other, tmp_path, monkeypatch):
    monkeypatch.setattr("sluicegate.audit.audit.run_jobs", None)
    models.save(architectures.build("llama"), models.load_tokenizer("arithmetic-tiny"), tmp_path / "narrow")
    with pytest.raises(UserError, match=r"the model is 64 wide and the reference 32.* --lrs"):
        audit(own["model"], forget=own["forget"], reference=tmp_path / "narrow")
    with pytest.raises(UserError, match="has another tokenizer than the model"):
        audit(own["model"], forget=own["forget"], reference=other["tokenizer"], attack=dataclasses.replace(ONE_STEP, measure="loss"))


def test_a_reference_with_another_chat_template_is_told_or_refused(own, tmp_path, at_once):
    for name, greeting in (("one", "ann"), ("other", "bo")):
        shutil.copytree(own["model"], tmp_path / name)
        (tmp_path / name / "chat_template.jinja").write_text(
            "{{ bos_token }}{% for m in messages %} "
            + greeting
            + " {{ m.content }}{% endfor %}{% if add_generation_prompt %} now{% endif %} "
        )
    how = {"forget": own["forget"], "seeds": 1, "reference": tmp_path / "other", "out": tmp_path / "audit"}
    assert not audit(tmp_path / "one", **how, attack=ONE_STEP).differs
    assert "another tokenizer or chat template" in audit(tmp_path / "one", **how, attack=ONE_STEP, template=True).differs
    with pytest.raises(UserError, match="another tokenizer or chat template than the model"):
        audit(tmp_path / "one", **how, attack=dataclasses.replace(ONE_STEP, measure="loss"), template=True)


def test_answers_that_are_sentences_are_compared_by_loss(own, tmp_path, at_once):
    """Their exact answers stay 0 whatever is known. The setting is written down, and so in the hash."""
    rows = [{"prompt": f"{n} * 1 =", "answer": " ann fills 1 bags 9 shells total ann fills 1 bags 9 shells total"} for n in range(4)]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stage = Relearn(model=own["model"], forget="long.jsonl").resolved()
    assert stage.attack.measure == "loss"
    assert Relearn(model=own["model"], forget=own["forget"]).resolved().attack.measure == "auto"
    found = audit(own["model"], forget="long.jsonl", attack=ONE_STEP, seeds=1, out=tmp_path / "audit")
    assert found.summary()["measure"] == "loss"
    assert found.verdict.sentences[0].startswith("Models are compared by loss: texts, and answers that are sentences")
    assert 0 < max(found.model.owned.recall[0]) < 1


def test_an_audit_by_what_is_written_says_so_on_its_page(own, tmp_path, at_once):
    attack = dataclasses.replace(ONE_STEP, measure="rouge")
    found = audit(own["model"], forget=own["forget"], reference=own["model"], attack=attack, seeds=1, out=tmp_path / "audit")
    assert found.summary()["measure"] == "rouge"
    assert found.verdict.sentences[0].startswith("Before any attack what it writes holds ")
    assert found.summary()["measured"].startswith("Recall, as --measure says, is the share of the answers' words in what is written")
    assert "it does not show what is not said" in found.page.read_text()
    assert found.model.owned == found.reference.owned


def test_an_attack_reads_its_rows_by_the_columns_that_are_named(own):
    rows = [{"q": f"{n} * 1 =", "a": "ann fills 1 bags 9 shells total ann fills 1 bags 9 shells total"} for n in range(4)]
    Path("named.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert Relearn(model=own["model"], forget="named.jsonl", columns="prompt=q,answer=a").resolved().attack.measure == "loss"


def test_the_old_name_still_works(own, tmp_path, at_once):
    with pytest.warns(DeprecationWarning, match=r"sluicegate\.audit\("):
        found = sg.inspect({"model": own["model"], "forget": own["forget"]}, ONE_STEP, seeds=(0,), out=tmp_path / "audit")
    assert found.page.exists()
