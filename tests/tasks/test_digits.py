"""Images by name, from IDX files and from an .npz, and what is said of those that do not fit."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from sluicegate.errors import UserError
from sluicegate.tasks.digits import digest, load_images


def made(n, classes=4, side=5, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (n, side, side), dtype=np.uint8), np.arange(n) % classes


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder, *, packed=False, dotted=False):
    parts = {"train": made(120), "t10k": made(40, seed=1)}
    for name, (images, labels) in parts.items():
        for what, array in (("images-idx3", images), ("labels-idx1", labels)):
            what = what.replace("-idx", ".idx") if dotted else what
            content = idx(array)
            path = folder / f"{name}-{what}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
    return parts


def test_the_packaged_digits_are_the_1797_of_uci_divided_once_and_for_all():
    images = load_images()
    assert [len(part) for part in (images.train, images.validation, images.test)] == [1259, 179, 359]
    assert images.size == (8, 8)
    assert images.classes == tuple(range(10))
    every = np.concatenate([part.images for part in (images.train, images.validation, images.test)])
    labels = np.concatenate([part.labels for part in (images.train, images.validation, images.test)])
    assert images.white == every.max() == 16
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # A zero is hollow and a one is not: pixels and labels belong together.
    middle = every[:, 3:5, 3:5].mean((1, 2))
    assert middle[labels == 0].mean() < 4 < 12 < middle[labels == 1].mean()
    again = load_images("digits")
    assert np.array_equal(again.test.images, images.test.images)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_a_folder_of_idx_files_keeps_its_test_images(tmp_path, packed, dotted):
    parts = write_idx(tmp_path, packed=packed, dotted=dotted)
    images = load_images(str(tmp_path))
    assert np.array_equal(images.test.images, parts["t10k"][0])
    assert np.array_equal(images.test.labels, parts["t10k"][1])
    assert np.array_equal(np.concatenate([images.train.images, images.validation.images]), parts["train"][0])
    assert len(images.validation) == 10
    assert (images.white, images.size) == (255, (5, 5))


def test_an_npz_with_and_without_a_test_part(tmp_path):
    images, labels = made(200)
    np.savez(tmp_path / "whole.npz", images=images, labels=labels)
    whole = load_images(str(tmp_path / "whole.npz"))
    assert [len(part) for part in (whole.train, whole.validation, whole.test)] == [140, 20, 40]
    every = np.concatenate([part.images for part in (whole.train, whole.validation, whole.test)])
    assert sorted(map(bytes, every)) == sorted(map(bytes, images))
    np.savez(tmp_path / "parts.npz", x_train=images, y_train=labels, x_test=images[:40], y_test=labels[:40])
    assert np.array_equal(load_images(str(tmp_path / "parts.npz")).test.images, images[:40])


def test_fractions_are_bytes_over_255(tmp_path):
    images, labels = made(200)
    np.savez(tmp_path / "bytes.npz", images=images, labels=labels)
    np.savez(tmp_path / "fractions.npz", images=images / 255, labels=labels.astype(float))
    a, b = (load_images(str(tmp_path / f"{name}.npz")) for name in ("bytes", "fractions"))
    assert np.array_equal(a.train.images, b.train.images)
    assert np.array_equal(a.train.labels, b.train.labels)


def test_the_digest_follows_the_content_and_not_the_file(tmp_path):
    images, labels = made(200)
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels)
    images[0, 0, 0] ^= 1
    np.savez_compressed(tmp_path / "c.npz", images=images, labels=labels)
    a, b, c = (digest(str(tmp_path / f"{name}.npz")) for name in "abc")
    assert a == b != c
    assert digest("digits") == digest("mnist") == ""


def test_mnist_that_was_not_fetched_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("SLUICEGATE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="sluicegate fetch mnist"):
        load_images("mnist")
    images, labels = made(120)
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=labels, x_test=images[:20], y_test=labels[:20])
    assert len(load_images("mnist").train) == 110


GOOD, CLASSES = made(200)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": GOOD}, "no array 'x_train'. There are: images. Needed: images, labels"),
        ({"x_train": GOOD, "y_train": CLASSES, "x_test": GOOD}, "no array 'y_test'"),
        ({"images": GOOD.reshape(200, 25), "labels": CLASSES}, r"images has shape \(200, 25\); expected"),
        ({"images": GOOD[:0], "labels": CLASSES[:0]}, r"images has shape \(0, 5, 5\)"),
        ({"images": GOOD, "labels": CLASSES[:-1]}, "labels has shape .*but there are 200 images"),
        ({"images": GOOD, "labels": CLASSES + 0.5}, "classes are whole numbers"),
        ({"images": GOOD.astype(float), "labels": CLASSES}, "outside of 0 to 1. Divide by the largest"),
        ({"images": GOOD / np.float64(np.nan), "labels": CLASSES}, "outside of 0 to 1"),
        ({"images": GOOD.astype(int), "labels": CLASSES}, "images holds int64; expected uint8"),
        ({"images": GOOD, "labels": CLASSES * 0}, "1 class.es. in 140 training images; at least 2"),
        ({"images": GOOD, "labels": np.where(np.arange(200) == 151, 9, CLASSES)}, "no image of class 9 is left for (validation|test)"),
        ({"x_train": GOOD, "y_train": CLASSES, "x_test": GOOD[:, 1:], "y_test": CLASSES}, r"\(5, 5\) pixels, those to test on \(4, 5\)"),
        ({"images": np.array([{}]), "labels": CLASSES}, "Pickled objects are not read"),
        ({"images": GOOD, "labels": np.where(CLASSES == 1, np.inf, 0.0)}, "a class of 2.53 or more, or one that is infinite"),
        ({"images": GOOD, "labels": CLASSES.astype(np.uint64) + np.uint64(2**63)}, "a class of 2.53 or more"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, said):
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(UserError, match=said):
        load_images(str(tmp_path / "own.npz"))


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no images 'nowhere': it must be digits, mnist, fashion-mnist, a folder"):
        load_images("nowhere")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match=r"cannot be read as an \.npz"):
        load_images(str(tmp_path / "text.npz"))
    np.save(tmp_path / "one.npy", GOOD)
    with pytest.raises(UserError, match=r"one.npy: cannot be read as an \.npz"):
        load_images(str(tmp_path / "one.npy"))
    folder = tmp_path / "idx"
    folder.mkdir()
    with pytest.raises(UserError, match="no file train-images-idx3-ubyte"):
        load_images(str(folder))
    write_idx(folder)
    images = folder / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    with pytest.raises(UserError, match="which is 3000 bytes, but 2999 follow"):
        load_images(str(folder))
    images.write_bytes(b"\0\0\x0d" + whole[3:])
    with pytest.raises(UserError, match="no IDX file of bytes with 3"):
        load_images(str(folder))
    images.unlink()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(whole)
    with pytest.raises(UserError, match=r"cannot be read .Not a gzipped file"):
        load_images(str(folder))


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    """A small file that holds more than is read: the archive's own table, the picture's head, the gzip stream."""
    monkeypatch.setattr("sluicegate.tasks.digits.LIMIT", 10_000)
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((200, 50, 50), np.uint8), labels=CLASSES)
    with pytest.raises(UserError, match=r"bomb.npz: 501,\d+ bytes when unpacked; at most 10,000 are read"):
        load_images(str(tmp_path / "bomb.npz"))
    folder = tmp_path / "idx"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0" * 100_000))
    with pytest.raises(UserError, match="more than 10,000 bytes when unpacked"):
        load_images(str(folder))
    monkeypatch.setattr("sluicegate.tasks.digits.LARGEST", 600)
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("L", (40, 40)).save(tmp_path / "pictures" / name / "x.png")
    with pytest.raises(UserError, match=r"x.png: 40 x 40 pixels; an image may have 600"):
        load_images(str(tmp_path / "pictures"))
