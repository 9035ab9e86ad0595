"""Twins: orthogonal, within the cap, closer to the base's effect than chance; resumed; and refused where there can be
none."""

import dataclasses

import numpy as np
import pytest
import torch

from architectures import build
from sluicegate.errors import UserError
from sluicegate.runs.directory import Checkpoint, RunContext
from sluicegate.steering.joint import Descent, descend
from sluicegate.steering.orthogonal import Orthogonal
from sluicegate.steering.score import kl
from sluicegate.steering.vector import SteeringVector

PROMPTS = ("12 + 7", "ann likes red plums", "each old goat")


@pytest.fixture(scope="module")
def model():
    return build("llama").eval()


@pytest.fixture(scope="module")
def base():
    return SteeringVector(torch.randn(32, generator=torch.Generator().manual_seed(0)), "model.layers.0", made_from={"method": "by hand"})


def fit(model, tokenizer, base, run=None, each=None, **settings):
    how = {"k": 8, "tokens": 4, "steps": 25, "target": "model.layers.1"} | settings
    return Orthogonal(**how).fit(model, tokenizer, base, PROMPTS, run=run, each=each)


@pytest.mark.parametrize("objective", ["kl", "activation"])
@pytest.mark.parametrize("cap", [1.0, 0.7])
def test_joint_twins_do_what_the_base_does_better_than_chance(model, tokenizer, base, objective, cap):
    twins = fit(model, tokenizer, base, objective=objective, max_norm=cap)
    assert twins.max_cos(base) < 1e-6
    assert float(twins.norms().max()) <= cap * base.norm
    chance = torch.randn(8, 32, generator=torch.Generator().manual_seed(9))
    chance = cap * base.norm * chance / chance.norm(dim=1, keepdim=True)
    ours, theirs = (kl(model, tokenizer, base, rows, PROMPTS, tokens=4).several for rows in (twins.values, chance))
    assert np.median(ours) < 0.7 * np.median(theirs)
    assert twins.made_from["objective"] == objective
    assert twins.made_from["base"] == {"method": "by hand"}


def test_the_first_token_weighs_more(model, tokenizer, base):
    how = Orthogonal(4, tokens=4, first=5)
    some = how._continued(model, tokenizer, base, PROMPTS, None, RunContext())
    rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(3))
    for prompt, one in enumerate(some):
        first, *later = one.kl(rows).T
        assert torch.allclose(how.loss(some, base)(prompt, rows), (5 * first + sum(later)) / 8)
    with pytest.raises(UserError, match="first is 0; the weight"):
        Orthogonal(2, first=0)


def test_any_activation_can_be_the_goal(model, tokenizer, base):
    """Asked for what the base itself does, the search gives the same twins; the relative loss is measured from that
    goal."""
    how = Orthogonal(4, objective="activation", target="model.layers.1", steps=5)
    some = how._continued(model, tokenizer, base, PROMPTS, None, RunContext())
    with torch.no_grad():
        goal = [one.part.target(base.values[None])[0, one.part.where].mean(0) for one in some]
    ours, plain = (how.fit(model, tokenizer, base, PROMPTS, goal=g) for g in (goal, None))
    assert torch.equal(ours.values, plain.values)
    elsewhere = how.fit(model, tokenizer, base, PROMPTS, goal=[10 * g for g in goal])
    assert not torch.allclose(elsewhere.values, plain.values)
    assert len(plain.made_from["relative_loss"]) == 4
    assert all(0.5 < share < 1.5 for share in plain.made_from["relative_loss"])
    with pytest.raises(UserError, match="a goal is for the objective 'activation'"):
        Orthogonal(2).fit(model, tokenizer, base, PROMPTS, goal=goal)


def test_as_many_as_there_are_dimensions(model, tokenizer, base):
    twins = fit(model, tokenizer, base, k=31, steps=3)
    assert len(twins) == 31
    assert twins.max_cos(base) < 1e-6


def test_the_posts_search_goes_one_by_one(model, tokenizer, base):
    lengths = []
    twins = fit(
        model,
        tokenizer,
        base,
        mode="sequential",
        objective="activation",
        k=3,
        steps=40,
        max_norm=0,
        each=lambda _, v, *__: lengths.append(len(v)),
    )
    assert twins.max_cos(base) < 1e-6
    assert lengths == [1] * 40 + [2] * 40 + [3] * 40
    one = Orthogonal(1, objective="activation", target="model.layers.1", tokens=1)
    run = RunContext()
    some = one._continued(model, tokenizer, base, PROMPTS, None, run)
    loss = one.loss(some, base)
    with torch.no_grad():
        at_zero, *at_twins = (sum(float(loss(p, v[None])) for p in range(3)) for v in (torch.zeros(32), *twins.values))
    # The residual stream carries the vector itself to the target, so that on two layers little can be gained.
    assert max(at_twins) < at_zero


@pytest.mark.parametrize(("together", "prompts"), [(1, 4), (2, 4), (4, 2), (8, 1), (50, 1)])
def test_so_many_twins_at_least_meet_one_prompt_in_a_step(together, prompts):
    met = []

    def loss(prompt, values):
        met.append((prompt, len(values)))
        return (values - torch.arange(12)).square().sum(1)

    how = Descent(steps=3, rate=0.3, cap=0.0, start=1.0, batch=100, seed=0, together=together)
    descend(loss, 4, torch.eye(12)[0].double(), 8, how, run=RunContext())
    each = met[4:]  # the first look for the common direction at every prompt
    assert len(each) == 3 * prompts
    for step in range(3):
        own = each[step * prompts : (step + 1) * prompts]
        assert len({prompt for prompt, _ in own}) == prompts
        assert sum(count for _, count in own) == 8
        assert min(count for _, count in own) >= min(together, 8)


def test_a_search_can_be_ended_from_outside(model, tokenizer, base):
    steps = []
    fit(model, tokenizer, base, each=lambda step, *_: steps.append(step) or step == 4)
    assert steps == [1, 2, 3, 4]


class Keeping(RunContext):
    """Keeps every resume point in memory; the process dies at step `dies`."""

    def __init__(self, dies=None):
        super().__init__()
        self.point, self.dies, self.steps = None, dies, 0

    def checkpoint_due(self):
        return True

    def save_checkpoint(self, part, values, tensors, *, finished):
        self.point = Checkpoint(dict(values), {name: t.clone() for name, t in tensors.items()}, finished)

    def load_checkpoint(self, part):
        return self.point

    def log(self, record):
        self.steps += 1
        if self.steps == self.dies:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("mode", "dies", "settings"), [("joint", 4, {"steps": 9}), ("sequential", 2, {"steps": 5, "k": 3})])
def test_an_interrupted_search_ends_with_the_same_twins_bitwise(model, tokenizer, base, mode, dies, settings):
    whole = fit(model, tokenizer, base, mode=mode, **settings)
    run = Keeping(dies)
    with pytest.raises(KeyboardInterrupt):
        fit(model, tokenizer, base, mode=mode, run=run, **settings)
    run.dies = None
    assert torch.equal(fit(model, tokenizer, base, mode=mode, run=run, **settings).values, whole.values)
    assert run.steps < 2 * settings["steps"]


def test_a_search_goes_on_from_twins_that_are_there(model, tokenizer, base):
    losses = []
    first = fit(model, tokenizer, base, steps=25, each=lambda *a: losses.append(a[3]))
    how = Orthogonal(8, tokens=4, steps=1)
    again = how.fit(model, tokenizer, base, PROMPTS, start=first, each=lambda *a: losses.append(a[3]))
    assert losses[-1] < (losses[0] + losses[-2]) / 2
    assert again.max_cos(base) < 1e-6
    with pytest.raises(UserError, match=r"start is \[8, 32\]; .* \[9, 32\]"):
        Orthogonal(9, tokens=4).fit(model, tokenizer, base, PROMPTS, start=first)


def test_the_cap_holds_where_the_search_begins_beyond_it(model, tokenizer, base):
    long = fit(model, tokenizer, base, max_norm=0.0, steps=1)
    long = dataclasses.replace(long, values=3 * long.values)
    how = {"model": model, "tokenizer": tokenizer, "base": base, "prompts": PROMPTS, "start": long}
    held, free = (Orthogonal(8, tokens=4, steps=3, max_norm=cap).fit(**how).norms().max() for cap in (0.5, 0.0))
    assert float(held) <= 0.5 * base.norm < float(free)


def test_the_seed_decides(model, tokenizer, base):
    a, b, c = (fit(model, tokenizer, base, steps=2, seed=seed).values for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


def test_what_cannot_be_found_is_refused(model, tokenizer, base):
    with pytest.raises(UserError, match="32 twins of a vector with 32 numbers: at most 31"):
        fit(model, tokenizer, base, k=32)
    with pytest.raises(UserError, match="nats a token on these prompts, so any vector near 0 is its twin"):
        fit(model, tokenizer, 1e-3 * base)
    with pytest.raises(UserError, match=r"expected \[b, 32\]|16 numbers"):
        fit(model, tokenizer, SteeringVector(torch.ones(16), "model.layers.0"), k=2)
    with pytest.raises(UserError, match="give target"):
        Orthogonal(2, objective="activation")
    with pytest.raises(UserError, match="mode is 'both'"):
        Orthogonal(2, mode="both")
    with pytest.raises(UserError, match="steps is 0"):
        Orthogonal(2, steps=0)
