import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from sluicegate.errors import UserError
from sluicegate.routing.gate import gate
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


def rows(labels, *lead):
    generator = torch.Generator().manual_seed(len(labels))
    return tuple(torch.randn(len(labels), *lead, WIDTH, generator=generator).double() for _ in range(2))


class ByHand(Layer):
    """The layer with a gate written before or behind it."""

    def __init__(self, layer, labels, at, blocks, weights):
        super().__init__()
        self.layer, self.at = layer.layer, at
        names = list(blocks)
        self.table = policy(names, weights, {}).backward[torch.tensor(labels) % (len(names) + 2)].double()
        self.columns = tuple((*place_of(blocks, name), c) for c, name in enumerate(names, start=1))

    def forward(self, x):
        gated = lambda z: gate(z, self.table, self.columns)  # noqa: E731
        return gated(self.layer(x)) if self.at == "output" else self.layer(gated(x))


def place_of(blocks, name):
    return blocks[name] if isinstance(blocks[name], tuple) else (WIDTH - blocks[name], WIDTH)


def gradients(model, labels, x, g, *, at="output", blocks=BLOCKS[0], weights=WEIGHTS[0], by_hand=False):
    """Of the input and all parameters, and what the layer said."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    if by_hand:
        y = ByHand(model, labels, at, blocks, weights)(x)
        y.backward(g)
    else:
        router = Router(model, {"layer": blocks}, at=at, weights=weights)
        with router(labels):
            y = model(x)
            y.backward(g)
        router.remove()
    return {"x": x.grad, **{name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}}, y.detach()


def same(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@settings(max_examples=60)
@given(
    labels=st.lists(st.integers(-1, 2), min_size=1, max_size=9),
    lead=st.sampled_from([(), (3,), (2, 2)]),
    layer=st.sampled_from([(False, True), (False, False), (True, True)]),
    at=st.sampled_from(["output", "input"]),
    blocks=st.sampled_from(BLOCKS),
    weights=st.sampled_from(WEIGHTS),
)
def test_a_gate_at_a_layer_is_the_gate_by_hand(labels, lead, layer, at, blocks, weights):
    model, batch, options = Layer(*layer), rows(labels, *lead), {"at": at, "blocks": blocks, "weights": weights}
    expected, said = gradients(model, labels, *batch, **options, by_hand=True)
    found, says = gradients(model, labels, *batch, **options)
    assert torch.equal(says, said)
    same(found, expected)


@SIDES
def test_gradients_are_differentiated_again(at):
    labels, options = [1, 1, 0, -1], {"at": at, "blocks": BLOCKS[0], "weights": {"a": -0.5}}

    def twice(model, run):
        x = rows(labels)[0].requires_grad_()
        first = torch.autograd.grad(run(x).pow(3).sum(), [x, *model.parameters()], create_graph=True)
        sum(own.pow(2).sum() for own in first).backward()
        return {"x": x.grad, **{name: p.grad for name, p in model.named_parameters()}}

    model, other = Layer(), Layer()
    with Router(model, {"layer": BLOCKS[0]}, at=at, weights={"a": -0.5})(labels):
        found = twice(model, model)
    same(found, twice(other, ByHand(other, labels, **options)))


@SIDES
@pytest.mark.parametrize("frozen", ["weight", "bias", "both"])
def test_frozen_parameters_get_nothing(at, frozen):
    labels, model = [1, 1, 0, -1], Layer()
    for name, p in model.layer.named_parameters():
        p.requires_grad_(frozen not in (name, "both"))
    found, _ = gradients(model, labels, *rows(labels), at=at)
    assert ("layer.weight" in found, "layer.bias" in found) == (frozen == "bias", frozen == "weight")
    expected, _ = gradients(model, labels, *rows(labels), at=at, by_hand=True)
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
    expected, _ = gradients(model, labels, x, g, at=at, by_hand=True)
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
        y = model(rows([0] * 4)[0].requires_grad_())
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
    router = Router(model, {"layer": {"a": 2}}, at=at, ablate={"retain": ["a"]})
    x.requires_grad_()
    with router(labels):
        y = model(x)
        y.backward(g)
    seen = y if at == "output" else x.grad
    assert not seen[:2, 5:].any()
    assert seen[2:, 5:].all()


@SIDES
def test_a_copy_of_the_model_trains_plainly_and_the_model_goes_on(at):
    labels, model = [1, 1, 0, -1], Layer()
    x, g = rows(labels)
    expected, _ = gradients(model, labels, x, g, at=at, by_hand=True)
    router = Router(model, {"layer": BLOCKS[0]}, at=at)
    model.zero_grad()
    with router(labels):
        model(x).backward(g)
    other = copy.deepcopy(model)
    other.zero_grad()
    other(x).backward(g)
    torch.testing.assert_close(other.layer.weight.grad, g.T @ x)
    torch.testing.assert_close(model.layer.weight.grad, expected["layer.weight"], rtol=1e-12, atol=1e-12)


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
