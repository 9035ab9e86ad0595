"""How much is forgotten against how much is kept: one model of `biographies`, attacked, scored, and asked what else
fell."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.audit.attack import Attack
from sluicegate.errors import UserError
from sluicegate.runs.directory import result_of
from sluicegate.runs.stage import source
from sluicegate.runs.trial import Trial, outcome
from sluicegate.values.ranges import Count, Positive, Whole

if TYPE_CHECKING:
    from sluicegate.runs.directory import RunContext
    from sluicegate.values.items import Item
    from sluicegate_papers.tasks.biographies import Person


@dataclass(frozen=True)
class BiographiesShare(Trial):
    """Ask what a model that was to forget `people` of the 72 still knows of them and of the others, attack it, and
    count its cost.

    Ripples are looked for where the facts are entangled: kept people who share a first or last name with someone to be
    forgotten beside those who share none, and where the cities lie, on which everybody's country rests. The attack is
    the relearning attack of the audit: the attacker owns all rows of half of the people to be forgotten.
    """

    VERB: ClassVar[str] = "biographies-share"
    MEASURES: ClassVar[dict[str, str]] = {
        "forget": "share of exact answers on the people to be forgotten",
        "retain": "share of exact answers on the others",
        "angle_d": "the same in phrasing d, which no model was shown of the people to be forgotten",
        "kin": "share of exact answers on facts of kept people who share a name with someone to be forgotten",
        "strangers": "the same on kept people who share neither name with any",
        "lies": "share of exact answers on which country a city lies in",
        "country": "share of exact answers on the country of the people to be forgotten, in trained phrasings",
        "owned_10": "recall after 10 attack steps, people whom the attacker shows (A@10)",
        "owned_end": "the same after all attack steps",
        "held_10": "recall after 10 attack steps, people whom the attacker does not show (B@10)",
        "held_end": "the same after all attack steps",
        "held_best": "the highest of these at any checkpoint",
        "retain_end": "recall of kept rows after all attack steps, under the rate that brings most of the shown people back",
        "cost": "FLOPs of making the model, from the one that knows everybody, over those of its reference",
        "cost_equal": "the same over what the reference took to this model's retain score; none where it never came there",
        "steps": "optimiser steps of the last stage",
    }

    model: str = source("model")
    """The model to ask: a run folder of this task."""
    reference: str = source("run")
    """The run of a model that never saw the people to be forgotten, whose cost is the measure; empty: none."""
    made_from: str = source("run")
    """The run before this model's, whose cost is counted to it; empty: none."""
    people: Count = 24
    """How many people were to be forgotten, 2 to 48."""
    lrs: tuple[Positive, ...] = (3e-4, 1e-3, 3e-3)
    """Learning rates of the attacker."""
    steps: Count = 30
    """Attack steps under each."""
    probe: Whole = 150
    """Rows of each group that are looked at after a checkpoint; 0: all."""

    def is_wide(self) -> bool:
        return False

    def run(self, run: "RunContext") -> dict[str, Any]:
        if not self.model:
            raise UserError(f"{self.VERB} needs a model: a run folder of this task, for example --model runs/train/...")
        from sluicegate.audit.relearn import relearn
        from sluicegate.engine.encoding import encode
        from sluicegate.engine.models import load
        from sluicegate.engine.scoring import score
        from sluicegate_papers.tasks.biographies import biographies

        task = biographies(count=self.people)
        split = task.split()
        model, tokenizer = load(self.model, seed=self.seed, dtype="float32")

        def exact(items: "Sequence[Item]") -> float:
            return score(model, encode(tokenizer, items)).mean()["exact"] if items else math.nan

        measured = {name: exact(items) for name, items in groups(task.lost(), split.forget, split.retain).items()}
        points = (0, 1, 3, 10, 20, 30)
        attack = Attack(lrs=self.lrs, steps=self.steps, checkpoints=points, probe=self.probe)
        found = relearn(model, tokenizer, split.forget, split.retain, attack, seed=self.seed, run=run)
        owned, held = (curve.recall[0] for curve in (found.owned, found.held_out))
        at = dict(zip(found.owned.effort, zip(owned, held, strict=True), strict=True)).get(10, (math.nan, math.nan))
        measured |= {
            "owned_10": at[0],
            "held_10": at[1],
            "owned_end": owned[-1],
            "held_end": held[-1],
            "held_best": max(held),
            "retain_end": found.retain[-1],
        }
        curves = {"owned": (found.owned.effort, owned), "held": (found.held_out.effort, held)}
        return outcome(self, measured | self.costs(measured["retain"]), flops=0.0, curves=curves)

    def costs(self, retain: float) -> dict[str, float]:
        """Cost against the reference's, in full and up to the point of its course where it was as good as this
        model."""
        own = _result(self.model)
        found = {"steps": float(own["steps"])} if own else {}
        if not own or not self.reference:
            return found
        reference = result_of(self.reference)
        spent = own["flops"]["total"] + (result_of(self.made_from)["flops"]["total"] if self.made_from else 0.0)
        whole = reference["flops"]["total"]
        reached = next((step for step, score in reference.get("course", ()) if score >= retain), math.nan)
        return found | {"cost": spent / whole, "cost_equal": spent / (whole * reached / reference["steps"])}


def _result(folder: str) -> dict[str, Any]:
    """result.json of a run, or nothing for a model that is no run."""
    file = Path(folder) / "result.json"
    return json.loads(file.read_text()) if file.exists() else {}


def groups(lost: "Sequence[Person]", forget: "Sequence[Item]", retain: "Sequence[Item]") -> "dict[str, tuple[Item, ...]]":
    """The rows that each score is of, by the measure's name."""
    from sluicegate_papers.tasks.biographies import VALUES, people

    keys = {p.key: set(p.name.split()) for p in people()}
    taken = {name for p in lost for name in keys[p.key]}
    facts = tuple(i for i in retain if i.label in VALUES)

    def of(wanted: "Callable[[Item], bool]", rows: "Sequence[Item]") -> "tuple[Item, ...]":
        return tuple(i for i in rows if wanted(i))

    return {
        "forget": tuple(forget),
        "retain": tuple(retain),
        "angle_d": tuple(p.fact(a, "d") for p in lost for a in VALUES),
        "kin": of(lambda i: bool(keys[i.fact] & taken), facts),
        "strangers": of(lambda i: not keys[i.fact] & taken, facts),
        "lies": of(lambda i: i.label == "lies", retain),
        "country": of(lambda i: i.label == "country", forget),
    }
