"""Who a stage is: its dataclass, its canonical configuration, and the hash of all that decides its result."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from sluicegate.errors import UserError, nearest
from sluicegate.registry import classes, from_elsewhere
from sluicegate.runs.directory import RunContext
from sluicegate.values.ranges import Checked, Range, range_of
from sluicegate.values.ranges import setting as setting  # where stages look for it

Kind = Literal["model", "run", "data"]


def source(kind: Kind, default: str = "") -> Any:
    """A field that names something the stage is made from; its content is hashed, not its name."""
    return dataclasses.field(default=default, metadata={"source": kind})


@dataclasses.dataclass(frozen=True)
class Stage(Checked):
    """One step of an experiment: a frozen dataclass that is command line, TOML and record at once. Nested dataclasses
    (a schedule, an objective) are written flat: one namespace a stage."""

    VERB: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1
    """Raised when the same settings would give another result than before."""
    GROUP: ClassVar[str] = ""
    """Heading of ``sluicegate --help`` that it stands under; empty: it is no verb of its own."""
    TOGETHER: ClassVar[bool] = False
    """Whether several processes can do it together (--procs): each a share of every step's rows."""

    @property
    def method(self) -> str:
        """Which kind of the verb this is, for the folder's name."""
        return ""

    @classmethod
    def methods(cls) -> dict[str, type[Any]]:
        """The classes that its nested method may be of, by name, where it has one (an unlearning objective, say)."""
        return {}

    @classmethod
    def method_called(cls, name: str) -> type[Any]:
        """The class of its nested method; raises `UserError` that lists what there is."""
        known = cls.methods()
        if not known:
            raise UserError(f"{cls.VERB} has no setting 'method'.")
        if not isinstance(name, str) or name not in known:
            raise UserError(f"{cls.VERB} has no method {name!r}. There are: {nearest(str(name), sorted(known), most=20)}.")
        return known[name]

    def resolved(self) -> Self:
        """The stage with everything filled in that its sources decide; `UserError` where something is missing."""
        return self

    def is_wide(self) -> bool:
        """Whether one operation of its model is work enough for several threads."""
        return True

    def run(self, run: RunContext) -> dict[str, Any]:
        """Do the work in `run` and return what result.json shall hold."""
        raise NotImplementedError

    def contents(self) -> dict[str, str]:
        """Hashes of what else it is made from, by the setting that names it."""
        return {}

    def sources(self, kind: Kind) -> dict[str, str]:
        """The fields of one kind that are filled in, by name."""
        named = [f.name for f in dataclasses.fields(self) if f.metadata.get("source") == kind]
        return {name: value for name in named if (value := getattr(self, name))}

    def config(self) -> dict[str, Any]:
        """All settings, flat, for TOML; without empty sources, and settings added later at their default."""
        return self._table(earliest=False, added=False)

    def _table(self, *, earliest: bool, added: bool) -> dict[str, Any]:
        """The settings, under their earliest names where `earliest`; with those added later at their default where
        `added` (the stage's own: of nested ones none were written out)."""
        own = {field.name for field in dataclasses.fields(self)} if added else ()
        flat: dict[str, Any] = {"verb": self.VERB}
        for name, field, content in _flat(self):
            history = field.metadata if field else {}
            name = (history.get("was") or name) if earliest else name
            if name in flat:
                raise TypeError(f"two settings of one stage are called {name!r}")
            if earliest and not history.get("hashed", True):
                continue
            written = field is not None and field.name in own and field.name != "dtype"  # which came after that form of the hash
            if field is None or written or not (history.get("added") and content == field.default):
                flat[name] = list(content) if isinstance(content, tuple) else content
        return flat


def _flat(value: Any) -> "Iterator[tuple[str, dataclasses.Field[Any] | None, Any]]":
    """Name, field and value of every setting, those of nested dataclasses too; no field for the name of a method."""
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if dataclasses.is_dataclass(content):
            if name := getattr(content, "NAME", ""):
                yield "method", None, name
            yield from _flat(content)
        elif content or not field.metadata.get("source"):
            yield field.name, field, content


def stages() -> dict[str, type[Stage]]:
    """Every stage that can be found, by its verb."""
    return classes("stage", "VERB", _is_stage)


def _is_stage(cls: type) -> bool:
    return issubclass(cls, Stage)


def from_config(settings: Mapping[str, Any]) -> Stage:
    """Make a stage from a flat table such as config.toml holds; raises `UserError` for unknown names."""
    left = dict(settings)
    verb = left.pop("verb", None)
    known = stages()
    if not isinstance(verb, str) or verb not in known:
        where = from_elsewhere("stage", str(verb)) or f" There are: {', '.join(sorted(known))}."
        raise UserError(f"no verb {verb!r}.{where}")
    name = left.pop("method", None)
    return build(known[verb], left, known[verb].method_called(name) if name is not None else None)


def build(cls: type[Stage], settings: Mapping[str, Any], method: type[Any] | None = None) -> Stage:
    """Make a stage from flat settings, `method` being its objective's class; `UserError` for one that it has not."""
    left = dict(settings)
    for old, new in earlier(cls, method).items():
        if old in left:
            if new in left:
                raise UserError(f"{new} is {left[old]!r} and {left[new]!r}: once by its earlier name {old}. Leave one out.")
            left[new] = left.pop(old)
    if method is not None and not any(hasattr(_default(field), "NAME") for field in dataclasses.fields(cls)):
        left["method"] = method  # nothing takes it, so it is refused below
    stage: Stage = _build(cls, left, method)
    if left:
        name = sorted(left)[0]
        raise UserError(f"{cls.VERB} has no setting {name!r}. Nearest: {nearest(name, sorted(settings_of(cls, method)))}.")
    return stage


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default is not dataclasses.MISSING else None


def method_field(cls: type[Stage]) -> str:
    """The field that holds the stage's method: the one whose default has a name."""
    return next(field.name for field in dataclasses.fields(cls) if hasattr(_default(field), "NAME"))


def _build(cls: type[Any], left: dict[str, Any], method: type[Any] | None) -> Any:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        default = _default(field)
        if dataclasses.is_dataclass(default):
            inner = type(default)
            if hasattr(inner, "NAME") and method is not None and inner is not method:
                inner, default = method, method()
            taken = {name: left[name] for name in settings_of(inner) if name in left}
            values[field.name] = dataclasses.replace(default, **_typed(inner, taken))
            for name in taken:
                del left[name]
        elif field.name in left:
            values |= _typed(cls, {field.name: left.pop(field.name)})
    return cls(**values)


def settings_of(cls: type[Any], method: type[Any] | None = None) -> list[str]:
    """Names of all the settings of a stage, its nested ones included."""
    return [field.name for field in _fields(cls, method)]


def earlier(cls: type[Any], method: type[Any] | None = None) -> dict[str, str]:
    """The names that settings had before, with those they have now."""
    return {was: field.name for field in _fields(cls, method) if (was := field.metadata.get("was"))}


def _fields(cls: type[Any], method: type[Any] | None) -> "Iterator[dataclasses.Field[Any]]":
    for field in dataclasses.fields(cls):
        default = _default(field)
        if dataclasses.is_dataclass(default):
            yield from _fields(method if hasattr(default, "NAME") and method else type(default), None)
        else:
            yield field


def _typed(cls: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """Check settings against the field's default type, so that a wrong one is named and not met later."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    typed = {}
    for name, value in values.items():
        default = _default(fields[name])
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(_entries(name, value, (range_of(fields[name].type) or get_args(fields[name].type))[0]))
        if isinstance(default, float) and type(value) is int and value in Range():
            value = float(value)
        if default is not None and type(value) is not type(default):
            raise UserError(f"{name} is {value!r}; expected {type(default).__name__}, for example {default!r}.")
        typed[name] = value
    return typed


def _entries(name: str, values: list[Any], kind: type[Any]) -> list[Any]:
    """The entries of a list, whole numbers made floats where `kind` is float; `UserError` for another type."""
    entries = [float(v) if kind is float and type(v) is int else v for v in values]
    if any(type(entry) is not kind for entry in entries):
        raise UserError(f"{name} is {values!r}; every entry must be of type {kind.__name__}.")
    return entries


def identify(stage: Stage, parents: Mapping[str, str], *, added: bool = False) -> str:
    """The stage's hash (hex): verb, version, settings without paths (see `_table`), and the content of its sources."""
    plain = {name: value for name, value in stage._table(earliest=True, added=added).items() if name not in parents}
    content = {"verb": stage.VERB, "version": stage.VERSION, "config": plain, "parents": dict(sorted(parents.items()))}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def identities(stage: Stage, parents: Mapping[str, str]) -> tuple[str, ...]:
    """Every hash under which a run of this stage may be found: its own, and that with all settings written out, of
    trials made before settings added later were left out for every stage."""
    return tuple(dict.fromkeys(identify(stage, parents, added=added) for added in (False, True)))


def folder_name(stage: Stage, digest: str) -> str:
    """``verb-method-hash8``; `UserError` for a method that no folder may be named after."""
    if not re.fullmatch(r"[^/\\\x00-\x1f]{0,100}", stage.method):
        raise UserError(f"the method of {stage.VERB} is {stage.method!r}: it names a folder. Leave out what a folder's name cannot have.")
    return "-".join(filter(None, (stage.VERB, stage.method, digest[:8])))


def environment(device: str, threads: int, world_size: int = 1, shard: bool = False) -> dict[str, Any]:
    """What the run's numbers may depend on beside its settings: an allow-list, never the whole of os.environ."""
    found = {
        "versions": versions("sluicegate", "torch", "transformers", "numpy", "safetensors") | {"python": platform.python_version()},
        "git": _git_sha(),
        "machine": platform.machine(),
        "device": device,
        "threads": threads,
        "world_size": world_size,
        "argv": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
    }
    return found | ({"shard": True} if shard else {})


def versions(*names: str) -> dict[str, str]:
    """The versions of packages by their names."""
    found = dict.fromkeys(names, "not installed")
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _git_sha() -> str:
    """The commit of the package's own checkout, empty where it was installed from a wheel."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
