"""Norms in the parameter form: the gradient of a gain is that of the rows that may train it, the rest is plain
training."""

import pytest
import torch
from torch import nn

from sluicegate.routing import protect
from sluicegate.routing.router import Router

FORGET, UNLABELLED = 1, 2


class ByHand(nn.Module):
    """As transformers writes it."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class ByHandNorm(ByHand):
    """The same under a name that says so."""


class ShiftedNorm(ByHand):
    """As Gemma has it."""

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + self.weight)


class SummedNorm(ByHand):
    """Called a norm, but its weights are not multiplied feature by feature."""

    def forward(self, x):
        return x * self.weight.sum()


class MeanNorm(ByHand):
    """The same, and the mean of copies is the mean."""

    def forward(self, x):
        return x * self.weight.mean()


def norm(kind, width=6):
    made = kind(width).double()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape))
    return made


def net(kind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), norm(kind), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def gradients(model, x, held):
    """What the norm's weights get from the rows that are not held, and what x gets."""
    x = x.clone().requires_grad_()
    losses = model(x).pow(2).flatten(1).sum(1)
    own = list(model[1].parameters())
    gains = torch.autograd.grad(losses[~held].sum(), own, retain_graph=True)
    return gains, torch.autograd.grad(losses.sum(), x)[0]


@pytest.mark.parametrize("shape", [(8, 4), (8, 5, 4)])
@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm, ByHandNorm, ShiftedNorm, SummedNorm, MeanNorm, ByHand])
def test_gains_learn_from_the_rows_that_may_train_them_and_nothing_else_changes(kind, shape):
    model, x = net(kind), torch.randn(*shape, dtype=torch.double)
    labels = torch.tensor([FORGET, FORGET, UNLABELLED, UNLABELLED, FORGET, UNLABELLED, 0, 0])
    gains, gx = gradients(model, x, labels == FORGET)
    plain = model(x)
    router = Router(model, {"2": {"forget": 2}}, form="protect", ablate={})
    routed = x.clone().requires_grad_()
    with router(labels):
        out = model(routed)
        out.pow(2).sum().backward()
    assert torch.equal(out, plain)
    torch.testing.assert_close(routed.grad, gx)
    for parameter, expected in zip(model[1].parameters(), gains, strict=True):
        assert float(expected.abs().max()) > 1e-3
        torch.testing.assert_close(parameter.grad, expected)


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm, ByHandNorm])
def test_gains_with_labels_of_tokens(kind):
    model, x = net(kind), torch.randn(4, 3, 4, dtype=torch.double)
    labels = torch.tensor([[FORGET, 0, 2], [2, 2, FORGET], [0, FORGET, FORGET], [2, 0, 0]])
    losses = model(x).pow(2).sum(-1)
    expected = torch.autograd.grad(losses[labels != FORGET].sum(), list(model[1].parameters()))
    router = Router(model, {"2": {"forget": 2}}, form="protect", ablate={})
    with router(labels):
        model(x).pow(2).sum().backward()
    for parameter, own in zip(model[1].parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, own)


def test_any_weight_of_a_label_scales_the_gains_and_a_frozen_shift_gets_none():
    model, x = net(nn.LayerNorm), torch.randn(4, 4, dtype=torch.double)
    model[1].bias.requires_grad_(False)
    losses = model(x).pow(2).sum(-1)
    expected = torch.autograd.grad(-0.75 * losses[0] + losses[1:].sum(), model[1].weight)[0]
    router = Router(model, {"2": {"forget": 2}}, form="protect", weights={"forget": -0.75}, ablate={})
    with router([1, 2, 2, 2]):
        model(x).pow(2).sum().backward()
    torch.testing.assert_close(model[1].weight.grad, expected)
    assert model[1].bias.grad is None


@pytest.mark.parametrize(
    ("kind", "twice"), [(nn.LayerNorm, 0), (nn.RMSNorm, 0), (ByHandNorm, 0), (SummedNorm, 1), (MeanNorm, 1), (ByHand, 1)]
)
def test_a_norm_is_not_computed_twice(kind, twice, monkeypatch):
    """That is what the shorter way is for."""
    counted = []
    before = protect.MaskedForward._two_ways
    monkeypatch.setattr(
        protect.MaskedForward, "_two_ways", lambda self, args, kwargs: counted.append(self.name) or before(self, args, kwargs)
    )
    model = net(kind)
    router = Router(model, {"2": {"forget": 2}}, form="protect", ablate={})
    with router([1, 2]):
        model(torch.randn(2, 4, dtype=torch.double)).sum().backward()
    assert counted == ["1"] * twice


@pytest.mark.parametrize("kind", [ByHandNorm, SummedNorm, MeanNorm])
def test_a_batch_of_one_row_decides_nothing(kind):
    model = net(kind)
    router = Router(model, {"2": {"forget": 2}}, form="protect", ablate={})
    with router([1]):
        model(torch.randn(1, 4, dtype=torch.double)).sum().backward()
    assert float(model[1].weight.grad.abs().sum()) == 0.0
    model.zero_grad()
    x = torch.randn(3, 4, dtype=torch.double)
    expected = torch.autograd.grad(model(x)[1:].pow(2).sum(), model[1].weight)[0]
    with router([1, 2, 2]):
        model(x).pow(2).sum().backward()
    torch.testing.assert_close(model[1].weight.grad, expected)
