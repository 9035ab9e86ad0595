"""What running the demo's stages side by side is worth, and how much of it is matrix products.

Two measurements in one run:

- *pipeline*: the demo's recipe as it runs (a process a core) against every stage one after the other, in one worker
  process. CPU seconds are those of the stages (seconds.json). Wall seconds include starting workers, and mean something
  on an idle machine only. The demo's page of digits and its report are left out: they are alike.
- *products*: the share of a stage's time that is spent inside matrix products and attention, by torch's profiler, one
  short stage of every kind, weighted with the CPU seconds of the pipeline. The profiler slows what is not a product, so
  that is a lower bound.
"""

import dataclasses
import json
import os
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from sluicegate.execution.execute import execute
from sluicegate.experiments.experiment import run_recipe
from sluicegate.experiments.recipe import Recipe, load_recipe
from sluicegate.runs.directory import Progress
from sluicegate.runs.stage import from_config

PRODUCTS = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::mkldnn_linear",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
)
"""Kernels that are matrix products, and attention, whose softmax is inside of the same kernel."""
SHORT: dict[str, dict[str, Any]] = {"relearn": {"steps": 20, "checkpoints": [0, 10, 20]}}
"""How a stage of each verb is cut short under the profiler; what is not named here takes `SHORT_STEPS`."""
SHORT_STEPS = 60


@dataclass(frozen=True)
class Ran:
    """The pipeline, run in one way."""

    wall: float
    cpu: Mapping[str, float]
    """CPU seconds of all stages of a verb."""

    @property
    def total(self) -> float:
        return sum(self.cpu.values())


@dataclass(frozen=True)
class Measured:
    """What a run of the benchmark found."""

    recipe: str
    seeds: int
    arms: int
    cores: int
    piped: Ran
    in_order: Ran
    shares: Mapping[str, float]
    """Share of the time in matrix products, by verb."""

    @property
    def product_share(self) -> float:
        """Of the whole pipeline as it runs."""
        return weighted(self.shares, self.piped.cpu)


def weighted(shares: Mapping[str, float], seconds: Mapping[str, float]) -> float:
    """Mean of the verbs' shares, each counted with the seconds that were spent on it."""
    return sum(shares[verb] * spent for verb, spent in seconds.items()) / sum(seconds.values())


def summary(found: Measured) -> dict[str, Any]:
    """The figures, by name."""
    return {
        "recipe": found.recipe,
        "seeds": found.seeds,
        "cores": found.cores,
        "cpu_ratio": found.piped.total / found.in_order.total,
        "wall_ratio": found.piped.wall / found.in_order.wall,
        "cpu_seconds": found.piped.total,
        "cpu_seconds_in_order": found.in_order.total,
        "wall_seconds": found.piped.wall,
        "wall_seconds_in_order": found.in_order.wall,
        "product_share": found.product_share,
        "product_share_by_verb": dict(found.shares),
    }


def markdown(found: Measured) -> str:
    """The figures as a table."""
    piped, order = found.piped, found.in_order
    verbs = ", ".join(f"{verb} {share:.0%}" for verb, share in found.shares.items())
    lines = [
        f"| {found.recipe}: {found.arms} arms, {found.seeds} seed(s), {found.cores} core(s) | as it runs | one after the other | ratio |",
        "|---|---|---|---|",
        f"| CPU seconds of the stages | {piped.total:.1f} | {order.total:.1f} | {piped.total / order.total:.2f} |",
        *(f"| ... {verb} | {piped.cpu[verb]:.1f} | {spent:.1f} | {piped.cpu[verb] / spent:.2f} |" for verb, spent in order.cpu.items()),
        f"| wall seconds | {piped.wall:.1f} | {order.wall:.1f} | {piped.wall / order.wall:.2f} |",
        f"| share in matrix products | {found.product_share:.0%} | | |",
        "",
        f"Share in matrix products by verb: {verbs}.",
    ]
    return "\n".join(lines)


def run(*, quick: bool = False, progress: Progress | None = None) -> Measured:
    """Measure: about six CPU minutes; with `quick` half of one, on a few short arms of the recipe and one seed."""
    recipe = load_recipe("undo-arithmetic")
    return measure(shortened(recipe) if quick else recipe, (0,) if quick else (0, 1), progress=progress)


def shortened(recipe: Recipe, arms: Sequence[str] = ("base", "gold", "maxent"), steps: int = 60) -> Recipe:
    """A recipe of a few arms and few steps."""
    few = {name: {**recipe.arms[name], "steps": steps} for name in arms}
    reference = recipe.reference if recipe.reference in few else ""
    return dataclasses.replace(recipe, arms=few, reference=reference, claims=(), attack={**recipe.attack, **SHORT["relearn"]})


def measure(
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    workers: int = 0,
    short: int = SHORT_STEPS,
    progress: Progress | None = None,
) -> Measured:
    """Both measurements; `workers` processes run the pipeline as it is (0: one a core)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="sluicegate-bench-") as place:
            out = Path(place)
            piped, folders = ran(recipe, out / "piped", seeds, workers, progress)
            in_order, _ = ran(recipe, out / "in-order", seeds, 1, progress)
            shares = dict(profiled(recipe, out / "short", seeds[0], folders, short))
    finally:
        torch.set_num_threads(before)
    cores = len(os.sched_getaffinity(0))
    return Measured(recipe.name, len(seeds), len(recipe.arms), cores, piped, in_order, shares)


def ran(recipe: Recipe, out: Path, seeds: Sequence[int], workers: int, progress: Progress | None) -> tuple[Ran, dict[str, Path]]:
    """Run a recipe, and where its models lie for the first seed."""
    begun = time.perf_counter()
    outcome = run_recipe(recipe, out, seeds, workers=workers, progress=progress)
    wall = time.perf_counter() - begun
    return Ran(wall, spent(out)), {name: arm.folders[seeds[0]] for name, arm in outcome.arms.items()}


def spent(out: Path) -> dict[str, float]:
    """CPU seconds of the run folders in `out`, by verb."""
    found: dict[str, float] = {}
    for file in sorted(out.glob("*/seconds.json")):
        verb = tomllib.loads((file.parent / "config.toml").read_text(encoding="utf-8"))["verb"]
        found[verb] = found.get(verb, 0.0) + json.loads(file.read_text())["cpu"]
    return found


def profiled(recipe: Recipe, out: Path, seed: int, folders: Mapping[str, Path], short: int) -> Iterator[tuple[str, float]]:
    """Each verb of the recipe with the share of matrix products in a short stage of it, run in this process."""
    stages: dict[str, dict[str, Any]] = {}
    for arm in recipe.arms:
        settings = recipe.stage_settings(arm, seed, folders)
        if not settings.get("steps_of"):
            stages.setdefault(settings["verb"], settings | SHORT.get(settings["verb"], {"steps": short}))
    stages["relearn"] = recipe.attack_settings(next(iter(recipe.arms)), seed, folders) | SHORT["relearn"]
    for verb, settings in stages.items():
        stage = from_config(settings)
        yield verb, product_share(lambda: execute(stage, out / verb, exact=True))  # noqa: B023  # called at once


def product_share(work: Callable[[], object]) -> float:
    """Share of the time of `work` that is inside `PRODUCTS`, under torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as kept:
        begun = time.perf_counter()
        work()
        took = time.perf_counter() - begun
    inside = sum(event.self_cpu_time_total for event in kept.key_averages() if event.key in PRODUCTS)
    return float(inside) / 1e6 / took
