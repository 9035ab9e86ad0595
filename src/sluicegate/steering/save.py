"""Write steering vectors: safetensors with what they were made from, and llama.cpp's control vectors (GGUF).

- safetensors: one tensor `values`, [d], or [k, d] for a set; module, tokens and origin are the file's metadata.
- GGUF, architecture "controlvector": one float32 tensor ``direction.N`` a layer, added to the output of layer N,
  counted from 0, as llama.cpp and repeng do. Layer 0 has none in llama.cpp. It steers every position, so a vector that
  spares some says so in the metadata.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from sluicegate.errors import UserError
from sluicegate.runs.disk import replacing, share

FORMAT = "sluicegate-steering-1"
ARCH = "controlvector"


@dataclass(frozen=True, eq=False)
class Steering:
    """A vector or a set of them, as files hold it."""

    values: Tensor
    """[d] float32, or [k, d] for a set of k."""
    module: str
    """Dotted path of the module whose output they are added to, such as "model.layers.10"."""
    tokens: str = "not_first"
    """Which tokens: not_first (the first one is an attention sink of a very large norm in many models), all, last (of
    the prompt), prompt, generated, or positions "a:b" counted in each row without its padding."""
    made_from: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from: what can be written as JSON."""

    def save(self, path: str | Path) -> Path:
        """Write it as safetensors or, a single vector, as a GGUF control vector (see `steering.save`)."""
        return save(self, path)


def save(steering: Steering, path: str | Path) -> Path:
    """Write a vector or a set, whole or not at all, and return the path. Ending ``.gguf``: a control vector."""
    path = Path(path)
    if path.suffix == ".gguf":
        if steering.values.dim() == 2:
            raise UserError(
                f"{str(path)!r}: a control vector holds one vector a layer, and this is a set of {len(steering.values)}. Save one of it."
            )
        return write_gguf([steering], path)
    if path.suffix != ".safetensors":
        raise UserError(f"cannot write {str(path)!r}: the ending is {path.suffix!r}; it must be .safetensors or .gguf.")
    check_values(steering.values, str(path))
    metadata = {
        "format": FORMAT,
        "kind": "set" if steering.values.dim() == 2 else "vector",
        "module": steering.module,
        "tokens": steering.tokens,
        "made_from": json.dumps(dict(steering.made_from)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch:
        save_file({"values": steering.values.detach().float().cpu().contiguous()}, scratch, metadata=metadata)
        share(scratch)
        _put_in_order(scratch)
    return path


def _put_in_order(file: Path) -> None:
    """Sort a safetensors header's notes, whose order differs by process: equal vectors shall be equal files."""
    with file.open("r+b") as content:
        size = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content.seek(8)  # the same characters in another order, so of the same length; blanks fill what is left
        content.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))


def write_gguf(vectors: Sequence[Steering], path: str | Path, *, model_hint: str = "") -> Path:
    """Write vectors, each at another layer's output, as a control vector for llama.cpp; returns the path.

    `model_hint` is llama.cpp's name of the architecture; by default the one a vector was made from, else "llama".
    """
    import gguf

    path = Path(path)
    if not vectors:
        raise UserError("there is no vector to write.")
    layers = [_layer(vector) for vector in vectors]
    for layer in layers:
        if layer == 0:
            raise UserError("llama.cpp has no control vector for layer 0: its format begins with direction.1. Steer a later layer.")
        if layers.count(layer) > 1:
            raise UserError(f"two vectors are for layer {layer}, and a control vector has one a layer. Add them first: a + b.")
    hint = model_hint or next((str(v.made_from["model_type"]) for v in vectors if v.made_from.get("model_type")), "llama")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch:
        writer = gguf.GGUFWriter(scratch, ARCH)
        writer.add_string(f"{ARCH}.model_hint", hint)
        writer.add_uint32(f"{ARCH}.layer_count", len(vectors))
        for layer, vector in sorted(zip(layers, vectors, strict=True), key=lambda pair: pair[0]):
            check_values(vector.values, vector.module)
            own = {"module": vector.module, "tokens": vector.tokens, "made_from": dict(vector.made_from)}
            writer.add_string(f"sluicegate.direction.{layer}", json.dumps(own))
            writer.add_tensor(f"direction.{layer}", vector.values.detach().float().cpu().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def check_values(values: Tensor, where: str) -> None:
    """Raise `UserError` unless these are numbers, at least one, all finite."""
    if not values.numel() or not values.is_floating_point():
        raise UserError(f"{where}: the vector has the shape {list(values.shape)} and type {values.dtype}; expected floating-point numbers.")
    if not bool(values.isfinite().all()):
        raise UserError(f"{where}: the vector holds NaN or infinity, so it cannot be added to anything.")


def _layer(vector: Steering) -> int:
    match = re.fullmatch(r"[\w.]*?\.(\d+)", vector.module)
    if not match:
        raise UserError(
            f"the vector is for {vector.module!r}; a control vector is added to a whole layer's output, a module such as 'model.layers.10'."
        )
    return int(match.group(1))
