"""Images to learn from: folders, .npz archives, IDX files, and files of labels."""

import gzip
import io
import random
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from campaign.inputs import Case
from campaign.mutate import damaged


def cases(rng: random.Random, place: Path) -> Iterator[Case]:
    import numpy as np

    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    labels = np.arange(60) % 3
    pictures = [_picture(images[k]) for k in range(12)]
    sound = _archive(images=images, labels=labels)
    fixed: list[tuple[str, Callable[[], str]]] = [
        *((f"a picture: {note}", lambda data=data: _folder(place, pictures, data)) for note, data in _pictures()),
        *((f"an archive: {note}", lambda data=data: _file(place, data)) for note, data in _archives(images, labels)),
        *(
            (f"labels {word!r}", lambda word=word: _file(place, sound, word))
            for word in ("0", "-1", "2", "nan", "inf", "", "1e-9", "a", ".", "\u0661", "0x1")
        ),
        (
            "IDX that is a gzip bomb",
            lambda: _idx(place, images, labels, {"train-images-idx3-ubyte": gzip.compress(b"\0" * 400_000_000, 1)}),
        ),
    ]
    number = 0
    while True:
        for old in ("d", "idx", "x.npz", "labels.txt"):
            shutil.rmtree(place / old, ignore_errors=True) if (place / old).is_dir() else (place / old).unlink(missing_ok=True)
        kind = rng.randrange(4)
        if number < len(fixed):
            note, write = fixed[number]
            data = write()
        elif kind == 0:
            note, data = "a damaged picture", _folder(place, pictures, damaged(pictures[0], rng))
        elif kind == 1:
            note, data = "a damaged archive", _file(place, damaged(sound, rng))
        elif kind == 2:
            note, data = "a damaged IDX file", _idx(place, images, labels, {}, rng)
        else:
            lines = damaged("\n".join(str(n % 3) for n in range(60)).encode(), rng)
            (place / "labels.txt").write_bytes(lines)
            note, data = "a damaged file of labels", _file(place, sound, "labels.txt")
        name, _, word = data.partition("|")
        yield Case([], note, lambda ended, name=name: _why(place / name), call=_read(name, word or "1"))
        number += 1


def _read(name: str, labels: str) -> Callable[[], int]:
    """Read the images as `sluicegate latent` does, in the child."""

    def call() -> int:
        from sluicegate.app import _complain
        from sluicegate.errors import UserError
        from sluicegate.latent.stage import Latent
        from sluicegate.tasks.digits import load_images

        try:
            stage = Latent(data=name, labels=labels, hidden=(8,)).resolved()
            stage.known(load_images(stage.data, colour=True))
            return 0
        except UserError as error:
            _complain(str(error))
            sys.stderr.flush()
            return 2

    return call


def _why(path: Path) -> str:
    """Whether pictures and archives decode without this project's code, to finite numbers."""
    import numpy as np
    from PIL import Image

    if path.suffix == ".npz":
        try:
            with np.load(path) as archive:
                found = [archive[name] for name in ("images", "labels")]
            return "numpy finds images and labels, finite" if all(np.isfinite(a.astype(float)).all() for a in found) else ""
        except Exception:
            return ""
    if path.name == "d":
        try:
            sizes = set()
            for file in path.rglob("*.p?m" if list(path.rglob("*.p?m")) else "*.png"):
                with Image.open(file) as opened:
                    opened.convert("L")
                    sizes.add(opened.size)
            return "every picture decodes, and all are of one size" if len(sizes) == 1 else ""
        except Exception:
            return ""
    heads = {file.name: (gzip.open if file.suffix == ".gz" else open)(file, "rb").read() for file in path.iterdir()}
    sound = all(len(b) == 4 + 4 * b[3] + _product(struct.unpack(f">{b[3]}I", b[4 : 4 + 4 * b[3]])) for b in heads.values())
    return "every IDX file is as long as its head says" if sound else ""


def _product(numbers: tuple[int, ...]) -> int:
    import math

    return math.prod(numbers)


def _picture(array: Any, form: str = "PNG") -> bytes:
    from PIL import Image

    whole = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(whole, form)
    return whole.getvalue()


def _archive(**arrays: Any) -> bytes:
    import numpy as np

    whole = io.BytesIO()
    np.savez_compressed(whole, **arrays)
    return whole.getvalue()


def _pictures() -> Iterator[tuple[str, bytes]]:
    from PIL import Image

    def declared(width: int, height: int) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        body = zlib.compress(b"\0" * min(width * height + height, 300_000_000) if width * height < 4e8 else b"\0" * 1000)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")

    yield from ((f"{w} x {h} declared", declared(w, h)) for w, h in ((50_000, 50_000), (13_000, 13_000), (9_000, 9_000), (0, 0)))
    yield from (("nothing", b""), ("text", b"hello"), ("a ppm of 10^18 pixels", b"P6\n999999999 999999999\n255\n"))
    for mode, form in (("P", "GIF"), ("F", "TIFF"), ("I;16", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG")):
        yield f"{mode} as {form}", _picture(Image.new(mode, (8, 8)), form)


def _archives(images: Any, labels: Any) -> Iterator[tuple[str, bytes]]:
    import numpy as np

    def declared(shape: Any, kind: str = "|u1", zeros: int = 100) -> bytes:
        head = str({"descr": kind, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
        whole, own = io.BytesIO(), io.BytesIO()
        np.save(own, labels)
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("images.npy", "w", force_zip64=True) as file:
                file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
                for left in range(zeros, 0, -50_000_000):
                    file.write(b"\0" * min(left, 50_000_000))
            archive.writestr("labels.npy", own.getvalue())
        return whole.getvalue()

    yield from (
        (f"shape {s}", declared(s)) for s in ((2**40, 8, 8), (-1, 8, 8), (6 * 2**30 // 64, 8, 8), "__import__('os').system('touch PWNED')")
    )
    yield "objects", declared((60,), "|O")
    yield "5 GB when unpacked", declared((60, 9200, 9200), zeros=60 * 9200 * 9200)
    whole = labels.astype(np.uint64) + np.uint64(2**63)
    for note, own in (
        ("below 0", labels - 5),
        ("10^9", labels * 10**9),
        ("2^63", whole),
        ("infinite", np.where(labels == 1, np.inf, 0.0)),
        ("words", labels.astype(str)),
        ("one class", labels * 0),
    ):
        yield f"labels {note}", _archive(images=images, labels=own)
    for note, own in (
        ("not a number", np.full((60, 8, 8), np.nan)),
        ("one pixel", images[:, :1, :1]),
        ("five axes", images[..., None, None]),
        ("complex", images.astype(complex)),
    ):
        yield f"images {note}", _archive(images=own, labels=labels)


def _folder(place: Path, pictures: list[bytes], first: bytes) -> str:
    for kind in "ab":
        (place / "d" / kind).mkdir(parents=True)
        for k in range(12):
            (place / "d" / kind / f"{k}.png").write_bytes(pictures[k])
    name = "0.ppm" if first[:1] == b"P" else "0.png"
    (place / "d" / "a" / "0.png").unlink()
    (place / "d" / "a" / name).write_bytes(first)
    return "d"


def _file(place: Path, data: bytes, labels: str = "1") -> str:
    (place / "x.npz").write_bytes(data)
    return f"x.npz|{labels}"


def _idx(place: Path, images: Any, labels: Any, other: dict[str, bytes], rng: random.Random | None = None) -> str:
    import numpy as np

    (place / "idx").mkdir()
    for stem, n in (("train", 60), ("t10k", 12)):
        for name, dims, body in (
            (f"{stem}-images-idx3-ubyte", (n, 8, 8), images[:n]),
            (f"{stem}-labels-idx1-ubyte", (n,), labels[:n].astype(np.uint8)),
        ):
            data = bytes((0, 0, 8, len(dims))) + struct.pack(f">{len(dims)}I", *dims) + body.tobytes()
            packed = other.get(name)
            if rng and rng.random() < 0.5:
                data = damaged(data, rng)
            (place / "idx" / (f"{name}.gz" if packed else name)).write_bytes(packed or data)
    return "idx"
