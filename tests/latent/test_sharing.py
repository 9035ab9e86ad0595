"""Common weights: the same net before and after, learnt by whichever block is on, and nothing of it left."""

import torch

from sluicegate.latent.health import revive
from sluicegate.latent.model import Autoencoder
from sluicegate.latent.sharing import can_share, fold, share


def net(**changes):
    torch.manual_seed(0)
    return Autoencoder((4, 4, 1), ["a", "b", "c"], **{"hidden": (16, 8), "k": 2, **changes})


X = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(1))


def test_styles_begin_as_the_same_function_in_all_blocks_and_amounts_do_not():
    model = net()
    share(model, 0.3)
    code = model.encode(X)
    bias = model.style.bias.unflatten(0, (3, 2))
    same = code.styles - bias
    assert torch.allclose(same[:, 0], same[:, 1], atol=1e-6)
    assert not torch.allclose(code.amounts[:, 0], code.amounts[:, 1])
    drawn = model.decoder[0].weight.unflatten(1, (3, 3))
    assert torch.equal(drawn[:, 0, 1:], drawn[:, 2, 1:])
    assert not torch.allclose(drawn[:, 0, 0], drawn[:, 2, 0])


def test_folding_changes_nothing_and_leaves_an_ordinary_model():
    model, names = net(), set(net().state_dict())
    share(model, 0.3)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        before = model(X)
    fold(model)
    assert set(model.state_dict()) == names
    with torch.no_grad():
        assert torch.allclose(model(X), before, atol=1e-6)


def test_one_block_teaches_the_common_part_and_no_other_block():
    model = net()
    share(model, 0.3)
    model.style(torch.rand(5, 8))[:, 2:4].sum().backward()  # the second block's styles
    own = model.style.parametrizations.weight.original.grad.unflatten(0, (3, 2)).abs().sum((1, 2))
    assert (own > 0).tolist() == [False, True, False]
    assert (model.style.parametrizations.weight[0].common.grad.abs().sum(1) > 0).all()


def test_own_parts_are_scaled_where_styles_are_drawn_and_nowhere_else():
    model = net()
    share(model, 0.3)
    with torch.no_grad():
        before = [layer.weight.clone() for layer in (model.style, model.spread, model.decoder[0])]
        for layer in (model.style, model.spread, model.decoder[0]):
            layer.parametrizations.weight.original += 1.0
        style, spread, drawn = (
            layer.weight - old for layer, old in zip((model.style, model.spread, model.decoder[0]), before, strict=True)
        )
    assert torch.allclose(style, torch.tensor(1.0), atol=1e-6)
    assert torch.allclose(spread, torch.tensor(1.0), atol=1e-6)
    assert torch.allclose(drawn.unflatten(1, (3, 3)), torch.tensor([1.0, 0.3, 0.3]), atol=1e-6)


def test_a_block_begun_anew_while_sharing_keeps_the_common_part():
    model = net()
    share(model, 0.3)
    with torch.no_grad():
        model.style.parametrizations.weight.original += 1.0
        common = model.style.parametrizations.weight[0].common.clone()
    revive(model, 1, 0)
    weight = model.style.weight.unflatten(0, (3, 2))
    assert torch.allclose(weight[1], common)
    assert torch.allclose(weight[0], common + 1.0)


def test_nets_of_ones_own_and_nets_without_styles_do_not_share():
    assert can_share(net())
    assert not can_share(net(k=0))
    assert not can_share(net(encoder=torch.nn.Linear(16, 8)))
