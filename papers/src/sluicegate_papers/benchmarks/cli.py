"""sluicegate bench: what the library costs on this machine."""

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from tyro.conf import Positional

from sluicegate.cli.command import print_json, simple
from sluicegate.cli.progress import watching


@dataclass(frozen=True)
class Bench:
    """Measure the library on this machine. Mostly as ratios to a floor measured in the same run.

    routing: a training step with a router to a plain one. ranks: the largest difference of a weight after training by two processes.
    steering: twins of a steering vector on smollm2-135m, all at once against one after the other; tens of minutes, a few with --quick.
    pipeline: the demo as it runs against one stage after the other, and its share of matrix products."""

    what: Positional[Literal["routing", "ranks", "steering", "pipeline"]] = "routing"
    """Which benchmark."""
    quick: bool = False
    """Few repetitions: noisier, for a first look."""
    json: bool = False
    """Print the figures as the last line."""

    def run(self) -> int:
        measured = import_module(f"sluicegate_papers.benchmarks.{self.what}")
        with watching() as progress:
            found = measured.run(quick=self.quick, progress=progress)
        print(measured.markdown(found))
        if self.json:
            print_json(measured.summary(found))
        return 0


BENCH = simple("bench", Bench, "runs and recipes")
