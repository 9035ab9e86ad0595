"""The benchmark of twins times what it says; timings themselves are no test."""

import dataclasses
import math

import pytest
import torch

from architectures import build
from sluicegate.engine.models import load_tokenizer
from sluicegate.steering.orthogonal import Orthogonal
from sluicegate.steering.prompts import rule_of
from sluicegate.steering.vector import SteeringSet, SteeringVector
from sluicegate_papers.benchmarks import steering
from sluicegate_papers.benchmarks.steering import KL, Size, Timed, _Clock, markdown, summary

SMALL = Size(
    k=4, steps=2, few=2, few_steps=2, one_by_one=2, sequential_steps=4, looked_at=2, looked_on=1, every=2, along=3, new_tokens=4,
    melbo=2, melbo_steps=1,
)  # fmt: skip


def test_a_search_has_arrived_at_the_first_look_that_is_low_enough():
    assert Timed((((1.0, 2.0), (3.0, KL), (4.0, 0.1)),), (9.0,)).to() == (3.0, 1)
    assert Timed((((1.0, 2.0), (3.0, KL), (4.0, 0.1)),), (9.0,)).to(2.0) == (1.0, 1)
    assert Timed((((1.0, 2.0),),), (9.0,)).to() == (9.0, 0)
    assert Timed(((),), (9.0,)).to() == (9.0, 0)


def test_the_twins_of_a_sequential_search_are_averaged_and_those_counted_that_arrived():
    search = Timed((((2.0, 0.3),), ((2.0, 0.9), (4.0, 0.8))), (5.0, 6.0))
    assert search.to() == ((2.0 + 6.0) / 2, 1)
    assert search.to(0.8) == ((2.0 + 4.0) / 2, 2)
    assert search.best == pytest.approx((0.3 + 0.8) / 2)


def test_the_clock_stands_while_one_looks(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(steering.time, "process_time", lambda: now[0])
    clock = _Clock()
    now[0] = 5.0

    def see():
        now[0] += 100.0
        return 0.25

    assert clock.look(see) == 0.25
    now[0] += 2.0
    assert clock() == 7.0


def one(seconds, kl):
    """A search of one way, or of a way for each of a list of KLs, that takes so many seconds and comes so near."""
    kls = kl if isinstance(kl, list) else [kl]
    return Timed(tuple(((seconds, kl),) for kl in kls), (seconds,) * len(kls))


def made(**changes):
    own = {
        "model": "tiny", "size": Size(), "joint": one(3.0, 0.3), "few": one(1.5, 0.2), "sequential": one(45.0, [0.3] * 3),
        "base_norm": 50.0, "base_rate": 1.0, "unsteered_kl": 1.6, "twins": 230, "each": 200, "max_cos": 1e-9, "held_out_kl_median": 0.21,
        "behaviour_rate": 0.8, "max_norm_ratio": 1.0, "melbo_batched": 40.0, "melbo_single": 10.0,
    }  # fmt: skip
    return steering.Measured(**(own | changes))


def test_the_speed_up_is_the_ratio_of_the_times_a_twin_takes():
    found = summary(made())
    assert found["speedup"] == 30.0
    assert found["speedup_all"] == 15.0
    assert found["speedup_is_bound"] is False
    asked = ("twins", "max_cos", "held_out_kl_median", "behaviour_rate", "max_norm_ratio")
    assert [found[name] for name in asked] == [230, 1e-9, 0.21, 0.8, 1]
    assert "| 0.5 | 1.50 | 3.00 | 45.00 | 30.0 | 15.0 |" in markdown(made())


def test_what_did_not_arrive_is_said():
    late = made(sequential=one(90.0, [0.5, 0.9, 0.6]))
    assert summary(late)["speedup_is_bound"] is True
    assert "| 0.5 | 1.50 | 3.00 | 90.00 (1 of 3 arrived) | at least 60.0 | at least 30.0 |" in markdown(late)
    assert "| 1 | 1.50 | 3.00 | 90.00 | 60.0 | 30.0 |" in markdown(late)
    never = made(few=one(1.5, 0.52))
    assert math.isnan(never.speedup())
    assert summary(never)["speedup"] is None
    assert "| 0.5 | 1.50 (0 of 1 arrived) | 3.00 | 45.00 | not known | 15.0 |" in markdown(never)


@pytest.fixture
def tiny():
    model = build("llama").eval().requires_grad_(False)
    base = SteeringVector(torch.randn(32, generator=torch.Generator().manual_seed(0)), "model.layers.0")
    return model, load_tokenizer("arithmetic-tiny"), base


def test_it_measures_both_searches_and_both_ways_of_melbo_on_a_tiny_model(tiny):
    model, tokenizer, base = tiny
    rule = rule_of("words:plums")
    found = steering.measure("tiny", model, tokenizer, base.module, "model.layers.1", SMALL, base=base, rule=rule)
    assert set(summary(found)) >= {"twins", "max_cos", "held_out_kl_median", "behaviour_rate", "speedup", "max_norm_ratio"}
    assert found.max_cos < 1e-6
    assert found.max_norm_ratio <= 1 + 1e-6
    assert len(found.sequential.ways) == 2
    assert len(found.few.ways[0]) == SMALL.few_steps
    assert found.twins == SMALL.k
    times = [search.to()[0] for search in (found.joint, found.few, found.sequential)]
    assert min(*times, found.melbo_batched, found.melbo_single) > 0


def test_each_twin_of_the_sequential_search_is_timed_on_its_own(tiny, monkeypatch):
    model, tokenizer, base = tiny
    now = [0.0]
    monkeypatch.setattr(steering.time, "process_time", lambda: now[0])

    def fit(self, model, tokenizer, base, prompts, *, run, each):
        values = torch.eye(2, 32)
        for twin, seconds in ((1, 1.0), (2, 3.0)):
            for step in range(1, 5):
                now[0] += seconds
                each(step, values[:twin], now[0])
        return SteeringSet(values, base.module)

    monkeypatch.setattr(Orthogonal, "fit", fit)
    kls = iter([9.0, 0.4, 9.0, 8.0])  # the first arrives at its second look, the second never
    looks = lambda values: next(kls)  # noqa: E731
    found = steering._sequential(model, tokenizer, base, "model.layers.1", SMALL, looks, None)
    assert found == Timed((((2.0, 9.0), (4.0, 0.4)), ((6.0, 9.0), (12.0, 8.0))), (4.0, 12.0))


def test_the_joint_search_is_timed_to_its_first_low_look_and_shared_by_its_twins(tiny, monkeypatch):
    model, tokenizer, base = tiny
    now = [0.0]
    monkeypatch.setattr(steering.time, "process_time", lambda: now[0])

    def fit(self, model, tokenizer, base, prompts, *, run, each):
        for step in range(1, 4):
            now[0] += 10.0
            each(step, torch.eye(4, 32), now[0])
        return SteeringSet(torch.eye(4, 32), base.module)

    monkeypatch.setattr(Orthogonal, "fit", fit)
    kls = iter([0.9, 0.5, 0.2])
    found, twins = steering._joint(Orthogonal(k=4, steps=3), model, tokenizer, base, SMALL, lambda values: next(kls), None)
    assert found == Timed((((2.5, 0.9), (5.0, 0.5), (7.5, 0.2)),), (7.5,))
    assert len(twins) == 4


def test_the_sizes_fit_the_model_and_quick_is_smaller():
    assert all(getattr(steering.QUICK, f.name) <= getattr(Size(), f.name) or f.name == "every" for f in dataclasses.fields(Size))
