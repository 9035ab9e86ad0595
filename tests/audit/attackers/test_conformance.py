"""What every attacker has to keep to, on every shape of model: whatever the registry finds."""

import dataclasses
import json
import math

import pytest
import torch

from architectures import build
from sluicegate.audit import target as module
from sluicegate.audit.attacked import Attacked, attack
from sluicegate.audit.attackers import attackers
from sluicegate.engine.encoding import encode
from sluicegate.engine.scoring import score
from sluicegate.runs.directory import open_run
from sluicegate.values.items import Split, halves

SMALL = {
    "latent": {"depths": (0.5, 1.0)},
    "lora": {"rank": 2},
    "prefix": {"tokens": (1, 3), "steps": 3, "candidates": 4, "enumerate_to": 0},
    "prune": {"shares": (0.05, 0.3)},
    "round": {"bits": (8, 3)},
    "search": {"trials": 5},
    "shots": {"shots": (1, 2), "draws": 2},
    "soft": {"tokens": (2,)},
    "steer": {"doses": (1.0,)},
}
"""Settings that make an attacker quick; every one that trains takes few steps besides."""
SHAPES = ["llama", "gpt2", "gemma3", "qwen3moe", "mamba", "opt"]
BEGINS = {name for name in attackers() if name not in {"probe", "sample"}}
"""Attackers that begin with the model as it is; a probe begins with a layer, sampling with one sample."""


class Killed(BaseException):
    pass


def small(name):
    cls = attackers()[name]
    fields = {f.name for f in dataclasses.fields(cls)}
    quick = {"steps": 3, "checkpoints": (0, 1, 3), "batch": 4, "lrs": (1e-2, 3e-2)} | SMALL.get(name, {})
    return cls(**{key: value for key, value in quick.items() if key in fields})


@pytest.fixture(scope="module")
def few(split):
    return Split(forget=split.forget[:8], retain=split.retain[:4])


def state(model):
    """All that an attack could leave behind: numbers bit for bit, modes, hooks, gradients, modules."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_parameters", "_buffers", "_modules")
    return {
        "bits": {name: t.detach().clone().view(torch.uint8) for name, t in model.state_dict(keep_vars=True).items()},
        "buffers": {name: b.detach().clone() for name, b in model.named_buffers()},
        "asked": {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
        "modules": {n: (type(m), m.training, sorted(vars(m)), [list(getattr(m, h)) for h in hooks]) for n, m in model.named_modules()},
    }


def same(first, second):
    numbers = all(
        first[key].keys() == second[key].keys() and all(torch.equal(value, second[key][name]) for name, value in first[key].items())
        for key in ("bits", "buffers")
    )
    return numbers and all(first[key] == second[key] for key in ("asked", "modules"))


def plain(found):
    return json.loads(json.dumps(found.to_json()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", attackers())
def test_an_attack_leaves_the_model_as_it_was_and_comes_out_the_same_after_a_kill(name, shape, tokenizer, few, tmp_path, monkeypatch):
    model, attacker = build(shape).train(), small(name)
    before, reads, read = state(model), [], module.Target.read

    def counted(self, *given, **more):
        reads.append(given)
        if kill_at and len(reads) >= kill_at:
            raise Killed
        return read(self, *given, **more)

    def once(run=None):
        reads.clear()
        original = lambda: build(shape, seed=1)  # noqa: E731
        return attack(attacker, model, tokenizer, few.forget, few.retain, original=original, seed=3, run=run)

    kill_at = 0
    monkeypatch.setattr(module.Target, "read", counted)
    found = once()
    assert same(state(model), before), "the model is bitwise as it was"
    whole = len(reads)
    assert Attacked.from_json(plain(found)) == found
    where = {"digest": "0", "config": {}, "parents": {}, "environment": {}, "title": "attack", "interval": 0.0}
    if whole > 1:
        with open_run(tmp_path / "run", **where) as run:
            kill_at = whole // 2 + 1
            with pytest.raises(Killed):
                once(run)
        assert same(state(model), before), "after a kill too"
    kill_at = 0
    with open_run(tmp_path / "run", **where) as run:
        assert plain(once(run)) == plain(found), "the same seed, killed and resumed, gives the same"
    assert found.flops["evaluation"] > 0
    assert all(math.isfinite(value) for row in found.evidence for value in row)
    assert found.held_out.effort == tuple(sorted(set(found.held_out.effort)))
    assert len(found.evidence) == len(found.settings) == len(found.held_out.effort)
    if name in BEGINS:
        assert found.held_out.effort[0] == 0
        for rows, curve in zip(halves(few.forget, 3), (found.owned, found.held_out), strict=True):
            assert curve.recall[0][0] == pytest.approx(score(model, encode(tokenizer, rows)).mean()["exact"])
        told = {i.key: -float(x) for i, x in zip(rows, score(model, encode(tokenizer, rows)).loss, strict=True)}
        for fact, value in zip(found.facts, found.evidence[0], strict=True):
            assert value == pytest.approx(max(told[fact], -math.log(132)), abs=1e-5)
