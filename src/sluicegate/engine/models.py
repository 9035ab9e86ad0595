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
from accelerate import hooks
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from sluicegate.deprecated import alias
from sluicegate.engine import folder as files
from sluicegate.errors import UserError, first_line, nearest
from sluicegate.registry import folders, from_elsewhere
from sluicegate.runs.disk import plain_disk_errors, share
from sluicegate.values.files import read_json

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

DTYPES = ("float32", "bfloat16", "float16")
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


def load(
    name: str, *, seed: int = 0, dtype: str = "auto", base: str = "", device_map: Any = ""
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, on `device()`.

    dtype: float32, bfloat16 or float16; auto is float32 on a CPU, and on an accelerator what the weights are saved in.
    base: an adapter's base, where it is not found by the name that the adapter gives. device_map: places for what one
    device does not hold, by accelerate ("auto", or a table of modules); such a model can be scored, not trained.
    A configuration that ships without weights, or a folder asked for as ``fresh:FOLDER``, gives a new model drawn from
    `seed`. Of an adapter and its base the merged model is loaded. Only safetensors are read: nothing is unpickled, no
    remote code is run. Raises `UserError` for a model that is not weight for weight what its files hold, or whose
    weights are not finite.
    """
    tokenizer = load_tokenizer(name, base)
    model = load_model(name, seed=seed, dtype=dtype, base=base, device_map=device_map)
    embedding: Any = model.get_input_embeddings()
    setattr(tokenizer, "embedding_rows", len(embedding.weight))  # noqa: B010  # no field of its class; for `check_ids`
    return model, tokenizer


def load_model(name: str, *, seed: int = 0, dtype: str = "auto", base: str = "", device_map: Any = "") -> PreTrainedModel:
    """`load`, without a tokenizer."""
    _loaded.clear()  # what `load_once` keeps is not to lie beside another model
    place, adapter = _parts(name, base)
    kind = _computable(settled_dtype(name, dtype, base))
    if _is_drawn(name, place):
        model = fresh(read_config(name), seed, kind)
    else:
        if adapter and is_quantised(name, base):
            raise UserError(
                f"the base of the adapter {name!r} is quantised, and nothing is merged into that. Give --base its float weights."
            )
        model = _whole(name, place, kind, device_map)
        if adapter:
            model = _merged(name, model, adapter, place)
    mode = model.training
    with files.reading(name, "config.json"), torch.no_grad(), torch.random.fork_rng():
        two = torch.zeros(1, 2, dtype=torch.long, device=device())
        model.train()(input_ids=two, use_cache=False)  # what is wrong in config.json may show in a forward pass alone
        if not bool(model.eval()(input_ids=two, use_cache=False).logits.isfinite().all()):
            raise ValueError("its config.json and weights give logits that are not finite")
    model.train(mode)
    return model


def settled_dtype(name: str, dtype: Any, base: str = "") -> Any:
    """`dtype` as a run records it. On an accelerator "auto" becomes what the model's config.json says that it was saved
    in; it stays where that is float32, and where the weights are drawn."""
    if dtype != "auto" or device().type == "cpu" or _is_drawn(name, _parts(name, base)[0]):
        return dtype
    config = read_config(name, base)
    said = str(config.dtype or config.get_text_config().dtype).removeprefix("torch.")
    return said if said in DTYPES[1:] else "auto"


def _computable(dtype: str) -> torch.dtype:
    """torch's own name of a type of numbers; `UserError` where there is none, or the device cannot compute in it."""
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"dtype is {dtype!r}; expected auto, {', '.join(DTYPES)}.")
    found: torch.dtype = getattr(torch, dtype.replace("auto", "float32"))
    try:
        one = torch.ones(2, 2, dtype=found, device=device())
        float((one @ one).sum())
    except (RuntimeError, TypeError) as error:
        raise UserError(f"this device ({device()}) does not compute in {dtype}: {first_line(error)}. Try --dtype float32.") from None
    return found


def is_quantised(name: str, base: str = "") -> bool:
    """Whether a model's weights are packed in few bits (bitsandbytes, GPTQ, AWQ)."""
    config = read_config(name, base)
    return any(getattr(part, "quantization_config", None) for part in (config, config.get_text_config()))


def _parts(name: str, base: str = "") -> tuple[str, Path | None]:
    """Where a model's configuration and whole weights (or an adapter's base) lie, and the folder of its adapter."""
    place, folder = locate(name), adapter_folder(name)
    if folder is None:
        if base:
            raise UserError(f"--base {base} is for an adapter, and {name!r} holds whole weights. Leave --base out.")
        return place, None
    if not base and (folder / "config.json").exists() and (name.startswith(FRESH) or files.shards(folder)):
        return place, folder
    base = base or read_json(folder / "adapter_config.json").get("base_model_name_or_path", "")
    if not (where := _weights_at(base)):
        raise UserError(
            f"{name!r} holds an adapter ({files.ADAPTER}) and no weights of its own, and its base {base!r} is no model with "
            "weights here. Name the base: --base FOLDER, or put its config.json and weights beside the adapter."
        )
    return where, folder


def adapter_folder(name: str) -> Path | None:
    """The folder of the adapter that a name stands for, alone or beside whole weights; None where it is none."""
    found = _file_of(place := locate(name), "adapter_config.json")
    if found and (Path(place).is_dir() or _file_of(place, files.ADAPTER)):  # of the hub, both are brought here
        return found.parent
    return None


def _file_of(place: str, file: str) -> Path | None:
    """A file of a model's folder, or of a hub id's (its cache is a folder as well); None where it has none."""
    if Path(place).is_dir():
        return Path(place) / file if (Path(place) / file).exists() else None
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    with files.reading(place, place):
        found = cached_file(place, file, **quiet)
    return Path(found) if found else None


def _weights_at(name: Any) -> str:
    """Where a model with whole weights lies, or its hub id; empty where this is no name of one."""
    try:
        where = locate(name) if isinstance(name, str) and name else ""
    except UserError:
        where = ""
    return "" if not where or (Path(where) / "adapter_config.json").exists() or _is_drawn("", where) else where


def _is_drawn(name: str, place: str) -> bool:
    """Whether the model's weights are drawn and not read: asked for by name, or a configuration that ships without."""
    ships = Path(place).is_dir() and not files.shards(Path(place)) and Path(place).resolve() in {p.resolve() for p in packaged().values()}
    return name.startswith(FRESH) or ships


def _whole(name: str, place: str, dtype: torch.dtype, device_map: Any) -> PreTrainedModel:
    """The model as its own files hold it, without any adapter; weights go from the file to their place one by one."""
    folder, held = Path(place), {}
    if folder.is_dir():
        if divided := [*folder.rglob("*.distcp"), *folder.glob("shard-*-model-*.safetensors")]:
            raise UserError(
                f"{name!r} holds a checkpoint that is divided among processes ({divided[0].name}). Put it together first, for "
                "example with torch.distributed.checkpoint.format_utils, and save the model with save_pretrained."
            )
        files.check_config(folder)
        if not files.shards(folder):
            files.refuse_unread(name, folder)
        held = files.tensors(folder)
    quantised = is_quantised(place)
    there = device_map or ({"": device()} if quantised or device().type != "cpu" else None)
    with files.reading(name, place), files.no_larger(name, held) if folder.is_dir() else nullcontext():
        model, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]  # the stub does not know what output_loading_info does
            place, use_safetensors=True, dtype=dtype, output_loading_info=True, trust_remote_code=False,
            ignore_mismatched_sizes=not quantised, adapter_kwargs=_NOT_THERE, device_map=there,
        )  # fmt: skip
    files.check_loaded(name, model, info, held)  # type: ignore[has-type]
    if device_map and not hasattr(model, "_hf_hook"):  # type: ignore[has-type]  # all on one device: its inputs may come from another
        hooks.add_hook_to_module(model, hooks.AlignDevicesHook(model.device, io_same_device=True))  # type: ignore[has-type]
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
        config: Any = PeftConfig.from_pretrained(str(adapter))
        own = _weights_at(said := config.base_model_name_or_path)
        if own and Path(own).is_dir() == Path(base).is_dir() and model_digest(own) != model_digest(base):
            raise UserError(f"{name!r} holds an adapter for another base: {said!r}, and not {base!r}. Leave --base out, or name that one.")
        config.base_model_name_or_path = model.name_or_path  # where they differ, PEFT warns of what was just checked
        try:
            wrapped = get_peft_model(model, config)
            put = wrapped.load_adapter(str(adapter), "default")
        except (RuntimeError, ValueError) as error:  # other shapes, or no such layers
            text = f"{name!r} holds an adapter that does not fit {base!r}: {first_line(error)[:200]}"
            raise UserError(f"{text} Is it for another base ({said})? Name its own: --base FOLDER.") from None
        if lost := [*put.missing_keys, *put.unexpected_keys]:
            raise ValueError(f"it does not fit adapter_config.json and the base; {lost[0]} is in one alone")
        merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    files.check_loaded(name, merged, {"missing_keys": (), "unexpected_keys": (), "mismatched_keys": ()}, {})
    sys.stderr.write(f"note: {name} holds an adapter; it was merged into its base {base} in memory\n")
    return merged


_loaded: dict[tuple[Any, ...], tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}


def load_once(
    name: str, *, seed: int = 0, dtype: str = "auto", base: str = "", device_map: str = ""
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load`, but the same objects again where this process asked for the same model last and its files are unchanged.

    For callers that leave the model as it is, or as it was. `load` itself always gives a new one, and lets go of the
    kept one.
    """
    place = locate(name)
    where, adapter = _parts(name, base)
    stamps = _file_stamps(Path(place)) + (_file_stamps(Path(where)) if adapter else ())
    key = (place, where, stamps, seed if _is_drawn(name, where) else None, dtype, device_map)
    if key not in _loaded:
        _loaded[key] = load(name, seed=seed, dtype=dtype, base=base, device_map=device_map)
    return _loaded[key]


def let_go() -> None:
    """Keep no model for `load_once`: for who cannot be sure to have left it as it was."""
    _loaded.clear()


def _file_stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of the files that count in a folder; nothing for what is no folder here."""
    if not folder.is_dir():
        return ()
    return tuple((name, (seen := path.stat()).st_size, seen.st_mtime_ns) for name, path in files.content(folder).items())


def load_tokenizer(name: str, base: str = "") -> PreTrainedTokenizerBase:
    """Load a model's tokenizer alone; raises `UserError` where the folder has none."""
    place = locate(name)
    named = ("tokenizer.json", "tokenizer.model", "vocab.json")
    where, adapter = _parts(name, base)
    if (adapter or Path(place).is_dir()) and not any(_file_of(place, file) for file in named):
        if adapter is None or where == place:
            raise UserError(
                f"{name!r} has a model but no tokenizer (no tokenizer.json in {place}). "
                "Copy the tokenizer's files of the model it was made from into that folder."
            )
        place = where
    config = read_config(name, base)
    if Path(place).is_dir():
        files.content(Path(place))  # its files are ordinary ones
    with files.reading(name, Path(place) / "tokenizer.json" if Path(place).is_dir() else place):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, config=config, trust_remote_code=False)
        tokenizer("a b", add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)  # what `encode` asks of it
    return tokenizer


def read_config(name: str, base: str = "") -> Any:
    """A model's configuration, without its weights."""
    place, _ = _parts(name, base)
    folder = Path(place)
    if folder.is_dir():
        files.check_config(folder)
    with files.reading(name, folder / "config.json" if folder.is_dir() else place):
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        int(config.get_text_config().hidden_size)
    if not folder.is_dir():
        files.check_quantised(name, config.to_dict())
    return config


def config_width(name: str, base: str = "") -> int:
    """A model's hidden size, read from its configuration alone."""
    return int(read_config(name, base).get_text_config().hidden_size)


def width(model: PreTrainedModel) -> int:
    """The model's hidden size."""
    return int(model.config.get_text_config().hidden_size)


def fresh(config: Any, seed: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A newly initialised model of the same shape, drawn from `seed`; the global generator is left alone."""
    made_from = str(getattr(config, "_name_or_path", "") or config.model_type)
    with files.reading(made_from, "config.json"), torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    model.to(device())  # type: ignore[arg-type]  # in place; the stub of transformers is wrong about it
    return model


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write an ordinary Hugging Face folder (safetensors) in the model's own dtype, all of it or nothing."""
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


def model_digest(name: str, base: str = "") -> str:
    """sha256 of a model folder's content (configuration, weights, tokenizer); for a hub id, of its name.

    An adapter's base belongs to the content, and so does that a model is drawn anew.
    """
    place = locate(name)
    if not Path(place).is_dir():
        return hashlib.sha256(f"hub:{name}".encode()).hexdigest()
    own = _hash_folder(Path(place), _file_stamps(Path(place)))
    where, _ = _parts(name, base)
    more = FRESH if name.startswith(FRESH) else model_digest(where) if where != place else ""
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
