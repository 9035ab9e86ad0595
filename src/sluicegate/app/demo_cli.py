"""sluicegate demo: the whole story on one page."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sluicegate.cli.command import simple
from sluicegate.execution.local import LocalPool
from sluicegate.experiments.cli import run_and_report
from sluicegate.latent.cli import digits_page

DRAWING = ("A latent space you can read", "an autoencoder in which every digit owns a block. Draw one, take it away, turn it into another.")
"""Title and words of the demo's link to the page of the 8 x 8 digits."""


@dataclass(frozen=True)
class Demo:
    """Teach a small model arithmetic, take half of it out in eight ways, and attack each.

    Ends with a table, a report, and a page in which to draw digits. About two and a half minutes for two seeds on two
    cores."""

    seeds: int = 2
    """Number of seeds; 5 gives the table of the documentation."""
    seed: int = 0
    """First seed."""
    out: str = "runs/undo-arithmetic"
    """Folder of the results, report.html and summary.json."""
    workers: int = 0
    """Processes; 0: one a core."""
    json: bool = False
    """Print summary.json's content as the last line."""

    def run(self) -> int:
        drawing = partial(digits_page, Path(self.out) / "latent", self.seed, self.workers)
        return run_and_report(
            "undo-arithmetic", (self.seed, self.seeds), self.out, LocalPool(self.workers), {}, self.json, drawing, DRAWING
        )


DEMO = simple("demo", Demo, "start here")
