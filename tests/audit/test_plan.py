"""An audit by many attackers: which attack what, what becomes of those that cannot, and what is said of it all."""

import dataclasses
import json
import math

import pyarrow.parquet
import pytest

import sluicegate as sg
from architectures import learner
from sluicegate.app import main
from sluicegate.audit import audit as module
from sluicegate.audit import plan as planned
from sluicegate.audit.attack import Attack
from sluicegate.audit.attackers import Attacker, attackers
from sluicegate.audit.attackers.gains import Gains
from sluicegate.audit.audit import audit
from sluicegate.audit.plan import check_roles, pick
from sluicegate.audit.spike_stage import Spike
from sluicegate.audit.suite import Finding, SuiteVerdict
from sluicegate.engine import models
from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.runs.directory import result_of
from sluicegate.tasks import read
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule
from sluicegate.values.statistics import Estimate
from throwaway import in_this_process
from tiny_stages import material

ONE_STEP = Attack(lrs=(1e-2,), steps=1, checkpoints=(), batch=4)


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "run_jobs", in_this_process)
    found = material(tmp_path / "material")
    for name, seed in (("gold", 1), ("gold2", 2)):
        model = learner()
        models.save(models.fresh(model.config, seed), models.load_tokenizer("arithmetic-tiny"), tmp_path / name)
    return found | {"gold": "gold", "gold2": "gold2"}


@pytest.fixture
def base(own, tmp_path):
    """A model that knows the facts."""
    model, tokenizer = learner(), models.load_tokenizer("arithmetic-tiny")
    sg.train(model, tokenizer, read(own["forget"], "forget"), Schedule(steps=60, lr=1e-2, batch=17), max_length=32)
    models.save(model, tokenizer, tmp_path / "base")
    return "base"


@pytest.fixture
def judged(monkeypatch):
    """What was judged, by a judge that finds what is spiked, and something in every model where it is told so."""
    calls = []

    def judge(model, references, facts, found=False):
        calls.append((model, references, facts))
        found = judge.finds or len(calls) > 1
        z = 5.0 if found else 0.5
        one = Finding("sample", z, Estimate(0.1, math.nan, math.nan, 1), 4.0, "samples", 0, 1e6)
        return SuiteVerdict(z, 2.0, found, (one,), {"a": math.nan}, {0.1: 0.8}, ("It would have found 10 % in 80 of 100.",))

    judge.finds = False
    monkeypatch.setattr("sluicegate.audit.suite.judge_suite", judge)
    judge.calls = calls
    return judge


def how(own, **more):
    return {"forget": own["forget"], "retain": own["retain"], "attack": ONE_STEP, "seeds": 1, "max_length": 32, "out": "audit"} | more


def test_every_attacker_attacks_model_and_references_alike_and_those_that_cannot_are_named(own, base, judged):
    found = audit(own["model"], **how(own, attackers="sample,lens,probe", reference="gold,gold2", original=base, seeds=2))
    (model, references, facts), *_ = judged.calls
    assert list(model) == ["sample", "probe"]
    assert [list(each) for each in references] == [["sample", "probe"]] * 2
    assert [one.held_out.seeds for one in model["probe"]] == [(0,), (1,)]
    assert facts == len({item.key for item in read(own["forget"], "forget")})
    assert list(found.attacked) == ["model", "reference", "reference 2", "original"]
    assert found.left_out == {"lens": "the model has one layer, so there is no earlier one to read an answer off."}
    assert any(text.startswith("The attacker lens is left out: the model has one layer") for text in found.verdict.sentences)
    assert found.verdict.sentences[0] == "It would have found 10 % in 80 of 100."
    summary = json.loads((found.page.parent / "audit.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert summary["suite"]["z"] == 0.5
    assert summary["suite"]["findings"][0]["excess"] == [0.1, None, None]
    assert summary["left_out"] == found.left_out
    before = sorted(path for path in found.page.parent.glob("attack-*/DONE"))
    audit(own["model"], **how(own, attackers="sample,probe", reference="gold,gold2", original=base, seeds=2))
    assert sorted(path for path in found.page.parent.glob("attack-*/DONE")) == before


def test_answers_hold_one_row_for_each_fact_of_each_attack(own, judged):
    found = audit(own["model"], **how(own, attackers="sample,probe", reference="gold", seeds=2))
    rows = pyarrow.parquet.read_table(found.page.parent / "answers.parquet").to_pylist()
    each = found.attacked["model"]["sample"]
    assert len(rows) == 2 * 2 * sum(len(one.facts) for one in each)
    mine = [row for row in rows if (row["model"], row["attacker"], row["seed"]) == ("model", "sample", 1)]
    assert [row["fact"] for row in mine] == list(each[1].facts)
    items = {item.key: item for item in read(own["forget"], "forget")}
    assert all((row["question"], row["answer"]) == (items[row["fact"]].prompt, items[row["fact"]].answer) for row in mine)
    means = [sum(two) for two in zip(*(one.held_out.recall[0] for one in each), strict=True)]
    at = means.index(max(means))
    assert {row["effort"] for row in mine} == {each[1].held_out.effort[at]}
    assert [row["evidence"] for row in mine] == list(each[1].evidence[at])
    assert [row["exact"] for row in mine] == list(each[1].exact[at])


def test_the_quick_suite_is_judged_by_the_attacker_gains_and_by_fine_tuning_where_that_fails(own, judged, monkeypatch):
    small = Gains(lrs=(1e-2,), steps=2, checkpoints=(), batch=8)
    monkeypatch.setattr(planned, "chosen", lambda suite, names: {"gains": small, "sample": attackers()["sample"]()})
    found = audit(own["model"], **how(own, suite="quick", reference="gold"))
    assert found.model.held_out == found.attacked["model"]["gains"][0].held_out
    assert found.harmless is None
    assert not list(found.page.parent.glob("relearn-*"))
    assert "The attacker gains by itself gives the verdict" in " ".join(found.verdict.sentences)

    def broken(self, target):
        raise UserError("broken")

    monkeypatch.setattr(Gains, "traces", broken)
    found = audit(own["model"], **how(own, suite="quick", reference="gold", out="again"))
    assert found.left_out == {"gains": "broken"}
    assert found.harmless is not None
    assert "Fine-tuning by itself gives the verdict" in " ".join(found.verdict.sentences)


def test_what_the_suite_finds_is_hidden_whatever_fine_tuning_says(own, judged):
    words = set()
    for judged.finds in (False, True):
        found = audit(own["model"], **how(own, attackers="sample", reference="gold"))
        judged.calls.clear()
        words.add(found.verdict.word)
        assert "the verdict 'inconclusive'" in " ".join(found.verdict.sentences)
    assert words == {"inconclusive", "hidden, not gone"}


def test_a_spiked_model_is_made_and_audited_like_the_others(own, judged):
    found = audit(own["model"], **how(own, attackers="sample", reference="gold", spike=0.1))
    assert found.spiked is not None
    assert found.spiked.found
    assert found.summary()["spiked"]["found"]
    assert list(found.attacked) == ["model", "reference", "spiked"]
    (said,) = [text for text in found.verdict.sentences if text.startswith("Control: ")]
    assert said.endswith("taught 10% of the facts and made to suppress them by maxent, was found (z 5.0, where 2.0 is called found).")
    taught = result_of(next(found.page.parent.glob("spike-*")))
    assert len(taught["taught"]) == round(0.1 * len({item.key for item in read(own["forget"], "forget")}))
    assert taught["recall"] >= 0.95
    suppressed = next(found.page.parent.glob("unlearn-maxent-*"))
    assert taught["scores"]["forget"]["exact"] > 0
    assert json.loads((suppressed / "parents.json").read_text())


def test_a_spike_that_cannot_be_taught_says_how_far_it_got_and_leaves_the_audit(own, judged, monkeypatch):
    stage = Spike(model="gold", forget=own["forget"], retain=own["retain"], max_length=32, schedule=Schedule(steps=1, batch=4))
    with pytest.raises(UserError, match=r"1 steps brought recall of the 2 facts to 0\.\d\d, not to 0\.95"):
        execute(stage, module.Path("spike"))
    real = in_this_process

    def failing(jobs, *more):
        return real([dataclasses.replace(job, stage=lambda done: stage) if job.key == "teach the spike" else job for job in jobs], *more)

    def lenient(jobs, executor, progress=None, failed=None):
        spiked = [job for job in jobs if job.needs]
        failed = {} if failed is None else failed
        done = failing([job for job in jobs if job not in spiked], executor, progress, failed)
        failed |= {job.key: "not run" for job in spiked}
        return done

    monkeypatch.setattr(module, "run_jobs", lenient)
    found = audit(own["model"], **how(own, attackers="sample", reference="gold", spike=0.1))
    assert found.spiked is None
    assert "could not be audited: 1 steps brought recall" in " ".join(found.verdict.sentences)


def test_no_reference_is_no_verdict_but_the_suite_runs(own, judged):
    found = audit(own["model"], **how(own, attackers="sample"))
    assert judged.calls[0][1] == []
    assert found.verdict.word == "no reference"
    assert found.suite is not None


FORGET = tuple(Item(f"{n} * 3 =", f" {n}") for n in range(40))


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ({"model": 0.0, "reference": 0.9, "original": 1.0}, r"the reference answers 90% .* it is no reference"),
        ({"model": 0.0, "reference": 0.0, "reference 2": 0.4, "original": 1.0}, r"the reference 2 answers 40%"),
        ({"model": 0.9, "reference": 0.95}, r"the reference answers 95%"),
        ({"model": 0.0, "reference": 0.0, "original": 0.1}, r"the original answers 10% .* does not know them"),
        ({"model": 0.0, "reference": 0.2, "original": 1.0}, ""),  # 8 of 40 may be luck
        ({"model": 0.0, "reference": 0.9}, ""),  # nothing says what one that knows has
        ({"model": 0.9, "reference": 0.1}, ""),
    ],
)
def test_a_reference_that_knows_and_an_original_that_does_not_are_refused(scores, text):
    told = {arm: {"exact": value} for arm, value in scores.items()}
    if text:
        with pytest.raises(UserError, match=text) as error:
            check_roles(told, FORGET)
        assert "\n" not in str(error.value)
    else:
        check_roles(told, FORGET)


def test_of_sentences_the_loss_says_who_knows():
    rows = tuple(Item(f"Who is {n}?", "a long answer that no model gives word for word at all") for n in range(9))
    check_roles({"model": {"loss": 3.0}, "reference": {"loss": 2.0}, "original": {"loss": 1.0}}, rows)
    check_roles({"model": {"loss": 3.0}, "reference": {"loss": 2.0}}, rows)
    with pytest.raises(UserError, match=r"the reference has a loss of 1\.05 .* the original 1\.00"):
        check_roles({"model": {"loss": 3.0}, "reference": {"loss": 1.05}, "original": {"loss": 1.0}}, rows)


def test_a_reference_that_knows_is_refused_before_any_attack(own, base, judged):
    with pytest.raises(UserError, match="it is no reference"):
        audit(own["model"], **how(own, attackers="sample", reference=base, original=base))
    with pytest.raises(UserError, match=r"the original answers .* it does not know them"):
        audit(base, **how(own, attackers="sample", original="gold"))
    assert not list(module.Path("audit").glob("attack-*"))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"suite": "all"}, "no suite 'all'. There are: none, quick, standard, full."),
        ({"attackers": "sample,lense"}, "no attacker 'lense'. There are: benign"),
        ({"attackers": "needy"}, "the attacker 'needy' was named, and it needs --original."),
        ({"suite": "none", "original": "gold"}, "are for a suite of attackers"),
        ({"suite": "none", "reference": "gold,gold2"}, "several references are for a suite"),
        ({"spike": 0.1}, "hand in --reference and --retain"),
        ({"spike": 0.1, "reference": "gold", "retain": ""}, "hand in --reference and --retain"),
        ({"spike": 2.0}, "--spike is 2.0"),
        ({"spike": 0.1, "spike_method": "forgetful", "reference": "gold"}, "no method 'forgetful'"),
        ({"reference": "gold,nowhere"}, "no model 'nowhere'"),
        ({"original": "nowhere"}, "no model 'nowhere'"),
    ],
)
def test_what_cannot_be_asked_is_named_before_anything_runs(own, monkeypatch, wrong, text):
    monkeypatch.setattr(module, "run_jobs", None)
    real = attackers()
    monkeypatch.setattr("sluicegate.audit.attackers.attackers", lambda: real | {"needy": Needy})
    with pytest.raises(UserError, match=text) as error:
        audit(own["model"], **how(own, **wrong))
    assert "\n" not in str(error.value)


@dataclasses.dataclass(frozen=True)
class Needy(Attacker):
    """Attack with the original at hand."""

    NAME = "needy"
    SUITE = "quick"
    NEEDS = ("original",)


def test_attackers_that_lack_an_original_are_left_out_of_a_suite(monkeypatch):
    real = attackers()
    monkeypatch.setattr("sluicegate.audit.attackers.attackers", lambda: real | {"needy": Needy})
    picked, left_out = pick("quick", "", {"retain": "rows"})
    assert left_out == {"needy": "it needs --original"}
    assert "gains" in picked
    assert "needy" in pick("quick", "", {"retain": "rows", "original": "base"})[0]
    assert pick("none", "", {}) == ({}, {})


def test_a_divided_model_is_not_attacked_by_the_suite(own, judged):
    found = audit(own["model"], **how(own, procs=2, shard=True))
    assert found.suite is None
    assert found.left_out["gains"] == "it works in one process, and --shard divides the weights"


def test_one_attacker_alone_from_command_and_python(own, capsys):
    words = ["--forget", own["forget"], "--max-length", "32", "--samples", "2", "8", "--json"]
    assert main(["attack", "sample", own["model"], *words]) == 0
    shown = capsys.readouterr().out
    result = json.loads(shown.splitlines()[-1])["results"][0]
    assert result["held_out"]["effort"] == [2.0, 8.0]
    assert "recall by samples" in shown
    model, tokenizer = sg.load(own["model"])
    found = sg.attack(sg.attackers()["sample"](samples=(2, 8)), model, tokenizer, read(own["forget"], "forget"), max_length=32)
    assert list(found.held_out.recall[0]) == pytest.approx(result["held_out"]["recall"][0])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["attack"], "name an attacker"),
        (["attack", "sampel", "arithmetic-tiny"], "no attacker 'sampel'"),
        (["attack", "sample", "arithmetic-tiny"], "attack needs --forget"),
        (["attack", "sample", "arithmetic-tiny", "--model", "other"], "two models are given"),
        (["attackers", "arithmetic-tiny"], "--forget"),
    ],
)
def test_a_wrong_command_is_explained(words, text, capsys):
    assert main(words) == 2
    assert text in capsys.readouterr().err


def test_the_list_of_attackers_says_what_they_cost(own, capsys):
    assert main(["attackers", "--json"]) == 0
    plain = {row["name"]: row for row in json.loads(capsys.readouterr().out.splitlines()[-1])["attackers"]}
    assert plain["gains"]["what"] == "Train the gains of the norms and the biases alone."
    assert set(plain) == set(attackers())
    assert main(["attackers", own["model"], "--forget", own["forget"], "--json"]) == 0
    costs = {row["name"]: row for row in json.loads(capsys.readouterr().out.splitlines()[-1])["attackers"]}
    model = models.load(own["model"])[0]
    assert costs["gains"]["capacity"] == sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert costs["sample"]["audits"] < costs["full"]["audits"] < 1
    audits = [costs[name]["flops"] / costs[name]["audits"] for name in costs]
    assert max(audits) == pytest.approx(min(audits))
