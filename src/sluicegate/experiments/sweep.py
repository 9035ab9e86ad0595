"""Sweeps: a recipe over every combination of some settings' values."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError, nearest
from sluicegate.execution.jobs import Executor, Job, run_jobs
from sluicegate.execution.local import LocalPool
from sluicegate.experiments.experiment import Outcome, jobs_of, write_down
from sluicegate.experiments.recipe import Recipe, override
from sluicegate.runs.directory import Progress, write_atomic
from sluicegate.runs.stage import settings_of, stages


def combinations(axes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the axes' values; each axis is "PLACE.FIELD" with a list of values."""
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{name} has the values {values!r}; expected a list, for example {name}=[0.2,0.4,0.6]")
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def run_sweep(
    recipe: Recipe,
    variants: Iterator[dict[str, Any]],
    out: Path,
    seeds: Sequence[int],
    *,
    workers: int = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> list[tuple[dict[str, Any], Outcome]]:
    """Run the recipe with each variant's settings and gather them in `out`, in a folder each; sweep.json has them all.

    The stages of all variants run side by side where the `executor` says (by default in `workers` local processes), for
    variant N under names "vN ...". What two variants have in common is run once. Every variant is checked before any is
    run. Raises `UserError` for a field that is none, and where stages failed.
    """
    planned = []
    for changes in variants:
        _check_fields(recipe, changes)
        planned.append((changes, override(recipe, changes)))
    jobs = [job for n, (_, variant) in enumerate(planned) for job in _marked(jobs_of(variant, out / "stages", seeds), f"v{n} ")]
    folders = run_jobs(jobs, executor or LocalPool(workers), progress)
    found = []
    for n, (changes, variant) in enumerate(planned):
        own = {key.removeprefix(f"v{n} "): folder for key, folder in folders.items() if key.startswith(f"v{n} ")}
        found.append((changes, write_down(variant, out / f"variant-{n}", seeds, own)))
    content = [{"changes": changes, "folder": f"variant-{n}", **outcome.summary()} for n, (changes, outcome) in enumerate(found)]
    write_atomic(out / "sweep.json", json.dumps({"recipe": recipe.name, "variants": content}, indent=1))
    return found


def _marked(jobs: Sequence[Job], mark: str) -> Iterator[Job]:
    """The jobs with `mark` before their names, so that those of several recipes can run together."""
    for job in jobs:
        yield replace(
            job,
            key=mark + job.key,
            needs=tuple(mark + need for need in job.needs),
            stage=lambda done, job=job: job.stage({need: done[mark + need] for need in job.needs}),  # type: ignore[misc]
        )


def _check_fields(recipe: Recipe, changes: Mapping[str, Any]) -> None:
    """Raise `UserError` for a setting in `common` that no stage has: all variants would be alike."""
    tables = [*recipe.arms.values(), *([{"verb": "relearn"} | dict(recipe.attack)] if recipe.attack else [])]
    known: set[str] = set()
    for own in tables:
        kind = stages()[own["verb"]]
        known |= set(settings_of(kind, kind.method_called(own["method"]) if "method" in own else None))
    for path in changes:
        place, _, name = path.rpartition(".")
        if place == "common" and name not in known:
            raise UserError(f"no stage of the recipe {recipe.name!r} has a setting {name!r}. Nearest: {nearest(name, sorted(known))}.")
