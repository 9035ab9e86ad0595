import contextlib
import copy

import pytest
import torch
from torch import nn

from routed_nets import BLOCKS, Net, columns_of, gradients, ids, nll
from sluicegate.engine.optimizers import Economical
from sluicegate.errors import UserError
from sluicegate.routing.router import Router
from sluicegate.values.schedule import Schedule

SITES = {"mlp": BLOCKS}
OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.3),
    "adamw-fused": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.3, fused=True),
    "adamw-bf16": lambda p: Economical(Schedule(lr=0.1, weight_decay=0.3, optimizer="adamw-bf16"), dict(enumerate(p)), (0,)),
    "adamw-single": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.3, foreach=False),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.3, amsgrad=True),
    "sgd-momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.3),
    "sgd": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1, weight_decay=0.3),
}
EVERY = pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
FORMS = pytest.mark.parametrize("form", ["protect", "gate"])
MAKERS = ("mlp.0.weight", "mlp.0.bias")
"""What the activation form holds back; the rest of the network learns from everything there."""


def whole(net, optimizer):
    """Weights and the optimiser's memory of them, copied."""
    found = {(name, ""): p.detach().clone() for name, p in net.named_parameters()}
    for name, parameter in net.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                found[name, key] = value.clone()
    return found


def backward(net, router, labels, seed=0):
    net.zero_grad()
    with router(labels):
        nll(net, ids(len(labels), seed=seed)).backward()


def held(net, form, columns):
    """[like each parameter] what no row may have moved, if no row moves these columns."""
    return {
        name: torch.isin(columns_of(name, p.shape), torch.tensor(columns, dtype=torch.long)) & (form == "protect" or name in MAKERS)
        for name, p in net.named_parameters()
    }


@EVERY
@FORMS
@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize(
    ("labels", "still"), [([1, 1, 1], (0, 2)), ([0, 0], (1, 2)), ([1, 2], (0,)), ([2, 0], (1,)), ([3, 1], ())], ids=str
)
def test_what_no_row_may_train_stays_bitwise_and_the_rest_moves_as_it_would(kind, form, warm, labels, still):
    """With momentum and weight decay, from the first step on; the optimiser's memory too."""
    net = Net()
    router = Router(net, SITES, form=form, ablate={"retain": ["one", "two"]})
    optimizer = OPTIMIZERS[kind](net.parameters())
    guard = router.guard(optimizer)
    for step in range(3 if warm else 0):
        backward(net, router, [0, 1, 2, 3], seed=step)
        optimizer.step()
    backward(net, router, labels, seed=9)
    before = whole(net, optimizer)
    saved, given = copy.deepcopy(optimizer.state_dict()), gradients(net)
    optimizer.step()
    after = whole(net, optimizer)
    assert all(torch.equal(p.grad, given[name]) for name, p in net.named_parameters())  # the gradients are the user's own

    guard.remove()
    reference = Net()
    reference.load_state_dict({name: before[name, ""] for name, _ in net.named_parameters()}, strict=False)
    other = OPTIMIZERS[kind](reference.parameters())
    for place, p in enumerate(reference.parameters()):  # `load_state_dict` would cast it to the weights' dtype
        other.state[p] |= saved["state"].get(place, {})
    for name, p in reference.named_parameters():
        p.grad = given[name]
    other.step()
    plain = whole(reference, other)

    quiet = held(net, form, still)
    count = 0
    for (name, key), value in after.items():
        mask = quiet[name]
        was = before.get((name, key), torch.zeros_like(value))  # memory that did not exist yet
        assert torch.equal(value[mask], was[mask]), (name, key)
        assert torch.equal(value[~mask], plain[name, key][~mask]), (name, key)
        count += int(mask.sum())
        if key == "" and mask.any() and not mask.all() and warm:
            assert not torch.equal(plain[name, ""][mask], before[name, ""][mask])  # without the guard it would have moved
    assert bool(count) == bool(still)


def test_a_whole_parameter_that_nobody_trains_is_not_shown_to_the_optimiser():
    net = Net()
    router = Router(net, SITES, form="protect")
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    router.guard(optimizer)
    backward(net, router, [1, 2])
    optimizer.step()
    assert not optimizer.state.get(net.norm.weight)
    assert optimizer.state[net.mlp[0].weight]["step"] == 1
    assert net.norm.weight.grad is not None


@FORMS
def test_rows_that_train_nothing_move_nothing(form):
    net = Net()
    router = Router(net, SITES, form=form, weights={"one": {"one": 0.0}}, ablate={})
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    router.guard(optimizer)
    backward(net, router, [0, 1, 2, 3])
    optimizer.step()
    before = whole(net, optimizer)
    backward(net, router, [1, 1])
    optimizer.step()
    after = whole(net, optimizer)
    for name in dict(net.named_parameters()) if form == "protect" else MAKERS:
        assert torch.equal(after[name, ""], before[name, ""])
        assert torch.equal(after[name, "exp_avg"], before[name, "exp_avg"])


def test_labels_count_over_all_passes_since_the_last_step():
    net = Net()
    router = Router(net, SITES, form="protect")
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    router.guard(optimizer)
    with router([1]):
        nll(net, ids(1)).backward()
    with router([2]):
        nll(net, ids(1, seed=1)).backward()
    before = whole(net, optimizer)
    optimizer.step()
    moved = {name: after != before[name, ""] for (name, key), after in whole(net, optimizer).items() if key == ""}
    for name, mask in held(net, "protect", (0,)).items():
        assert torch.equal(moved[name], ~mask), name
    backward(net, router, [2])
    before = whole(net, optimizer)
    optimizer.step()  # what block one did before does not count any more
    assert torch.equal(net.mlp[0].weight[6:9], before["mlp.0.weight", ""][6:9])


def test_several_optimisers_are_each_guarded():
    net = Net()
    router = Router(net, SITES, form="protect")
    optimizers = [OPTIMIZERS["adamw"]([p for name, p in net.named_parameters() if ("mlp" in name) == inner]) for inner in (True, False)]
    for optimizer in optimizers:
        router.guard(optimizer)
    for labels in ([0, 1, 2, 3], [1, 1]):
        backward(net, router, labels)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        for optimizer in optimizers:
            optimizer.step()
    for name, mask in held(net, "protect", (0, 2)).items():
        assert torch.equal(net.get_parameter(name)[mask], before[name][mask])
    assert not torch.equal(net.mlp[0].weight[6:9], before["mlp.0.weight"][6:9])


def test_passes_without_gradients_train_nothing():
    net = Net()
    router = Router(net, SITES, form="protect")
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    router.guard(optimizer)
    backward(net, router, [0, 1, 2, 3])
    optimizer.step()
    backward(net, router, [1, 1])
    with torch.no_grad(), router([0, 2]):
        nll(net, ids(2))
    router.report(ids(2), nll)
    before = whole(net, optimizer)
    optimizer.step()
    after = whole(net, optimizer)
    assert torch.equal(after["norm.weight", ""], before["norm.weight", ""])
    assert not torch.equal(after["mlp.0.weight", ""], before["mlp.0.weight", ""])


def test_steps_without_a_routed_pass_are_plain():
    net, reference = Net(), Net()
    router = Router(net, SITES, form="protect")
    first, second = OPTIMIZERS["adamw"](net.parameters()), OPTIMIZERS["adamw"](reference.parameters())
    router.guard(first)
    for model, optimizer in ((net, first), (reference, second)):
        for seed in range(2):
            model.zero_grad()
            nll(model, ids(3, seed=seed)).backward()
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), reference.parameters(), strict=True))


def test_a_removed_guard_guards_no_more():
    net = Net()
    router = Router(net, SITES, form="protect")
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    guard = router.guard(optimizer)
    guard.remove()
    backward(net, router, [1])
    before = net.norm.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(net.norm.weight, before)


@FORMS
def test_retain_rows_leave_an_ablated_block_alone_whatever_the_shares(form):
    net = Net()
    router = Router(net, SITES, form=form, ablate={"retain": ["one", "two"]})
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    router.guard(optimizer)
    backward(net, router, [0, 1, 2, 3])
    optimizer.step()
    backward(net, router, torch.tensor([[1.0, 0, 0, 0]] * 2))
    before = whole(net, optimizer)
    optimizer.step()
    after = whole(net, optimizer)
    for key in ("", "exp_avg"):
        assert torch.equal(after["mlp.0.weight", key][6:], before["mlp.0.weight", key][6:])
        assert not torch.equal(after["mlp.0.weight", key][:6], before["mlp.0.weight", key][:6])


def test_memory_that_an_optimiser_puts_in_anew_is_put_back():
    class Anew(torch.optim.Optimizer):
        """Does not work in place."""

        @torch.no_grad()
        def step(self):
            for p in self.param_groups[0]["params"]:
                if p.grad is not None:
                    self.state[p]["memory"] = 0.9 * self.state[p].get("memory", torch.ones_like(p)) + p.grad
                    p -= 0.1 * self.state[p]["memory"]

    net = Net()
    router = Router(net, SITES, form="protect")
    optimizer = Anew(net.parameters(), {})
    router.guard(optimizer)
    backward(net, router, [0, 1, 2, 3])
    optimizer.step()
    before = whole(net, optimizer)
    backward(net, router, [1])
    optimizer.step()
    after = whole(net, optimizer)
    for key in ("", "memory"):
        assert torch.equal(after["mlp.0.weight", key][:6], before["mlp.0.weight", key][:6])
        assert not torch.equal(after["mlp.0.weight", key][6:9], before["mlp.0.weight", key][6:9])


# ------------------------------------------------------------------------------ more than a pass and a step


def trained(kind, form, steps, how):
    """Weights and memory after one step a label list; `how(net, router, optimizer, labels, seed)` makes it."""
    net = Net()
    router = Router(net, SITES, form=form)
    optimizer = OPTIMIZERS[kind](net.parameters())
    router.guard(optimizer)
    for seed, labels in enumerate(steps):
        how(net, router, optimizer, labels, seed)
    return whole(net, optimizer)


def plainly(net, router, optimizer, labels, seed):
    backward(net, router, labels, seed)
    optimizer.step()


@EVERY
@FORMS
@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_is_judged_by_its_own_batch(kind, form, by_name):
    def by_closure(net, router, optimizer, labels, seed):
        def closure():
            backward(net, router, labels, seed)
            return torch.tensor(float(seed))

        assert optimizer.step(closure=closure) == seed if by_name else optimizer.step(closure) == seed

    steps = [[3, 3], [1, 1], [3, 0], [1, 2], [1, 1]]
    expected, got = (trained(kind, form, steps, how) for how in (plainly, by_closure))
    assert expected.keys() == got.keys()
    assert all(torch.equal(got[key], value) for key, value in expected.items())


def test_a_closure_that_is_asked_twice_holds_the_same():
    class Twice(torch.optim.SGD):
        def step(self, closure):
            closure()
            return super().step(closure)

    net = Net()
    router = Router(net, SITES, form="protect")
    optimizer = Twice(net.parameters(), 0.1, momentum=0.9, weight_decay=0.3)
    router.guard(optimizer)
    for labels in ([3, 3], [1, 1]):
        before = whole(net, optimizer)
        optimizer.step(lambda labels=labels: backward(net, router, labels))
    after = whole(net, optimizer)
    for name, mask in held(net, "protect", (0, 2)).items():
        assert torch.equal(after[name, ""][mask], before[name, ""][mask])
    assert not torch.equal(after["mlp.0.weight", ""][6:9], before["mlp.0.weight", ""][6:9])


def scaled(net, router, labels, seed, factor=1.0):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with router(labels):
        scaler.scale(nll(net, ids(len(labels), seed=seed)) * factor).backward()
    return scaler


def skipped(net, router, optimizer):
    scaler = scaled(net, router, [3, 3], 9, float("inf"))
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def thrown_away(net, router, optimizer):
    backward(net, router, [3, 3], 9)
    optimizer.zero_grad()


def thrown_away_in_place(net, router, optimizer):
    backward(net, router, [3, 3], 9)
    net.zero_grad(set_to_none=False)


def validated(net, router, optimizer):
    with router([3, 0]):
        nll(net, ids(2, seed=9))


def left_by_an_error(net, router, optimizer):
    with contextlib.suppress(ZeroDivisionError), router([3, 3]):
        nll(net, ids(2)).backward()
        1 / 0  # noqa: B018
    optimizer.zero_grad()


NUISANCES = [skipped, thrown_away, thrown_away_in_place, validated, left_by_an_error]


@pytest.mark.parametrize("kind", ["adamw", "adamw-fused", "sgd-momentum"])
@FORMS
@pytest.mark.parametrize("nuisance", NUISANCES)
def test_what_left_no_gradient_does_not_count(kind, form, nuisance):
    """A step after it does bitwise what it does without it."""

    def bothered(net, router, optimizer, labels, seed):
        if seed == 2:
            nuisance(net, router, optimizer)
        plainly(net, router, optimizer, labels, seed)

    steps = [[3, 3], [0, 3], [1, 1], [2, 2]]
    expected, got = (trained(kind, form, steps, how) for how in (plainly, bothered))
    assert all(torch.equal(got[key], value) for key, value in expected.items())


def test_gradients_thrown_away_inside_the_block_do_not_count():
    def inside(net, router, optimizer, labels, seed):
        with router([3, 3]):
            nll(net, ids(2, seed=9)).backward()
        with router(labels):
            optimizer.zero_grad()
            nll(net, ids(len(labels), seed=seed)).backward()
        optimizer.step()

    steps = [[3, 3], [1, 1], [2, 2]]
    expected, got = (trained("adamw", "protect", steps, how) for how in (plainly, inside))
    assert all(torch.equal(got[key], value) for key, value in expected.items())


def test_a_validation_between_backward_and_step_does_not_count_and_one_late_backward_of_two_passes_does():
    def validated_late(net, router, optimizer, labels, seed):
        backward(net, router, labels, seed)
        validated(net, router, optimizer)
        optimizer.step()

    steps = [[3, 3], [1, 1], [2, 2]]
    expected, got = (trained("adamw", "protect", steps, how) for how in (plainly, validated_late))
    assert all(torch.equal(got[key], value) for key, value in expected.items())

    net = Net()
    router = Router(net, SITES, form="protect")
    router.guard(optimizer := OPTIMIZERS["adamw"](net.parameters()))
    with router([3, 3]):
        first = nll(net, ids(2))
    with router([1, 1]):
        second = nll(net, ids(2, seed=1))
    (first + second).backward()
    before = whole(net, optimizer)
    optimizer.step()
    assert all((net.get_parameter(name) != before[name, ""]).any() for name in ("norm.weight", "rms.weight", "embed.weight"))


def test_a_step_that_calls_its_parents_and_goes_on_is_held_to_its_end():
    class Inner(torch.optim.SGD):
        pass

    class Decaying(Inner):
        @torch.no_grad()
        def step(self, closure=None):
            super().step(closure)
            for p in self.param_groups[0]["params"]:
                p.mul_(0.9)

    Inner([nn.Parameter(torch.zeros(1))], 0.1)  # so that the parent's step has hooks too
    net = Net()
    router = Router(net, SITES, form="protect")
    router.guard(optimizer := Decaying(net.mlp[:1].parameters(), 0.1))
    backward(net, router, [1, 1])
    before = net.mlp[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(net.mlp[0].weight[:6], before[:6])
    assert not torch.equal(net.mlp[0].weight[6:9], before[6:9])


def test_an_optimiser_with_one_memory_for_all_weights_is_refused():
    net = Net()
    with pytest.raises(UserError, match=r"LBFGS keeps one memory of all weights together.* Guard AdamW or SGD"):
        Router(net, SITES).guard(torch.optim.LBFGS(net.parameters()))
