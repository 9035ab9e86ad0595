"""Training: which images go into a step, that it learns, is a function of its seed, and begins dead blocks anew."""

import numpy as np
import pytest
import torch

import sluicegate as sg
from sluicegate.errors import UserError
from sluicegate.latent.settings import Settings
from sluicegate.latent.training import Drawing, fitted, made, moved
from sluicegate.runs.directory import RunContext
from sluicegate.tasks.digits import load_images
from sluicegate.values.schedule import Schedule

SHORT = Schedule(steps=6, batch=8, lr=2e-3, clip=0.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)
LABELS = np.arange(40) % 4


def digits():
    part = load_images("digits").train
    return (part.images / np.float32(16)).astype(np.float32), part.labels


@pytest.fixture(scope="module")
def trained():
    x, y = digits()
    schedule = Schedule(steps=700, batch=64, lr=4e-3, warmup=50, decay="cosine", final=0.05, clip=0.0, beta2=0.999)
    return sg.latent.train(x, y, schedule=schedule, hidden=(128,))


def test_blocks_read_the_digits_and_no_block_is_lost(trained):
    held = load_images("digits").validation
    with torch.no_grad():
        read = trained.encode(held.images / np.float32(16)).read().numpy()
    assert (read == held.labels).mean() > 0.75
    assert trained.numbers["dead_blocks"] == []
    assert (trained.usual_amounts > 0.3).all()


def test_the_empty_code_draws_nothing(trained):
    code = trained.usual(["0"])
    with torch.no_grad():
        assert trained.decode(code._replace(amounts=code.amounts * 0)).max() < 0.1
        assert trained.decode(code).max() > 0.5


def test_the_same_seed_gives_the_same_weights_and_leaves_torchs_generator_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a, b = (sg.latent.train(IMAGES, LABELS, schedule=SHORT, hidden=(8,), k=2) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    c = sg.latent.train(IMAGES, LABELS, schedule=SHORT, hidden=(8,), k=2, seed=1)
    assert not torch.equal(a.amount.weight, c.amount.weight)


def test_training_leaves_no_router_behind():
    net = sg.latent.train(IMAGES, LABELS, schedule=SHORT, hidden=(8,), k=2)
    assert not net.code._forward_hooks


def test_where_labels_are_few_half_of_a_batch_has_one():
    labels = np.where(np.arange(40) < 8, LABELS, -1)
    net = made((4, 4, 1), "abcd", 0, hidden=(8,))
    draw = Drawing(net, IMAGES, labels, 10, 0)
    rows = draw(0)["train"]
    assert (rows.labels >= 0).sum() == 5
    assert torch.equal(draw(3)["train"].x, draw(3)["train"].x)
    assert not torch.equal(draw(3)["train"].x, draw(4)["train"].x)
    assert (Drawing(net, IMAGES, labels, 10, 0, arm="labelled_only")(0)["train"].labels >= 0).all()
    seen = torch.cat([draw(step)["train"].x for step in range(8)])
    assert len(seen.unique(dim=0)) == 40  # every image is drawn


def test_images_are_moved_whole_and_what_comes_in_is_black():
    one = np.zeros((200, 5, 5), np.uint8)
    one[:, 2, 2] = 9
    made = moved(one, 1, np.random.default_rng(0))
    places = {tuple(np.argwhere(image)[0]) for image in made}
    assert places == {(y, x) for y in (1, 2, 3) for x in (1, 2, 3)}
    assert (made.sum((1, 2)) == 9).all()
    colour = moved(np.repeat(one[..., None], 3, 3), 2, np.random.default_rng(0))
    assert (colour.sum((1, 2)) == 9).all()


def broken(model):
    """A class that is dead for good: its amount is far below zero whatever the image."""
    with torch.no_grad():
        model.amount.weight[2] = 0.0
        model.amount.bias[2] = -50.0


def test_a_dead_block_is_noticed_and_begun_anew():
    x, y = digits()
    model = made((8, 8, 1), [str(j) for j in range(10)], 0, hidden=(64, 64))
    broken(model)
    schedule = Schedule(steps=240, batch=32, lr=4e-3, clip=0.0)
    logged = []
    run = RunContext()
    run.log = logged.append
    done = fitted(model, x, y, Settings(), schedule, seed=0, run=run)
    assert done.revived >= 1
    assert done.records[0]["dead"] >= 1
    assert any(record.get("revived") for record in logged)
    assert 2 not in done.health.dead()


def test_a_block_that_stays_dead_is_named():
    x, y = digits()
    model = made((8, 8, 1), [str(j) for j in range(10)], 0, hidden=(64, 64))
    broken(model)
    done = fitted(model, x, y, Settings(), Schedule(steps=3, batch=32, lr=1e-4, clip=0.0), seed=0, run=RunContext(), arm="unrouted")
    assert 2 in done.health.dead()


@pytest.mark.parametrize(
    ("images", "labels", "more", "said"),
    [
        (IMAGES, LABELS[:-1], {}, r"labels are int64 of shape \(39,\) for 40 images"),
        (IMAGES, LABELS.astype(float), {}, "labels are float64"),
        (IMAGES, LABELS - 2, {}, "labels go from -2 to 1, but there are 2 classes"),
        (IMAGES, LABELS, {"classes": ["a", "b"]}, "labels go from 0 to 3, but there are 2 classes"),
        (IMAGES, LABELS, {"classes": list("abcde")}, "no labelled image of class 'e'"),
        (IMAGES, np.where(LABELS == 1, -1, LABELS), {}, "no labelled image of class '1'"),
        (IMAGES[0], LABELS[:4], {}, r"images have shape \(4, 4\)"),
        (IMAGES.astype(float), LABELS, {}, "not from 0 to 1. Divide"),
        (IMAGES[:0], LABELS[:0], {}, "and not none"),
    ],
)
def test_what_does_not_fit_is_named(images, labels, more, said):
    with pytest.raises(UserError, match=said):
        sg.latent.train(images, labels, schedule=SHORT, hidden=(8,), k=2, **more)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"penalty": -1.0}, "penalty is -1"), ({"alone": 1.5}, "alone is 1.5; it must be a number, at least 0 and at most 1")],
)
def test_settings_out_of_range_are_named(changes, said):
    with pytest.raises(UserError, match=said):
        Settings(**changes)


def test_an_encoder_and_decoder_of_ones_own_are_trained():
    encoder, decoder = torch.nn.Sequential(torch.nn.Linear(16, 6), torch.nn.Tanh()), torch.nn.Linear(12, 16)
    before = encoder[0].weight.clone()
    net = sg.latent.train(IMAGES, LABELS, schedule=SHORT, k=2, encoder=encoder, decoder=decoder)
    assert net.encoder is encoder
    assert not torch.equal(encoder[0].weight, before)
