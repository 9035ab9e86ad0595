"""Routing composes: with autocast, compilation, checkpointing, accumulation, transforms and other people's hooks."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, vmap

from architectures import CONFIGS, build
from routed_nets import BLOCKS, Net, nll
from routed_nets import ids as small_ids
from sluicegate.engine.encoding import encode
from sluicegate.engine.training import CrossEntropy, fit
from sluicegate.errors import UserError
from sluicegate.routing.router import Router
from sluicegate.runs.directory import RunContext
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule

FORMS = ["gate", "protect"]
SITES = {"mlp_hidden": {"forget": 16}, "heads": {"forget": 2}}
MIXED, RETAIN, FORGET, UNLABELLED = [0, 1, 2, 1], [0] * 4, [1] * 4, [2] * 4
OPTIONS = {"weights": {"forget": -0.75}, "ablate": {"retain": ["forget"]}}
both_forms = pytest.mark.parametrize("form", FORMS)
everywhere = pytest.mark.parametrize("name", CONFIGS)


def made(name):
    """A model in training mode whose passes are all alike."""
    model = build(name).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def rows(count=4, tokens=9):
    return torch.randint(3, 132, (count, tokens), generator=torch.Generator().manual_seed(0))


def loss_of(model, ids):
    scores = model(input_ids=ids, use_cache=False).logits
    return F.cross_entropy(scores[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def gradients(model):
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def routed(router, labels, call=None, ids=None):
    """Loss and gradients of one pass; `call` stands for the model where something wraps it."""
    router.model.zero_grad()
    with router(torch.as_tensor(labels)):
        loss = loss_of(router.model if call is None else call, rows() if ids is None else ids)
        loss.backward()
    return {"loss": loss.detach(), **gradients(router.model)}


def close(got, expected, **how):
    assert got.keys() == expected.keys()
    for name in got:
        torch.testing.assert_close(got[name], expected[name], msg=lambda text, name=name: f"{name}: {text}", **how)


def watched(model):
    """Dtypes of every module's output, of the last pass."""
    dtypes = {}

    def see(name):
        def hook(module, args, output):
            first = output[0] if isinstance(output, tuple) else output
            dtypes[name] = getattr(first, "dtype", None)

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(see(name))
    return dtypes


# ------------------------------------------------------------------------------ autocast


@everywhere
@both_forms
def test_under_autocast_every_output_keeps_its_dtype(name, form):
    model = made(name)
    dtypes = watched(model)
    with torch.autocast("cpu", torch.bfloat16):
        plain = loss_of(model, rows()).detach()
    before = dict(dtypes)
    assert torch.bfloat16 in before.values()
    router = Router(model, SITES, form=form, weights={"forget": -0.75}, ablate={})
    exact = routed(router, MIXED)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = routed(router, MIXED)
    assert dtypes == before
    assert torch.equal(narrow["loss"], plain)  # the forward pass is the same, bitwise
    assert all(narrow[n].dtype == p.dtype for n, p in model.named_parameters())
    wide = torch.cat([exact[n].flatten() for n in exact])
    error = (torch.cat([narrow[n].flatten() for n in exact]) - wide).norm() / wide.norm()
    assert error < 0.05  # three significant digits are left of each product


@everywhere
def test_under_autocast_protected_gradients_are_exactly_zero(name):
    model = made(name)
    router = Router(model, SITES, form="protect")
    with torch.autocast("cpu", torch.bfloat16):
        found = router.verify({"input_ids": rows(), "labels": rows()})
    assert {row.block for row in found.learning("forget")} == {"forget"}


# ------------------------------------------------------------------------------ checkpointing


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@everywhere
@both_forms
def test_checkpointed_gradients_are_those_of_an_ordinary_pass(name, form, reentrant):
    model = made(name)
    router = Router(model, SITES, form=form, **OPTIONS)
    expected = routed(router, MIXED)
    router.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    calls = Counter()
    for name, module in model.named_modules():  # before the module: the second pass ends where nothing more is needed
        module.register_forward_pre_hook(lambda m, args, name=name: calls.update([name]))
    got = routed(router, MIXED)
    assert all(calls[site.name] == 2 for site, _ in router.sites)  # all was computed again
    assert all(torch.equal(got[n], expected[n]) for n in expected)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@both_forms
def test_leaving_before_backward_is_an_error_under_checkpointing(form, reentrant):
    model = made("llama")
    router = Router(model, SITES, form=form)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with router(MIXED):
        loss = loss_of(model, rows())
    with pytest.raises(UserError, match="left before backward"):
        loss.backward()


# ------------------------------------------------------------------------------ accumulation


@everywhere
@both_forms
def test_a_batch_in_pieces_gives_the_step_of_the_whole(name, form, tokenizer):
    items = [Item("", f"the {colour} fox sees {n} plums") for n in range(4) for colour in ("red", "old")]
    data, labels = encode(tokenizer, items), torch.tensor([0, 1, 2, 1, 1, 1, 0, 2])  # a piece of forget rows alone among them
    found = {}
    for pieces in (1, 4):
        model = made(name)
        router = Router(model, SITES, form=form, ablate={"retain": ["forget"]})
        seen = found[pieces] = {}

        def guard(optimizer, router=router, model=model, seen=seen):
            optimizer.register_step_pre_hook(lambda *_: seen.update(gradients(model)))
            return router.guard(optimizer)

        fit(
            model,
            CrossEntropy(),
            lambda step: {"train": data.batch(range(8))},
            Schedule(steps=1, lr=1e-3, batch=8, accumulate=pieces),
            seed=0,
            run=RunContext(),
            around=lambda parts, router=router: router(labels[parts["train"].index]),
            guard=guard,
        )
    close(found[4], found[1], rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------ transforms


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "weighted"])
@both_forms
def test_gradients_a_row_are_those_of_the_rows_alone(form, options):
    options = {**options, **({"ablate": {"retain": ["one"]}, "weights": {"one": -0.75}} if options else {})}
    net, batch, labels = Net(), small_ids(4), torch.tensor([0, 1, 2, 3])
    router = Router(net, {"mlp": BLOCKS}, form=form, **options)
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def one(own, ids, label):
        with router(label[None]):
            return nll(lambda x: functional_call(net, own, (x,)), ids[None])

    each = vmap(grad(one), in_dims=(None, 0, 0))(parameters, batch, labels)
    for i, label in enumerate(labels):
        net.zero_grad()
        with router(label[None]):
            nll(net, batch[i : i + 1]).backward()
        close({n: g[i] for n, g in each.items()}, gradients(net), rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------------------ compilation


def compiled_like_eager(model, form, backend, labels, loss_and_gradients, *, sites=SITES, options=OPTIONS, **close_to):
    router = Router(model, sites, form=form, **options)
    eager = [loss_and_gradients(router, own, None) for own in labels]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    call = torch.compile(model, backend=counter, fullgraph=True)
    for own, expected in zip(labels, eager, strict=True):
        close(loss_and_gradients(router, own, call), expected, **close_to)
    assert counter.frame_count == 1  # traced once, whatever the labels are
    torch._dynamo.reset()


CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@both_forms
def test_a_compiled_model_is_traced_once_for_all_labels(form):
    def passed(router, labels, call):
        net.zero_grad()
        with router(torch.tensor(labels)):
            loss = nll(net if call is None else call, small_ids(4))
            loss.backward()
        return {"loss": loss.detach(), **gradients(net)}

    net = Net()
    options = {"weights": {"one": -0.75}, "ablate": {"retain": ["one", "two"]}}
    labels = [[0, 1, 2, 3], [1, 1, 1, 1], [3, 3, 3, 3], [0, 0, 0, 0], [2, 1, 0, 0]]
    compiled_like_eager(net, form, "aot_eager", labels, passed, sites={"mlp": BLOCKS}, options=options, rtol=1e-9, atol=1e-12)


def made_small(name):
    """With one layer: what is compiled is compiled layer by layer anyhow."""
    model = made(name)
    stack = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    del stack[1:]
    model.config.num_hidden_layers = 1
    return model


@pytest.mark.slow
@everywhere
@both_forms
def test_every_architecture_compiles_whole(name, form):
    compiled_like_eager(made_small(name), form, "aot_eager", [MIXED, FORGET, UNLABELLED, RETAIN], routed, **CLOSE)


@pytest.mark.slow
@both_forms
def test_inductor_agrees(form):
    compiled_like_eager(made_small("llama"), form, "inductor", [MIXED, FORGET, RETAIN], routed, rtol=1e-3, atol=1e-5)


# ------------------------------------------------------------------------------ hooks


@everywhere
@both_forms
def test_hooks_of_others_run_as_often_as_before_and_stay(name, form):
    model = made(name)
    counts = Counter()
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda m, a, n=path: counts.update([("pre", n)]))
        module.register_forward_hook(lambda m, a, y, n=path: counts.update([("post", n)]))
        if not list(module.children()):
            module.register_full_backward_hook(lambda m, i, o, n=path: counts.update([("back", n)]))
    for path, parameter in model.named_parameters():
        parameter.register_hook(lambda g, n=path: counts.update([("weight", n)]))
    loss_of(model, rows()).backward()
    plain = Counter(counts)
    assert {kind for kind, _ in plain} == {"pre", "post", "back", "weight"}
    router = Router(model, SITES, form=form, **OPTIONS)
    for labels in (MIXED, FORGET):
        counts.clear()
        routed(router, labels)
        assert counts == plain
    router.remove()
    counts.clear()
    loss_of(model, rows()).backward()
    assert counts == plain


@both_forms
def test_nothing_is_registered_while_training(form):
    model = made("llama")
    router = Router(model, SITES, form=form)

    def registered():
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return {n: [list(getattr(m, kind).items()) for kind in kinds] + [m.__dict__.get("forward")] for n, m in model.named_modules()}

    before = registered()
    for labels in (MIXED, FORGET, RETAIN):
        routed(router, labels)
        assert registered() == before


@both_forms
def test_a_copy_of_a_routed_model_trains_plainly(form):
    model = made("llama")
    loss_of(model, rows()).backward()
    plain = gradients(model)
    router = Router(model, SITES, form=form)
    twin = copy.deepcopy(model)
    with router(FORGET):
        twin.zero_grad()
        loss_of(twin, rows()).backward()
    assert all(torch.equal(g, plain[n]) for n, g in gradients(twin).items())
