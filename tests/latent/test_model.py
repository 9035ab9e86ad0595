"""The model: how a code is laid out, reading and drawing, ablation, saving, parts of the user's own."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from sluicegate.errors import UserError
from sluicegate.latent.model import Autoencoder, Code, load

NAMES = ["cat", "dog", "emu"]


def model(**more):
    torch.manual_seed(0)
    return Autoencoder((4, 5, 1), NAMES, **{"hidden": (16, 8), "k": 2} | more).eval()


def images(n=7, channels=0):
    shape = (n, 4, 5, channels) if channels else (n, 4, 5)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_a_code_is_laid_out_block_by_block():
    amounts, styles = torch.tensor([[2.0, 0.0, 3.0]]), torch.tensor([[[1.0, -1.0], [5.0, 6.0], [0.5, 0.0]]])
    assert model().code(amounts, styles).tolist() == [[2.0, 2.0, -2.0, 0.0, 0.0, 0.0, 3.0, 1.5, 0.0]]


def test_images_are_bytes_or_fractions_and_come_back_in_their_shape():
    net, x = model(), images()
    code = net.encode(x)
    assert (code.amounts.shape, code.styles.shape) == ((7, 3), (7, 3, 2))
    assert code.amounts.min() >= 0
    assert torch.allclose(net.encode(x / np.float32(255)).amounts, code.amounts)
    drawn = net.decode(code)
    assert drawn.shape == (7, 4, 5, 1)
    assert 0 < drawn.min() < drawn.max() < 1
    assert torch.equal(net(x), drawn)


def test_colour_images_have_channels_last():
    torch.manual_seed(0)
    net = Autoencoder((4, 5, 3), NAMES, hidden=(8,), k=1)
    assert net(images(channels=3)).shape == (7, 4, 5, 3)
    with pytest.raises(UserError, match=r"images are \(7, 4, 5\); this model was made for \(n, 4, 5, 3\)"):
        net(images())


def test_an_ablated_copy_neither_reads_nor_draws_the_class():
    net, x = model(), images()
    before = net.encode(x)
    assert before.amounts[:, 1].max() > 0
    cut = net.ablate("dog")
    assert cut.encode(x).amounts[:, 1].max() == 0
    assert torch.equal(cut.encode(x).amounts[:, [0, 2]], before.amounts[:, [0, 2]])
    assert torch.equal(net.encode(x).amounts, before.amounts)  # the model itself is as it was
    assert net.ablate(0, "emu").encode(x).amounts[:, [0, 2]].max() == 0
    with pytest.raises(UserError, match=r"no class 'dgo'. There are: .*dog"):
        net.ablate("dgo")
    with pytest.raises(UserError, match="no class 3"):
        net.ablate(3)


def test_a_swap_turns_one_block_off_and_another_on_as_usual():
    net = model()
    net.usual_amounts[:] = torch.tensor([1.0, 2.0, 3.0])
    net.usual_styles[2] = torch.tensor([7.0, 8.0])
    code = Code(torch.tensor([[5.0, 1.0, 0.0], [0.5, 4.0, 1.0]]), torch.zeros(2, 3, 2))
    made = net.swap(code, "emu")
    assert made.amounts.tolist() == [[0.0, 1.0, 3.0], [0.5, 0.0, 3.0]]
    assert made.styles[:, 2].tolist() == [[7.0, 8.0]] * 2
    assert code.amounts[0, 0] == 5
    alone = net.usual(["emu", "cat"])
    assert alone.amounts.tolist() == [[0.0, 0.0, 3.0], [1.0, 0.0, 0.0]]


def test_saved_and_loaded_it_is_the_same(tmp_path):
    net, x = model(), images()
    net.numbers = {"accuracy": 0.5}
    net.usual_amounts[1] = 9
    net.save(tmp_path / "m")
    facts = json.loads((tmp_path / "m" / "latent.json").read_text())
    assert (facts["size"], facts["classes"], facts["hidden"], facts["k"]) == ([4, 5, 1], NAMES, [16, 8], 2)
    again = load(tmp_path / "m")
    assert torch.equal(again(x), net(x))
    assert again.numbers == {"accuracy": 0.5}
    assert again.usual_amounts[1] == 9
    assert not again.training


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no latent.json and model.safetensors here"):
        load(tmp_path)
    folder = model().save(tmp_path / "m")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:50])
    with pytest.raises(UserError, match="cannot be read"):
        load(folder)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "latent.json").write_text('{"size": [4, 5, 1], "classes": ["a", "b"], "hidden": [16, 8], "k": 2, "own_parts": false}')
    with pytest.raises(UserError, match="cannot be read"):
        load(folder)


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x):
        return self.conv(x.view(-1, 1, 4, 5)).flatten(1).relu()


def test_an_encoder_and_a_decoder_of_ones_own(tmp_path):
    decoder = nn.Sequential(nn.Linear(9, 20))
    net = model(encoder=Conv(), decoder=decoder)
    assert net.amount.in_features == 18
    assert net(images()).shape == (7, 4, 5, 1)
    net.save(tmp_path)
    with pytest.raises(UserError, match=r"saved with an encoder or a decoder of your own. Give it"):
        load(tmp_path)
    again = load(tmp_path, encoder=Conv(), decoder=nn.Sequential(nn.Linear(9, 20)))
    assert torch.equal(again(images()), net(images()))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"decoder": nn.Linear(9, 19)}, r"the decoder gives \(2, 19\) for 2 rows of 9; expected \(2, 20\)"),
        ({"encoder": nn.Linear(21, 4)}, "the encoder does not take rows of 20 numbers"),
        ({"encoder": nn.Unflatten(1, (4, 5))}, r"the encoder gives \(2, 4, 5\)"),
        ({"k": -1}, "k is -1"),
        ({"hidden": ()}, "hidden is"),
    ],
)
def test_parts_that_do_not_fit_are_named(more, said):
    with pytest.raises(UserError, match=said):
        model(**more)


def test_classes_and_size_must_make_sense():
    with pytest.raises(UserError, match="at least two different names"):
        Autoencoder((4, 5, 1), ["a", "a"])
    with pytest.raises(UserError, match="give height, width and channels"):
        Autoencoder((4, 5), NAMES)
