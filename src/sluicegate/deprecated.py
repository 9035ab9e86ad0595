"""Names of the release before, which still work and warn: modules that moved, attributes, and keyword arguments."""

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MODULES = {
    "claims": "experiments.claims",
    "convert": "engine.convert",
    "curves": "values.curves",
    "edits": "values.edits",
    "experiment": "experiments.experiment",
    "fetch": "engine.fetch",
    "inspection": "audit.audit",
    "items": "values.items",
    "models": "engine.models",
    "recipe": "experiments.recipe",
    "routing.flow": "routing.pass_context",
    "routing.guard": "routing.optimizer_mask",
    "routing.pieces": "routing.parameter_pieces",
    "routing.taps": "routing.gradient_hook",
    "routing.twin": "routing.resized_reference",
    "runs.identity": "runs.stage",
    "runs.room": "runs.directory",
    "sampling": "engine.sampling",
    "schedule": "values.schedule",
    "scoring": "engine.scoring",
    "stages": "unlearning.stage",
    "sweep": "experiments.sweep",
    "training": "engine.training",
    "trials": "runs.trial",
    "unlearning.suppress": "unlearning.unlearn",
}
"""Modules that users and plug-ins import, below ``sluicegate``: where they were, and where they are."""
TO_PAPERS = {"routing.absorption": "absorption", "routing.demix": "demix", "routing.monitor": "monitor"} | {
    f"oversight.{name}": f"oversight.{name}"
    for name in (
        *("arms", "cli", "episodes", "evaluate", "looking", "nets", "objective", "page", "page_boards", "page_numbers", "page_pictures"),
        *("page_verdicts", "settings", "stage", "steer", "stopping", "train"),
    )
}
"""Modules below ``sluicegate`` that only reproductions need: where they are in ``sluicegate_papers``."""


def _now(name: str) -> str | None:
    """Where the module of this earlier name is, or None for any other name."""
    old = name.removeprefix("sluicegate.")
    if name == old:
        return None
    if old in TO_PAPERS:
        return f"sluicegate_papers.{TO_PAPERS[old]}"
    return f"sluicegate.{MODULES[old]}" if old in MODULES else None


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its earlier name: the module itself, not a copy, so that classes stay the same classes."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if _now(name) else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        now = _now(spec.name) or ""
        warnings.warn(f"{spec.name} is now {now}", DeprecationWarning, stacklevel=2)
        try:
            module = importlib.import_module(now)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "sluicegate_papers":
                raise
            raise ModuleNotFoundError(f"{spec.name} comes with sluicegate-papers: pip install sluicegate-papers", name=now) from None
        spec.loader_state = module.__spec__, module.__loader__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give back what the import system has just written over: the module has been imported under its own name."""
        assert module.__spec__ is not None
        module.__spec__, module.__loader__ = module.__spec__.loader_state


def find_moved_modules() -> None:
    """Let ``import sluicegate.models`` and the like find what they name, last of all finders."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take keyword arguments under earlier names: ``@renamed(room="run")``."""

    def around(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **given: P.kwargs) -> R:
            values: dict[str, Any] = dict(given)
            for old, new in names.items():
                if old in values:
                    if new in values:
                        raise TypeError(f"{function.__name__}() was given {new!r} twice, once by its earlier name {old!r}")
                    warnings.warn(f"{function.__name__}({old}=...) is now {new}=...", DeprecationWarning, stacklevel=2)
                    values[new] = values.pop(old)
            return function(*args, **values)

        return call

    return around


def alias(module: str, **names: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module whose names were others before: ``__getattr__ = alias(__name__,
    Room="RunContext")``."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {names[name]}", DeprecationWarning, stacklevel=2)
        home, _, own = names[name].rpartition(".")
        return getattr(importlib.import_module(home or module), own)

    return find
