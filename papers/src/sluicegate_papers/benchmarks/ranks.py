"""Whether several processes train as one does: the largest difference of any weight, after the same steps from the same
start.

The stage is an ordinary `train` of a packaged tiny model on its packaged rows, in float32, run by one process, by two
that add their gradients, and by two that divide the weights (FSDP2). Sums of float32 depend on their order, so the
difference is not zero; it is given beside how far training moved any weight, and beside a control: one process that
cuts its batch in two (`--accumulate 2`).

Where a weight's gradient is 0 but for rounding, AdamW divides it by its own size, and the weight moves by the learning
rate in a direction that rounding chose. Hence the model is `biographies-tiny` (Llama, smooth, without biases) and not
`arithmetic-tiny`: moving every key alike does not move attention, so GPT-2's key biases have such gradients, and where
a sum is rounded to the other side of 0, ReLU switches a unit for a row. With few rows a step a weight or two of
`biographies-tiny` has such a gradient too (10 steps of 17 rows: 4 of 459,904 weights are apart by more than 1e-6, at
most by 3.5e-6, of two processes and of the control alike).
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sluicegate.engine.models import load
from sluicegate.execution.execute import execute
from sluicegate.runs.directory import Progress
from sluicegate.tasks.train_stage import Train
from sluicegate.values.schedule import Schedule

MODEL, TASK, BATCH = "biographies-tiny", "task:biographies", 33
"""An odd batch: the processes' shares differ by a row."""


@dataclass(frozen=True)
class Compared:
    """What came of it."""

    world_size: int
    """As the run of several processes recorded it."""
    steps: int
    difference: float
    """Largest difference of a weight between one process and several."""
    sharded: float
    """The same with FSDP2."""
    control: float
    """The same of one process that cuts its batch in two."""
    moved: float
    """Largest change of a weight by training."""


def summary(found: Compared) -> dict[str, float]:
    """The figures, by name."""
    return {
        "world_size": found.world_size,
        "max_weight_difference": found.difference,
        "max_weight_difference_sharded": found.sharded,
        "max_weight_difference_accumulate": found.control,
        "max_weight_change": found.moved,
        "steps": found.steps,
    }


def run(*, quick: bool = False, procs: int = 2, progress: Progress | None = None) -> Compared:
    """Train four times and compare; the time goes into starting processes, not into the 20 steps (5 when `quick`)."""
    steps = 5 if quick else 20
    stage = _stage(steps, 1)
    with tempfile.TemporaryDirectory(prefix="sluicegate-bench-") as place:
        one = execute(stage, Path(place) / "one", exact=True, progress=progress, procs=1)
        cut = execute(_stage(steps, 2), Path(place) / "cut", exact=True, progress=progress, procs=1)
        several = execute(stage, Path(place) / "several", exact=True, progress=progress, procs=procs)
        divided = execute(stage, Path(place) / "divided", exact=True, progress=progress, procs=procs, shard=True)
        world = json.loads((several / "env.json").read_text())["world_size"]
        return Compared(world, steps, _apart(one, several), _apart(one, divided), _apart(one, cut), _apart(one, MODEL))


def _stage(steps: int, accumulate: int) -> Train:
    schedule = Schedule(steps=steps, batch=BATCH, warmup=5, accumulate=accumulate)
    return Train(model=MODEL, forget=f"{TASK}/forget", retain=f"{TASK}/retain", schedule=schedule)


def markdown(found: Compared) -> str:
    """The figures in words."""
    return os.linesep.join(
        [
            f"{found.world_size} processes against one, {found.steps} steps of train on {MODEL} in float32, {BATCH} rows a step:",
            f"  largest difference of a weight: {found.difference:.2g}, with FSDP2 {found.sharded:.2g}",
            f"  one process that cuts its batch in two: {found.control:.2g}",
            f"  largest change of a weight by training: {found.moved:.2g}",
        ]
    )


def _apart(first: Path, second: Path | str) -> float:
    """Largest absolute difference of any weight between two models."""
    own, other = (_weights(str(name)) for name in (first, second))
    return max(float((own[name] - other[name]).abs().max()) for name in own)


def _weights(name: str) -> Mapping[str, Tensor]:
    return {key: value.detach() for key, value in load(name, dtype="float32")[0].named_parameters()}
