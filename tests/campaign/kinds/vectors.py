"""Files of steering vectors: safetensors and GGUF."""

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from campaign.inputs import Case
from campaign.mutate import damaged

WIDTH = 32


def cases(rng: random.Random, place: Path) -> Iterator[Case]:
    import torch

    from sluicegate.steering import io
    from sluicegate.steering.vector import SteeringVector
    from steering_tiny import material

    material(place / "material")
    vector = SteeringVector(torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)), "model.layers.1", "all", {"model": "x"})
    io.save(vector, place / "good.safetensors")
    io.write_gguf([vector], place / "good.gguf")
    good = {ending: (place / f"good.{ending}").read_bytes() for ending in ("safetensors", "gguf")}
    special = list(_special(good["safetensors"]))
    number = 0
    while True:
        ending, note = "safetensors", "damaged"
        if number < len(special):
            note, data = special[number]
        elif rng.random() < 0.5:
            data = damaged(good[ending], rng)
        else:
            ending = "gguf"
            data = damaged(good[ending], rng) if rng.random() < 0.5 else _counts(good[ending], rng)
        for old in place.glob("x.*"):
            old.unlink()
        (place / f"x.{ending}").write_bytes(data)
        words = ["steer", "apply", f"x.{ending}", "3 + 4", "--model", "material/model", "--plain", "--new-tokens", "2"]
        yield Case(words, note, lambda ended, data=data, ending=ending: _why(data, ending))
        number += 1


def _special(good: bytes) -> Iterator[tuple[str, bytes]]:
    size = struct.unpack("<Q", good[:8])[0]
    header: dict[str, Any] = json.loads(good[8 : 8 + size])
    values = good[8 + size :]

    def written(values: bytes, **changed: str) -> bytes:
        head = json.dumps(header | {"__metadata__": header["__metadata__"] | changed}).encode()
        return struct.pack("<Q", len(head)) + head + values

    def shaped(kind: str, shape: list[int], values: bytes) -> bytes:
        head = json.dumps({**header, "values": {"dtype": kind, "shape": shape, "data_offsets": [0, len(values)]}}).encode()
        return struct.pack("<Q", len(head)) + head + values

    for made in ("[" * 100_000, "[[1]]", '"ab"', "{}", "null"):
        yield f"made_from {made[:9]}", written(values, made_from=made)
    for module in ("__class__", "model.layers.99", "../../x", "", "x" * 5000):
        yield f"module {module[:20]!r}", written(values, module=module)
    for tokens in ("(((", "positions 5:1", "positions -1:99999999999999999999", "", "zzz"):
        yield f"tokens {tokens!r}", written(values, tokens=tokens)
    for kind in ("set", "zz"):
        yield f"kind {kind}", written(values, kind=kind)
    for number in (float("nan"), float("inf"), 0.0, 3e38):
        yield f"all {number}", written(struct.pack("<f", number) * WIDTH)
    for length in (2**63, 0, 1, 10**8, 2**64 - 1):
        yield f"a header of {length} bytes", struct.pack("<Q", length) + good[8:]
    yield "nothing", b""
    yield "twice as wide", shaped("F32", [64], b"\0\0\x80\x3f" * 64)
    yield "whole numbers", shaped("I64", [16], values)
    yield "no values", shaped("F32", [0], b"")


def _counts(good: bytes, rng: random.Random) -> bytes:
    content = bytearray(good)
    at = 8 + rng.randrange(60) * 4
    content[at : at + 8] = rng.choice(
        [b"\xff" * 8, struct.pack("<Q", 2**40), struct.pack("<Q", 2**62), b"\0" * 8, struct.pack("<Q", 10**9)]
    )
    return bytes(content)


def _why(data: bytes, ending: str) -> str:
    """Whether it holds as many finite numbers as the model is wide, or the damage left none of them out."""
    if ending == "gguf":
        return "GGUF's own reader finds a direction of finite numbers" if _gguf(data) else ""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    numbers = struct.unpack(f"<{WIDTH}f", data[8 + size :][: 4 * WIDTH])
    sound = all(abs(x) < float("inf") for x in numbers) and header["values"]["shape"] == [WIDTH]
    return "a sound header and finite numbers, as many as the model is wide" if sound else ""


def _gguf(data: bytes) -> bool:
    import tempfile

    import gguf
    import numpy

    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        found = [t for t in gguf.GGUFReader(file.name).tensors if str(t.name).startswith("direction.")]
        return bool(found) and all(numpy.isfinite(t.data).all() and t.data.size == WIDTH for t in found)
