import copy
import math

import pytest
import torch
from torch import nn

from architectures import learner
from sluicegate.engine import optimizers
from sluicegate.engine.encoding import encode
from sluicegate.engine.optimizers import Economical, make_optimizer, round_at_random, stepping_in_backward
from sluicegate.engine.sampling import Mixture
from sluicegate.engine.training import CrossEntropy, Loss, fit
from sluicegate.errors import UserError
from sluicegate.runs.directory import Checkpoint, RunContext
from sluicegate.values.schedule import Schedule

KINDS = ("adamw", "adamw-bf16", "adafactor")


@pytest.fixture
def rows(tokenizer, mixed_items):
    return encode(tokenizer, mixed_items)


class Kept(RunContext):
    """Keeps every resume point; a kill is a start from one of them."""

    def __init__(self, begin=None):
        super().__init__("kept")
        self.begin, self.points, self.logged = begin, [], []

    def checkpoint_due(self):
        return True

    def save_checkpoint(self, part, values, tensors, *, finished):
        values = values | {"ledger": dict(values["ledger"]), "records": [*values["records"]]}
        self.points.append(Checkpoint(values, {k: t.detach().clone() for k, t in tensors.items()}, finished))

    def load_checkpoint(self, part):
        return self.begin

    def log(self, record):
        self.logged.append(dict(record))


def trained(rows, dtype=torch.float32, begin=None, model=None, objective=None, seed=0, **schedule):
    model = model or learner().to(dtype)
    draw, run = Mixture(rows, 4, 0), Kept(begin)
    plan = Schedule(**{"steps": 4, "lr": 1e-2, "batch": 4} | schedule)
    fit(model, objective or CrossEntropy(), lambda step: {"train": draw(step)}, plan, seed=seed, run=run)
    return model, run


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# ------------------------------------------------------------------------------- rounding


def test_random_rounding_is_right_on_average_and_goes_to_a_neighbour():
    value = torch.tensor([1 + 2**-9, -1 - 3 * 2**-10, 0.3, 1e-20, 3.0, -5e4])
    draws = torch.stack([round_at_random(value.clone(), torch.Generator().manual_seed(i)) for i in range(4000)]).double()
    assert torch.equal(draws.float().bfloat16().double(), draws)
    spacing = (draws.amax(0) - draws.amin(0)).clamp(min=1e-30)
    share = ((value.double() - draws.amin(0)) / spacing).clamp(0, 1)
    sigma = spacing * (share * (1 - share) / len(draws)).sqrt()
    assert bool(((draws.mean(0) - value.double()).abs() <= 4 * sigma).all())
    assert bool((draws.std(0)[:3] > 0).all())
    assert bool((spacing[:3] <= value[:3].double().abs() * 2**-7).all())


def test_random_rounding_leaves_what_bfloat16_holds_and_what_is_not_finite():
    value = torch.cat([torch.randn(1000).bfloat16().float(), torch.tensor([0.0, math.inf, -math.inf])])
    assert torch.equal(round_at_random(value.clone(), torch.Generator().manual_seed(0)), value)
    assert bool(round_at_random(torch.tensor([math.nan]), torch.Generator().manual_seed(0)).isnan().all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_step_is_lost_by_the_nearest_number_and_by_nothing_else(kind):
    """A thousand steps of 1e-4 on weights of 1: rounded to the nearest, none of them is seen."""
    ends = {}
    for rounding in ("nearest", "stochastic", "master"):
        weight = nn.Parameter(torch.ones(64, 8, dtype=torch.bfloat16))
        optimizer = make_optimizer(Schedule(lr=1e-4, optimizer=kind, rounding=rounding), {"w": weight}, (0,))
        for _ in range(1000):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        ends[rounding] = float(weight.detach().float().mean())
    assert ends["nearest"] == 1
    assert ends["stochastic"] == pytest.approx(0.9, abs=0.01)
    assert ends["master"] == pytest.approx(0.9, abs=0.003)


# ------------------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("piece", [7, 2**20])
@pytest.mark.parametrize("contiguous", [True, False])
def test_adamw_in_pieces_is_torchs(monkeypatch, piece, contiguous):
    monkeypatch.setattr(optimizers, "UPDATED", piece)
    start = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    own = nn.Parameter(start.clone() if contiguous else start.T.contiguous().T.clone(memory_format=torch.preserve_format))
    assert own.is_contiguous() == contiguous
    other = nn.Parameter(start.clone())
    plan = Schedule(lr=1e-2, beta2=0.95, weight_decay=0.1)
    mine = Economical(plan, {"w": own}, (0,))
    theirs = torch.optim.AdamW([other], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(5):
        own.grad = torch.randn(5, 6, generator=torch.Generator().manual_seed(step + 1))
        other.grad = own.grad.clone()
        mine.step()
        theirs.step()
    torch.testing.assert_close(own.data, other.data)


@pytest.mark.parametrize("piece", [9, 2**20])
@pytest.mark.parametrize("shape", [(5, 6), (7,), (3, 4, 5)])
def test_adafactor_is_torchs_but_for_the_weights_size(monkeypatch, shape, piece):
    """Torch multiplies a step by the weights' root mean square, and takes a whole stack of matrices for one when it
    clips; so a stack is compared matrix by matrix."""
    monkeypatch.setattr(optimizers, "UPDATED", piece)
    own = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    others = [nn.Parameter(part.detach().clone()) for part in (own if len(shape) == 3 else [own])]
    mine = Economical(Schedule(lr=0.05, optimizer="adafactor", weight_decay=0.1), {"w": own}, (0,))
    theirs = torch.optim.Adafactor(others, lr=0.05, weight_decay=0.1, eps=(1e-15, 1e-3))
    for step in range(5):
        own.grad = torch.randn(shape, generator=torch.Generator().manual_seed(step + 1)) * 3
        before = [p.detach().clone() for p in others]
        for p, g in zip(others, own.grad if len(shape) == 3 else [own.grad], strict=True):
            p.grad = g.clone()
        theirs.step()
        mine.step()
        for p, old in zip(others, before, strict=True):
            size = max(1e-3, float(old.square().mean().sqrt()))
            decayed = old * (1 - 0.05 * 0.1)
            p.data = decayed + (p.data - decayed) / size
    torch.testing.assert_close(own.data, torch.stack([p.data for p in others]) if len(shape) == 3 else others[0].data, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "kind", "rounding", "bytes_of"),
    [
        (torch.float32, "adamw", "auto", {torch.float32: 8}),
        (torch.bfloat16, "adamw", "auto", {torch.float32: 8}),
        (torch.bfloat16, "adamw", "master", {torch.float32: 12}),
        (torch.float32, "adamw-bf16", "auto", {torch.bfloat16: 4}),
        (torch.bfloat16, "adamw-bf16", "auto", {torch.bfloat16: 4}),
        (torch.bfloat16, "adamw-bf16", "master", {torch.bfloat16: 4, torch.float32: 4}),
    ],
)
def test_bytes_of_the_optimisers_memory_a_weight(dtype, kind, rounding, bytes_of):
    weights = {"a": nn.Parameter(torch.ones(6, 4, dtype=dtype)), "b": nn.Parameter(torch.ones(5, dtype=dtype))}
    optimizer = make_optimizer(Schedule(lr=1e-3, optimizer=kind, rounding=rounding), weights, (0,))
    for p in weights.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    found: dict = {}
    for state in optimizer.state.values():
        for tensor in state.values():
            if tensor.dim():
                found[tensor.dtype] = found.get(tensor.dtype, 0) + tensor.numel() * tensor.element_size()
    assert found == {d: n * 29 for d, n in bytes_of.items()}


def test_adafactor_keeps_a_number_a_row_and_a_column():
    weight = nn.Parameter(torch.ones(3, 6, 4, dtype=torch.bfloat16))
    optimizer = make_optimizer(Schedule(lr=1e-3, optimizer="adafactor"), {"w": weight}, (0,))
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert sum(t.numel() for t in optimizer.state[weight].values()) == 3 * (6 + 4) + 1


# ------------------------------------------------------------------------------- in a run


@pytest.mark.parametrize("rounding", ["auto", "master"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_optimiser_resumes_bitwise_from_any_step(rows, kind, rounding):
    more = {"dtype": torch.bfloat16, "optimizer": kind, "rounding": rounding}
    whole, run = trained(rows, **more)
    assert len(run.points) == 5
    for point in run.points[:-1]:
        again, _ = trained(rows, begin=point, **more)
        assert same(whole, again), point.values["steps"]
    assert not same(whole, trained(rows, seed=1, **more)[0]) or rounding == "master"  # a seed draws the rounding


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_in_the_backward_pass_is_the_step_after_it(rows, kind, dtype):
    one, _ = trained(rows, dtype, optimizer=kind, clip=0.0)
    two, run = trained(rows, dtype, optimizer=kind, clip=0.0, step_in_backward=True)
    assert same(one, two)
    assert all(p.grad is None for p in two.parameters())
    assert not any(p._post_accumulate_grad_hooks for p in two.parameters())
    assert same(one, trained(rows, dtype, begin=run.points[1], optimizer=kind, clip=0.0, step_in_backward=True)[0])


def test_no_two_gradients_are_held_at_a_time(rows):
    model, held = learner(), []
    optimizer = make_optimizer(Schedule(lr=1e-3), dict(model.named_parameters()), (0,))
    optimizer.register_step_pre_hook(lambda *_: held.append(sum(p.grad is not None for p in model.parameters())))
    with stepping_in_backward(optimizer) as norms:
        CrossEntropy()(model, {"train": Mixture(rows, 4, 0)(0)}).value.backward()
    assert held == [1] * len(list(model.parameters())) == [1] * len(norms)
    assert optimizer.param_groups[0]["params"] == list(model.parameters())


def test_a_loss_that_is_not_finite_touches_no_weight_in_the_backward_pass(rows):
    model = learner()
    before = copy.deepcopy(model)
    with pytest.raises(UserError, match="the loss became nan at step 1"):
        trained(rows, model=model, objective=lambda m, b: Loss(CrossEntropy()(m, b).value * math.nan), clip=0.0, step_in_backward=True)
    assert same(model, before)


def test_a_gradient_that_is_not_finite_says_that_weights_took_the_step(rows):
    def poisoned(model, batches):
        first = next(model.parameters())
        return Loss(CrossEntropy()(model, batches).value + 0 * (first.sum() - first.detach().sum()).abs().sqrt())

    with pytest.raises(UserError, match=r"the gradient norm became nan at step 1 .*Some weights have taken that step"):
        trained(rows, objective=poisoned, clip=0.0, step_in_backward=True)


@pytest.mark.parametrize("wrong", [{}, {"clip": 0.0, "accumulate": 2}, {"clip": 0.0, "part_tokens": 64}])
def test_what_a_step_in_the_backward_pass_cannot_do(wrong):
    with pytest.raises(UserError, match=r"one gradient at a time.*Set --(clip|accumulate|part-tokens) [01], or leave"):
        Schedule(step_in_backward=True, **wrong)


def test_half_precision_is_not_trained(rows):
    with pytest.raises(UserError, match="float16 are not trained"):
        trained(rows, torch.float16)


def test_routing_refuses_what_it_cannot_guard(rows):
    for wrong, said in (({"optimizer": "adafactor"}, "adamw-bf16"), ({"step_in_backward": True, "clip": 0.0}, "leave|Leave")):
        with pytest.raises(UserError, match=said):
            fit(learner(), CrossEntropy(), lambda s: {}, Schedule(lr=1e-3, **wrong), seed=0, run=RunContext(), guard=lambda optimizer: None)
