"""Read steering vectors: what `save` writes (safetensors, GGUF), and other libraries' forms (`from_layers`).

Nothing is unpickled. What is no vector (widths that differ, NaN, a pickle, a model) is refused with a `UserError`.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from sluicegate.errors import UserError
from sluicegate.steering.save import ARCH, FORMAT, check_values, save, write_gguf
from sluicegate.steering.vector import SteeringSet, SteeringVector
from sluicegate.values.files import check_readable, reading

SET, VECTOR, BASE = "vectors.safetensors", "vector.safetensors", "base.safetensors"
"""Names in a run folder: a set, one vector, and the vector that a set is made from."""
STEMS = {
    "gpt2": "transformer.h",
    "gptj": "transformer.h",
    "falcon": "transformer.h",
    "bloom": "transformer.h",
    "gptneox": "gpt_neox.layers",
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
}
"""Where the layers are, by a control vector's `model_hint`; `model.layers` for every other."""
PARTS = {
    "decoder_block": "",
    "self_attn": ".self_attn",
    "mlp": ".mlp",
    "input_layernorm": ".input_layernorm",
    "post_attention_layernorm": ".post_attention_layernorm",
}
"""steering-vectors' layer types, as the part of a Llama's layer whose output is steered."""
__all__ = ["from_layers", "load", "load_set", "load_vector", "read_gguf", "read_layers", "save", "write_gguf"]
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".npy")


def load(path: str | Path) -> SteeringVector | SteeringSet:
    """What `save` wrote, or a control vector of one layer; a run folder stands for the file in it, its set first."""
    place = find(path)
    if place.suffix == ".gguf":
        layers = read_gguf(place)
        if len(layers) > 1:
            raise UserError(
                f"{str(place)!r} holds vectors for {len(layers)} layers ({_few(layers)}). Choose one by its layer (--index), "
                "or in Python add up those of read_gguf(path): each is an edit."
            )
        return next(iter(layers.values()))
    tensors, metadata = _safetensors(place)
    if metadata.get("format") != FORMAT:
        if any(re.fullmatch(r"(layer_activations\.)?\d+", name) for name in tensors):
            raise UserError(f"{str(place)!r} holds a tensor a layer and names no module: read it with sluicegate.steering.io.read_layers.")
        raise UserError(
            f"{str(place)!r} is no steering vector of ours (format {metadata.get('format')!r}, expected {FORMAT!r}; "
            f"tensors {_few(tensors)}). Was it written by `sluicegate steer`, or by save()?"
        )
    kind, values = metadata.get("kind"), tensors.get("values")
    if kind not in ("vector", "set") or values is None or values.dim() != (1 if kind == "vector" else 2):
        raise UserError(f"{str(place)!r} is damaged: kind {kind!r} with the tensors {_few(tensors)}.")
    check_values(values, str(place))
    with reading(place, "It is damaged: its metadata must hold module, tokens and made_from. Fit the vector again."):
        made_from: dict[str, Any] = dict(json.loads(metadata["made_from"]))
        module, tokens = metadata["module"], metadata["tokens"]
    return SteeringVector(values, module, tokens, made_from) if kind == "vector" else SteeringSet(values, module, tokens, made_from)


def load_vector(path: str | Path, index: int | None = None) -> SteeringVector:
    """One vector: the file's, or number `index` of its set, or of a control vector's layers."""
    place = find(path, VECTOR if index is None else SET)
    if place.suffix == ".gguf" and index is not None:
        layers = read_gguf(place)
        if index not in layers:
            raise UserError(f"{str(path)!r} has no vector for layer {index}. There are: {_few(layers, 40)}.")
        return layers[index]
    found = load(place)
    if isinstance(found, SteeringVector):
        if index not in (None, 0):
            raise UserError(f"{str(path)!r} holds a single vector, so there is no number {index}.")
        return found
    if index is None:
        raise UserError(f"{str(path)!r} holds {len(found)} vectors. Say which (--index), counted from 0.")
    if not 0 <= index < len(found):
        raise UserError(f"{str(path)!r} has no vector {index}: it holds {len(found)}, numbers 0 to {len(found) - 1}.")
    return found[index]


def load_set(path: str | Path) -> SteeringSet:
    """Read a set; a single vector becomes a set of one."""
    found = load(path)
    return found if isinstance(found, SteeringSet) else SteeringSet(found.values[None], found.module, found.tokens, found.made_from)


def find(path: str | Path, prefer: str = SET) -> Path:
    """The vector's file: the path, or the one in a run folder. `UserError` for a pickle, or none."""
    place = Path(path).expanduser()
    if place.is_dir():
        for name in (prefer, SET, VECTOR):
            if (place / name).is_file():
                return place / name
        raise UserError(f"the folder {str(path)!r} holds no steering vector: no {SET} or {VECTOR} in it. Is its run finished?")
    if place.suffix.lower() in PICKLES:
        raise UserError(_pickled(place))
    if not place.is_file():
        raise UserError(
            f"no steering vector {str(path)!r}: expected a .safetensors or .gguf file, or the folder of `sluicegate steer fit`."
        )
    if place.suffix not in (".safetensors", ".gguf"):
        raise UserError(f"cannot read {str(path)!r}: the ending is {place.suffix!r}; expected .safetensors or .gguf.")
    return place


def read_gguf(path: str | Path, *, stem: str = "") -> dict[int, SteeringVector]:
    """The vectors of a control vector file by layer, from 0; `stem`: where layers lie, if the file does not say it."""
    import gguf

    path = Path(path)
    with reading(path, "It is no readable GGUF file."):
        reader = gguf.GGUFReader(check_readable(path))
        fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        tensors = [(str(t.name), t.tensor_type.name, t.data) for t in reader.tensors]
    arch = fields.get("general.architecture")
    if arch != ARCH:
        raise UserError(f"{str(path)!r} is no control vector: its architecture is {arch!r}, expected {ARCH!r}.")
    hint = str(fields.get(f"{ARCH}.model_hint", ""))
    stem = stem or STEMS.get(hint, "model.layers")
    found = {}
    for name, kind, data in tensors:
        if not name.startswith("direction."):
            continue
        if not (match := re.fullmatch(r"direction\.(\d+)", name)):
            raise UserError(f"{str(path)!r}: the tensor {name!r} names no layer; expected direction.N.")
        if kind not in ("F32", "F16", "F64") or data.ndim != 1:
            raise UserError(
                f"{str(path)!r}: {name} is of type {kind} with {data.ndim} dimension(s); expected one row of float32 or float16."
            )
        values = torch.from_numpy(data.astype("float32"))
        check_values(values, f"{path}: {name}")
        layer = int(match.group(1))
        own = _ours(fields.get(f"sluicegate.{name}"))
        found[layer] = SteeringVector(
            values,
            module=str(own["module"]) if "module" in own else f"{stem}.{layer}",
            tokens=str(own.get("tokens", "all")),
            made_from=own.get("made_from") or {"imported": path.name, "form": "GGUF control vector", "model_type": hint},
        )
    if not found:
        raise UserError(f"{str(path)!r} holds no direction.N, so there is nothing to steer with.")
    _one_width(found, str(path))
    return dict(sorted(found.items()))


def _ours(text: Any) -> dict[str, Any]:
    """What `write_gguf` noted of a vector; nothing where another program wrote the file."""
    with suppress(ValueError):
        if isinstance(text, str) and isinstance(found := json.loads(text), dict):
            return found
    return {}


def from_layers(source: Any, *, stem: str = "model.layers", layer_type: str = "", tokens: str = "all") -> dict[int, SteeringVector]:
    """Vectors by layer, from 0, of another library's object, or a mapping from layer to tensor or array.

    Known are steering-vectors' `SteeringVector` (`layer_activations`, `layer_type`) and repeng's `ControlVector`
    (`directions`, `model_type`); the libraries themselves are not needed.
    """
    hint = str(getattr(source, "model_type", ""))
    layers = getattr(source, "layer_activations", None) or getattr(source, "directions", None) or source
    kind = layer_type or str(getattr(source, "layer_type", "decoder_block"))
    if not isinstance(layers, Mapping) or not layers:
        raise UserError(
            f"cannot read vectors from {type(source).__name__}: expected a mapping from layer to vector, and at least one of them."
        )
    if kind not in PARTS:
        raise UserError(f"unknown layer type {kind!r}. Known: {', '.join(PARTS)}.")
    stem = STEMS.get(hint, stem)
    found = {}
    for layer, values in layers.items():
        if not isinstance(layer, int) or layer < 0:
            raise UserError(f"{layer!r} is no layer: expected a whole number, 0 or more.")
        own = torch.as_tensor(values).detach().float().cpu().squeeze()
        if own.dim() != 1:
            raise UserError(f"the vector of layer {layer} has the shape {list(torch.as_tensor(values).shape)}; expected one row.")
        check_values(own, f"layer {layer}")
        made = {"imported": type(source).__name__, "form": "a vector a layer", "model_type": hint}
        found[layer] = SteeringVector(own.clone(), module=f"{stem}.{layer}{PARTS[kind]}", tokens=tokens, made_from=made)
    _one_width(found, type(source).__name__)
    return dict(sorted(found.items()))


def read_layers(path: str | Path, *, stem: str = "model.layers", layer_type: str = "") -> dict[int, SteeringVector]:
    """The same from safetensors with tensors ``layer_activations.N`` or ``N``; `layer_type` may be metadata."""
    place = Path(path)
    if place.suffix.lower() in PICKLES:
        raise UserError(_pickled(place))
    tensors, metadata = _safetensors(place)
    named = {name: re.fullmatch(r"(?:layer_activations\.)?(\d+)", name) for name in tensors}
    if strange := [name for name, match in named.items() if not match]:
        raise UserError(f"{str(path)!r}: the tensor {strange[0]!r} names no layer; expected layer_activations.N, or N.")
    layers = {int(match.group(1)): tensors[name] for name, match in named.items() if match}
    return from_layers(layers, stem=stem, layer_type=layer_type or metadata.get("layer_type", "decoder_block"))


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with reading(path, "It is no readable safetensors file."), safe_open(check_readable(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def _one_width(found: Mapping[int, SteeringVector], where: str) -> None:
    widths = {layer: vector.values.numel() for layer, vector in found.items()}
    if len(set(widths.values())) > 1:
        raise UserError(f"{where}: the vectors have different widths: {', '.join(f'layer {n}: {w}' for n, w in widths.items())}.")


def _pickled(path: Path) -> str:
    return (
        f"{str(path)!r} is a pickle, which can run code when opened; it is not read. Where it was made, save its tensors as safetensors: "
        'safetensors.torch.save_file({f"layer_activations.{n}": t for n, t in vector.layer_activations.items()}, "vector.safetensors").'
    )


def _few(names: Any, most: int = 6) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "") or "none"
