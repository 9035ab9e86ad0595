"""sluicegate oversight: agents of which only a share is overseen, trained with all their controls, and judged
exactly."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.cli.command import assignment, print_json, seeds_from, simple
from sluicegate.cli.progress import watching
from sluicegate.errors import UserError
from sluicegate.execution.jobs import Job, run_jobs
from sluicegate.execution.local import LocalPool
from sluicegate.oversight.board import Board, check_share
from sluicegate.runs.directory import write_atomic
from sluicegate.runs.stage import from_config
from sluicegate.values.files import read_json
from sluicegate_papers.oversight.arms import CONTROLS, to_train, trained_as

if TYPE_CHECKING:
    from sluicegate_papers.oversight.page_numbers import Found, Key
    from sluicegate_papers.oversight.stage import Oversight as Stage

OPTIONS = {"variant": "--arms", "arm": "--arms", "share": "--share", "size": "--size", "seed": "--seed"}
"""Settings of a run that have an option of their own."""


@dataclass(frozen=True)
class Oversight:
    """Train agents of which only a share is overseen, with all their controls, and judge them where nobody looks.

    An agent may reach a Diamond or a Ghost; whether it was right is seen for a share of the squares only, and the agent
    sees which. Prints returns, ends and differences with intervals, and writes a page with an animation. On a 3 x 3
    board a run takes some seconds of a core, and the whole table some minutes; finished runs are kept."""

    share: tuple[float, ...] = (0.01, 0.05, 0.1, 0.3)
    """Shares of overseen squares, each more than 0 and at most 1."""
    size: int = 3
    """Squares on a side of the board."""
    arms: tuple[str, ...] = CONTROLS
    """Ways to train; the default is the whole table. Others are ablations and attempts to get past the ceiling (see the
    how-to)."""
    seeds: int = 3
    """Number of seeds."""
    seed: int = 0
    """First seed."""
    out: str = ""
    """Folder of the runs, oversight.html and oversight.json; default: runs/oversight, or runs/oversight-NxN for another
    size."""
    set: tuple[str, ...] = ()
    """Settings of every run to change, each FIELD=VALUE, for example updates=100."""
    workers: int = 0
    """Processes; 0: one a core."""
    json: bool = False
    """Print every arm's figures, one a seed, as the last line."""

    def run(self) -> int:
        from sluicegate_papers.oversight.page import report_oversight
        from sluicegate_papers.oversight.page_numbers import gather

        seeds = seeds_from(self.seed, self.seeds)
        shares, names, stage = self._checked(seeds[0])
        folder = Path(self.out or f"runs/oversight{'' if self.size == 3 else f'-{self.size}x{self.size}'}")
        trained = to_train(names)
        count = len(shares) * len(trained) * len(seeds)
        budget = f"{stage.updates} updates of {stage.episodes:,} episodes, at most {stage.limit} steps each"
        of = ", ".join((_many(len(trained), "trained arm"), _many(len(shares), "share"), _many(len(seeds), "seed")))
        plan = f"{_many(count, 'run')} ({of}): {budget}."
        print(plan, flush=True)
        with watching() as progress:
            jobs = {key: self._job(key, folder) for key in ((p, arm, s) for p in shares for arm in trained for s in seeds)}
            done = run_jobs(list(jobs.values()), LocalPool(self.workers), progress)
        found = gather(names, shares, seeds, {key: done[job.key] for key, job in jobs.items()})
        page = report_oversight(found, folder / "oversight.html", command=self.command(), facts=f"{plan}{_seconds(found)}")
        write_atomic(folder / "oversight.json", json.dumps(_kept(found, self.command()), indent=1))
        _show(found, page)
        if self.json:
            print_json(found.as_json())
        return 0

    def _checked(self, seed: int) -> "tuple[list[float], list[str], Stage]":
        """Shares from low to high and arms, each once, and one stage with its defaults filled in; what is wrong is
        named before any run."""
        for what, given in (("--share", self.share), ("--arms", self.arms)):
            if not given:
                raise UserError(f"{what} names nothing; give at least one.")
        for share in self.share:
            check_share(share)
        Board(self.size)
        for name in self.arms:
            trained_as(name)
        for name in self._changes():
            if name in OPTIONS:
                raise UserError(f"--set {name}=... would hold for every run; give {OPTIONS[name]} instead.")
        shares, names = sorted(set(self.share)), list(dict.fromkeys(self.arms))
        for arm in to_train(names):
            stage: Any = from_config(self._settings((shares[0], arm, seed))).resolved()
        return shares, names, stage

    def _changes(self) -> dict[str, Any]:
        return dict(assignment(text) for text in self.set)

    def _settings(self, key: "Key") -> dict[str, Any]:
        share, arm, seed = key
        return {"verb": "oversight", "variant": arm, "share": share, "size": self.size, "seed": seed, **self._changes()}

    def _job(self, key: "Key", folder: Path) -> Job:
        share, arm, seed = key
        return Job(f"{arm} at {100 * share:g} %, seed {seed}", (), lambda _: from_config(self._settings(key)), folder)

    def command(self) -> str:
        """The command that makes this again, in full where it differs from the defaults."""
        words = ["sluicegate", "oversight", "--share", *(f"{share:g}" for share in sorted(set(self.share)))]
        words += ["--size", str(self.size), "--seeds", str(self.seeds)] + (["--seed", str(self.seed)] if self.seed else [])
        words += ["--arms", *self.arms] if self.arms != CONTROLS else []
        words += ["--set", *self.set] if self.set else []
        return shlex.join(words)


def _seconds(found: "Found") -> str:
    """What the runs took, for the page: CPU seconds of the quickest and the slowest; empty where it was not kept."""
    took = []
    for folder in found.folders.values():
        if (file := folder / "seconds.json").is_file():
            took.append(float(read_json(file)["cpu"]))
    return f" A run took {min(took):.0f} to {max(took):.0f} CPU seconds." if took else ""


def _kept(found: "Found", command: str) -> dict[str, Any]:
    """oversight.json: every figure of every arm, one a seed, the references, what is said, and where the runs are."""
    from sluicegate_papers.oversight.page_numbers import FIGURES
    from sluicegate_papers.oversight.page_verdicts import verdicts

    figures = {
        f"{p:g}": {name: {figure: found.values(p, name, figure) for figure in FIGURES} for name in found.names} for p in found.shares
    }
    places = {f"{arm} {share:g} {seed}": path.name for (share, arm, seed), path in found.folders.items()}
    return {
        "command": command,
        "size": found.size,
        "seeds": list(found.seeds),
        "references": found.references,
        "figures": figures,
        "says": {row.question: str(row) for row in verdicts(found)},
        "warnings": found.warnings(),
        "runs": places,
    }


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _show(found: "Found", page: Path) -> None:
    """The tables, what they say, and where the page is."""
    from rich.markup import escape

    from sluicegate.cli.terminal import terminal
    from sluicegate_papers.oversight.page import tables
    from sluicegate_papers.oversight.page_verdicts import verdicts

    console = terminal()
    for table in tables(found):
        console.print(table)
    for row in verdicts(found):
        console.print(escape(str(row)), highlight=False)
    for text in found.warnings():
        console.print(f"[yellow]warning[/] {escape(text)}")
    console.print(f"\nreport: {escape(str(page))}", soft_wrap=True)


OVERSIGHT = simple(
    "oversight", Oversight, "see", "Train agents of which only a share is overseen, with all controls, and judge them where nobody looks"
)
