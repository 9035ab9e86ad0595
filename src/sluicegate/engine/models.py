"""Load a causal language model and its tokenizer, and save them. Weights are never transformed on loading."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from sluicegate.deprecated import alias
from sluicegate.errors import UserError, first_line, nearest
from sluicegate.registry import folders, from_elsewhere
from sluicegate.runs.disk import plain_disk_errors, share

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    if torch.accelerator.is_available():
        found = torch.accelerator.current_accelerator()
        if found is not None:
            return found
    return torch.device("cpu")


def packaged() -> dict[str, Path]:
    """The tiny configurations that ship with the package, by name."""
    return {path.name: path for folder in folders("configs") for path in sorted(folder.iterdir()) if path.is_dir()}


def locate(name: str) -> str:
    """Resolve a model's name: a folder, a run folder, a packaged configuration, a fetched model or a hub id.

    Returns a folder's path, or the name itself where it can only be a hub id.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        for folder in (path, path / "model"):
            if (folder / "config.json").exists():
                return str(folder)
        if (path / "config.toml").exists() and not (path / "DONE").exists():
            raise UserError(f"the run {name!r} is not finished, so it has no model yet. Run its command again: it resumes.")
        raise UserError(f"the folder {name!r} holds no model: no config.json in it or in {name}/model.")
    if name in packaged():
        return str(packaged()[name])
    from sluicegate.engine.fetch import MODELS, cache_dir

    if name in MODELS:
        cached = cache_dir() / name
        if not (cached / "config.json").exists():
            raise UserError(f"{name!r} is not on this machine yet. Get it with: sluicegate fetch {name}")
        return str(cached)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        known = [*packaged(), *MODELS]
        raise UserError(
            f"no model {name!r}: not a folder, and none that ships by that name.{from_elsewhere('model', name)} "
            f"Nearest: {nearest(name, known)}. "
            "A model is a folder with config.json, a run folder, a packaged configuration, or a hub id (owner/name)."
        )
    return name


def load(name: str, *, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, in float32, on `device()`.

    A folder without weights (a packaged tiny configuration) gives a freshly initialised model
    drawn from `seed`. Only safetensors are read: nothing is unpickled, no remote code is run.
    """
    _loaded.clear()  # what `load_once` keeps is not to lie beside another model
    place = locate(name)
    folder = Path(place)
    tokenizer = load_tokenizer(name)
    with _explain_errors(name, place):
        if folder.is_dir() and not any((folder / file).exists() for file in WEIGHTS):
            pickled = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
            if pickled:
                raise UserError(
                    f"{name!r} holds its weights as {pickled[0].name}, a pickle, which can run code when opened. "
                    "Save it with save_pretrained(..., safe_serialization=True) and hand in that folder."
                )
            if divided := [*folder.rglob("*.distcp")]:
                raise UserError(
                    f"{name!r} holds a checkpoint that is divided among processes ({divided[0].name}). Put it together first, for "
                    "example with torch.distributed.checkpoint.format_utils, and save the model with save_pretrained."
                )
            model = fresh(AutoConfig.from_pretrained(place), seed)
        else:
            model, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]  # the stub does not know what output_loading_info does
                place, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            _check_complete(name, info)  # type: ignore[has-type]
    return _move_to_device(model), tokenizer


_loaded: dict[tuple[Any, ...], tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}


def load_once(name: str, *, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load`, but the same objects again where this process asked for the same model last and its files are unchanged.

    For callers that leave the model as it is. `load` itself always gives a new one, and lets go of the kept one.
    """
    place = Path(locate(name))
    drawn = place.is_dir() and not any((place / file).exists() for file in WEIGHTS)
    key = (str(place), _file_stamps(place), seed if drawn else None)
    if key not in _loaded:
        found = load(name, seed=seed)
        _loaded[key] = found
    return _loaded[key]


def _file_stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of a folder's files; nothing for what is no folder here."""
    if not folder.is_dir():
        return ()
    return tuple((path.name, (seen := path.stat()).st_size, seen.st_mtime_ns) for path in sorted(folder.iterdir()))


def _check_complete(name: str, info: Mapping[str, Any]) -> None:
    """Raise `UserError` where weights are missing: they would have been drawn at random, without a word."""
    missing, unknown = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if not missing:
        return
    hint = "Save the whole model with save_pretrained."
    for prefix, wrapper in (("module.", "DistributedDataParallel"), ("_fsdp_wrapped_module.", "FSDP"), ("_orig_mod.", "torch.compile")):
        if any(prefix in key for key in unknown):
            hint = f"Its names have {prefix!r} in front: it was saved inside {wrapper}. Save what is inside, with save_pretrained."
    raise UserError(f"{name!r} lacks {len(missing)} of the model's weights, {missing[0]} for one. {hint}")


def _move_to_device(model: PreTrainedModel) -> PreTrainedModel:
    model.to(device())  # type: ignore[arg-type]  # in place; the stub of transformers is wrong about it
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer alone; raises `UserError` where the folder has none."""
    place = locate(name)
    folder = Path(place)
    if folder.is_dir() and not any((folder / file).exists() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UserError(
            f"{name!r} has a model but no tokenizer (no tokenizer.json in {place}). "
            "Copy the tokenizer's files of the model it was made from into that folder."
        )
    with _explain_errors(name, place):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
    return tokenizer


def config_width(name: str) -> int:
    """A model's hidden size, read from its configuration alone."""
    place = locate(name)
    with _explain_errors(name, place):
        return int(AutoConfig.from_pretrained(place).get_text_config().hidden_size)


def width(model: PreTrainedModel) -> int:
    """The model's hidden size."""
    return int(model.config.get_text_config().hidden_size)


def fresh(config: Any, seed: int) -> PreTrainedModel:
    """A newly initialised model of the same shape, drawn from `seed`; the global generator is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return _move_to_device(model)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write an ordinary Hugging Face folder (safetensors), all of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}-{os.getpid()}")
    scratch.mkdir()  # unlike mkdtemp, readable by whoever may read what else is made here
    try:
        with plain_disk_errors():
            model.save_pretrained(scratch)
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)
        share(scratch)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def model_digest(name: str) -> str:
    """sha256 of a model folder's content (configuration, weights, tokenizer); for a hub id, of its name."""
    place = Path(locate(name))
    if not place.is_dir():
        return hashlib.sha256(f"hub:{name}".encode()).hexdigest()
    return _hash_folder(place, _file_stamps(place))


@cache
def _hash_folder(place: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """The same of a folder, once a process while its files have these `stamps`."""
    sha = hashlib.sha256()
    for path in sorted(place.iterdir()):
        if path.suffix in (".safetensors", ".json", ".model", ".jinja", ".txt"):
            sha.update(path.name.encode())
            with path.open("rb") as file:
                sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()


@contextlib.contextmanager
def _explain_errors(name: str, place: str) -> Iterator[None]:
    """Turn the libraries' errors about a folder or a hub id into one that says what to do."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, json.JSONDecodeError, SafetensorError) as error:
        if getattr(error, "errno", None):
            raise  # the disk's own trouble, not the model's
        hint = "Is it a causal language model in Hugging Face format?"
        if not Path(place).is_dir():
            hint = "No such folder here, and the hub did not serve it. Check the spelling, or download the model and give its folder."
        raise UserError(f"could not load the model {name!r}: {first_line(error)}. {hint}") from error


__getattr__ = alias(
    __name__,
    **{name: f"sluicegate.engine.encoding.{name}" for name in ("Batch", "Rows", "encode", "fitting", "visible")},
    **{name: f"sluicegate.engine.forward.{name}" for name in ("Meter", "logits")},
)
