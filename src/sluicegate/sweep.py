"""Sweeps: a recipe over every combination of some settings' values."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError
from sluicegate.experiment import Outcome, Recipe, override, run_recipe
from sluicegate.runs.room import Progress


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
    """Run the recipe with each variant's settings, all in the folder `out`.

    Variants run one after another and each one's stages side by side; a stage that two variants
    have in common has one hash, and so is run once. Every variant is checked before any is run.
    """
    planned = [(changes, override(recipe, changes)) for changes in variants]
    return [(changes, run_recipe(variant, out, seeds, workers=workers, progress=progress)) for changes, variant in planned]
