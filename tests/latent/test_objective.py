"""The label says where the gradient goes, and nothing else."""

import dataclasses

import pytest
import torch

from sluicegate.latent.model import Autoencoder
from sluicegate.latent.objective import Objective, Rows
from sluicegate.latent.settings import Settings

STEPS = 100
ONLY_DRAWN = Settings(penalty=0.0, divergence=0.0, empty=0.0)


def net():
    torch.manual_seed(0)
    return Autoencoder((4, 4, 1), ["a", "b", "c"], hidden=(16, 8), k=2)


def rows(labels, step=0):
    x = torch.rand(len(labels), 16, generator=torch.Generator().manual_seed(1))
    return Rows(x, torch.tensor(labels), x, step, len(labels))


def stepped(model, batch, settings, arm="routed"):
    """The loss; the model's gradients are those of one pass."""
    objective = Objective(model, settings, STEPS, arm)
    model.zero_grad()
    torch.manual_seed(5)
    with objective.around({"train": batch}):
        loss = objective(model, {"train": batch})
        loss.value.backward()
    if objective.router:
        objective.router.remove()
    return loss


def moved_blocks(model):
    """The classes whose amount and styles get a gradient."""
    amounts = model.amount.weight.grad.abs().sum(1)
    styles = model.style.weight.grad.unflatten(0, (3, 2)).abs().sum((1, 2))
    assert torch.equal(amounts > 0, styles > 0)
    return (amounts > 0).nonzero().flatten().tolist()


@pytest.mark.parametrize("arm", ["routed", "penalty_routed", "labelled_only"])
def test_an_image_moves_the_block_of_its_label_only(arm):
    model = net()
    for label in range(3):
        stepped(model, rows([label] * 4), ONLY_DRAWN, arm)
        assert moved_blocks(model) == [label]
        assert model.decoder[0].weight.grad.abs().sum() > 0


def test_without_routing_it_moves_all():
    model = net()
    stepped(model, rows([1] * 4), ONLY_DRAWN, "unrouted")
    assert moved_blocks(model) == [0, 1, 2]


def test_no_loss_sees_the_class():
    model = net()
    settings = Settings(penalty=2.0, divergence=0.7, empty=1.0)
    values = [float(stepped(model, rows(labels, 30), settings).value.detach()) for labels in ([0, 1, 2, 0], [2, 2, 1, 1])]
    assert values[0] == values[1]


def test_the_penalty_pulls_every_block_down_on_every_image_unless_it_is_routed():
    model = net()
    settings = dataclasses.replace(ONLY_DRAWN, penalty=2.0)
    stepped(model, rows([1] * 4), settings)
    assert (model.amount.bias.grad[[0, 2]] > 0).all()  # down: they begin at 1
    stepped(model, rows([1] * 4), settings, "penalty_routed")
    assert model.amount.bias.grad[[0, 2]].abs().sum() == 0


def test_images_without_a_label_first_train_no_block_and_then_the_one_that_reads_them():
    model = net()
    settings = dataclasses.replace(ONLY_DRAWN, penalty=2.0, alone=0.3)
    early, late = (rows([-1] * 4, step) for step in (29, 30))
    loss = stepped(model, early, settings)
    assert moved_blocks(model) == []
    assert float(loss.log["penalty"]) == 0
    assert model.decoder[0].weight.grad.abs().sum() > 0  # the decoder learns from them all the same
    with torch.no_grad():
        model.amount.bias[2] += 5
    loss = stepped(model, late, dataclasses.replace(settings, penalty=0.0))
    assert moved_blocks(model) == [2]
    assert float(stepped(model, late, settings).log["penalty"]) > 0


def test_images_that_no_block_reads_clearly_train_none():
    model = net()
    with torch.no_grad():
        model.amount.weight.zero_()
        model.amount.bias[:] = torch.tensor([1.0, 1.2, 0.0])
    stepped(model, rows([-1] * 4, 50), dataclasses.replace(ONLY_DRAWN, sure=0.5))
    assert moved_blocks(model) == []
    stepped(model, rows([-1] * 4, 50), dataclasses.replace(ONLY_DRAWN, sure=0.1))
    assert moved_blocks(model) == [1]


def test_images_are_read_before_they_are_moved():
    model = net()
    with torch.no_grad():
        for layer in (model.encoder[0], model.encoder[2], model.amount):
            layer.weight.zero_()
            layer.bias.zero_()
        model.encoder[0].weight[0, 0] = model.encoder[2].weight[0, 0] = 1.0
        model.amount.weight[:, 0] = torch.tensor([0.0, 1.0, 0.0])
        model.amount.bias[0] = 0.5
    x, unmoved = torch.zeros(2, 16), torch.zeros(2, 16)
    unmoved[:, 0] = 1.0
    objective = Objective(model, ONLY_DRAWN, STEPS)
    assert objective._trained(Rows(x, torch.tensor([-1, -1]), unmoved, 90, 2)).tolist() == [1, 1]
    assert objective._trained(Rows(unmoved, torch.tensor([-1, -1]), x, 90, 2)).tolist() == [0, 0]


def test_the_empty_code_is_drawn_black():
    model = net()
    stepped(model, rows([0] * 4), dataclasses.replace(ONLY_DRAWN, empty=1.0))
    with_it = model.decoder[-1].bias.grad.clone()
    stepped(model, rows([0] * 4), ONLY_DRAWN)
    assert (with_it > model.decoder[-1].bias.grad).all()  # towards dark


def test_a_batch_in_parts_has_the_same_loss():
    model = net()
    settings = dataclasses.replace(Settings(), sigma=0.0)
    whole = rows([0, 1, 2, 1])
    parts = [stepped(model, part, settings).value.item() for part in whole.split(2)]
    assert sum(parts) == pytest.approx(stepped(model, whole, settings).value.item(), rel=1e-5)


@pytest.mark.parametrize(("leak", "comes_on"), [(0.0, False), (0.5, True)])
def test_a_block_that_is_off_can_come_on_again_by_its_own_images_only(leak, comes_on):
    model = net()
    with torch.no_grad():
        model.amount.bias[:] = -5.0
    stepped(model, rows([1] * 4), dataclasses.replace(ONLY_DRAWN, leak=leak))
    assert (model.amount.weight.grad.abs().sum(1) > 0).tolist() == [False, comes_on, False]


def test_styles_of_a_block_that_is_off_are_free():
    model = net()
    only = Settings(penalty=0.0, divergence=1.0, anneal=0.0, empty=0.0)
    with torch.no_grad():
        model.amount.weight[:] = 0.0
        model.amount.bias[:] = torch.tensor([1.0, -1.0, -1.0])
        model.style.bias[:] = 2.0
    one = stepped(model, rows([0] * 4), only).log["divergence"]
    with torch.no_grad():
        model.amount.bias[:] = 1.0
    three = stepped(model, rows([0] * 4), only).log["divergence"]
    assert one > 1
    assert three > 2.5 * one


def test_the_divergence_weighs_nothing_at_first_and_all_from_its_share_of_the_steps_on():
    model, only = net(), Settings(penalty=0.0, divergence=2.0, anneal=0.5, rise=0.0, empty=0.0)
    at = [float(stepped(model, rows([0] * 4, step=step), only).log["divergence"]) for step in (0, STEPS // 4, STEPS // 2, STEPS)]
    assert at[0] == 0
    assert at[1] == pytest.approx(at[2] / 2, rel=1e-5)
    assert at[2] > 0
    assert at[3] == pytest.approx(at[2], rel=1e-5)


def test_the_penalty_pulls_towards_rest_once_the_noise_has_risen():
    model = net()
    only = Settings(penalty=1.0, divergence=0.0, empty=0.0, rest=0.5, rise=0.5)
    with torch.no_grad():
        model.amount.weight[:] = 0.0
        model.amount.bias[:] = -0.5
    assert float(stepped(model, rows([0] * 4, step=STEPS), only).log["penalty"]) == pytest.approx(0.0, abs=1e-6)
    assert float(stepped(model, rows([0] * 4, step=0), only).log["penalty"]) == pytest.approx(3 * 0.125, abs=1e-6)
