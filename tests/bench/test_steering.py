"""The benchmark of twins times what it says; timings themselves are no test."""

import dataclasses
import math

import pytest
import torch

from architectures import build
from sluicegate.bench import steering
from sluicegate.bench.steering import KL, Size, Timed, _Clock, _first, markdown, summary
from sluicegate.models import load_tokenizer
from sluicegate.steering.orthogonal import Orthogonal
from sluicegate.steering.prompts import rule_of
from sluicegate.steering.vector import SteeringSet, SteeringVector

SMALL = Size(
    k=4, one_by_one=2, steps=2, sequential_steps=4, looked_at=2, looked_on=1, every=2, along=3, new_tokens=4, melbo=2, melbo_steps=1
)


def test_a_search_has_arrived_at_the_first_look_that_is_low_enough():
    assert _first([(1.0, 2.0), (3.0, KL), (4.0, 0.1)], 9.0) == (3.0, True)
    assert _first([(1.0, 2.0)], 9.0) == (9.0, False)
    assert _first([], 9.0) == (9.0, False)


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


def made(**changes):
    own = {
        "model": "tiny", "size": Size(), "joint": Timed(1.5, 1, 1, 0.2), "sequential": Timed(45.0, 3, 3, 0.3), "base_norm": 50.0,
        "base_rate": 1.0, "unsteered_kl": 1.6, "twins": 230, "each": 200, "max_cos": 1e-9, "held_out_kl_median": 0.21,
        "behaviour_rate": 0.8, "max_norm_ratio": 1.0, "melbo_batched": 40.0, "melbo_single": 10.0,
    }  # fmt: skip
    return steering.Measured(**(own | changes))


def test_the_speed_up_is_the_ratio_of_the_times_a_twin_takes():
    found = summary(made())
    assert found["speedup"] == 30.0
    assert [found[name] for name in ("twins", "max_cos", "held_out_kl_median", "behaviour_rate", "max_norm_ratio")] == [
        230,
        1e-9,
        0.21,
        0.8,
        1,
    ]
    assert "| speed-up | 30.0 times |" in markdown(made())


def test_what_did_not_arrive_is_said():
    late = made(sequential=Timed(90.0, 1, 3, 0.9))
    assert "| speed-up | at least 60.0 times |" in markdown(late)
    assert summary(late)["sequential_arrived"] == "1 of 3"
    never = made(joint=Timed(1.5, 0, 1, 0.9))
    assert math.isnan(never.speedup)
    assert summary(never)["speedup"] is None
    assert "the joint search did not arrive" in markdown(never)


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
    assert found.sequential.of == 2
    assert min(found.joint.seconds, found.sequential.seconds, found.melbo_batched, found.melbo_single) > 0


def test_each_twin_of_the_sequential_search_is_timed_on_its_own(tiny, monkeypatch):
    model, tokenizer, base = tiny
    now = [0.0]
    monkeypatch.setattr(steering.time, "process_time", lambda: now[0])

    def fit(self, model, tokenizer, base, prompts, *, room, each):
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
    assert found == Timed((4.0 + 12.0) / 2, 1, 2, (0.4 + 8.0) / 2)


def test_the_joint_search_is_timed_to_its_first_low_look_and_shared_by_its_twins(tiny, monkeypatch):
    model, tokenizer, base = tiny
    now = [0.0]
    monkeypatch.setattr(steering.time, "process_time", lambda: now[0])

    def fit(self, model, tokenizer, base, prompts, *, room, each):
        for step in range(1, 4):
            now[0] += 10.0
            each(step, torch.eye(4, 32), now[0])
        return SteeringSet(torch.eye(4, 32), base.module)

    monkeypatch.setattr(Orthogonal, "fit", fit)
    kls = iter([0.9, 0.5, 0.2])
    found, twins = steering._joint(model, tokenizer, base, SMALL, lambda values: next(kls), None)
    assert found == Timed(20.0 / 4, 1, 1, 0.2)
    assert len(twins) == 4


def test_the_sizes_fit_the_model_and_quick_is_smaller():
    assert all(getattr(steering.QUICK, f.name) <= getattr(Size(), f.name) or f.name == "every" for f in dataclasses.fields(Size))
