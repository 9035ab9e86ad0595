"""A trial that trains nothing, so that what surrounds trials can be tested in no time."""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from sluicegate.errors import UserError
from sluicegate.execution import execute as execution
from sluicegate.experiments import experiment, sweep
from sluicegate.runs import stage as stage_module
from sluicegate.runs.stage import source
from sluicegate.runs.trial import Trial, outcome


@dataclass(frozen=True)
class Throwaway(Trial):
    """Measure nothing of interest."""

    VERB: ClassVar[str] = "throwaway"
    MEASURES: ClassVar[Mapping[str, str]] = {"loss": "loss, nats", "share": "share of <everything>", "rare": "what only some measure"}

    level: float = 1.0
    """What the loss is about."""
    model: str = source("model")
    """A model to start from."""

    def is_wide(self):
        return False

    def run(self, run):
        run.log({"step": 1})
        (run.path / "look.png").write_bytes(png(self.seed))
        found = {"loss": self.level + 0.01 * self.seed, "share": 0.5}
        if self.variant == "rare":
            found["rare"] = 7.0
        if self.variant == "broken" and self.seed == 1:
            found["loss"] = float("nan")
        steps = [0.0, 10.0, 20.0, 30.0][: 4 - self.seed % 2]  # seeds that stop at different lengths
        curves = {"training": (steps, [self.level + 1 / (1 + x) + 0.05 * self.seed for x in steps])}
        curves["trade"] = ([3.0, 2.0, 2.5], [1.0, 2.0, float("inf") if self.variant == "broken" else 3.0])
        return outcome(self, found, flops=1e6, curves=curves)


@dataclass(frozen=True)
class Other(Trial):
    """Another trial, which means something else by the same name."""

    VERB: ClassVar[str] = "other-trial"
    MEASURES: ClassVar[Mapping[str, str]] = {"loss": "loss, bits", "speed": "m/s"}

    extra: tuple[str, ...] = field(default=("a",))
    """A list."""

    def is_wide(self):
        return False

    def run(self, run):
        return outcome(self, {"loss": 2.0 + self.seed, "speed": 1234567.0}, flops=1.0)


def png(shade: int) -> bytes:
    """A picture of 2 x 2 grey pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([40 * shade % 256, 200]) for _ in range(2))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the trials be found, and run jobs in this process: workers would not know them."""
    real = stage_module.classes
    monkeypatch.setattr(stage_module, "classes", lambda *how: real(*how) | {cls.VERB: cls for cls in (Throwaway, Other)})
    for module in (experiment, sweep):
        monkeypatch.setattr(module, "run_jobs", in_this_process)


def in_this_process(jobs, executor, progress=None, failed=None):
    done: dict[str, Path] = {}
    for job in jobs:
        try:
            done[job.key] = execution.execute(job.stage(done), job.out, exact=job.exact, progress=progress)
        except UserError as error:
            if not job.spare:
                raise
            failed[job.key] = str(error)
    return done


def table(**changes):
    """A recipe of trials with every kind of picture, as TOML holds it."""
    return {
        "name": "by-hand",
        "title": "A trial by hand",
        "about": "What was done.",
        "seeds": 3,
        "arms": {
            "routed": {"verb": "throwaway", "arm": "rare", "level": 2.0},
            "control": {"verb": "throwaway", "arm": "plain", "level": 1.0},
            "another": {"verb": "other-trial", "arm": "one"},
        },
        "claims": [
            {"says": "Routed is above the control.", "source": "a paper, table 2", "test": "routed.loss > control.loss + 0.5"},
            {"says": "Small on some seeds.", "source": "this page", "test": "control.loss < 1.015"},
            {"says": "It is the other way round.", "test": "routed.loss < control.loss"},
        ],
        "pictures": [
            {"kind": "bars", "title": "Both numbers", "measures": ["loss", "share"], "note": "Lower is better."},
            {"kind": "lines", "title": "Training", "curve": "training", "x": "steps", "y": "loss, nats", "arms": ["routed", "control"]},
            {"kind": "lines", "title": "One against the other", "curve": "trade", "x": "retain loss", "y": "forget loss"},
            {"kind": "image", "title": "What it draws", "file": "look.png", "arms": ["routed", "control"]},
        ],
    } | changes
