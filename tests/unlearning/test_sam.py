import copy

import pytest
import torch

from architectures import build
from sluicegate.engine.encoding import encode
from sluicegate.engine.training import Ledger, Loss, only_train
from sluicegate.errors import UserError
from sluicegate.runs.stage import from_config
from sluicegate.unlearning.objectives import methods
from sluicegate.unlearning.objectives.maxent import MaxEnt
from sluicegate.unlearning.sam import Sharpness
from sluicegate.unlearning.unlearn import unlearn
from sluicegate.values.schedule import Schedule

SHORT = Schedule(steps=3, lr=1e-3, batch=4)


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", methods())
def test_the_gradient_is_that_of_the_worst_point_near_by(tokenizer, split, bits, name):
    model = build("llama").double()
    forget, retain = encode(tokenizer, split.forget[:8]), encode(tokenizer, split.retain[:8])
    only_train(model, "model.layers.0.*")
    objective = methods()[name]().prepare(model, forget, retain, Ledger())
    batches = {"forget": forget.batch(range(8)), "retain": retain.batch(range(8))}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.ones_like(p).cumsum(0).sin())
    before = bits.weights(model)

    found = Sharpness(objective, 0.3)(model, batches)
    assert bits.same(bits.weights(model), before), "the weights were not put back"
    found.value.backward()
    mine = gradients(model)

    there = copy.deepcopy(model)
    there.zero_grad()
    objective(there, batches).value.backward()
    norm = torch.stack([p.grad.norm() for p in there.parameters() if p.grad is not None]).norm()
    with torch.no_grad():
        for p in there.parameters():
            if p.grad is not None:
                p.add_(0.3 * p.grad / norm)
    there.zero_grad()
    worst = objective(there, batches)
    worst.value.backward()
    torch.testing.assert_close(found.value.detach(), worst.value.detach())
    wanted = gradients(there)
    assert mine.keys() == wanted.keys()
    assert all("layers.0" in n for n in mine)
    for key, value in wanted.items():
        torch.testing.assert_close(mine[key], value, msg=key)


def test_what_it_logs_is_how_much_worse_the_loss_is_there():
    model = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))

    def bowl(model, batches):
        return Loss(0.5 * model.weight.square().sum(), teacher_flops=7.0)

    found = Sharpness(bowl, 0.5)(model, {})
    assert float(found.value.detach()) == pytest.approx(0.5 * 5.5**2)
    assert float(found.log["sharpness"]) == pytest.approx(0.5 * 5.5**2 - 12.5)
    assert found.teacher_flops == 14, "a teacher is asked at both points"


def test_a_flat_spot_is_no_division_by_zero():
    model = torch.nn.Linear(2, 1)
    found = Sharpness(lambda m, b: Loss(0.0 * m.weight.sum()), 0.5)(model, {})
    found.value.backward()
    assert bool(model.weight.grad.isfinite().all())


def test_a_batch_in_parts_is_refused(tiny, tokenizer, split):
    with pytest.raises(UserError, match=r"whole batch.*--accumulate.*--sam"):
        unlearn(tiny, tokenizer, split, MaxEnt(), Schedule(steps=1, lr=1e-3, batch=4, accumulate=2), sam=0.1)
    stage = from_config({"verb": "unlearn", "model": "arithmetic-tiny", "forget": "a", "retain": "b", "sam": 0.1, "accumulate": 2})
    with pytest.raises(UserError, match="--accumulate"):
        stage.resolved()


@pytest.mark.parametrize("wrong", [-0.1, float("inf"), float("nan")])
def test_a_radius_that_is_none_is_refused(tiny, tokenizer, split, wrong):
    with pytest.raises(UserError, match=r"sam is .*radius"):
        unlearn(tiny, tokenizer, split, MaxEnt(), SHORT, sam=wrong)


def test_it_costs_twice_and_ends_elsewhere(tiny, tokenizer, split, bits):
    plain, cheap = unlearn(tiny, tokenizer, split, MaxEnt(), SHORT)
    sharp, dear = unlearn(tiny, tokenizer, split, MaxEnt(), SHORT, sam=0.5)
    assert dear.ledger.student == 2 * cheap.ledger.student > 0
    assert not bits.same(bits.weights(plain), bits.weights(sharp))


def test_runs_without_it_keep_the_hash_they_had():
    plain = from_config({"verb": "unlearn", "model": "arithmetic-tiny", "forget": "a", "retain": "b"})
    assert "sam" not in plain.config()
    sharp = from_config({**plain.config(), "sam": 0.05})
    assert sharp.config()["sam"] == 0.05
    assert from_config(sharp.config()) == sharp
    assert (plain.method, sharp.method) == ("maxent", "maxent-sam")
