import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from sluicegate.errors import UserError
from sluicegate.routing.labels import policy
from sluicegate.routing.router import Router

WIDTH = 7
WEIGHTS = [{}, {"a": -0.5, "unlabelled": {"b": 0.25}}, {"a": {"a": 0.0}}, {"retain": {"rest": 0.0, "a": 0.0, "b": 0.0}}]
BLOCKS = [{"a": 2, "b": (1, 3)}, {"a": (0, 2), "b": (2, 5)}, {"a": (0, 6), "b": (6, 7)}]
SIDES = pytest.mark.parametrize("at", ["output", "input"])


class Layer(nn.Module):
    def __init__(self, transposed=False, bias=True, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = Conv1D(WIDTH, WIDTH) if transposed else nn.Linear(WIDTH, WIDTH, bias=bias)
        self.double()

    def forward(self, x):
        return self.layer(x)


def apart(model):
    """The same model with something on the layer that lets layer and gate be computed one after the other only."""
    other = copy.deepcopy(model)
    other.layer.register_full_backward_pre_hook(lambda module, g: None)
    return other


def rows(labels, *lead):
    generator = torch.Generator().manual_seed(len(labels))
    return tuple(torch.randn(len(labels), *lead, WIDTH, generator=generator).double() for _ in range(2))


def gradients(model, labels, x, g, *, at="output", blocks=BLOCKS[0], weights=WEIGHTS[0]):
    """Of the input and all parameters; what the layer said; whether it was computed with its gate."""
    router = Router(model, {"layer": blocks}, at=at, weights=weights)
    x = x.clone().requires_grad_()
    model.zero_grad()
    with router(labels):
        y = model(x)
        one = "Partitioned" in type(y.grad_fn).__name__
        y.backward(g)
    router.remove()
    return {"x": x.grad, **{name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}}, y.detach(), one


def same(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@settings(max_examples=150)
@given(
    stretches=st.lists(st.tuples(st.integers(-1, 2), st.integers(1, 3)), min_size=1, max_size=6),
    lead=st.sampled_from([(), (3,), (2, 2)]),
    layer=st.sampled_from([(False, True), (False, False), (True, True)]),
    at=st.sampled_from(["output", "input"]),
    blocks=st.sampled_from(BLOCKS),
    weights=st.sampled_from(WEIGHTS),
)
def test_a_layer_and_its_gate_in_one_are_the_two_apart(stretches, lead, layer, at, blocks, weights):
    labels = torch.tensor([label for label, count in stretches for _ in range(count)])
    model, batch, options = Layer(*layer), rows(labels, *lead), {"at": at, "blocks": blocks, "weights": weights}
    table = policy(list(blocks), weights, {}).backward.tolist()
    expected, said, one = gradients(apart(model), labels, *batch, **options)
    assert not one
    found, says, one = gradients(model, labels, *batch, **options)
    assert one == any(value != 1.0 for label in set(labels.tolist()) for value in table[label])
    assert torch.equal(says, said)
    same(found, expected)


@SIDES
def test_what_the_gate_sets_to_zero_is_not_multiplied(at):
    """An infinite gradient of a feature that is not passed on leaves no trace: nothing there is computed."""
    labels, model = [1, 1, -1, -1], Layer()
    x, g = rows(labels)
    if at == "output":
        g[:2, 0] = float("inf")
    else:
        with torch.no_grad():
            model.layer.weight[:, 0] = float("inf")
    found, _, one = gradients(model, labels, x, g, at=at)
    assert one
    assert torch.isfinite(found["x"][:2]).all()
    if at == "output":
        assert torch.isfinite(found["layer.weight"]).all()
        assert torch.isfinite(found["layer.bias"]).all()


@SIDES
def test_gradients_are_differentiated_again(at):
    labels = [1, 1, 0, -1]

    def twice(model):
        router = Router(model, {"layer": BLOCKS[0]}, at=at, weights={"a": -0.5})
        x = rows(labels)[0].requires_grad_()
        with router(labels):
            y = model(x).pow(3).sum()
            first = torch.autograd.grad(y, [x, *model.parameters()], create_graph=True)
            sum(own.pow(2).sum() for own in first).backward()
        router.remove()
        return {"x": x.grad, **{name: p.grad for name, p in model.named_parameters()}}

    model = Layer()
    same(twice(copy.deepcopy(model)), twice(apart(model)))


@SIDES
@pytest.mark.parametrize("frozen", ["weight", "bias", "both"])
def test_frozen_parameters_get_nothing(at, frozen):
    labels, model = [1, 1, 0, -1], Layer()
    for name, p in model.layer.named_parameters():
        p.requires_grad_(frozen not in (name, "both"))
    found, _, one = gradients(model, labels, *rows(labels), at=at)
    assert one
    expected, _, _ = gradients(apart(model), labels, *rows(labels), at=at)
    same(found, expected)


@SIDES
def test_under_autocast_gradients_have_the_types_of_what_they_belong_to(at):
    labels, model = [1, 1, 0, -1], Layer().float()
    router = Router(model, {"layer": BLOCKS[0]}, at=at)
    x = torch.randn(4, WIDTH, requires_grad=True)
    with router(labels), torch.autocast("cpu", torch.bfloat16):
        y = model(x)
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert {x.grad.dtype, *(p.grad.dtype for p in model.parameters())} == {torch.float32}


@SIDES
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_pass_that_is_computed_again_is_gated_again(at, reentrant):
    labels, model = [1, 1, 0, -1], Layer()
    x, g = rows(labels)
    expected, _, _ = gradients(copy.deepcopy(model), labels, x, g, at=at)
    router = Router(model, {"layer": BLOCKS[0]}, at=at)
    for _ in range(3):
        model.zero_grad()
        x = x.detach().requires_grad_()
        with router(labels):
            checkpoint(model, x, use_reentrant=reentrant).backward(g)
        same({"x": x.grad, **{name: p.grad for name, p in model.named_parameters()}}, expected)


@SIDES
def test_backward_after_the_block_is_an_error_that_names_the_site(at):
    model = Layer()
    router = Router(model, {"layer": BLOCKS[0]}, at=at)
    with router([1, 1, 0, -1]):
        y = model(rows([0] * 4)[0])
    with pytest.raises(UserError, match="site 'layer': the router was left before backward"):
        y.sum().backward()


def test_a_layer_that_is_the_whole_model_is_checked_too():
    model = nn.Linear(WIDTH, WIDTH)
    router = Router(model, {"": {"a": 2}})
    with router([1, 0]):
        y = model(torch.randn(2, WIDTH))
    with pytest.raises(UserError, match="left before backward"):
        y.sum().backward()


@SIDES
def test_rows_computed_without_a_block_are(at):
    labels, model = [0, 0, 1, -1], Layer()
    x, g = rows(labels)

    def found(model):
        model.zero_grad()
        router = Router(model, {"layer": {"a": 2}}, at=at, ablate={"retain": ["a"]})
        own = x.clone().requires_grad_()
        with router(labels):
            y = model(own)
            y.backward(g)
        router.remove()
        return {"y": y.detach(), "x": own.grad, **{name: p.grad.clone() for name, p in model.named_parameters()}}

    expected = found(apart(model))
    assert not (expected["y"][:2, 5:] if at == "output" else expected["x"][:2, 5:]).any()
    same(found(model), expected)


@SIDES
def test_a_copy_of_the_model_trains_plainly_and_the_model_goes_on(at):
    labels, model = [1, 1, 0, -1], Layer()
    x, g = rows(labels)
    expected, _, _ = gradients(copy.deepcopy(model), labels, x, g, at=at)
    router = Router(model, {"layer": BLOCKS[0]}, at=at)
    with router(labels):
        model(x).backward(g)
    other = copy.deepcopy(model)
    other.zero_grad()
    other(x).backward(g)
    torch.testing.assert_close(other.layer.weight.grad, g.T @ x)
    torch.testing.assert_close(model.layer.weight.grad, expected["layer.weight"], rtol=1e-12, atol=1e-12)


@SIDES
@pytest.mark.parametrize("when", ["before the router", "after it", "in front"])
def test_hooks_of_the_users_own_stay_where_they_are(at, when):
    """Doubled between the layer and its gate or beyond it: either way the gate weighs what it would without being one with the layer."""
    labels = [1, 1, 0, -1]

    def found(model):
        x, g = rows(labels)
        x.requires_grad_()

        def put():
            if at == "output":
                model.layer.register_forward_hook(lambda module, args, y: y.flip(-1), prepend=when == "in front")
            else:
                model.layer.register_forward_pre_hook(lambda module, args: (args[0].flip(-1),), prepend=when == "in front")

        if when == "before the router":
            put()
        router = Router(model, {"layer": BLOCKS[0]}, at=at)
        if when != "before the router":
            put()
        with router(labels):
            model(x).backward(g)
        return {"x": x.grad, **{name: p.grad for name, p in model.named_parameters()}}

    model = Layer()
    same(found(copy.deepcopy(model)), found(apart(model)))


@pytest.mark.parametrize("kind", ["forward", "subclass"])
def test_a_forward_that_is_not_torchs_is_run(kind):
    model = Layer()
    if kind == "forward":
        forward = model.layer.forward
        model.layer.forward = lambda x: 2 * forward(x)
    else:
        model.layer.__class__ = type("Twice", (nn.Linear,), {"forward": lambda self, x: 2 * nn.Linear.forward(self, x)})
    x, g = rows([1, 1])
    plain = model(x)
    router = Router(model, {"layer": {"a": 2}})
    with router([1, 1]):
        y = model(x)
        y.backward(g)
    assert torch.equal(y, plain)
    expected = 2 * g.T @ x
    expected[:5] = 0.0
    torch.testing.assert_close(model.layer.weight.grad, expected)
    before = model.layer.__dict__.get("forward")
    router.remove()
    assert model.layer.__dict__.get("forward") is before
