"""Rates that are trained at once end where they end when each is trained alone."""

import copy
import json

import pytest
import torch

from architectures import build, learner
from sluicegate.audit import relearn as attacking
from sluicegate.audit import stacked
from sluicegate.audit.attack import Attack
from sluicegate.audit.relearn import relearn
from sluicegate.audit.stacked import PART, Stack, fit_together, pays, stacking
from sluicegate.engine.models import encode, load
from sluicegate.engine.sampling import Mixture
from sluicegate.engine.training import CrossEntropy, Diverged, Evaluation, at_steps, fit
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext, open_run
from sluicegate.values.schedule import Schedule

RATES = (1e-4, 1e-3, 3e-3)
CHECKPOINTS = (0, 2, 5)


@pytest.fixture
def batches(tokenizer, split):
    return Mixture(encode(tokenizer, [*split.forget, *split.retain]), 8, 0)


def schedules(rates=RATES, steps=5, **more):
    return {f"lr {rate:g}": Schedule(steps=steps, lr=rate, batch=8, **more) for rate in rates}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def looking(seen, name=None):
    def measure(model, spent):
        spent.evaluation += 1.0
        seen.append(weights(model))
        return {"norm": float(weights(model).norm())}

    return measure


def together(model, batches, plans, *, on="real", run=None, seen=None, **more):
    measure = looking([] if seen is None else seen)
    return fit_together(model, batches, plans, on=on, seed=0, run=run or RunContext(), measure=measure, checkpoints=CHECKPOINTS, **more)


def alone(model, batches, schedule, *, on="real", seen=None):
    own = copy.deepcopy(model)
    evaluation = Evaluation(looking([] if seen is None else seen), at_steps(CHECKPOINTS))
    return fit(own, CrossEntropy(on), lambda step: {"train": batches(step)}, schedule, seed=0, run=RunContext(), evaluation=evaluation)


@pytest.mark.parametrize("on", ["real", "answer"])
@pytest.mark.parametrize("name", ["learner", "llama", "mistral", "qwen2", "neox", "gpt2"])
def test_each_rate_ends_where_it_ends_alone(name, on, batches):
    """Grouped queries, biases of queries, learnt positions, a sliding window, a tied output: the same weights within rounding.

    Moving every key alike does not move attention, so the gradient of a key's bias is rounding alone, which AdamW divides by
    its own size: it is left out, and shows in nothing that the model computes.
    """
    model = learner() if name == "learner" else build(name)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    seen, before = [], weights(model)
    found = together(model, batches, schedules(), on=on, seen=seen)
    assert torch.equal(weights(model), before), "the model is left as it was"
    assert found is not None
    counted = torch.cat([torch.full((p.numel(),), _counts(n)) if _counts(n) else _queries(n, p) for n, p in model.named_parameters()])
    for i, (rate, schedule) in enumerate(schedules().items()):
        own = []
        expected = alone(model, batches, schedule, on=on, seen=own)
        assert found[rate].steps == expected.steps == 5
        assert found[rate].ledger == expected.ledger
        assert [r["step"] for r in found[rate].records] == list(CHECKPOINTS)
        for look in range(len(CHECKPOINTS)):
            apart = (seen[look * len(RATES) + i] - own[look]).abs()[counted.bool()]
            assert apart.max() < 2e-5, (rate, CHECKPOINTS[look])
        assert (own[-1] - before).abs().max() > 4 * schedule.lr, "and that was not for want of training"


def _counts(name):
    return not name.endswith(("c_attn.bias", "k_proj.bias", "query_key_value.bias"))


def _queries(name, parameter):
    """Of GPT-2's three biases in one, the keys' is the middle one."""
    kept = torch.ones_like(parameter, dtype=torch.bool)
    if name.endswith("c_attn.bias"):
        kept[len(kept) // 3 : 2 * len(kept) // 3] = False
    else:
        kept[:] = False
    return kept


def test_a_model_that_is_not_known_is_declined(batches):
    """Gemma's norms multiply by 1 + gain; a stand-in that did not know would give another gradient."""
    assert together(build("gemma2"), batches, schedules()) is None


def test_dropout_is_declined(batches):
    model = build("gpt2")
    assert any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules())
    assert together(model, batches, schedules()) is None


def test_a_wrong_product_is_noticed_before_anything_is_trained(batches, monkeypatch):
    model, right = learner(), torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: right(a, b.flip(0)))  # a copy meets another copy's weights
    before = weights(model)
    assert together(model, batches, schedules()) is None
    assert torch.equal(weights(model), before)


def test_copies_that_touch_one_another_are_noticed(batches, monkeypatch):
    """Equal copies give equal losses whichever is read, so only the gradient can tell."""
    model, right = learner(), Stack.losses
    monkeypatch.setattr(Stack, "losses", lambda self, batch, on: right(self, batch, on).flip(0))
    assert together(model, batches, schedules()) is None


def test_other_numbers_and_processes_are_declined(batches):
    assert together(learner().double(), batches, schedules()) is None
    assert together(learner(), batches, schedules(accumulate=2)) is None


def test_a_rate_that_breaks_the_model_leaves_the_others_as_they_were(batches):
    model = learner()
    wild = together(model, batches, schedules((1e-3, 1e30, 3e-3)))
    tame = together(model, batches, schedules((1e-3, 3e-3)))
    broken = wild["lr 1e+30"]
    assert isinstance(broken, Diverged)
    with pytest.raises(Diverged) as raised:
        alone(model, batches, schedules((1e30,))["lr 1e+30"])
    assert broken.fitted.steps == raised.value.fitted.steps
    assert [r["step"] for r in broken.fitted.records] == [r["step"] for r in raised.value.fitted.records]
    for name in ("lr 0.001", "lr 0.003"):
        assert wild[name].records[-1]["norm"] == pytest.approx(tame[name].records[-1]["norm"], rel=1e-6)


def test_all_rates_may_break(batches):
    found = together(learner(), batches, schedules((1e30, 2e30)))
    assert all(isinstance(run, Diverged) for run in found.values())


# ------------------------------------------------------------------------------------ resuming


class Killed(Exception):
    pass


def sitting(folder, model, batches, plans, *, end_after=None):
    """One sitting in a run folder that keeps after every step; `end_after` steps it is ended from outside."""

    def stop(part, done, total, numbers):
        if done == end_after and part.endswith(list(plans)[-1]):
            raise Killed

    opened = open_run(folder, digest="x", config={}, parents={}, environment={}, title="x", progress=stop, interval=0.0)
    with opened as run:
        return together(model, batches, plans, run=run)


@pytest.mark.parametrize("rates", [RATES, (1e-3, 1e30, 3e-3)])
def test_killed_and_resumed_equals_uninterrupted(batches, tmp_path, rates):
    model, plans = learner(), schedules(rates)
    whole = sitting(tmp_path / "whole", model, batches, plans)
    with pytest.raises(Killed):
        sitting(tmp_path / "cut", model, batches, plans, end_after=3)
    again = sitting(tmp_path / "cut", model, batches, plans)
    for name in plans:
        first, second = (found[name].fitted if isinstance(found[name], Diverged) else found[name] for found in (whole, again))
        assert isinstance(whole[name], Diverged) == isinstance(again[name], Diverged)
        assert first == second
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


def test_what_is_finished_is_not_trained_again(batches, tmp_path, monkeypatch):
    model = learner()
    first = sitting(tmp_path / "run", model, batches, schedules())
    monkeypatch.setattr(stacked, "_step", None)
    assert sitting(tmp_path / "run", model, batches, schedules()) == first


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --------------------------------------------------------------------------------- in an attack

ATTACK = Attack(lrs=(1e-3, 1e-2), steps=8, checkpoints=(0, 2, 4, 8), batch=8)


@pytest.fixture
def counted(monkeypatch):
    """How often `fit` was called: once a rate where they are trained in turn."""
    calls = []
    monkeypatch.setattr(attacking, "fit", lambda *a, **k: (calls.append(k["name"]), fit(*a, **k))[1])
    return calls


def attack_in(folder, victim, tokenizer, split, attack=ATTACK):
    opened = open_run(folder, digest="x", config={}, parents={}, environment={}, title="x", interval=0.0)
    with opened as run:
        return relearn(victim, tokenizer, split.forget, split.retain, attack, run=run)


def test_an_attack_at_once_finds_what_one_in_turn_finds(victim, tokenizer, split, monkeypatch, tmp_path, counted):
    results = {}
    for way in ("always", "never"):
        monkeypatch.setenv("SLUICEGATE_STACK", way)
        results[way] = attack_in(tmp_path / way, victim, tokenizer, split).to_json()
        assert counted == ([] if way == "always" else ["lr 0.001", "lr 0.01"])
    assert results["always"] == results["never"]
    by_part = {}
    for way in results:
        lines = metrics(tmp_path / way)
        by_part[way] = [line for part in ("lr 0.001", "lr 0.01") for line in lines if line["part"] == part]
        assert len(by_part[way]) == len(lines)
    for one, other in zip(by_part["always"], by_part["never"], strict=True):
        assert one.keys() == other.keys()
        numbers = {key: value for key, value in one.items() if isinstance(value, float)}
        assert numbers == pytest.approx({key: other[key] for key in numbers}, rel=1e-4)
        assert {k: v for k, v in one.items() if k not in numbers} == {k: v for k, v in other.items() if k not in numbers}


def test_small_steps_are_stacked_by_default_and_large_ones_are_not(victim, tokenizer, split, monkeypatch, counted):
    monkeypatch.delenv("SLUICEGATE_STACK", raising=False)
    relearn(victim, tokenizer, split.forget, split.retain, ATTACK)
    assert counted == []
    monkeypatch.setattr(stacked, "STEP_FLOPS", 1.0)
    relearn(victim, tokenizer, split.forget, split.retain, ATTACK)
    assert len(counted) == 2


def test_an_adapter_and_a_single_rate_are_trained_in_turn(victim, tokenizer, split, monkeypatch, counted):
    monkeypatch.setenv("SLUICEGATE_STACK", "always")
    relearn(victim, tokenizer, split.forget, split.retain, Attack(lrs=(1e-3,), steps=1))
    assert counted == ["lr 0.001"]


def test_an_attack_goes_on_in_the_way_it_was_begun(victim, tokenizer, split, monkeypatch, tmp_path, counted):
    whole = attack_in(tmp_path / "whole", victim, tokenizer, split)
    for begun, then in (("always", "never"), ("never", "always")):
        monkeypatch.setenv("SLUICEGATE_STACK", begun)
        with monkeypatch.context() as patched:
            patched.setattr(RunContext, "progress", _ends_after(5))
            with pytest.raises(Killed):
                attack_in(tmp_path / begun, victim, tokenizer, split)
        counted.clear()
        monkeypatch.setenv("SLUICEGATE_STACK", then)
        assert attack_in(tmp_path / begun, victim, tokenizer, split).to_json() == whole.to_json()
        assert len(counted) == (0 if begun == "always" else 2)
        assert len(metrics(tmp_path / begun)) == len(metrics(tmp_path / "whole")), "nothing logged twice"


def _ends_after(steps):
    def progress(self, part, done, total, numbers):
        if part == "lr 0.01" and done == steps:
            raise Killed

    return progress


def test_the_switch_is_checked(monkeypatch):
    monkeypatch.setenv("SLUICEGATE_STACK", "sometimes")
    with pytest.raises(UserError, match="'sometimes'; it must be auto, never or always"):
        stacking()


def test_of_the_packaged_models_the_smallest_pays(tokenizer, split):
    thirty, two = (Mixture(encode(tokenizer, split.forget), rows, 0)(0) for rows in (32, 2))
    assert pays(load("arithmetic-tiny")[0], thirty)
    assert not pays(load("biographies-tiny")[0], two), "few FLOPs, but many weights to read"
    assert PART not in {f"lr {rate:g}" for rate in RATES}, "a resume point of all is told from one rate's"
