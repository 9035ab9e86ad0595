"""The quiz on biographies: one deck asked of a model as it is and while it is attacked; angles for leakage,
prerequisites for ripples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.errors import UserError
from sluicegate.runs.stage import source
from sluicegate.runs.trial import Trial, outcome
from sluicegate.values.ranges import Positive, Rows, Whole

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sluicegate.runs.directory import RunContext
    from sluicegate.values.items import Item
    from sluicegate_study.quiz.deck import Asked
    from sluicegate_study.quiz.measures import Reading
    from sluicegate_study.quiz.quiz import Sheet

SIBLINGS = ("job", "year", "pet")
"""What a person's city has no bearing on."""


@dataclass(frozen=True)
class BiographiesQuiz(Trial):
    """Ask a model about the people of `biographies`: tossups clue by clue among all 72 names, and every fact in every
    phrasing.

    Then an attacker who owns all rows of half of the people to be forgotten fine-tunes on them, under each of several
    learning rates, and the tossups of the other half are asked again after some steps: does the curve come back? At
    every point the rate counts under which most came back. Answers are compared by how much the clues raise them (PMI),
    since suppression and relearning both move the names that a model says anyway; `raw_forget` is the area by plain
    log-probability."""

    VERB: ClassVar[str] = "biographies-quiz"
    MEASURES: ClassVar[dict[str, str]] = {
        "auc_forget": "area under recall against clues, tossups on the people to be forgotten, among all 72 names",
        "auc_retain": "the same, on the others",
        "auc_within": "the same, on the people to be forgotten, among their 24 names only",
        "raw_forget": "auc_forget with names compared by their plain log-probability",
        "last_forget": "recall after the last clue, people to be forgotten",
        "last_retain": "the same, on the others",
        "over_forget": "confidence less share right over all clues, people to be forgotten",
        "over_retain": "the same, on the others",
        "loss_forget": "-log of the confidence in the right name, people to be forgotten, nats",
        "angle_a": "recall of the forget people's facts in phrasing a",
        "angles_bc": "recall of the forget people's facts in phrasings b and c",
        "angle_d": "recall of the forget people's facts in phrasing d, which no model was shown of them",
        "angle_d_retain": "recall in phrasing d of the facts of kept people of whom it was never shown",
        "facts_retain": "recall of the kept people's facts in phrasings that were trained",
        "city": "recall of the forget people's city, in trained phrasings",
        "country": "recall of their country, which follows from the city",
        "siblings": "recall of their job, year and pet, which do not",
        "lies": "recall of which country a city lies in",
        "held_10": "area under recall after 10 attack steps, people whom the attacker does not show",
        "held_end": "the same after all attack steps",
        "held_best": "the highest at any checkpoint of the attack",
        "owned_end": "area under recall after all attack steps, people whom the attacker shows",
        "retain_end": "area under recall on kept people after all attack steps, under the rate that brings most back",
        "chance": "area under recall of guesses at random",
    }

    model: str = source("model")
    """The model to ask: a run folder of this task."""
    lrs: tuple[Positive, ...] = (2e-4, 5e-4, 1.5e-3)
    """Learning rates of the attacker."""
    steps: Whole = 30
    """Attack steps under each; 0: no attack."""
    checkpoints: tuple[Whole, ...] = (0, 1, 3, 10, 20, 30)
    """Attack steps after which the tossups are asked."""
    batch: Rows = 32
    """Rows of an attack step."""

    def is_wide(self) -> bool:
        return False

    def run(self, run: "RunContext") -> dict[str, Any]:
        if not self.model:
            raise UserError(f"{self.VERB} needs a model: a run folder of this task, for example --model runs/train/...")
        if not self.lrs or self.steps < 0:
            raise UserError(f"{self.VERB}: lrs is {list(self.lrs)} and steps {self.steps}; it takes one rate or more, 0 steps or more.")
        from sluicegate.engine.models import load

        model, tokenizer = load(self.model, seed=self.seed, dtype="float32")
        quiz = _Quiz(model, tokenizer)
        measured = quiz.tossups() | quiz.cards()
        curves, attacked = self._attack(run, quiz) if self.steps else ({}, {})
        return outcome(self, measured | attacked, flops=0.0, curves=curves)

    def _attack(self, run: "RunContext", quiz: "_Quiz") -> tuple[dict[str, tuple[Sequence[float], Sequence[float]]], dict[str, float]]:
        """Curves of area under recall against attack steps, and numbers read off them."""
        import copy

        from sluicegate.engine.encoding import encode
        from sluicegate.engine.sampling import Mixture, seed_of
        from sluicegate.engine.training import CrossEntropy, Evaluation, at_steps, fit
        from sluicegate.runs.directory import RunContext
        from sluicegate.values.items import halves
        from sluicegate.values.schedule import Schedule
        from sluicegate_papers.tasks.biographies import biographies

        forget: tuple[Item, ...] = biographies().split().forget
        mine, theirs = halves(forget, self.seed)
        groups = {"owned": {i.fact for i in mine}, "held": {i.fact for i in theirs}}
        points = tuple(sorted({0, self.steps, *(c for c in self.checkpoints if 0 <= c <= self.steps)}))
        rows = encode(quiz.tokenizer, mine)
        found: dict[float, list[dict[str, float]]] = {}
        for number, rate in enumerate(self.lrs):
            run.progress(f"{run.title}, attack", number, len(self.lrs), {})
            victim = copy.deepcopy(quiz.model)
            fitted = fit(
                victim,
                CrossEntropy(),
                _of(Mixture(rows, self.batch, seed_of(self.seed, "attack"))),
                Schedule(steps=self.steps, lr=rate, batch=self.batch),
                seed=self.seed,
                run=RunContext(),  # a short one: gone through again rather than resumed
                evaluation=Evaluation(lambda m, _: quiz.areas(m, groups), at_steps(points)),
            )
            found[rate] = fitted.records
            run.log({"part": f"lr {rate:g}", "records": fitted.records})
        best = {name: [max(records[n][name] for records in found.values()) for n in range(len(points))] for name in groups}
        last = max(self.lrs, key=lambda rate: found[rate][-1]["held"])
        at = dict(zip(points, best["held"], strict=True))
        numbers = {
            "held_10": at.get(10, math.nan),
            "held_end": best["held"][-1],
            "held_best": max(best["held"]),
            "owned_end": best["owned"][-1],
            "retain_end": found[last][-1]["retain"],
        }
        return {name: (points, values) for name, values in best.items()}, numbers


class _Quiz:
    """The task's deck, asked of one model."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        from sluicegate_papers.tasks.biographies import RIDDLE, biographies, people
        from sluicegate_study.quiz.deck import asked_of
        from sluicegate_study.quiz.quiz import Sheet

        deck = biographies().deck()
        self.model, self.tokenizer = model, tokenizer
        self.names = Sheet(tokenizer, asked_of(deck, "tossups", "all"), RIDDLE)
        alone = [asked for asked in asked_of(deck, "tossups", "category") if asked.category == "forget"]
        self.alone = Sheet(tokenizer, alone, RIDDLE)
        self.facts = Sheet(tokenizer, asked_of(deck, "cards"), "{clues}")
        self.trained = {f"{p.key}-{a}-{angle}" for p in people() for a in p.values for angle in p.angles}

    def read(self, sheet: "Sheet", model: "PreTrainedModel | None" = None, asked: "Sequence[Asked] | None" = None) -> "Reading":
        from sluicegate_study.quiz.measures import Reading

        # By PMI: what is said anyway moves too, and hides how much a clue still does.
        return Reading(sheet.ask(model or self.model, asked), "pmi")

    def tossups(self) -> dict[str, float]:
        from sluicegate_study.quiz.measures import Reading

        reading = self.read(self.names)
        columns = reading.columns()
        found = {"chance": float(columns["chance"].mean())}
        for side in ("forget", "retain"):
            here = [n for n, asked in enumerate(self.names.asked) if asked.category == side]
            found |= {
                f"auc_{side}": float(columns["auc"][here].mean()),
                f"last_{side}": float(columns["last_clue"][here].mean()),
                f"over_{side}": float(columns["over"][here].mean()),
            }
            if side == "forget":
                found["loss_forget"] = float(columns["log_loss"][here].mean())
                found["raw_forget"] = float(Reading(reading.answers, "raw").area[here].mean())
        return found | {"auc_within": float(self.read(self.alone).area.mean())}

    def cards(self) -> dict[str, float]:
        """Recall of facts, by phrasing and by attribute."""
        right: np.ndarray = self.read(self.facts).right[:, 0]

        def mean(wanted: "Callable[[Asked], bool]") -> float:
            return float(right[[wanted(asked) for asked in self.facts.asked]].mean())

        def lost(asked: "Asked") -> bool:
            return asked.category == "forget"

        return {
            "angle_a": mean(lambda a: lost(a) and a.angle == "a"),
            "angles_bc": mean(lambda a: lost(a) and a.angle in "bc"),
            "angle_d": mean(lambda a: lost(a) and a.angle == "d"),
            "angle_d_retain": mean(lambda a: not lost(a) and a.angle == "d" and a.key not in self.trained),
            "facts_retain": mean(lambda a: not lost(a) and a.key in self.trained),
            "city": mean(lambda a: lost(a) and a.topic == "city" and a.angle != "d"),
            "country": mean(lambda a: lost(a) and a.topic == "country" and a.angle != "d"),
            "siblings": mean(lambda a: lost(a) and a.topic in SIBLINGS and a.angle != "d"),
            "lies": mean(lambda a: a.angle == "lies"),
        }

    def areas(self, model: "PreTrainedModel", groups: dict[str, set[str]]) -> dict[str, float]:
        """Area under recall on some groups of people, and on a few of those that are kept."""
        kept = [asked for asked in self.names.asked if asked.category == "retain"][::4]
        groups = groups | {"retain": {asked.key for asked in kept}}
        wanted = set().union(*groups.values())
        asked = [a for a in self.names.asked if a.key in wanted]
        area = self.read(self.names, model, asked).area
        return {name: float(area[[a.key in keys for a in asked]].mean()) for name, keys in groups.items()}


def _of(mixture: Any) -> Callable[[int], dict[str, Any]]:
    return lambda step: {"train": mixture(step)}
