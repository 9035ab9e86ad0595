"""sluicegate bench: what the library costs on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from sluicegate.cli.command import Verb, print_json, several
from sluicegate.cli.progress import watching


@dataclass(frozen=True)
class Measured:
    """Measure on this machine, mostly as ratios to a floor measured in the same run."""

    WHAT: ClassVar[str] = ""
    quick: bool = False
    """Few repetitions: noisier, for a first look."""
    json: bool = False
    """Print the figures as the last line."""

    def run(self) -> int:
        module = import_module(f"sluicegate_papers.benchmarks.{self.WHAT}")
        with watching() as progress:
            found = module.run(quick=self.quick, progress=progress)
        print(module.markdown(found))
        if self.json:
            print_json(module.summary(found))
        return 0


@dataclass(frozen=True)
class Routing(Measured):
    """A training step with a router against a plain one."""

    WHAT: ClassVar[str] = "routing"


@dataclass(frozen=True)
class Training(Measured):
    """Steps of training and distilling against the shortest loop there is, and of unlearning at SmolLM2-135M's size
    against the Hugging Face Trainer; ten minutes, two with --quick."""

    WHAT: ClassVar[str] = "training"


@dataclass(frozen=True)
class Pipeline(Measured):
    """The demo as it runs against one stage after the other, and its share of matrix products; minutes."""

    WHAT: ClassVar[str] = "pipeline"


@dataclass(frozen=True)
class Steering(Measured):
    """A steering vector's orthogonal set on smollm2-135m, all at once against one after the other; tens of minutes, a
    few with --quick."""

    WHAT: ClassVar[str] = "steering"


@dataclass(frozen=True)
class Ranks(Measured):
    """The largest difference of a weight after training by two processes."""

    WHAT: ClassVar[str] = "ranks"


@dataclass(frozen=True)
class Scaling:
    """What audit and UNDO cost at 1B, 8B and 70B parameters, or for a model of yours: FLOPs, memory, device-hours.
    Makes no weights."""

    config: str = ""
    """A folder with config.json, or a packaged name; default: 1B, 8B and 70B."""
    throughput: float = 1e14
    """FLOP/s that a device sustains (peak times utilisation)."""
    devices: int = 64
    """Devices in the tables of memory."""
    memory: float = 80.0
    """GB that a device holds."""
    measure: bool = False
    """Set the formulas beside small runs instead; about two CPU minutes."""

    def run(self) -> int:
        from sluicegate.engine.memory import shape
        from sluicegate_papers.benchmarks import scaling

        if self.measure:
            scaling.main()
            return 0
        models = {name: shape(name) for name in ((self.config,) if self.config else scaling.SIZES)}
        print(scaling.tables(models, self.throughput, self.devices, self.memory))
        return 0


@dataclass(frozen=True)
class Zoo:
    """What the audit's suite finds in small models that know a known part, and how often it is wrong about models that
    know nothing: from the recorded results; seconds."""

    rerun: int = 0
    """Make so many models anew, and their references, and print the same for them; about a CPU minute each."""
    make: bool = False
    """Make the whole zoo (what is there is kept), calibrate, and write the results down; hours."""
    seeds: int = 4
    """With --make: seeds of each task, residue and method."""
    workers: int = 2
    """Processes side by side."""
    out: str = "runs/zoo"
    """Folder of the models' findings."""
    json: bool = False
    """Print the figures as the last line."""

    def run(self) -> int:
        from sluicegate_papers.zoo import record

        if self.make:
            record.make(Path(self.out), self.seeds, self.workers)
        found = record.again(Path(self.out), self.rerun, self.workers) if self.rerun else record.recorded()
        print(record.told(found))
        if self.json:
            print_json(found)
        return 0


_KINDS = {
    "routing": Routing,
    "training": Training,
    "pipeline": Pipeline,
    "steering": Steering,
    "ranks": Ranks,
    "scaling": Scaling,
    "zoo": Zoo,
}


def _bench() -> Verb:
    """The verb; without a name it measures routing."""
    actions = several("bench", "Measure the library on this machine", "runs and recipes", _KINDS)

    def call(words: Sequence[str]) -> int:
        options = bool(words) and words[0].startswith("--") and words[0] != "--help"
        return actions.call(["routing", *words] if not words or options else words)

    return Verb(actions.name, actions.summary, actions.group, call)


BENCH = _bench()
