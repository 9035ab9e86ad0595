"""The page as a file: what is in it, how large it is, what it refuses."""

import base64
import json
import re
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from latent_synthetic import Blocks
from sluicegate.errors import UserError
from sluicegate.latent import page as pages
from sluicegate.latent.model import Autoencoder
from sluicegate.latent.page_words import Words, few_labels, figures, warnings
from sluicegate.tasks.digits import load_images

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 6, 6)).astype(np.uint8)
LABELS = np.arange(40) % 4


def pair(pixels=36, classes=4, **more):
    torch.manual_seed(0)
    return Blocks(pixels, classes=classes, **more), Blocks(pixels, classes=classes, **more)


def written(path, routed, unrouted, **more):
    return pages.write_page(path, routed, unrouted, **{"images": IMAGES, "labels": LABELS, "numbers": {}} | more).read_text("utf-8")


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))


def test_a_page_is_one_file_that_asks_for_nothing(tmp_path):
    page = written(tmp_path / "p.html", *pair())
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in re.sub(r"http-equiv", "", page)


@pytest.mark.parametrize(("hidden", "bits"), [(256, 16), (512, 8)])
def test_both_nets_of_mnist_stay_within_three_megabytes(tmp_path, hidden, bits):
    images = np.zeros((200, 28, 28), np.uint8)
    images[:, 8:20, 10:18] = 200
    page = written(tmp_path / "p.html", *pair(784, 10, hidden=hidden), images=images, labels=np.arange(200) % 10)
    assert f"rounded to {bits} bits" in page
    assert (tmp_path / "p.html").stat().st_size <= 3_000_000


@pytest.mark.parametrize("bits", [16, 8])
def test_weights_are_written_as_they_are_rounded(bits):
    net, _ = pair()
    layer = pages._layer(net.amount, False, bits)
    whole = np.frombuffer(base64.b64decode(layer["weight"]), "<i2" if bits == 16 else np.int8)
    weight = whole * np.frombuffer(base64.b64decode(layer["scale"]), "<f4").repeat(layer["columns"])
    kept = pages.rounded(net, bits).amount.weight.detach().numpy()
    np.testing.assert_allclose(weight.reshape(kept.shape), kept, atol=1e-7)
    true = net.amount.weight.detach().numpy()
    assert np.abs(kept - true).max() <= np.abs(true).max() / (2**bits - 2) + 1e-7
    assert np.abs(kept - true).max() > 0


def test_the_drawing_is_made_as_the_training_images_are():
    images = load_images("digits").validation.images / 16
    look = pages._looked_at(images)
    assert look.box == 8
    assert look.centre == pytest.approx((4, 4), abs=0.3)
    assert 0.8 <= look.pen <= 1.6
    square = np.zeros((3, 28, 28))
    square[:, 4:24, 6:10] = 1  # a bar 20 high and 4 wide, in the middle of columns 6 to 10
    look = pages._looked_at(square)
    assert (look.box, look.centre) == (20, (8, 14))
    assert look.pen == pytest.approx(80 / (pages._INK_PER_BOX * 20), abs=0.01)


def test_pictures_are_of_every_class_and_keep_their_labels(tmp_path):
    data = data_of(written(tmp_path / "p.html", *pair()))
    shown = np.frombuffer(base64.b64decode(data["images"]), np.uint8).reshape(-1, 36)
    assert len(shown) == len(data["labels"]) == 40
    for picture, label in zip(shown, data["labels"], strict=True):
        assert any((picture == IMAGES[i].ravel()).all() and LABELS[i] == label for i in range(40))
    assert data["labels"][data["morph"][0]] != data["labels"][data["morph"][1]]


def test_usual_amounts_are_those_on_images_of_the_own_class(tmp_path):
    routed, unrouted = pair()
    data = data_of(written(tmp_path / "p.html", routed, unrouted))
    x = torch.from_numpy(IMAGES.reshape(40, -1) / np.float32(255))
    with torch.no_grad():
        amount, style = pages.rounded(routed, 16).encode(x)
    usual = data["nets"]["routed"]["usual"]
    for j in range(4):
        assert usual["usualAmount"][j] == pytest.approx(float(amount.relu()[j == LABELS, j].mean()), abs=1e-3)
        assert usual["usualStyle"][4 * j : 4 * j + 4] == pytest.approx(style[j == LABELS, j].mean(0).tolist(), abs=1e-3)


def test_a_dead_block_is_named(tmp_path):
    routed, unrouted = pair()
    with torch.no_grad():
        routed.amount.bias[2] = -50
    page = written(tmp_path / "p.html", routed, unrouted, classes=["a", "b", "c", "d"])
    assert data_of(page)["dead"] == [2]
    assert "Block c (†) is dead" in page
    assert warnings(["3", "5"])[0].startswith("Blocks 3, 5 (†) are dead")
    assert warnings([]) == []


def test_names_are_data_and_not_markup(tmp_path):
    page = written(tmp_path / "p.html", *pair(), classes=["</script>", "<b>", "&", "d"], source="<i>mine</i>")
    assert data_of(page)["classes"][0] == "</script>"
    assert "<i>mine" not in page
    assert "“<b>”" not in page


def test_what_does_not_fit_is_refused(tmp_path):
    routed, unrouted = pair()
    path = tmp_path / "p.html"
    with pytest.raises(UserError, match=r"does not fit 4 classes and images of \(6, 6, 1\)"):
        written(path, routed, pair(classes=3)[0])
    with pytest.raises(UserError, match="does not fit"):
        written(path, *pair(35))
    with pytest.raises(UserError, match=r"labels of shape \(40,\), from 0 to 9, for 40 images of 4 classes"):
        written(path, routed, unrouted, labels=np.arange(40) % 10)
    with pytest.raises(UserError, match="labels of shape"):
        written(path, routed, unrouted, labels=LABELS[:5])
    with pytest.raises(UserError, match="3 names for 4 blocks"):
        written(path, routed, unrouted, classes=["a", "b", "c"])
    with pytest.raises(UserError, match="the images have 2 channels"):
        written(path, routed, unrouted, images=np.zeros((40, 6, 6, 2), np.uint8))
    with pytest.raises(UserError, match=r"expected \(images, height, width\)"):
        written(path, routed, unrouted, images=IMAGES[0])
    routed.encoder = nn.Sequential(routed.encoder, nn.Tanh())
    with pytest.raises(UserError, match="this net has a Tanh"):
        written(path, routed, unrouted)
    assert not path.exists()


def test_nested_parts_are_read_through():
    net, _ = pair()
    chain = pages._chain(nn.Sequential(nn.Flatten(), nn.Sequential(*net.encoder[:2]), net.encoder[2:]))
    assert [relu for _, relu in chain] == [True, True]
    assert [layer.in_features for layer, _ in chain] == [36, 64]


def test_numbers_over_seeds_are_means_with_their_worst():
    numbers = {
        "accuracy": [0.97, 0.95, 0.96],
        "mse": [20.0, 22.0, 21.0],
        "mse_unrouted": 20.0,
        "recognised": [10, 9, 10],
        "swap": 0.5,
        "ablate": [0.1, 0.3],
        "dead_blocks": [0, 1, 0],
        "labels": 0.01,
        "seeds": [0, 1, 2],
    }
    made = {figure.name: figure for figure in figures(numbers, 10)}
    assert made["read right"].value == "96.0\N{NO-BREAK SPACE}%"
    assert made["read right"].meaning.endswith("Worst seed: 95.0\N{NO-BREAK SPACE}%.")
    assert made["the tax"].value == "1.05\N{NO-BREAK SPACE}×"
    assert (made["recognised"].value, made["recognised"].bad) == ("9.67 of 10", True)
    assert made["left after ablating"].meaning.endswith("Worst seed: 30.0\N{NO-BREAK SPACE}%.")
    assert (made["dead blocks"].value, made["dead blocks"].bad) == ("1", True)
    assert made["labels used"].value == few_labels(numbers) == "1.0\N{NO-BREAK SPACE}%"
    assert made["seeds"].value == "3"


def test_what_was_not_measured_is_not_shown():
    assert figures({}, 10) == []
    assert [figure.name for figure in figures({"accuracy": 1.0, "mse": 3.0}, 10)] == ["read right"]
    (dead,) = figures({"dead_blocks": ["3", "5"]}, 10)
    assert dead.value == "2"
    assert few_labels({"labels": 1.0}) == few_labels({}) == ""


def test_a_single_seed_is_said_to_be_one():
    assert "not known" in figures({"seeds": 1}, 10)[0].meaning


def test_words_fit_digits_and_other_classes():
    digits, things = Words.of([str(j) for j in range(10)]), Words.of(["cat", "dog"])
    assert (digits.filled()["example_article"], digits.filled()["count"]) == ("a 7", "ten")
    assert things.filled()["example_article"] == "a picture of “dog”"
    assert [block["name"] for block in digits.diagram() if block["own"]] == ["7"]
    assert len(things.diagram()) == 2


@pytest.fixture
def run(tmp_path):
    """A run folder: the net, its twin, the images to show."""
    names = ["a", "b", "c", "d"]
    for name in ("model", "unrouted"):
        net = Autoencoder((6, 6, 1), names, hidden=(16, 8), k=2)
        net.numbers = {"accuracy": 0.5, "seeds": [0]}
        net.save(tmp_path / "run" / name)
    np.savez_compressed(tmp_path / "run" / "shown.npz", images=IMAGES, labels=LABELS)
    return tmp_path / "run"


def test_the_page_of_a_run_folder(run, tmp_path):
    page = pages.page_of(run, tmp_path / "page.html").read_text()
    assert data_of(page)["classes"] == ["a", "b", "c", "d"]
    assert data_of(page)["size"] == [6, 6, 1]
    assert "50.0\N{NO-BREAK SPACE}%" in page


def test_without_images_to_show_those_of_the_named_data_are_taken(run, tmp_path):
    (run / "shown.npz").unlink()
    with pytest.raises(UserError, match=r"no shown.npz, and no config.toml"):
        pages.page_of(run, tmp_path / "page.html")
    (run / "config.toml").write_text('data = "digits"\n')
    with pytest.raises(UserError, match=r"does not fit 4 classes and images of \(8, 8, 1\)"):
        pages.page_of(run, tmp_path / "page.html")


def test_a_run_folder_that_lacks_something(run, tmp_path):
    (run / "shown.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"shown.npz: cannot be read"):
        pages.page_of(run, tmp_path / "page.html")
    shutil.rmtree(run / "unrouted")
    with pytest.raises(UserError, match="no folder unrouted"):
        pages.page_of(run, tmp_path / "page.html")
    with pytest.raises(UserError, match=r"no latent.json"):
        pages.page_of(tmp_path / "nowhere", tmp_path / "page.html")
