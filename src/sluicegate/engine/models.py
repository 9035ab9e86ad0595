"""Models and text: load a causal language model, and turn items into token ids.

`encode` is the only function in the package that turns text into ids, so that training, probing
and attacking see the same tokens. Weights are never transformed on loading.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from sluicegate.errors import UserError, first_line, nearest
from sluicegate.registry import folders
from sluicegate.runs.disk import plain_disk_errors
from sluicegate.values.items import Item

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


# ---------------------------------------------------------------------------------------- loading


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
            f"no model {name!r}: not a folder, and none that ships by that name. Nearest: {nearest(name, known)}. "
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


def fitting(model: PreTrainedModel, max_length: int) -> int:
    """`max_length`, or the number of positions that the model has, where that is less."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(max_length, positions) if positions else max_length


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


# -------------------------------------------------------------------------------------- text -> ids


@dataclass(frozen=True)
class Batch:
    """Rows for one step. Targets are shifted: column t of a mask speaks of predicting token t + 1."""

    ids: Tensor
    """[b, s] token ids, padded on the right."""
    attention: Tensor
    """[b, s] True where there is a token."""
    answer: Tensor
    """[b, s-1] True where the token to predict belongs to the answer (or to running text)."""
    index: Tensor
    """[b] each row's number among its `Rows`."""
    totals: Mapping[str, float] = field(default_factory=dict)
    """Divisors of the batch's means, carried over to its parts when it is split."""

    @property
    def real(self) -> Tensor:
        """[b, s-1] True where there is a token to predict."""
        return self.attention[:, 1:]

    def total(self, what: str) -> float:
        """Number of rows, or of True entries of a mask, in the whole batch (before any split)."""
        if what in self.totals:
            return self.totals[what]
        return float(len(self.ids)) if what == "rows" else max(float(getattr(self, what).sum()), 1.0)

    def split(self, parts: int) -> "list[Batch]":
        """Cut into `parts` whose losses, each over the whole batch's total, add up to the batch's."""
        if parts == 1:
            return [self]
        totals = {what: self.total(what) for what in ("rows", "answer", "real", "attention")}
        cut = [tensor.tensor_split(parts) for tensor in (self.ids, self.attention, self.answer, self.index)]
        return [Batch(ids, attention, answer, index, totals) for ids, attention, answer, index in zip(*cut, strict=True)]


@dataclass(frozen=True)
class Rows:
    """Encoded items, kept together so that a batch is one slice."""

    ids: Tensor
    """[n, s] padded on the right."""
    lengths: Tensor
    """[n] number of tokens of each row."""
    starts: Tensor
    """[n] position of the first token that belongs to the answer."""
    items: tuple[Item, ...]
    """The item of each row; a long text gives several rows."""

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, index: Sequence[int] | Tensor) -> Batch:
        """Return the rows at `index`, cut to the longest of them, on `device()`."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        lengths = self.lengths[chosen]
        width = int(lengths.max())
        place = torch.arange(width)
        attention = place < lengths[:, None]
        answer = attention & (place >= self.starts[chosen][:, None])
        to = device()
        return Batch(self.ids[chosen, :width].to(to), attention.to(to), answer[:, 1:].to(to), chosen.to(to))

    def everything(self, size: int = 256) -> Iterator[Batch]:
        """All rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(torch.arange(start, min(start + size, len(self))))

    def select(self, index: Sequence[int]) -> "Rows":
        """The rows at `index`, as rows."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        items = tuple(self.items[int(i)] for i in chosen)
        return replace(self, ids=self.ids[chosen], lengths=self.lengths[chosen], starts=self.starts[chosen], items=items)


def encode(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], *, max_length: int = 256, template: bool = False) -> Rows:
    """Turn items into token ids: the only place where text becomes numbers.

    Exactly one BOS stands in front where the tokenizer has one. With `template`, a prompt is
    rendered by the tokenizer's chat template as the user's turn and the answer opens the reply.
    Running text longer than `max_length` tokens is cut into windows, each a row.

    Raises `UserError` naming the row for an answer the tokenizer cannot represent, a prompt with
    answer that is longer than `max_length`, a tokenizer without a chat template, or no items.
    """
    if not items:
        raise UserError("there are no rows to encode.")
    if max_length < 2:
        raise UserError(f"--max-length is {max_length}; it must be at least 2, so that there is a token to predict.")
    if template and not tokenizer.chat_template:
        raise UserError("this tokenizer has no chat template; leave --template out.")
    rows: list[tuple[list[int], int, Item]] = []
    for number, item in enumerate(items, start=1):
        ids, start = _encode_one(tokenizer, item, template)
        where = f"row {number} ({item.text[:60]!r})"
        unknown = tokenizer.unk_token_id
        if unknown is not None and unknown in ids[start:]:
            raise UserError(f"{where}: the tokenizer cannot represent the answer {item.answer!r}: part of it is unknown to its vocabulary.")
        if len(ids) < 2 or start >= len(ids):
            raise UserError(f"{where}: there is no token to predict. Give it a longer text, or an answer that is not blank.")
        if len(ids) <= max_length:
            rows.append((ids, start, item))
        elif item.prompt:
            way_out = "Shorten it, or raise --max-length if the model has more positions."
            raise UserError(f"{where}: {len(ids)} tokens, more than the {max_length} allowed. {way_out}")
        else:
            rows.extend((window, min(start, 1), item) for window in _windows(ids, max_length))
    width = max(len(ids) for ids, _, _ in rows)
    # The value of the padding is never seen: it lies to the right of every real token and is masked.
    padded = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (ids, _, _) in enumerate(rows):
        padded[i, : len(ids)] = torch.tensor(ids)
    lengths = torch.tensor([len(ids) for ids, _, _ in rows])
    starts = torch.tensor([start for _, start, _ in rows])
    return Rows(padded, lengths, starts, tuple(item for _, _, item in rows))


def _encode_one(tokenizer: PreTrainedTokenizerBase, item: Item, template: bool) -> tuple[list[int], int]:
    """Ids of one item with exactly one BOS, and the position of the first answer token."""
    prompt = item.prompt
    if template and prompt:
        turn = [{"role": "user", "content": prompt}]
        prompt = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    answer = item.answer.lstrip() if template and prompt else item.answer
    encoded = tokenizer(prompt + answer, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    ids: list[int] = list(encoded["input_ids"])
    if tokenizer.is_fast:
        ends = [end for _, end in encoded["offset_mapping"]]
        start = next((i for i, end in enumerate(ends) if end > len(prompt)), len(ids))
    else:  # no offsets: the answer starts where the prompt's own ids stop agreeing
        alone = tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
        start = next((i for i, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b), len(alone))
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] != [bos]:
        ids, start = [bos, *ids], start + 1
    return ids, start


def _windows(ids: list[int], size: int) -> Iterator[list[int]]:
    """Consecutive windows that overlap by one token, so that every token but the first is predicted once."""
    for begin in range(0, len(ids) - 1, size - 1):
        yield ids[begin : begin + size]


def visible(tokenizer: PreTrainedTokenizerBase, rows: Rows, number: int = 0) -> str:
    """Show one row's tokens, special ones included, with a bar where the answer starts."""
    tokens = tokenizer.convert_ids_to_tokens(rows.ids[number, : int(rows.lengths[number])].tolist())
    start = int(rows.starts[number])
    return " ".join([*tokens[:start], "│", *tokens[start:]])


# ------------------------------------------------------------------------------------------ forward


def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """[b, s-1, V] next-token logits for every position that has a next token."""
    answer = model(input_ids=batch.ids, attention_mask=batch.attention.long(), use_cache=False)
    out: Tensor = answer.logits
    return out[:, :-1]


class Meter:
    """The FLOPs of one forward pass over a batch; made once for a model whose shape stays.

    For b rows of s tokens, ``b s (2 W + 4 s L H D)``: W weights in linear layers, L layers of H attention heads of size D.
    A multiply-add counts as two FLOPs. Attention is counted over all s x s pairs, since a padding mask has them all
    computed. Norms, activations and look-ups are left out, as is usual.
    A backward pass counts as two forward passes, which is for the caller to add.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        # Only matrix products count. Embeddings are looked up; an output layer that shares their weights is a linear layer.
        weights = 0
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":
                weights += weight.numel() if weight is not None else 0
        config = model.config.get_text_config()
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._per_token = 2 * weights
        # Queries with keys, and the weights with values: two products of H x D multiply-adds for a pair of tokens and a layer.
        self._per_pair = 4 * config.num_attention_heads * head_dim * config.num_hidden_layers

    def __call__(self, batch: Batch) -> float:
        """FLOPs of one forward pass over `batch`, its padding included, since that is computed too."""
        rows, width = batch.ids.shape
        return float(rows * width * (self._per_token + width * self._per_pair))
