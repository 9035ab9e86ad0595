"""Stages that take knowledge out: unlearn, distil, undo."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.deprecated import alias
from sluicegate.errors import UserError
from sluicegate.runs.directory import result_of
from sluicegate.runs.stage import setting, source
from sluicegate.tasks.stage import OnData, compared
from sluicegate.unlearning.objectives import Method, methods
from sluicegate.unlearning.objectives.maxent import MaxEnt
from sluicegate.values.items import Split
from sluicegate.values.ranges import Count, Share, Weight, Whole
from sluicegate.values.schedule import Schedule, distilling_rate, unlearning_rate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sluicegate.runs.directory import RunContext
    from sluicegate.unlearning.budget import Choice
    from sluicegate.unlearning.distill import Distilled, StopRule


@dataclass(frozen=True)
class Unlearn(OnData):
    """Suppress the forget set while keeping the retain set."""

    VERB: ClassVar[str] = "unlearn"
    GROUP: ClassVar[str] = "unlearn and distil"
    TOGETHER: ClassVar[bool] = True
    NEEDS: ClassVar[tuple[str, ...]] = ("forget", "retain")
    ADVICE: ClassVar[str] = "try a larger --retain-weight, a lower --lr or more --steps."

    params: str = setting("*", was="sites")
    """Which parameters are trained: globs over their full names, joined by commas; a star crosses dots."""
    sam: Weight = setting(0.0, added=True)
    """Radius of sharpness-aware minimisation around every step, at twice the cost, for example .01; 0: none."""
    schedule: Schedule = Schedule(steps=100, batch=32)
    objective: Method = MaxEnt()

    def resolved(self) -> Self:
        if self.sam and self.schedule.accumulate > 1:
            raise UserError("a sharpness-aware step needs its whole batch at once: leave --accumulate out, or --sam.")
        return dataclasses.replace(super().resolved(), schedule=self.schedule.or_rate(unlearning_rate(self.width())))

    @classmethod
    def methods(cls) -> dict[str, type[Method]]:
        return methods()

    @property
    def method(self) -> str:
        return f"{self.objective.NAME}-sam" if self.sam else self.objective.NAME

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.unlearning.unlearn import unlearn

        split = self.split()
        model, tokenizer = self.load()
        before = self.score(model, tokenizer, Split(retain=split.retain))
        model, fitted = unlearn(
            model,
            tokenizer,
            split,
            self.objective,
            self.schedule,
            seed=self.seed,
            params=self.params,
            sam=self.sam,
            max_length=self.max_length,
            template=self.template,
            run=run,
            in_place=True,
        )
        result = self.finish(run, model, tokenizer, split, fitted)
        return result | compared(result["scores"], before, split, self.ADVICE)


@dataclass(frozen=True)
class Distill(OnData):
    """Distil a model's outputs into a student: `model` is the teacher."""

    VERB: ClassVar[str] = "distill"
    GROUP: ClassVar[str] = "unlearn and distil"
    TOGETHER: ClassVar[bool] = True
    NEEDS: ClassVar[tuple[str, ...]] = ("unlabelled",)
    ADVICE: ClassVar[str] = "try more --steps."

    unlabelled: str = source("data")
    """The mixture that the student sees the teacher's outputs on."""
    student: str = source("model")
    """Model that the student starts from; empty: newly initialised, in the teacher's shape."""
    stop_at: Share = 0.95
    """Stop when the student has this share of the teacher's retain score; 0: run every step."""
    check_every: Whole = 20
    """Steps between looks at the retain score."""
    steps_of: str = source("run")
    """A finished run whose number of steps is taken instead of --steps, with no stopping early."""
    cache_teacher: bool = False
    """Compute the teacher's outputs on the whole mixture once and keep them in memory."""
    teacher_top: Whole = setting(0, added=True)
    """With --cache-teacher: keep that many of the teacher's likeliest words a token, on disk; 0: all, in memory."""
    teacher_on: Literal["device", "host"] = setting("device", added=True)
    """Where the teacher's weights lie while the student is trained: host lends the device one module at a time."""
    match_hidden: Weight = setting(0.0, added=True)
    """Weight of matching the teacher's hidden states too, on retain rows only; 0: outputs alone."""
    small: Share = setting(0.0, added=True)
    """Begin with a fresh student whose MLPs have this share of the units, and widen it after --small-steps; 0: no."""
    small_steps: Count = setting(100, added=True)
    """Steps that the small student is distilled for before it grows."""
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
        if self.stop_at and not self.check_every:
            raise UserError(
                "check_every is 0, and the stop rule looks every so many steps: give 1 or more, or --stop-at 0 to run them all."
            )
        return self.schedule, StopRule(split.retain, self.stop_at, self.check_every) if self.stop_at else None

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.engine.models import load
        from sluicegate.unlearning.distill import distill

        split = self.split()
        schedule, stop = self.plan(split)
        teacher, tokenizer = self.load()
        student = load(self.student, seed=self.seed)[0] if self.student else None
        before = None
        if self.small:
            before = self.distill_small(teacher, tokenizer, split, schedule, run)
            student = before.student
        done = distill(
            teacher,
            tokenizer,
            split.unlabelled,
            schedule,
            student=student,
            stop=stop,
            cache_teacher=self.cache_teacher,
            retain=split.retain,
            match_hidden=self.match_hidden,
            teacher_top=self.teacher_top,
            teacher_on=self.teacher_on,
            **self._shared(run),
        )
        if before:
            done.fitted.ledger.add(before.fitted.ledger)
        return self.finish_distilled(run, done, teacher, tokenizer, split)

    def _shared(self, run: "RunContext") -> dict[str, Any]:
        """What every part of the stage is called with."""
        return {"seed": self.seed, "max_length": self.max_length, "template": self.template, "run": run}

    def distill_small(
        self, teacher: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", split: Split, schedule: Schedule, run: "RunContext"
    ) -> "Distilled":
        """A small student, distilled for a while and then grown to the teacher's shape."""
        from sluicegate.unlearning.distill import distill
        from sluicegate.unlearning.grow import build_small, grow

        if self.student:
            raise UserError("a student that begins small is a fresh one: leave --student out, or --small.")
        done = distill(
            teacher,
            tokenizer,
            split.unlabelled,
            dataclasses.replace(schedule, steps=self.small_steps, decay_steps=schedule.decay_steps or schedule.steps),
            student=build_small(teacher, self.small, self.seed),
            name="small",
            **self._shared(run),
        )
        grow(done.student, teacher, self.seed)
        return done

    def finish_distilled(
        self, run: "RunContext", done: "Distilled", teacher: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", split: Split
    ) -> dict[str, Any]:
        before = self.score(teacher, tokenizer, Split(retain=split.retain))
        result = self.finish(run, done.student, tokenizer, split, done.fitted)
        held = {"teacher_held": done.held} if self.teacher_top else {}
        found = {"reached": done.reached, "divergence": done.divergence}
        return result | compared(result["scores"], before, split, self.ADVICE) | found | held


@dataclass(frozen=True)
class Undo(Distill):
    """Unlearn, noise, distil: noise a copy of the suppressed model, then distil the model into it."""

    VERB: ClassVar[str] = "undo"
    ADVICE: ClassVar[str] = "try more --steps or a smaller --alpha."

    alpha: Share = 0.6
    """Share of the weights that is replaced by noise, 0 to 1: the dial from cheap to robust."""
    beta: Weight = 0.1
    """Scale of the noise, in units of a Xavier-uniform initialisation."""
    noise_params: str = setting("*", was="noise_sites")
    """Which parameters are noised: globs over their full names, joined by commas; a star crosses dots."""
    aim: Literal["all", "fisher", "gradient", "random"] = setting("all", added=True)
    """all: noise on every weight. fisher, gradient: the share alpha of single weights is drawn anew, those whose
    squared (or mean) gradient on the forget set is largest beside that on the retain set. random: any of them (the
    control)."""
    budget: Weight = setting(0.0, added=True)
    """FLOPs that may be spent in all: a short calibration chooses alpha for them, and says how sure it is. 0: take
    --alpha."""

    @property
    def method(self) -> str:
        if self.budget:
            return f"budget-{self.budget:.2g}"
        return f"{self.alpha:g}" if self.aim == "all" else f"{self.aim}-{self.alpha:g}"

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.unlearning.distill import undo

        if self.student:
            raise UserError("undo makes its own student from --model; leave --student out, or use: sluicegate distill")
        if self.small:
            raise UserError("a student that begins small is a fresh one, and undo noises the model's own weights. Use: sluicegate distill")
        if self.budget and (self.aim != "all" or self.match_hidden):
            raise UserError("a budget is calibrated for noise on all weights and outputs alone: leave --aim and --match-hidden out.")
        split = self.split()
        schedule, stop = self.plan(split)
        model, tokenizer = self.load()
        choice = self.choose_alpha(model, tokenizer, split, schedule, stop, run) if self.budget else None
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
            params=self.noise_params,
            stop=stop,
            cache_teacher=self.cache_teacher,
            retain=split.retain,
            match_hidden=self.match_hidden,
            forget=split.forget,
            aim=self.aim,
            teacher_top=self.teacher_top,
            teacher_on=self.teacher_on,
            **self._shared(run),
        )
        if choice:
            done.fitted.ledger.add(choice.ledger)
        result = self.finish_distilled(run, done, model, tokenizer, split)
        return result | ({"alpha": choice.alpha, "chosen": choice.to_json(), "notes": choice.sentences()} if choice else {})

    def choose_alpha(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        split: Split,
        schedule: Schedule,
        stop: "StopRule | None",
        run: "RunContext",
    ) -> "Choice":
        """What the budget pays for."""
        from sluicegate.unlearning.budget import calibrate

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
            params=self.noise_params,
            cache_teacher=self.cache_teacher,
            **self._shared(run),
        )


__getattr__ = alias(  # where all stages once lay
    __name__,
    Ablate="sluicegate.routing.stage.Ablate",
    Relearn="sluicegate.audit.stage.Relearn",
    Route="sluicegate.routing.stage.Route",
    Score="sluicegate.tasks.stage.Score",
    Train="sluicegate.tasks.train_stage.Train",
)
