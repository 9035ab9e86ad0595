"""A model's folder before any library reads it: which of its files count, and whether what they say of themselves can
be true."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from math import prod
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import safe_open
from torch.nn.modules import module as torch_module

from sluicegate.errors import UserError, first_line
from sluicegate.values.files import check_readable, read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
_CONTENT = (".safetensors", ".json", ".model", ".jinja", ".txt")
QUANTISED = {"bitsandbytes": ("bitsandbytes",), "gptq": ("optimum", "gptqmodel"), "awq": ("gptqmodel",)}
"""Ways of packing weights that are read, with the packages that each needs."""
_PACKED = {"U8": 4, "I8": 4, "I32": 16}  # weights in one number of a file, at two bits each
_FLOATS = ("F64", "F32", "F16", "BF16")
_OLD_MASK = re.compile(r"\.(attn|attention)\.(masked_)?bias$")  # GPT-2's causal mask and its like, no weights
_MOST_TEXT = 2**28  # bytes of a file that is read whole; the largest tokenizers have a tenth of it
_MOST_LAYERS = 10_000  # a configuration makes a list of its layers before anything else is known


@contextmanager
def reading(name: str, file: str | Path) -> Iterator[None]:
    """The one border at which what a library raises over a user's model becomes a `UserError` of one line.

    Everything inside must be a library's work on `file` of the model `name`: an error of ours would be blamed on it.
    A full disk stays what it is.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit, torch.OutOfMemoryError):
        raise
    except BaseException as error:  # a panic of the tokenizers' Rust code is no Exception
        if isinstance(error, OSError) and error.errno in (28, 122):  # ENOSPC, EDQUOT: a download found no room
            raise
        said = first_line(error)
        if "custom code" in said:
            said, hint = "it needs code of its own (auto_map), which is never run", "Hand in a model that transformers knows by itself."
        elif "/" in str(file) and not Path(file).exists():
            hint = "No such folder here, and the hub did not serve it. Check the spelling, or download the model and give its folder."
        else:
            hint = "Is it whole, and a causal language model in Hugging Face format?"
            if not isinstance(error, (OSError, ValueError)):
                said = f"{type(error).__name__}, {said}"
        raise UserError(f"could not load the model {name!r}: {Path(file).name}: {said}. {hint}") from error


def shards(folder: Path) -> list[str]:
    """The names, in `folder`, of the files that hold its weights; none where it has none that are read."""
    if (folder / WEIGHTS).exists():
        return [WEIGHTS]
    if not (folder / INDEX).exists():
        return []
    where = read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise UserError(f"{str(folder / INDEX)!r} names no files: its weight_map gives each weight the file that holds it.")
    names = sorted(set(where.values()))
    for name in names:
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts or PurePath(name).suffix != ".safetensors":
            raise UserError(f"{str(folder / INDEX)!r} names {name!r}; expected a .safetensors file inside the folder. Move it there.")
    return names


def content(folder: Path) -> dict[str, Path]:
    """The files that a model's content is made of, by name: those at the top, and those below that are loaded too."""
    found = {path.name: path for path in sorted(folder.iterdir()) if path.suffix in _CONTENT and not path.is_dir()}
    below = {path.relative_to(folder).as_posix() for path in folder.glob("additional_chat_templates/*.jinja")}
    for name in sorted(below.union(shards(folder)) - set(found)):
        found[name] = folder / name
    for path in found.values():
        check_readable(path, sys.maxsize if path.suffix == ".safetensors" else _MOST_TEXT)
    return found


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor of the folder's weights, read from the files' heads."""
    found = {}
    for name in shards(folder):
        with reading(str(folder), check_readable(folder / name, sys.maxsize)), safe_open(folder / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  # it is no dictionary
                part = file.get_slice(key)
                found[key] = part.get_dtype(), tuple(part.get_shape())
    return found


def check_config(folder: Path) -> None:
    """Refuse a configuration that is quantised as is not read, names other files or code, or is built for ever."""
    path = folder / "config.json"
    whole = read_json(path)
    for settings in (whole, *(value for value in whole.values() if isinstance(value, dict))):
        check_quantised(str(folder), settings)
        if settings.get("transformers_weights"):
            raise UserError(f"{str(path)!r} sets transformers_weights; the weights are read from {WEIGHTS} or {INDEX}. Rename the file.")
        for key, value in settings.items():
            if "implementation" in key and isinstance(value, str) and "/" in value:
                raise UserError(f"{str(path)!r} sets {key} to {value!r}, code from the hub, which is never run. Take that line out.")
            if "layer" in key and isinstance(value, (int, float)) and value > _MOST_LAYERS:
                raise UserError(f"{str(path)!r} sets {key} to {value:g}; at most {_MOST_LAYERS} are built.")


def check_quantised(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse weights that are packed in a way that is not read, or whose library is not installed."""
    if not (found := settings.get("quantization_config")):
        return
    how = str(found.get("quant_method", "a method without a name") if isinstance(found, dict) else found)
    lacks = [package for package in QUANTISED.get(how, ()) if find_spec(package) is None]
    if lacks or how not in QUANTISED:
        why = f", which needs: pip install {' '.join(lacks)}. Or hand" if lacks else f"; read are {', '.join(QUANTISED)}. Hand"
        raise UserError(f"the model {name!r} is quantised ({how}){why} in its weights as float safetensors.")


@contextmanager
def no_larger(name: str, held: Mapping[str, tuple[str, tuple[int, ...]]]) -> Iterator[None]:
    """Stop the building of a model as soon as it asks for more weights than its files hold.

    A model is built without memory first (torch's device "meta") and only then filled, so nothing is lost by stopping
    there. An output layer that will be tied counts until then, hence twice what the files hold.
    """
    have = sum(prod(shape) * _PACKED.get(kind, 1) for kind, shape in held.values())
    left = 2 * have + 2**20

    def count(_module: torch.nn.Module, _key: str, value: torch.Tensor | None) -> None:
        nonlocal left
        left -= value.numel() if value is not None and value.is_meta else 0
        if left < 0:
            raise UserError(f"the configuration of {name!r} asks for a larger model than its files hold ({have:,} weights).")

    hook = torch_module.register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def check_loaded(name: str, model: torch.nn.Module, info: Mapping[str, Any], held: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Refuse a model that is not, weight for weight, what its files hold, or whose weights are no numbers."""
    missing = sorted(info["missing_keys"])
    unknown = sorted(key for key in info["unexpected_keys"] if not _OLD_MASK.search(key))
    hint = "Save the whole model with save_pretrained."
    for prefix, wrapper in (("module.", "DistributedDataParallel"), ("_fsdp_wrapped_module.", "FSDP"), ("_orig_mod.", "torch.compile")):
        if any(prefix in key for key in unknown):
            hint = f"Its names have {prefix!r} in front: it was saved inside {wrapper}. Save what is inside, with save_pretrained."
    if missing:
        raise UserError(f"{name!r} lacks {len(missing)} of the model's weights, {missing[0]} for one. {hint}")
    if unknown:
        raise UserError(f"{name!r} holds {len(unknown)} weights that its config.json has no place for, {unknown[0]} for one. {hint}")
    if unlike := sorted(info["mismatched_keys"]):
        key, has, wants = unlike[0]
        raise UserError(
            f"{len(unlike)} weights of {name!r} have another shape than its config.json says, {key} for one: {list(has)} in the file, "
            f"{list(wants)} by config.json. Give the config.json that they were saved with."
        )
    for key, value in model.state_dict().items():
        kind = held.get(key, ("F32", ()))[0]
        if not value.is_floating_point() or not value.numel() or value.is_meta:  # what lies on the disk is on no device
            continue
        if kind not in _FLOATS:
            raise UserError(f"{name!r} holds {key} as {kind}, which is quantised. Hand in its weights as float safetensors.")
        if not bool(torch.stack(value.aminmax()).isfinite().all()):
            narrow = " They are loaded in float16, whose numbers end at 65504: try --dtype float32." * (value.dtype == torch.float16)
            raise UserError(f"{name!r} holds weights that are not finite, in {key} for one: no score of it means anything.{narrow}")


def refuse_unread(name: str, folder: Path) -> None:
    """Say what a folder without weights holds instead of some; never returns."""
    pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
    if pickled:
        raise UserError(
            f"{name!r} holds its weights as {pickled[0]}, a pickle, which can run code when opened. "
            "Save it with save_pretrained(..., safe_serialization=True) and hand in that folder."
        )
    others = sorted(path.name for kind in ("*.safetensors", "*.gguf", "*.h5", "*.msgpack") for path in folder.glob(kind))
    found = f"found {', '.join(others[:3])}{' ...' * (len(others) > 3)}" if others else "found none"
    raise UserError(
        f"{name!r} holds no weights that are read: expected {WEIGHTS}, or {INDEX} and the files that it names; {found}. "
        f"Save the model with save_pretrained. For a new model of this shape, with random weights, give: fresh:{name}"
    )
