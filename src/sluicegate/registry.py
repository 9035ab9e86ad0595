"""What there is of each kind: stages, verbs, tasks, objectives, rules, penalties, recipes, configurations.

What ships and what another distribution brings are found in one way. A distribution names packages or modules under the
entry-point group ``sluicegate.plugins``. In a package, and in the packages right below it, modules are looked at by
their name: a kind called ``stage`` lies in ``stage.py``, ``NAME_stage.py``, or in every file of a folder ``stage/``. A
plug-in that is one module may hold things of every kind. Nothing is imported before its kind is asked for.
"""

import dataclasses
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Protocol, runtime_checkable

GROUP = "sluicegate.plugins"
OWN = "sluicegate"
"""The distribution whose parts may not be left out: what fails there is a bug, and is raised."""

ELSEWHERE: dict[str, dict[str, tuple[str, ...]]] = {
    "sluicegate-study": {"verb": ("deck", "lecture", "buzz", "play", "team", "quiz")},
    "sluicegate-papers": {
        "verb": ("bench", "oversight", "papers"),
        "recipe": (
            *("access-control", "digits-split", "languages", "lora", "mnist-split", "oversight", "oversight-boards", "quiz-biographies"),
            *("replay", "ripple-biographies", "steering-scalar", "steering-twins", "steering-twins-all", "tofu"),
            *("undo-biographies", "undo-biographies-methods", "undo-biographies-share"),
        ),
        "stage": (
            *("access-control", "biographies-quiz", "biographies-share", "languages", "languages-exposure", "lora", "oversight", "replay"),
            *("split", "steering-scalar", "steering-twins", "tofu"),
        ),
        "task": ("biographies", "biographies-6", "biographies-48", "biographies-city"),
        "model": ("biographies-tiny",),
    },
}
"""What this project's other distributions bring, by kind: so that a name of theirs, where they are not installed, says
what to install."""

_failed: dict[str, str] = {}


@runtime_checkable
class Verb(Protocol):
    """A verb of the command line."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str:
        """One line for ``sluicegate --help``."""
        ...

    @property
    def group(self) -> str:
        """The heading that it stands under."""
        ...

    def call(self, words: Sequence[str]) -> int:
        """Run it with the words that follow its name; return the exit status."""
        ...


def from_elsewhere(kind: str, name: str) -> str:
    """What to install for a name of this kind: " It comes with ...", or nothing where no other distribution of this
    project has it."""
    brings = [place for place, kinds in ELSEWHERE.items() if name in kinds.get(kind, ())]
    return f" It comes with {brings[0]}: pip install {brings[0]}." if brings else ""


def failures() -> dict[str, str]:
    """What was left out because it could not be imported: the plug-in, or its part, and why."""
    return dict(_failed)


def _entries() -> list[EntryPoint]:
    """The entry points, what ships first."""
    found = {(entry.name, entry.value): entry for entry in entry_points(group=GROUP)}
    return sorted(found.values(), key=lambda entry: (entry.value.partition(":")[0] != OWN, entry.name))


def _imported(name: str, plugin: str) -> ModuleType | None:
    """A module, or None where it cannot be imported, which is noted under the plug-in's name."""
    try:
        return sys.modules.get(name) or importlib.import_module(name)
    except Exception as error:
        if name.partition(".")[0] == OWN:
            raise
        _failed[f"{plugin} ({name})" if name != plugin else plugin] = f"{type(error).__name__}: {error}"
        return None


def _roots() -> Iterator[tuple[str, ModuleType]]:
    for entry in _entries():
        module = _imported(entry.module, entry.name)
        if module is not None:
            yield entry.name, module


@cache
def modules(kind: str) -> tuple[ModuleType, ...]:
    """Every module in which things of this kind may lie, what ships first."""
    found: list[ModuleType] = []
    for plugin, root in _roots():
        if not hasattr(root, "__path__"):
            found.append(root)
            continue
        for name in _named(root.__name__, list(root.__path__), kind, deep=True):
            module = _imported(name, plugin)
            if module is not None:
                found.append(module)
    return tuple(found)


def _named(package: str, path: list[str], kind: str, deep: bool) -> Iterator[str]:
    for info in pkgutil.iter_modules(path):
        name, inner = f"{package}.{info.name}", [str(Path(place) / info.name) for place in path]
        if info.name == kind or info.name.endswith(f"_{kind}"):
            yield name
            if info.ispkg:
                yield from (f"{name}.{file.name}" for file in pkgutil.iter_modules(inner) if not file.ispkg)
        elif info.ispkg and deep:
            yield from _named(name, inner, kind, deep=False)


@cache
def classes(kind: str, named: str, accepts: Callable[[type], bool]) -> dict[str, type]:
    """Frozen dataclasses of one kind by name: `named` is the attribute that holds it, and `accepts` tells the kind from
    others.

    The first of a name stays; another one is noted as left out.
    """
    found: dict[str, type] = {}
    for module in modules(kind):
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ != module.__name__ or not dataclasses.is_dataclass(cls) or not accepts(cls):
                continue
            name = getattr(cls, named, "")
            if name and found.setdefault(name, cls) is not cls:
                _failed[f"{module.__name__}.{cls.__name__}"] = f"the name {name!r} is taken by {found[name].__module__}"
    return found


@cache
def verbs() -> dict[str, Verb]:
    """Every verb by name: instances of `Verb` in modules called cli."""
    found: dict[str, Verb] = {}
    for module in modules("cli"):
        for thing in vars(module).values():
            if isinstance(thing, Verb) and not isinstance(thing, type) and found.setdefault(thing.name, thing) is not thing:
                _failed[f"{module.__name__}: {thing.name}"] = "the name is taken"
    return found


@cache
def folders(name: str) -> tuple[Path, ...]:
    """Every folder of this name in a plug-in's package, or in the packages right below it."""
    found = []
    for _, root in _roots():
        for place in map(Path, getattr(root, "__path__", [])):
            found += [path for path in (place / name, *sorted(place.glob(f"*/{name}"))) if path.is_dir()]
    return tuple(found)


def forget() -> None:
    """Look again at the next question, for example after a distribution was installed."""
    for known in (modules, classes, verbs, folders):
        known.cache_clear()
    _failed.clear()
