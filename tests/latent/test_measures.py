"""The measures, on an autoencoder made by hand whose numbers are known."""

import numpy as np
import pytest
import torch
from torch import nn

from sluicegate.latent.health import examine, revive, settle
from sluicegate.latent.measures import measure
from sluicegate.latent.model import Autoencoder

IMAGES = np.zeros((6, 2, 2, 1), np.float32)
LABELS = np.arange(6) % 3
for i, j in enumerate(LABELS):
    IMAGES[i].reshape(4)[j] = 1  # class j is the pixel j


class Brightest:
    """Reads the brightest pixel; 3 where none is lit."""

    def read(self, x):
        return torch.where(x.max(1).values > 0.5, x.argmax(1), 3)


def by_hand():
    """Amounts are the pixels, each block draws its own."""
    net = Autoencoder((2, 2, 1), ["a", "b", "c"], hidden=(4,), k=1, encoder=nn.Identity(), decoder=nn.Linear(6, 4))
    with torch.no_grad():
        for layer in (net.amount, net.style, net.decoder):
            layer.weight.zero_()
            layer.bias.zero_()
        net.amount.weight[range(3), range(3)] = 1.0
        net.decoder.weight[[0, 1, 2], [0, 2, 4]] = 40.0
        net.decoder.bias[:] = -20.0
    return net


def numbers(net):
    return measure(net, Brightest(), IMAGES, LABELS)


def test_a_perfect_one():
    found, lost = numbers(by_hand())
    assert lost == []
    wanted = {"accuracy": 1, "recognised": 3, "swap": 1, "ablate": 0, "purity": 1, "dead_blocks": 0, "worst_class": 1, "judged": 1}
    assert {name: found[name] for name in wanted} == wanted
    assert found["mse"] == pytest.approx(0, abs=1e-6)
    assert found["ablated_mse"] == pytest.approx(1, abs=1e-6)  # the lit pixel is gone
    assert found["empty_code"] < 1e-6
    assert found["redrawn"] == 1


def test_blocks_in_the_wrong_order():
    net = by_hand()
    with torch.no_grad():
        net.amount.weight.copy_(net.amount.weight[[1, 2, 0]])
        net.decoder.weight.copy_(net.decoder.weight[[2, 0, 1, 3]])
    found, lost = numbers(net)
    assert (found["accuracy"], found["recognised"], found["swap"], found["purity"]) == (0, 0, 0, 0)
    assert found["mse"] == pytest.approx(0, abs=1e-6)  # it redraws all the same, and ablating the own block changes nothing
    assert found["ablate"] == 1
    assert lost == ["a", "b", "c"]


def test_a_dead_and_a_collapsed_block_are_named():
    net = by_hand()
    with torch.no_grad():
        net.amount.weight[1, 1] = 0.0
    x, y = net.rows(IMAGES), torch.from_numpy(LABELS)
    assert examine(net, x, y).dead() == [1]
    found, lost = numbers(net)
    assert (lost, found["dead_blocks"], found["worst_class"]) == (["b"], 1, 0)
    with torch.no_grad():
        net.amount.weight[1, 1] = 0.5
        net.amount.weight[2, 1] = 0.9  # c reads b's images
    health = examine(net, x, y)
    assert (health.dead(), health.collapsed(), health.lost()) == ([], [1], [1])


def test_a_revived_block_is_on_again_and_the_others_are_as_they_were():
    net = by_hand()
    with torch.no_grad():
        net.amount.weight[1], net.amount.bias[1] = 0.0, -9.0
    before = net.amount.weight.clone()
    revive(net, 1, seed=3)
    assert net.amount.bias[1] == 1
    assert net.amount.weight[1].abs().sum() > 0
    assert torch.equal(net.amount.weight[[0, 2]], before[[0, 2]])
    first = net.amount.weight[1].clone()
    revive(net, 1, seed=3)
    assert torch.equal(net.amount.weight[1], first)
    revive(net, 1, seed=4)
    assert not torch.equal(net.amount.weight[1], first)


def test_the_usual_amount_is_the_mean_on_the_own_class():
    net = by_hand()
    x = net.rows(IMAGES) * torch.tensor([1.0, 0.5, 0.25, 1.0])
    settle(net, x, torch.from_numpy(LABELS))
    assert net.usual_amounts.tolist() == [1.0, 0.5, 0.25]
