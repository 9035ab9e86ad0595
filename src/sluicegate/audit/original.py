"""The model as it came: what an attack that trains it in place goes back to, between learning rates and at the end."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from sluicegate.engine.folder import shards
from sluicegate.errors import UserError
from sluicegate.values.edits import note_structure

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Original:
    """The values of some of a model's parameters, bit for bit.

    A value that lies in the files the model was read from is left there and read again, tensor by tensor; only what
    differs from them, or has none, is copied, into the host's memory. Raises `UserError` where the files have changed
    when they are read again.
    """

    def __init__(self, model: PreTrainedModel, names: Iterable[str]) -> None:
        named = dict(model.named_parameters())
        self._parameters = {name: named[name] for name in names}
        self._shapes = {name: p.shape for name, p in self._parameters.items()}  # FSDP2 empties them when it fails
        self._files: dict[Path, tuple[tuple[int, int], dict[str, str]]] = {}
        prefix = f"{model.base_model_prefix}."
        wanted = {key: name for name in self._parameters for key in (name, name.removeprefix(prefix))}
        for file in _files(model):
            stamp, same = _stamp(file), {}
            with suppress(OSError, SafetensorError), safe_open(file, framework="pt") as held:
                keys = {wanted[key]: key for key in held.keys() if key in wanted}  # noqa: SIM118  # it is no dictionary
                same = {name: key for name, key in keys.items() if _same(self._parameters[name], held.get_tensor(key))}
            self._files[file] = stamp, same
        there = {name for _, found in self._files.values() for name in found}
        # Not pinned: a transfer takes seconds, once a learning rate, and pinned memory is handed out in powers of two.
        self._copies = {name: p.detach().to("cpu", copy=True) for name, p in self._parameters.items() if name not in there}

    @property
    def copied(self) -> int:
        """Bytes of the copies."""
        return sum(value.nbytes for value in self._copies.values())

    @torch.no_grad()
    def put_back(self) -> None:
        """Give every parameter its value again."""
        for name, value in self._values():
            parameter = self._parameters[name]
            if parameter.shape == self._shapes[name]:
                parameter.copy_(value)
            else:
                parameter.data = value.to(parameter.device, parameter.dtype, copy=True)

    def _values(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._copies.items()
        for file, (stamp, keys) in self._files.items():
            if keys and _stamp(file) != stamp:
                raise UserError(f"{str(file)!r} was changed while its model was attacked, so the model cannot be put back. Load it again.")
            with safe_open(file, framework="pt") as held:
                yield from ((name, held.get_tensor(key)) for name, key in keys.items())


@contextmanager
def left_as_it_was(model: PreTrainedModel) -> Iterator[list[Original]]:
    """A block after which `model` has its modules, hooks and modes again, and the values that the `Original`s put into
    the list hold; after an exception or Ctrl-C too."""
    put_back = note_structure(model)
    asked = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    moving = [(b, b.clone()) for b in model.buffers() if b.is_floating_point()]  # a quantised weight is none
    kept: list[Original] = []

    @torch.no_grad()
    def restore() -> None:
        put_back()
        for original in reversed(kept):
            original.put_back()
        for parameter, requires, gradient in asked:
            parameter.requires_grad_(requires).grad = gradient
        for buffer, value in moving:
            buffer.copy_(value)

    try:
        yield kept
    finally:
        try:
            restore()
        except KeyboardInterrupt:  # once more, to the end
            restore()
            raise


def _files(model: nn.Module) -> list[Path]:
    """The weight files that the model says it was read from, those of the hub's cache too."""
    name: Any = getattr(model, "name_or_path", "")
    with suppress(UserError, OSError, ValueError):
        folder = Path(name)
        if name.count("/") == 1 and not folder.is_dir():
            folder = Path(cached_file(name, "config.json", local_files_only=True) or "").parent
        return [folder / file for file in shards(folder)] if name else []
    return []


def _stamp(file: Path) -> tuple[int, int]:
    try:
        seen = file.stat()
    except FileNotFoundError:
        return 0, 0
    return seen.st_size, seen.st_mtime_ns


def _same(parameter: Tensor, held: Tensor) -> bool:
    """Whether a stored tensor, cast, is the parameter bit for bit."""
    if parameter.shape != held.shape or not parameter.is_floating_point():
        return False
    bits = _BITS[parameter.element_size()]
    own, other = (t.detach().contiguous().view(bits) for t in (parameter, held.to(parameter.device, parameter.dtype)))
    return torch.equal(own, other)
