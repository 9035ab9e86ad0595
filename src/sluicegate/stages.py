"""The stages: each verb as one frozen dataclass, run inside a run folder.

The dataclass is the command line, the table in a recipe and the record in config.toml, so the
three cannot drift. Nothing here imports torch before a stage is run.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.audit.attack import Attack
from sluicegate.errors import UserError
from sluicegate.items import GROUPS, Split
from sluicegate.runs.identity import Stage, source
from sluicegate.runs.room import result_of
from sluicegate.schedule import Schedule, distilling_rate, training_rate, unlearning_rate
from sluicegate.tasks import read
from sluicegate.unlearning.objectives import Method
from sluicegate.unlearning.objectives.maxent import MaxEnt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sluicegate.runs.room import Room
    from sluicegate.training import Fitted
    from sluicegate.unlearning.distill import Distilled, StopRule


@dataclass(frozen=True)
class OnData(Stage):
    """What the stages have in common: a model, groups of rows, and how they become tokens."""

    NEEDS: ClassVar[tuple[str, ...]] = ()
    """Sources without which the verb has nothing to do, beside the model."""

    model: str = source("model")
    """Folder, run folder, packaged configuration (arithmetic-tiny), fetched model, or hub id."""
    forget: str = source("data")
    """Forget set: JSONL, text, Parquet, hub:NAME, or task:NAME/GROUP; several joined by commas."""
    retain: str = source("data")
    """Retain set, in the same formats."""
    adjacent: str = source("data")
    """Rows near the forget set that are to be kept; they are only scored."""
    max_length: int = 256
    """Longest row, in tokens; longer running text is cut into windows."""
    template: bool = False
    """Render prompts with the tokenizer's chat template."""
    seed: int = 0
    """Seed of everything random in this stage."""

    def split(self) -> Split:
        """The groups that were handed in."""
        groups = {name: value for name, value in self.sources("data").items() if name in GROUPS}
        return Split(**{name: read(value, name) for name, value in groups.items()})

    def need(self, *names: str) -> None:
        """Raise `UserError` unless these sources were handed in."""
        missing = [f"--{name.replace('_', '-')}" for name in names if not getattr(self, name)]
        if missing:
            raise UserError(f"{self.VERB} needs {' and '.join(missing)}. See: sluicegate {self.VERB} --help")

    def resolved(self) -> Self:
        """Check that what the verb needs is there, and fill in what depends on the model: the learning rates."""
        self.need("model", *self.NEEDS)
        if self.seed < 0:
            raise UserError(f"the seed is {self.seed}; it must be 0 or more.")
        return self

    def width(self) -> int:
        """The model's hidden size."""
        from sluicegate.models import config_width

        return config_width(self.model)

    def is_wide(self) -> bool:
        """Whether one operation is work enough for several threads.

        In a narrow model two threads mostly wait for each other: on cores that others use as well, a step of the
        arithmetic model took 25 times as long with two threads as with one.
        """
        return self.width() >= 256

    def load(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        from sluicegate.models import load

        return load(self.model, seed=self.seed)

    def finish(
        self, room: "Room", model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", split: Split, fitted: "Fitted"
    ) -> dict[str, Any]:
        """Score the groups, save the model, and return the stage's result."""
        from sluicegate.models import save

        scores = self.score(model, tokenizer, split)
        save(model.eval(), tokenizer, room.path / "model")
        return {"verb": self.VERB, "method": self.method, "steps": fitted.steps, "scores": scores, "flops": fitted.ledger.as_dict()}

    def score(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", split: Split) -> dict[str, dict[str, float]]:
        """Mean scores of every group but the unlabelled one."""
        from sluicegate.models import encode, fitting
        from sluicegate.scoring import score

        longest = fitting(model, self.max_length)
        return {
            name: score(model, encode(tokenizer, split.group(name), max_length=longest, template=self.template)).mean()
            for name in ("forget", "retain", "adjacent")
            if split.group(name)
        }


@dataclass(frozen=True)
class Score(OnData):
    """Score a model as it is: how much of each group does it know?"""

    VERB: ClassVar[str] = "score"

    def run(self, room: "Room") -> dict[str, Any]:
        from sluicegate.training import Ledger

        split = self.split()
        if not (split.forget or split.retain or split.adjacent):
            raise UserError("there is nothing to score: hand in --forget, --retain or --adjacent.")
        model, tokenizer = self.load()
        return {"verb": self.VERB, "method": "", "steps": 0, "scores": self.score(model, tokenizer, split), "flops": Ledger().as_dict()}


@dataclass(frozen=True)
class Train(OnData):
    """Train a model on rows by next-token prediction: the base model, or one that never knew."""

    VERB: ClassVar[str] = "train"

    unlabelled: str = source("data")
    """Rows that nobody has labelled, in the same formats."""
    learn: tuple[str, ...] = ("forget", "retain", "unlabelled")
    """Which of the groups are trained on; the others are only scored."""
    on: Literal["real", "answer"] = "real"
    """Which tokens count: all of them, or the answers' alone."""
    sites: str = "*"
    """Which parameters are trained: globs over parameter names, joined by commas."""
    schedule: Schedule = Schedule(steps=700, batch=64, warmup=50, decay="cosine")

    def resolved(self) -> Self:
        return dataclasses.replace(super().resolved(), schedule=self.schedule.or_rate(training_rate(self.width())))

    def run(self, room: "Room") -> dict[str, Any]:
        from sluicegate.training import CrossEntropy
        from sluicegate.unlearning.suppress import train

        split = self.split()
        for name in self.learn:
            if name not in GROUPS:
                raise UserError(f"cannot learn {name!r}; the groups are {', '.join(GROUPS)}.")
        rows = [item for name in self.learn for item in split.group(name)]
        if not rows:
            raise UserError(f"there is nothing to train on: none of {', '.join(self.learn)} was handed in.")
        model, tokenizer = self.load()
        fitted = train(
            model,
            tokenizer,
            rows,
            self.schedule,
            objective=CrossEntropy(self.on),
            seed=self.seed,
            sites=self.sites,
            max_length=self.max_length,
            template=self.template,
            room=room,
        )
        return self.finish(room, model, tokenizer, split, fitted)


@dataclass(frozen=True)
class Unlearn(OnData):
    """Suppress the forget set while keeping the retain set."""

    VERB: ClassVar[str] = "unlearn"
    NEEDS: ClassVar[tuple[str, ...]] = ("forget", "retain")

    sites: str = "*"
    """Which parameters are trained: globs over parameter names, joined by commas."""
    schedule: Schedule = Schedule(steps=100, batch=32)
    objective: Method = MaxEnt()

    def resolved(self) -> Self:
        return dataclasses.replace(super().resolved(), schedule=self.schedule.or_rate(unlearning_rate(self.width())))

    @property
    def method(self) -> str:
        return self.objective.NAME

    def run(self, room: "Room") -> dict[str, Any]:
        from sluicegate.unlearning.suppress import unlearn

        split = self.split()
        model, tokenizer = self.load()
        model, fitted = unlearn(
            model,
            tokenizer,
            split,
            self.objective,
            self.schedule,
            seed=self.seed,
            sites=self.sites,
            max_length=self.max_length,
            template=self.template,
            room=room,
            in_place=True,
        )
        return self.finish(room, model, tokenizer, split, fitted)


@dataclass(frozen=True)
class Distill(OnData):
    """Distil a model's outputs into a student: `model` is the teacher."""

    VERB: ClassVar[str] = "distill"
    NEEDS: ClassVar[tuple[str, ...]] = ("unlabelled",)

    unlabelled: str = source("data")
    """The mixture that the student sees the teacher's outputs on."""
    student: str = source("model")
    """Model that the student starts from; empty: newly initialised, in the teacher's shape."""
    stop_at: float = 0.95
    """Stop when the student has this share of the teacher's retain score; 0: run every step."""
    check_every: int = 20
    """Steps between looks at the retain score."""
    steps_of: str = source("run")
    """A finished run whose number of steps is taken instead of --steps, with no stopping early."""
    cache_teacher: bool = False
    """Compute the teacher's outputs on the whole mixture once and keep them in memory."""
    schedule: Schedule = Schedule(steps=1000, batch=64, warmup=25, decay="cosine", decay_steps=700)

    def resolved(self) -> Self:
        return dataclasses.replace(super().resolved(), schedule=self.schedule.or_rate(distilling_rate(self.width())))

    @property
    def method(self) -> str:
        return "onto" if self.student else "fresh"

    def plan(self, split: Split) -> "tuple[Schedule, StopRule | None]":
        """The schedule and stopping rule: one's own, or another run's number of steps."""
        from sluicegate.unlearning.distill import StopRule

        if self.steps_of:
            return dataclasses.replace(self.schedule, steps=int(result_of(self.steps_of)["steps"])), None
        if self.stop_at and not split.retain:
            raise UserError(f"{self.VERB} stops by the retain score and needs --retain; or give --stop-at 0 to run every step.")
        return self.schedule, StopRule(split.retain, self.stop_at, self.check_every) if self.stop_at else None

    def run(self, room: "Room") -> dict[str, Any]:
        from sluicegate.models import load
        from sluicegate.unlearning.distill import distill

        split = self.split()
        schedule, stop = self.plan(split)
        teacher, tokenizer = self.load()
        student = load(self.student, seed=self.seed)[0] if self.student else None
        done = distill(
            teacher,
            tokenizer,
            split.unlabelled,
            schedule,
            student=student,
            stop=stop,
            seed=self.seed,
            max_length=self.max_length,
            template=self.template,
            cache_teacher=self.cache_teacher,
            room=room,
        )
        return self.distilled(room, done, tokenizer, split)

    def distilled(self, room: "Room", done: "Distilled", tokenizer: "PreTrainedTokenizerBase", split: Split) -> dict[str, Any]:
        result = self.finish(room, done.student, tokenizer, split, done.fitted)
        return result | {"reached": done.reached, "divergence": done.divergence}


@dataclass(frozen=True)
class Undo(Distill):
    """Unlearn, noise, distil: noise a copy of the suppressed model, then distil the model into it."""

    VERB: ClassVar[str] = "undo"

    alpha: float = 0.6
    """Share of the weights that is replaced by noise, 0 to 1: the dial from cheap to robust."""
    beta: float = 0.1
    """Scale of the noise, in units of a Xavier-uniform initialisation."""
    noise_sites: str = "*"
    """Which parameters are noised: globs over parameter names, joined by commas."""

    @property
    def method(self) -> str:
        return f"{self.alpha:g}"

    def run(self, room: "Room") -> dict[str, Any]:
        from sluicegate.unlearning.distill import undo

        if self.student:
            raise UserError("undo makes its own student from --model; leave --student out, or use: sluicegate distill")
        split = self.split()
        schedule, stop = self.plan(split)
        model, tokenizer = self.load()
        done = undo(
            model,
            tokenizer,
            split.unlabelled,
            schedule,
            alpha=self.alpha,
            beta=self.beta,
            sites=self.noise_sites,
            stop=stop,
            seed=self.seed,
            max_length=self.max_length,
            template=self.template,
            cache_teacher=self.cache_teacher,
            room=room,
        )
        return self.distilled(room, done, tokenizer, split)


@dataclass(frozen=True)
class Relearn(OnData):
    """Attack a model by fine-tuning, and measure how fast the forget set comes back."""

    VERB: ClassVar[str] = "relearn"
    NEEDS: ClassVar[tuple[str, ...]] = ("forget",)

    attack: Attack = Attack()

    def resolved(self) -> Self:
        stage = super().resolved()
        return dataclasses.replace(stage, attack=dataclasses.replace(self.attack, lrs=self.attack.rates(self.width())))

    @property
    def method(self) -> str:
        return self.attack.kind

    def run(self, room: "Room") -> dict[str, Any]:
        from sluicegate.audit.relearn import relearn

        split = self.split()
        model, tokenizer = self.load()
        found = relearn(
            model,
            tokenizer,
            split.forget,
            split.retain,
            self.attack,
            seed=self.seed,
            max_length=self.max_length,
            template=self.template,
            room=room,
        )
        return {
            "verb": self.VERB,
            "method": self.method,
            "scores": self.score(model, tokenizer, split),
            **found.to_json(),
        }
