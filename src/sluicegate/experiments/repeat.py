"""How an experiment is repeated: its command, and its recipe as TOML."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sluicegate.experiments.experiment import Outcome
from sluicegate.experiments.recipe import Recipe, load_recipe, packaged_recipes


def packaged(recipe: Recipe) -> bool:
    """Whether the package ships this very recipe, however it was read."""
    return recipe.name in packaged_recipes() and as_toml(load_recipe(recipe.name)) == as_toml(recipe)


def command(outcome: Outcome) -> str:
    import shlex

    seeds, name = outcome.seeds, outcome.recipe.name
    source = name if packaged(outcome.recipe) else f"{name}.toml"
    head = f"sluicegate run {shlex.quote(source)}"
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{head} --seeds {len(seeds)}" + (f" --seed {seeds[0]}" if seeds[0] else "")
    return "\n".join(f"{head} --seeds 1 --seed {seed}" for seed in seeds)


def as_toml(recipe: Recipe) -> dict[str, Any]:
    return {name: _plain(value) for name, value in dataclasses.asdict(recipe).items() if value not in ("", {}, None)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
