"""Stages that make a model: train, unlearn, distil, undo."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.errors import UserError
from sluicegate.items import GROUPS, Split
from sluicegate.runs.identity import source
from sluicegate.runs.room import result_of
from sluicegate.schedule import Schedule, distilling_rate, training_rate, unlearning_rate
from sluicegate.stages.data import OnData
from sluicegate.unlearning.objectives import Method
from sluicegate.unlearning.objectives.maxent import MaxEnt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sluicegate.runs.room import Room
    from sluicegate.unlearning.budget import Choice
    from sluicegate.unlearning.distill import Distilled, StopRule


@dataclass(frozen=True)
class Train(OnData):
    """Train a model on rows by next-token prediction: the base model, or one that never knew."""

    VERB: ClassVar[str] = "train"
    TOGETHER: ClassVar[bool] = True

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
    TOGETHER: ClassVar[bool] = True
    NEEDS: ClassVar[tuple[str, ...]] = ("forget", "retain")

    sites: str = "*"
    """Which parameters are trained: globs over parameter names, joined by commas."""
    sam: float = field(default=0.0, metadata={"added": True})
    """Radius of sharpness-aware minimisation around every step, at twice the cost, for example .01; 0: none."""
    schedule: Schedule = Schedule(steps=100, batch=32)
    objective: Method = MaxEnt()

    def resolved(self) -> Self:
        if self.sam and self.schedule.accumulate > 1:
            raise UserError("a sharpness-aware step needs its whole batch at once: leave --accumulate out, or --sam.")
        return dataclasses.replace(super().resolved(), schedule=self.schedule.or_rate(unlearning_rate(self.width())))

    @property
    def method(self) -> str:
        return f"{self.objective.NAME}-sam" if self.sam else self.objective.NAME

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
            sam=self.sam,
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
    TOGETHER: ClassVar[bool] = True
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
    budget: float = field(default=0.0, metadata={"added": True})
    """FLOPs that may be spent in all: a short calibration chooses alpha for them, and says how sure it is. 0: take --alpha."""

    @property
    def method(self) -> str:
        return f"budget-{self.budget:.2g}" if self.budget else f"{self.alpha:g}"

    def run(self, room: "Room") -> dict[str, Any]:
        from sluicegate.unlearning.distill import undo

        if self.student:
            raise UserError("undo makes its own student from --model; leave --student out, or use: sluicegate distill")
        split = self.split()
        schedule, stop = self.plan(split)
        model, tokenizer = self.load()
        choice = self.chosen(model, tokenizer, split, schedule, stop, room) if self.budget else None
        if choice:  # the course of the learning rate is the one that was calibrated, however many steps are left
            decay = schedule.decay_steps or schedule.steps
            schedule = dataclasses.replace(schedule, steps=choice.affordable, decay_steps=decay)
        done = undo(
            model,
            tokenizer,
            split.unlabelled,
            schedule,
            alpha=choice.alpha if choice else self.alpha,
            beta=self.beta,
            sites=self.noise_sites,
            stop=stop,
            seed=self.seed,
            max_length=self.max_length,
            template=self.template,
            cache_teacher=self.cache_teacher,
            room=room,
        )
        if choice:
            done.fitted.ledger.add(choice.ledger)
        result = self.distilled(room, done, tokenizer, split)
        return result | ({"alpha": choice.alpha, "chosen": choice.to_json(), "notes": choice.sentences()} if choice else {})

    def chosen(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        split: Split,
        schedule: Schedule,
        stop: "StopRule | None",
        room: "Room",
    ) -> "Choice":
        """What the budget pays for."""
        from sluicegate.unlearning.budget import calibrate

        if not 0 < self.budget < math.inf:
            raise UserError(f"the budget is {self.budget:g}; it is a number of FLOPs, for example 2e10, or 0 to take --alpha.")
        if stop is None:
            raise UserError("a budget is chosen for by how soon the student stops: leave --steps-of out, and --stop-at above 0.")
        return calibrate(
            model,
            tokenizer,
            split.unlabelled,
            schedule,
            budget=self.budget,
            stop=stop,
            beta=self.beta,
            sites=self.noise_sites,
            seed=self.seed,
            max_length=self.max_length,
            template=self.template,
            cache_teacher=self.cache_teacher,
            room=room,
        )
