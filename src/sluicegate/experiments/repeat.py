"""How an experiment is repeated: its command, its recipe as TOML, and what else every page says of it."""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

import tomli_w

from sluicegate.experiments.experiment import Outcome
from sluicegate.experiments.markdown import claims_shown
from sluicegate.experiments.recipe import Recipe, load_recipe, packaged_recipes
from sluicegate.report.arms import configs, environment


def on_every_page(outcome: Outcome) -> dict[str, Any]:
    """What all pages of experiments are filled with: claims, warnings, and how it is done again."""
    recipe = outcome.recipe
    return {
        "title": recipe.title or recipe.name,
        "recipe": recipe,
        "seeds": outcome.seeds,
        "claims": claims_shown(outcome.checked()),
        "warnings": outcome.warnings(),
        "command": command(outcome),
        "packaged": packaged(recipe),
        "resolved": tomli_w.dumps(as_toml(recipe)),
        "configs": configs(outcome.arms),
        "environment": environment(outcome.arms.values()),
    }


def packaged(recipe: Recipe) -> bool:
    """Whether the package ships this very recipe, however it was read."""
    return recipe.name in packaged_recipes() and as_toml(load_recipe(recipe.name)) == as_toml(recipe)


def command(outcome: Outcome) -> str:
    seeds, name = outcome.seeds, outcome.recipe.name
    source = name if packaged(outcome.recipe) else f"{name}.toml"
    head = f"sluicegate run {shlex.quote(source)}"
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{head} --seeds {len(seeds)}" + (f" --seed {seeds[0]}" if seeds[0] else "")
    return "\n".join(f"{head} --seeds 1 --seed {seed}" for seed in seeds)


def as_toml(recipe: Recipe) -> dict[str, Any]:
    """The recipe as its file would have it, without what is empty; of trials, which have no savings, no level."""
    content = dataclasses.asdict(recipe)
    return {k: _plain(v) for k, v in content.items() if v not in ("", {}, None, (), []) and not (k == "level" and recipe.is_trial)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
