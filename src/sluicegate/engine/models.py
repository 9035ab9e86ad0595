"""Load a causal language model and its tokenizer, and save them. Weights are never transformed on loading."""

import hashlib
import os
import shutil
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from sluicegate.deprecated import alias
from sluicegate.engine import folder as files
from sluicegate.errors import UserError, nearest
from sluicegate.registry import folders, from_elsewhere
from sluicegate.runs.disk import plain_disk_errors, share
from sluicegate.values.files import read_json

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

FRESH = "fresh:"
"""In front of a folder's name: a new model of its shape, with random weights."""
_NOT_THERE = {"subfolder": "-"}  # where transformers is to look for adapters: it would put them on without a word


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

    Returns a folder's path, or the name itself where it can only be a hub id. A folder named with ``fresh:`` in front
    is that folder: `load` draws its weights anew.
    """
    path = Path(name.removeprefix(FRESH)).expanduser()
    if path.is_dir():
        for folder in (path, path / "model"):
            if (folder / "config.json").exists() or (folder / "adapter_config.json").exists():
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

    A configuration that ships without weights, or a folder asked for as ``fresh:FOLDER``, gives a new model drawn from
    `seed`. Of an adapter and its base the merged model is loaded. Only safetensors are read: nothing is unpickled, no
    remote code is run. Raises `UserError` for a model that is not weight for weight what its files hold, or whose
    weights are not finite.
    """
    tokenizer = load_tokenizer(name)
    model = load_model(name, seed=seed)
    embedding: Any = model.get_input_embeddings()
    setattr(tokenizer, "embedding_rows", len(embedding.weight))  # noqa: B010  # no field of its class; for `check_ids`
    return model, tokenizer


def load_model(name: str, *, seed: int = 0) -> PreTrainedModel:
    """`load`, without a tokenizer."""
    _loaded.clear()  # what `load_once` keeps is not to lie beside another model
    base, adapter = _parts(name)
    if _is_drawn(name, base):
        model = fresh(read_config(name), seed)
    else:
        model = _whole(name, base)
        if adapter:
            model = _merged(name, model, adapter, base)
    model, mode = _move_to_device(model), model.training
    with files.reading(name, "config.json"), torch.no_grad(), torch.random.fork_rng():
        two = torch.zeros(1, 2, dtype=torch.long, device=model.device)
        model.train()(input_ids=two, use_cache=False)  # what is wrong in config.json may show in a forward pass alone
        if not bool(model.eval()(input_ids=two, use_cache=False).logits.isfinite().all()):
            raise ValueError("its config.json and weights give logits that are not finite")
    model.train(mode)
    return model


def _parts(name: str) -> tuple[str, Path | None]:
    """Where a model's configuration and whole weights lie, and the folder of the adapter that goes on them, if any."""
    place = locate(name)
    folder = Path(place)
    if not folder.is_dir():  # the hub's cache is a folder as well
        quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
        with files.reading(name, place):
            found = cached_file(place, "adapter_config.json", **quiet) and cached_file(place, files.ADAPTER, **quiet)
        if not found:
            return place, None
        folder = Path(found).parent
    note = folder / "adapter_config.json"
    if not note.exists():
        return place, None
    if (folder / "config.json").exists() and (name.startswith(FRESH) or files.shards(folder)):
        return place, folder
    base = read_json(note).get("base_model_name_or_path")
    try:
        where = locate(base) if isinstance(base, str) and base else ""
    except UserError:
        where = ""
    if not where or (Path(where) / "adapter_config.json").exists() or _is_drawn("", where):
        raise UserError(
            f"{name!r} holds an adapter ({files.ADAPTER}) and no weights of its own, and its base {base!r} is no model with weights "
            "here. Put the base's config.json and weights beside it, or merge the two with peft's merge_and_unload and save that."
        )
    return where, folder


def _is_drawn(name: str, place: str) -> bool:
    """Whether the model's weights are drawn and not read: asked for by name, or a configuration that ships without."""
    ships = Path(place).is_dir() and not files.shards(Path(place)) and Path(place).resolve() in {p.resolve() for p in packaged().values()}
    return name.startswith(FRESH) or ships


def _whole(name: str, place: str) -> PreTrainedModel:
    """The model as its own files hold it, without any adapter."""
    folder, held = Path(place), {}
    if folder.is_dir():
        if divided := [*folder.rglob("*.distcp"), *folder.glob("shard-*-model-*.safetensors")]:
            raise UserError(
                f"{name!r} holds a checkpoint that is divided among processes ({divided[0].name}). Put it together first, for "
                "example with torch.distributed.checkpoint.format_utils, and save the model with save_pretrained."
            )
        read_config(name)
        if not files.shards(folder):
            files.refuse_unread(name, folder)
        held = files.tensors(folder)
    with files.reading(name, place), files.no_larger(name, held) if folder.is_dir() else nullcontext():
        model, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]  # the stub does not know what output_loading_info does
            place, use_safetensors=True, dtype=torch.float32, output_loading_info=True, trust_remote_code=False,
            ignore_mismatched_sizes=True, adapter_kwargs=_NOT_THERE,
        )  # fmt: skip
    files.check_loaded(name, model, info, held)  # type: ignore[has-type]
    return model  # type: ignore[has-type, no-any-return]


def _merged(name: str, model: PreTrainedModel, adapter: Path, base: str) -> PreTrainedModel:
    """`model` with an adapter's change in its own weights."""
    try:
        from peft import PeftConfig, get_peft_model
    except ImportError:
        raise UserError(f"{name!r} holds an adapter, which needs the package peft: pip install 'sluicegate[lora]'") from None
    if not (adapter / files.ADAPTER).exists():
        raise UserError(f"{name!r} has an adapter_config.json and no {files.ADAPTER}. Save the adapter with save_pretrained.")
    with files.reading(name, adapter / files.ADAPTER), torch.random.fork_rng():
        wrapped = get_peft_model(model, PeftConfig.from_pretrained(str(adapter)))
        put = wrapped.load_adapter(str(adapter), "default")
        if lost := [*put.missing_keys, *put.unexpected_keys]:
            raise ValueError(f"it does not fit adapter_config.json and the base; {lost[0]} is in one alone")
        merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    files.check_loaded(name, merged, {"missing_keys": (), "unexpected_keys": (), "mismatched_keys": ()}, {})
    sys.stderr.write(f"note: {name} holds an adapter; it was merged into its base {base} in memory\n")
    return merged


_loaded: dict[tuple[Any, ...], tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}


def load_once(name: str, *, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load`, but the same objects again where this process asked for the same model last and its files are unchanged.

    For callers that leave the model as it is, or as it was. `load` itself always gives a new one, and lets go of the
    kept one.
    """
    place = locate(name)
    base, adapter = _parts(name)
    stamps = _file_stamps(Path(place)) + (_file_stamps(Path(base)) if adapter else ())
    key = (place, stamps, seed if _is_drawn(name, base) else None)
    if key not in _loaded:
        found = load(name, seed=seed)
        _loaded[key] = found
    return _loaded[key]


def let_go() -> None:
    """Keep no model for `load_once`: for who cannot be sure to have left it as it was."""
    _loaded.clear()


def _file_stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of the files that count in a folder; nothing for what is no folder here."""
    if not folder.is_dir():
        return ()
    return tuple((name, (seen := path.stat()).st_size, seen.st_mtime_ns) for name, path in files.content(folder).items())


def _move_to_device(model: PreTrainedModel) -> PreTrainedModel:
    model.to(device())  # type: ignore[arg-type]  # in place; the stub of transformers is wrong about it
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer alone; raises `UserError` where the folder has none."""
    place = locate(name)
    named = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if Path(place).is_dir() and not any((Path(place) / file).exists() for file in named):
        base, adapter = _parts(name)
        if adapter is None or base == place:
            raise UserError(
                f"{name!r} has a model but no tokenizer (no tokenizer.json in {place}). "
                "Copy the tokenizer's files of the model it was made from into that folder."
            )
        place = base
    config = read_config(name)
    if Path(place).is_dir():
        files.content(Path(place))  # its files are ordinary ones
    with files.reading(name, Path(place) / "tokenizer.json" if Path(place).is_dir() else place):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, config=config, trust_remote_code=False)
        tokenizer("a b", add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)  # what `encode` asks of it
    return tokenizer


def read_config(name: str) -> Any:
    """A model's configuration, without its weights."""
    base, _ = _parts(name)
    folder = Path(base)
    if folder.is_dir():
        files.check_config(folder)
    with files.reading(name, folder / "config.json" if folder.is_dir() else base):
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        int(config.get_text_config().hidden_size)
    return config


def config_width(name: str) -> int:
    """A model's hidden size, read from its configuration alone."""
    return int(read_config(name).get_text_config().hidden_size)


def width(model: PreTrainedModel) -> int:
    """The model's hidden size."""
    return int(model.config.get_text_config().hidden_size)


def fresh(config: Any, seed: int) -> PreTrainedModel:
    """A newly initialised model of the same shape, drawn from `seed`; the global generator is left alone."""
    made_from = str(getattr(config, "_name_or_path", "") or config.model_type)
    with files.reading(made_from, "config.json"), torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
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
    """sha256 of a model folder's content (configuration, weights, tokenizer); for a hub id, of its name.

    An adapter's base belongs to the content, and so does that a model is drawn anew.
    """
    place = locate(name)
    if not Path(place).is_dir():
        return hashlib.sha256(f"hub:{name}".encode()).hexdigest()
    own = _hash_folder(Path(place), _file_stamps(Path(place)))
    base, _ = _parts(name)
    more = FRESH if name.startswith(FRESH) else model_digest(base) if base != place else ""
    return hashlib.sha256(f"{own} {more}".encode()).hexdigest() if more else own


@cache
def _hash_folder(place: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """The same of a folder, once a process while its files have these `stamps`."""
    sha = hashlib.sha256()
    for name, path in files.content(place).items():
        sha.update(name.encode())
        with files.reading(str(place), path), path.open("rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()


__getattr__ = alias(
    __name__,
    **{name: f"sluicegate.engine.encoding.{name}" for name in ("Batch", "Rows", "encode", "fitting", "visible")},
    **{name: f"sluicegate.engine.forward.{name}" for name in ("Meter", "logits")},
)
