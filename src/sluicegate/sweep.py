"""Sweeps: a recipe over every combination of some settings' values."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError
from sluicegate.experiment import Outcome, run_recipe
from sluicegate.recipe import Recipe, override
from sluicegate.runs.room import Progress, write_atomic


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
    progress: Progress | None = None,
) -> list[tuple[dict[str, Any], Outcome]]:
    """Run the recipe with each variant's settings and gather them in `out`.

    Variants run one after another and each one's stages side by side; a stage that two variants
    have in common has one hash, and so is run once. Each variant has a folder of its own with its
    summary, and sweep.json has them all. Every variant is checked before any is run.
    """
    planned = [(changes, override(recipe, changes)) for changes in variants]
    found = []
    for number, (changes, variant) in enumerate(planned):
        place = out / f"variant-{number}"
        outcome = run_recipe(variant, place, seeds, stages=out / "stages", workers=workers, progress=progress)
        found.append((changes, outcome))
    content = [{"changes": changes, "folder": f"variant-{n}", **outcome.summary()} for n, (changes, outcome) in enumerate(found)]
    write_atomic(out / "sweep.json", json.dumps({"recipe": recipe.name, "variants": content}, indent=1))
    return found
