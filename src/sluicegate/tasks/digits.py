"""Images with classes, by the name of the data (docs/howto/latent.md lists the forms). ``digits`` are 1797 of 8 x 8 in
the package (UCI Optical Recognition of Handwritten Digits). Arrays images and labels are divided here, arrays x_train,
y_train, x_test and y_test are so already. Imports no torch.
"""

import gzip
import hashlib
import math
import struct
import zipfile
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from sluicegate.engine.fetch import THINGS, cache_dir
from sluicegate.errors import UserError
from sluicegate.values.files import LIMIT, check_readable, reading

PACKAGED = "digits"
FETCHED = "mnist"
PLACED = "fashion-mnist"
CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
"""The classes of Fashion-MNIST, in the order of its labels."""
_IDX = {"x_train": "train-images-idx3", "y_train": "train-labels-idx1", "x_test": "t10k-images-idx3", "y_test": "t10k-labels-idx1"}
_WHOLE, _DIVIDED = ("images", "labels"), tuple(_IDX)
LARGEST = 64 * 2**20
"""Pixels, and bytes of a file, that one image may have."""
_READABLE = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the images, and what is on each."""

    images: np.ndarray
    """[n, height, width] uint8; colour images [n, height, width, 3]."""
    labels: np.ndarray
    """[n] int64 class of each image."""

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, classes: "tuple[int, ...]") -> np.ndarray:
        """[n] whether an image is of one of these classes."""
        return np.isin(self.labels, classes)


@dataclass(frozen=True, eq=False)
class Images:
    """Images with classes, divided into what is learnt from, what is looked at meanwhile, and what is measured on."""

    train: Part
    validation: Part
    test: Part
    white: int
    """The largest value that a pixel can have: 255, or 16 in the packaged digits."""
    names: tuple[str, ...] = ()
    """What the classes are called, by label; the labels themselves where this is empty."""
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """[n of train] where each training image lies among those that the source has for training."""
    given: int = 0
    """How many the source has for training, with those for validation (and testing, where it does not divide)."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.train.images.shape[1:3]
        return int(height), int(width)

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return 1 if self.train.images.ndim == 3 else int(self.train.images.shape[3])

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that there are to learn from."""
        return tuple(int(label) for label in np.unique(self.train.labels))

    def name(self, label: int) -> str:
        """What a class is called."""
        return self.names[label] if self.names else str(label)


def load_images(data: str = PACKAGED, *, colour: bool = False) -> Images:
    """Read images by name, from a folder of IDX files or of sub-folders of images, or from an .npz.

    Where a source says what is for testing, that is kept: of its training images the last twelfth is for
    validation (5000 of MNIST's 60000). Of the rest a tenth is for validation and a fifth for testing,
    drawn once and for all, not from the seed of a run. Colour images in folders are read as grey ones unless
    `colour`; in arrays [n, height, width, 3] they are only taken with `colour`. Raises `UserError` for what cannot be
    read, or is no such images of one size in two classes or more.
    """
    arrays, names = _arrays(data, colour)
    white = 16 if data == PACKAGED else 255
    if set(_WHOLE) <= arrays.keys():
        whole = _part(data, arrays, *_WHOLE, colour)
        order = np.random.default_rng(0).permutation(len(whole))
        test, validation, train = np.split(order, [len(whole) // 5, len(whole) // 5 + len(whole) // 10])
        parts = [Part(whole.images[i], whole.labels[i]) for i in (train, validation, test)]
        made = Images(parts[0], parts[1], parts[2], white, names, train, len(whole))
    else:
        known, test_part = _part(data, arrays, "x_train", "y_train", colour), _part(data, arrays, "x_test", "y_test", colour)
        cut = len(known) - max(len(known) // 12, 1)
        first, last = (Part(known.images[s], known.labels[s]) for s in (slice(cut), slice(cut, None)))
        made = Images(first, last, test_part, white, names, np.arange(cut), len(known))
    _check(data, made)
    return made


def digest(data: str) -> str:
    """sha256 of the user's images and labels, whatever file they lie in; empty for data that has a name."""
    if data in (PACKAGED, FETCHED, PLACED):
        return ""
    total = hashlib.sha256()
    arrays, names = _arrays(data, True)
    total.update("/".join(names).encode())
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _arrays(data: str, colour: bool) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays by the names that they have in an .npz, and the names of the classes where these have any."""
    if data == PACKAGED:
        path = Path(str(resources.files("sluicegate") / "tasks" / "data" / "digits.npz"))
    elif data in (FETCHED, PLACED):
        path = cache_dir() / (THINGS[FETCHED].place if data == FETCHED else PLACED)
    else:
        path = Path(data).expanduser()
    if path.is_file():
        return _from_npz(path), ()
    if path.is_dir():
        by_class = any(p.is_dir() and not p.name.startswith(".") for p in path.iterdir()) and not any(path.glob("*-ubyte*"))
        if by_class and data != PLACED:
            return _from_folders(path, colour)
        return {name: _from_idx(path, stem) for name, stem in _IDX.items()}, CLOTHES if data == PLACED else ()
    advice = {
        FETCHED: f"MNIST is not on this machine yet. Run: sluicegate fetch {FETCHED}. Or take data={PACKAGED!r}, which is.",
        PLACED: f"{PLACED} is not on this machine yet. Put its four IDX files into {str(path)!r}, or name the folder they are in.",
    }
    forms = f"{PACKAGED}, {FETCHED}, {PLACED}, a folder of IDX files or of one sub-folder a class, or an .npz file"
    raise UserError(advice.get(data, f"no images {data!r}: it must be {forms}."))


def _from_folders(folder: Path, colour: bool) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """One sub-folder a class, sorted by name; grey where all images are, or where colour is not wanted."""
    from PIL import Image

    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    images: list[Any] = []
    labels, first = [], ("", (0, 0))
    for label, kind in enumerate(classes):
        files = sorted(p for p in kind.iterdir() if p.suffix.lower() in _READABLE)
        if not files:
            raise UserError(f"{kind}: no image in it ({', '.join(_READABLE)}). Put some there, or remove the folder.")
        for file in files:
            with reading(file, "Replace or remove it."), Image.open(check_readable(file, LARGEST)) as opened:
                if opened.width * opened.height > LARGEST:
                    size = f"{opened.width:,} x {opened.height:,} pixels"
                    raise UserError(f"{file}: {size}; an image may have {LARGEST:,} of them. Scale it down first.")
                image = opened.convert("L" if opened.mode in ("1", "L", "I", "I;16", "LA") or not colour else "RGB")
            first = first if images else (str(file), image.size)
            if image.size != first[1]:
                sizes = f"{image.width} x {image.height} pixels, but {first[0]} is {first[1][0]} x {first[1][1]}"
                raise UserError(f"{file}: is {sizes}. All images must have one size: scale or cut them first.")
            images.append(image)
            labels.append(label)
    if any(image.mode == "RGB" for image in images):
        images = [image.convert("RGB") for image in images]
    return {"images": np.stack([np.asarray(i) for i in images]), "labels": np.array(labels)}, tuple(kind.name for kind in classes)


def _from_npz(path: Path) -> dict[str, np.ndarray]:
    with reading(path, "Save it with numpy.savez_compressed. Pickled objects are not read."):
        if not zipfile.is_zipfile(check_readable(path)):
            raise UserError(f"{path}: cannot be read as an .npz. Save it with numpy.savez_compressed(FILE, images=..., labels=...).")
        archive: np.lib.npyio.NpzFile = np.load(path, allow_pickle=False)
        with archive:
            names = set(archive.files)
            wanted = _WHOLE if set(_WHOLE) <= names else _DIVIDED
            missing = [name for name in wanted if name not in names]
            if missing:
                raise UserError(
                    f"{path}: no array {missing[0]!r}. There are: {', '.join(sorted(names)) or 'none'}. Needed: {', '.join(_WHOLE)}; "
                    f"or {', '.join(_DIVIDED)}."
                )
            # What the arrays take once unpacked, before any of them is: a small file can hold a large one.
            unpacked = sum(member.file_size for member in archive.zip.infolist()) if archive.zip else 0
            if unpacked > LIMIT:
                raise UserError(f"{path}: {unpacked:,} bytes when unpacked; at most {LIMIT:,} are read. Give fewer or smaller images.")
            return {name: archive[name] for name in wanted}


def _from_idx(folder: Path, stem: str) -> np.ndarray:
    """An IDX file: two zero bytes, type (8: uint8), number of dimensions, big-endian sizes, the values."""
    names = [f"{written}-ubyte{packed}" for written in (stem, stem.replace("-idx", ".idx")) for packed in ("", ".gz")]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no file {names[0]} (or {names[1]}). A folder of images holds the four IDX files of MNIST.")
    with reading(path, "Get the file again."), (gzip.open if path.suffix == ".gz" else open)(check_readable(path), "rb") as file:
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise UserError(f"{path}: more than {LIMIT:,} bytes when unpacked. Get the file again, or give a part of it.")
    dims = int(stem[-1])
    head = 4 + 4 * dims
    if len(content) < head or content[:4] != bytes((0, 0, 8, dims)):
        raise UserError(f"{path}: no IDX file of bytes with {dims} dimension(s). Get the file again.")
    shape = struct.unpack(f">{dims}I", content[4:head])
    if len(content) - head != math.prod(shape):
        raise UserError(f"{path}: says {shape}, which is {math.prod(shape)} bytes, but {len(content) - head} follow. Get the file again.")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _part(data: str, arrays: dict[str, np.ndarray], x: str, y: str, colour: bool) -> Part:
    images, labels = arrays[x], arrays[y]
    if colour and images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if colour and images.ndim == 4 and images.shape[3] != 3:
        raise UserError(f"{data}: {x} has {images.shape[3]} channels; expected 1 (grey) or 3 (RGB), in the last place.")
    if images.ndim != 3 + (colour and images.ndim == 4) or 0 in images.shape:
        raise UserError(f"{data}: {x} has shape {images.shape}; expected (images, height, width), grey and not empty.")
    if labels.ndim != 1 or len(labels) != len(images):
        raise UserError(f"{data}: {y} has shape {labels.shape}, but there are {len(images)} images in {x}. Give one class an image.")
    if labels.dtype.kind not in "iu" and not (labels.dtype.kind == "f" and bool((labels == np.round(labels)).all())):
        raise UserError(f"{data}: {y} holds {labels.dtype}; classes are whole numbers.")
    if not (np.abs(labels.astype(float)) < 2**53).all():
        raise UserError(f"{data}: {y} holds a class of 2^53 or more, or one that is infinite. Number the classes from 0.")
    if images.dtype.kind == "f":
        if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            raise UserError(f"{data}: {x} holds fractions outside of 0 to 1. Divide by the largest value, or give bytes (uint8).")
        images = np.round(images * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        raise UserError(f"{data}: {x} holds {images.dtype}; expected uint8 from 0 to 255, or fractions from 0 to 1.")
    return Part(images, labels.astype(np.int64))


def _check(data: str, made: Images) -> None:
    if made.test.images.shape[1:] != made.train.images.shape[1:]:
        raise UserError(f"{data}: images to train on are {made.size} pixels, those to test on {made.test.images.shape[1:]}.")
    if len(made.classes) < 2:
        raise UserError(f"{data}: {len(made.classes)} class(es) in {len(made.train)} training images; at least 2 are needed.")
    for name, part in (("validation", made.validation), ("test", made.test)):
        if missing := sorted(set(made.classes) - set(part.labels.tolist())):
            raise UserError(f"{data}: no image of class {made.name(missing[0])} is left for {name}. Give more images of it.")
