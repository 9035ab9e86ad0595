"""What running the demo's stages side by side, and its attacks' learning rates as one, is worth; and how much of it is matrix products.

Three measurements in one run:

- *attacks*: a relearning attack with its rates trained at once (`audit/stacked.py`) against in turn, taking turns in this process, in CPU
  seconds (`time.process_time`), at sizes for which stacking is used and at some for which it is not.
- *pipeline*: the demo's recipe as it runs (a process a core, attacks stacked where that pays) against every stage and every rate
  one after the other, in one worker process. CPU seconds are those of the stages (seconds.json); wall seconds include starting
  workers, and mean something on an idle machine only. The demo's page of digits and its report are left out: they are alike.
- *products*: the share of a stage's time that is spent inside matrix products and attention, by torch's profiler, one short
  stage of every kind; weighted with the CPU seconds of the pipeline. The profiler slows what is not a product, so that is a lower bound.
"""

import dataclasses
import json
import os
import statistics
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from sluicegate.audit.attack import Attack
from sluicegate.audit.relearn import relearn
from sluicegate.audit.stacked import Stacking, small
from sluicegate.engine.models import load
from sluicegate.execution.execute import execute
from sluicegate.experiments.experiment import run_recipe
from sluicegate.experiments.recipe import Recipe, load_recipe
from sluicegate.runs.directory import Progress
from sluicegate.runs.stage import from_config
from sluicegate.tasks import read

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
ATTACK_STEPS = 20
SHORT: dict[str, dict[str, Any]] = {"relearn": {"steps": ATTACK_STEPS, "checkpoints": [0, 10, 20]}}
"""How a stage of each verb is cut short under the profiler; what is not named here takes `SHORT_STEPS`."""
SHORT_STEPS = 60
PLAIN = "relearn, in turn"


@dataclass(frozen=True)
class Case:
    """An attack that is timed both ways."""

    model: str
    task: str
    attack: Attack


@dataclass(frozen=True)
class Attacked:
    """What stacking did to the CPU seconds of one attack."""

    case: Case
    flops: float
    """Of one rate's step."""
    weights: int
    """Of the model."""
    in_turn: float
    """CPU milliseconds of a step of one rate, its share of measuring recall included."""
    ratio: float
    """CPU seconds at once / in turn: median over the turns."""
    low: float
    high: float

    @property
    def used(self) -> bool:
        """Whether the library stacks at this size by itself."""
        return small(self.flops, self.weights)


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
    attacks: tuple[Attacked, ...]
    piped: Ran
    in_order: Ran
    shares: Mapping[str, float]
    """Share of the time in matrix products by verb, and for an attack in turn under `PLAIN`."""

    @property
    def product_share(self) -> float:
        """Of the whole pipeline as it runs."""
        return weighted(self.shares, self.piped.cpu)

    @property
    def product_share_in_order(self) -> float:
        return weighted({**self.shares, "relearn": self.shares[PLAIN]}, self.in_order.cpu)


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
        "product_share_in_order": found.product_share_in_order,
        "product_share_by_verb": dict(found.shares),
        "attacks": [
            {
                "model": a.case.model,
                "rates": len(a.case.attack.lrs),
                "batch": a.case.attack.batch,
                "weights": a.weights,
                "step_mflops": a.flops / 1e6,
                "in_turn_ms": a.in_turn,
                "ratio": a.ratio,
                "range": [a.low, a.high],
                "used": a.used,
            }
            for a in found.attacks
        ],
    }


def markdown(found: Measured) -> str:
    """The figures as two tables."""
    lines = [
        "| attack | MFLOPs a step | in turn | at once / in turn | range | stacked by default |",
        "|---|---|---|---|---|---|",
    ]
    for a in found.attacks:
        what = f"{a.case.model}, {len(a.case.attack.lrs)} rates, {a.case.attack.batch} rows"
        used = "yes" if a.used else "no"
        lines.append(f"| {what} | {a.flops / 1e6:.0f} | {a.in_turn:.1f} ms | {a.ratio:.2f} | {a.low:.2f} to {a.high:.2f} | {used} |")
    piped, order = found.piped, found.in_order
    verbs = ", ".join(f"{verb} {share:.0%}" for verb, share in found.shares.items())
    lines += [
        "",
        f"| {found.recipe}: {found.arms} arms, {found.seeds} seed(s), {found.cores} core(s) | as it runs | one after the other | ratio |",
        "|---|---|---|---|",
        f"| CPU seconds of the stages | {piped.total:.1f} | {order.total:.1f} | {piped.total / order.total:.2f} |",
        *(f"| ... {verb} | {piped.cpu[verb]:.1f} | {spent:.1f} | {piped.cpu[verb] / spent:.2f} |" for verb, spent in order.cpu.items()),
        f"| wall seconds | {piped.wall:.1f} | {order.wall:.1f} | {piped.wall / order.wall:.2f} |",
        f"| share in matrix products | {found.product_share:.0%} | {found.product_share_in_order:.0%} | |",
        "",
        f"Share in matrix products by verb: {verbs}.",
    ]
    return "\n".join(lines)


def run(*, quick: bool = False, progress: Progress | None = None) -> Measured:
    """Measure: about six CPU minutes; with `quick` half of one, on a few short arms of the recipe and one seed."""
    recipe = load_recipe("undo-arithmetic")
    people = load_recipe("undo-biographies")
    small = Attack(**{**recipe.attack, "lrs": tuple(recipe.attack["lrs"]), "steps": ATTACK_STEPS, "checkpoints": (0, 10, 20)})
    large = Attack(**{**people.attack, "lrs": tuple(people.attack["lrs"]), "steps": 10, "checkpoints": (0, 10)})
    cases = [
        Case("arithmetic-tiny", "arithmetic", small),
        Case("arithmetic-tiny", "arithmetic", dataclasses.replace(small, batch=128)),
        Case("biographies-tiny", "biographies", dataclasses.replace(large, batch=4)),
        Case("biographies-tiny", "biographies", large),
    ]
    if quick:
        recipe, cases = shortened(recipe), [cases[0], cases[-1]]
    return measure(recipe, (0,) if quick else (0, 1), cases, turns=2 if quick else 5, progress=progress)


def shortened(recipe: Recipe, arms: Sequence[str] = ("base", "gold", "maxent"), steps: int = 60) -> Recipe:
    """A recipe of a few arms and few steps."""
    few = {name: {**recipe.arms[name], "steps": steps} for name in arms}
    reference = recipe.reference if recipe.reference in few else ""
    return dataclasses.replace(recipe, arms=few, reference=reference, claims=(), attack={**recipe.attack, **SHORT["relearn"]})


def measure(
    recipe: Recipe,
    seeds: Sequence[int],
    cases: Sequence[Case],
    *,
    turns: int,
    workers: int = 0,
    short: int = SHORT_STEPS,
    progress: Progress | None = None,
) -> Measured:
    """The three measurements; `workers` processes run the pipeline as it is (0: one a core)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        attacks = tuple(timed(case, turns) for case in cases)
        with tempfile.TemporaryDirectory(prefix="sluicegate-bench-") as place:
            out = Path(place)
            piped, folders = ran(recipe, out / "piped", seeds, "auto", workers, progress)
            in_order, _ = ran(recipe, out / "in-order", seeds, "never", 1, progress)
            shares = dict(profiled(recipe, out / "short", seeds[0], folders, short))
    finally:
        torch.set_num_threads(before)
    cores = len(os.sched_getaffinity(0))
    return Measured(recipe.name, len(seeds), len(recipe.arms), cores, attacks, piped, in_order, shares)


@contextmanager
def stacked(how: Stacking) -> Iterator[None]:
    """Set SLUICEGATE_STACK inside, for this process and those that it starts."""
    before = os.environ.get("SLUICEGATE_STACK")
    os.environ["SLUICEGATE_STACK"] = how
    try:
        yield
    finally:
        del os.environ["SLUICEGATE_STACK"]
        if before is not None:
            os.environ["SLUICEGATE_STACK"] = before


def timed(case: Case, turns: int) -> Attacked:
    """Run an attack both ways in turn, on a fresh model: what it costs does not depend on what the model knows."""
    model, tokenizer = load(case.model)
    forget, retain = (read(f"task:{case.task}/{group}") for group in ("forget", "retain"))

    def seconds(how: Stacking, attack: Attack) -> tuple[float, float]:
        with stacked(how):
            begun = time.process_time()
            found = relearn(model, tokenizer, forget, retain, attack)
        return time.process_time() - begun, found.ledger.student

    seconds("always", dataclasses.replace(case.attack, steps=1, checkpoints=()))  # warms up, as the first turn in turn does
    seconds("never", dataclasses.replace(case.attack, steps=1, checkpoints=()))
    ratios, in_turn, flops = [], [], 0.0
    for turn in range(turns):
        took = {}
        for how in ("always", "never") if turn % 2 else ("never", "always"):
            took[how], flops = seconds(how, case.attack)
        ratios.append(took["always"] / took["never"])
        in_turn.append(took["never"])
    steps = case.attack.steps * len(case.attack.lrs)
    weights = sum(p.numel() for p in model.parameters())
    per_step = 1e3 * statistics.median(in_turn) / steps
    return Attacked(case, flops / steps, weights, per_step, statistics.median(ratios), min(ratios), max(ratios))


def ran(
    recipe: Recipe, out: Path, seeds: Sequence[int], how: Stacking, workers: int, progress: Progress | None
) -> tuple[Ran, dict[str, Path]]:
    """Run a recipe, and where its models lie for the first seed."""
    with stacked(how):
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
    attack = recipe.attack_settings(next(iter(recipe.arms)), seed, folders) | SHORT["relearn"]
    ways: list[tuple[str, dict[str, Any], Stacking]] = [(verb, settings, "auto") for verb, settings in stages.items()]
    ways += [("relearn", attack, "auto"), (PLAIN, attack, "never")]
    for number, (name, settings, how) in enumerate(ways):
        stage = from_config(settings)
        with stacked(how):
            yield name, product_share(lambda: execute(stage, out / str(number), exact=True))  # noqa: B023  # called at once


def product_share(work: Callable[[], object]) -> float:
    """Share of the time of `work` that is inside `PRODUCTS`, under torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as kept:
        begun = time.perf_counter()
        work()
        took = time.perf_counter() - begun
    inside = sum(event.self_cpu_time_total for event in kept.key_averages() if event.key in PRODUCTS)
    return float(inside) / 1e6 / took
