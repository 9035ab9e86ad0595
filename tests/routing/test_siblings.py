import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.utils.checkpoint import checkpoint

from sluicegate.routing.router import Router

WIDTH = 6
LABELS = [1, 1, -1, -1, -1]


class Three(nn.Module):
    """Three layers that read the same, as `use` puts them together, and one behind them."""

    def __init__(self, use=None, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=bias) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.use = use or (lambda net, x: net.q(x) * net.k(x).tanh() + net.v(x))
        self.double()

    def forward(self, x):
        return self.out(self.use(self, x).tanh())


def rows(*lead, seed=0):
    return torch.randn(len(LABELS), *lead, WIDTH, generator=torch.Generator().manual_seed(seed)).double()


def router_of(net):
    if "router" not in net.__dict__:
        net.__dict__["router"] = Router(net, {"v": {"forget": 2}, "out": {"forget": 1}}, form="protect")
    return net.__dict__["router"]


def gradients(net, x, labels=LABELS, run=None):
    net.zero_grad()
    x = x.detach().requires_grad_()
    with router_of(net)(labels):
        ((run or net)(x) ** 2).sum().backward()
    return {"x": x.grad, **{name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}}


def siblings(net):
    return {one.name: [other.name for other in one.siblings] for one in router_of(net)._masked if one.siblings}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-11, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


def row_by_row(net, x):
    """Each row's own gradients, of which only what its label may train is kept."""
    found = {}
    for i, label in enumerate(LABELS):
        net.zero_grad()
        (net(x[i : i + 1]) ** 2).sum().backward()
        for name, p in net.named_parameters():
            g = p.grad.clone()
            if label == 1 and name.startswith(("v.", "out.")):
                g[: -2 if name.startswith("v.") else -1] = 0.0
            elif label == 1:
                g.zero_()
            found[name] = found.get(name, 0) + g
    return found


@settings(max_examples=20)
@given(lead=st.sampled_from([(), (3,)]), bias=st.booleans(), seed=st.integers(0, 99))
def test_siblings_have_the_gradients_that_each_has_alone(lead, bias, seed):
    net, x = Three(bias=bias), rows(*lead, seed=seed)
    expected = row_by_row(net, x)
    plain = x.clone().requires_grad_()
    (net(plain) ** 2).sum().backward()
    for number in range(3):
        found = gradients(net, x)
        torch.testing.assert_close(found.pop("x"), plain.grad, rtol=1e-11, atol=1e-11)
        same(found, expected)
        assert siblings(net) == {"q": ["k", "v"]}, number
    with router_of(net)(LABELS):
        y = net.q(x)
        assert len(y.grad_fn.next_functions) == (7 if bias else 4)  # of the input, and three layers


def test_other_shares_of_labels_find_the_same_siblings():
    net, x = Three(), rows()
    for labels in (LABELS, [1, -1, -1, -1, -1], [-1] * 5, [1] * 5, [-1, 1, -1, 1, -1], LABELS):
        other = Three()
        same(gradients(net, x, labels), gradients(other, x, labels))
    assert siblings(net) == {"q": ["k", "v"]}


@pytest.mark.parametrize(
    "use",
    [
        lambda net, x: net.q(x) + net.k(x.clone()) + net.v(x),
        lambda net, x: net.q(x) + net.k(net.v(x)),
        lambda net, x: net.q(x),
        lambda net, x: net.q(x) + net.k(x) * net.k(x),
        lambda net, x: net.k(x) + net.q(x.clone()) + net.v(x) + net.q(x),
    ],
)
def test_layers_that_read_something_else_or_twice_are_right_too(use):
    net, x = Three(use), rows()
    first = gradients(net, x)
    for _ in range(3):
        same(gradients(net, x), first)


def test_an_input_written_to_in_between_is_read_anew():
    def use(net, x):
        x = x + 0
        y = net.q(x)
        if net.write:
            x.mul_(2)
        return y.detach() + net.k(x)

    net, x = Three(use), rows()
    net.write = False
    gradients(net, x)
    gradients(net, x)
    assert siblings(net) == {"q": ["k"]}
    net.write = True
    other = Three(use)
    other.write = True
    same(gradients(net, x), gradients(other, x))


def test_a_sibling_that_is_not_called_any_more_is_not_computed_in_advance():
    net, x = Three(), rows()
    gradients(net, x)
    net.use = lambda net, x: net.q(x)
    found = gradients(net, x)
    assert siblings(net) == {}
    assert not router_of(net)._context.siblings.ready
    same(found, gradients(Three(net.use), x))
    net.use = lambda net, x: net.q(x) + net.k(x)
    gradients(net, x)
    gradients(net, x)
    assert siblings(net) == {}  # once is enough


def test_a_sibling_whose_answer_is_not_used_gets_no_gradient():
    net, x = Three(), rows()
    gradients(net, x)
    net.use = lambda net, x: (net.q(x), net.k(x), net.v(x))[1]
    found = gradients(net, x)
    assert siblings(net) == {"q": ["k", "v"]}
    assert not any(name.startswith(("q.", "v.")) for name in found)
    same(found, gradients(Three(net.use), x))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_pass_computed_again_finds_the_siblings_it_had(reentrant):
    net, x = Three(), rows()
    expected = gradients(Three(), x)
    for _ in range(3):
        same(gradients(net, x, run=lambda x: checkpoint(net, x, use_reentrant=reentrant)), expected)
    assert siblings(net) == {"q": ["k", "v"]}


@pytest.mark.parametrize("passes", [1, 2])
def test_a_layer_with_a_hook_before_it_is_not_computed_in_advance(passes):
    net, x, seen = Three(), rows(), []
    for _ in range(passes):
        gradients(net, x)

    def hook(module, args):
        seen.extend(one.name for one in router_of(net)._context.siblings.ready)
        return (2 * args[0],)

    net.k.register_forward_pre_hook(hook)
    found = gradients(net, x)
    other = Three()
    other.k.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    same(found, gradients(other, x))
    assert "k" not in seen


def test_weights_put_in_place_of_others_are_taken():
    net, x = Three(), rows()
    for _ in range(2):
        gradients(net, x)
    for layer in (net.q, net.k, net.v):
        layer.weight = nn.Parameter(-0.5 * layer.weight.detach())
    fresh = Three()
    fresh.load_state_dict(net.state_dict())
    same(gradients(net, x), gradients(fresh, x))


def test_a_weight_put_there_between_two_siblings_is_taken():
    def use(net, x):
        y = net.q(x)
        net.k.weight = net.other
        return y + net.k(x)

    nets, x = (Three(use), Three(use)), rows()
    for net in nets:
        net.other = net.k.weight
    gradients(nets[0], x)
    for net in nets:
        net.other = nn.Parameter(-0.5 * net.k.weight.detach())
    assert siblings(nets[0]) == {"q": ["k"]}
    same(gradients(nets[0], x), gradients(nets[1], x))


def test_gradients_are_differentiated_again():
    def twice(net):
        x = rows().requires_grad_()
        with router_of(net)(LABELS):
            first = torch.autograd.grad((net(x) ** 2).sum(), [x, *net.parameters()], create_graph=True)
            sum(g.pow(2).sum() for g in first).backward()
        return {"x": x.grad, **{name: p.grad for name, p in net.named_parameters()}}

    net, alone = Three(), Three(lambda net, x: net.q(x) * net.k(x.clone()).tanh() + net.v(x.clone()))
    gradients(net, rows())
    assert siblings(net)
    net.zero_grad()
    same(twice(net), twice(alone))


def test_nothing_is_kept_between_passes():
    net, x = Three(), rows()
    for _ in range(2):
        gradients(net, x)
    assert router_of(net)._context.siblings._last is None
    assert not router_of(net)._context.siblings.ready
    copy.deepcopy(net)  # which a tensor with a history would not let happen
