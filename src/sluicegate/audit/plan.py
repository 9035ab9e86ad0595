"""What a suite of attackers runs on which models, and what came of it."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.audit.attack import Attack
from sluicegate.audit.attacker_stage import Attackers
from sluicegate.audit.attackers import SUITES, Attacker, chosen
from sluicegate.audit.spike_stage import Spike
from sluicegate.audit.verdict import LOSS_MARGIN, RECALL_MARGIN, ROUNDING
from sluicegate.errors import UserError
from sluicegate.execution.jobs import Job
from sluicegate.runs.directory import result_of
from sluicegate.runs.stage import from_config, stages
from sluicegate.tasks.stage import OnData, Score
from sluicegate.values.items import Item
from sluicegate.values.statistics import estimate_shares

if TYPE_CHECKING:
    from sluicegate.audit.target import Attacked

ORIGINAL, SPIKED = "original", "spiked"
SHOWN = 3
"""Attackers of which the verdict says why they found nothing; the page names all."""


@dataclass(frozen=True)
class SuitePlan:
    """Attackers, and the models that each attacks alike."""

    arms: Mapping[str, OnData]
    """model, reference, reference 2, ..., original: what every stage on each has in common."""
    attackers: Mapping[str, Attacker]
    seeds: Sequence[int]
    left_out: dict[str, str] = field(default_factory=dict)
    """Attackers that did not attack, and why."""
    spike: float = 0.0
    spike_method: str = "maxent"

    @property
    def original(self) -> str:
        return self.arms[ORIGINAL].model if ORIGINAL in self.arms else ""

    @property
    def references(self) -> list[str]:
        return [arm for arm in self.arms if arm.startswith("reference")]

    def scores(self, out: Path) -> list[Job]:
        """Jobs that score every model, before any attack."""
        return [Job(arm, (), lambda done, plan=plan: Score(**shared(plan)), out) for arm, plan in self.arms.items()]  # type: ignore[misc]

    def jobs(self, out: Path) -> Iterator[Job]:
        """Every attack on every model: one model after the other, since a process loads the same one once."""
        if self.spike:
            own = shared(self.arms["reference"]) | {"seed": self.seeds[0]}
            yield Job("teach the spike", (), lambda done: Spike(**own, share=self.spike), out, spare=True)
            how = {
                "verb": "unlearn",
                "method": self.spike_method,
                **{name: value for name, value in own.items() if value or name == "seed"},
            }
            yield Job(
                SPIKED,
                ("teach the spike",),
                lambda done: from_config(how | {"model": str(done["teach the spike"]), "base": ""}),
                out,
                spare=True,
            )
        for arm in [*self.arms, *[SPIKED] * bool(self.spike)]:
            for name, attacker in self.attackers.items():
                if arm == ORIGINAL and ORIGINAL in attacker.NEEDS:
                    continue  # it has nothing to be compared with
                for seed in self.seeds:
                    stage = partial(self._stage, arm, attacker, seed)
                    yield Job(job_name(arm, name, seed), (SPIKED,) * (arm == SPIKED), stage, out, spare=True)

    def _stage(self, arm: str, attacker: Attacker, seed: int, done: Mapping[str, Path]) -> Attackers:
        own = shared(self.arms["reference" if arm == SPIKED else arm]) | {"seed": seed}
        own |= {"model": str(done[SPIKED]), "base": ""} if arm == SPIKED else {}
        return Attackers(**own, original=self.original, attacker=attacker)

    def gather(self, done: Mapping[str, Path], failed: Mapping[str, str]) -> "dict[str, dict[str, list[Attacked]]]":
        """What each attacker found in each model, one a seed. One that failed on the model or on a reference is left
        out everywhere, since nothing can be said by it."""
        from sluicegate.audit.target import Attacked

        for arm in ("model", *self.references):
            for name in self.attackers:
                told = [failed[key] for seed in self.seeds if (key := job_name(arm, name, seed)) in failed]
                if told:
                    where = "" if arm == "model" else f"on the {arm}: "
                    self.left_out.setdefault(name, where + told[0].splitlines()[0])
        found: dict[str, dict[str, list[Attacked]]] = {}
        for arm in [*self.arms, SPIKED]:
            for name in self.attackers:
                folders = [done[key] for seed in self.seeds if (key := job_name(arm, name, seed)) in done]
                if name not in self.left_out and len(folders) == len(self.seeds):
                    found.setdefault(arm, {})[name] = [Attacked.from_json(result_of(folder)) for folder in folders]
        return found


def job_name(arm: str, attacker: str, seed: int) -> str:
    return f"{arm} {attacker} seed {seed}"


def shared(plan: OnData) -> dict[str, Any]:
    """What every stage on a model has in common."""
    return {f.name: getattr(plan, f.name) for f in dataclasses.fields(OnData)}


def pick(suite: str, names: str, sources: Mapping[str, str]) -> tuple[dict[str, Attacker], dict[str, str]]:
    """The attackers that are asked for, and those left out because no source that they need was handed in, with why.

    Raises `UserError` for a suite or a name that is none, and for an attacker that is named and lacks what it needs.
    """
    if suite not in ("none", *SUITES):
        raise UserError(f"no suite {suite!r}. There are: none, {', '.join(SUITES)}.")
    found = chosen(suite, names) if names or suite != "none" else {}
    lacks = {name: f"it needs --{need}" for name, a in found.items() for need in a.NEEDS if not sources.get(need)}
    if names and lacks:
        name, why = next(iter(lacks.items()))
        raise UserError(f"the attacker {name!r} was named, and {why}. Hand that in, or leave the attacker out of --attackers.")
    return {name: a for name, a in found.items() if name not in lacks}, lacks


def check_method(spike: float, method: str, reference: str, retain: str) -> None:
    """Raise `UserError` where no spiked model can be made."""
    if not 0 <= spike <= 1:
        raise UserError(f"--spike is {spike}; it is the share of the forget facts that is taught, above 0 and at most 1, or 0: none.")
    if spike:
        stages()["unlearn"].method_called(method)
        if not (reference and retain):
            lack = "--reference" if retain else "--retain"
            raise UserError(
                f"--spike teaches the reference a part of the forget set beside retain rows: hand in {lack}, or leave --spike out."
            )


def check_roles(scores: Mapping[str, Mapping[str, float]], forget: Sequence[Item]) -> None:
    """Raise `UserError` for a reference that knows the facts before any attack, and for an original that does not.

    `scores` are the forget set's, by model. Exact answers are compared with what one that always gave the commonest
    answer would have; a loss has no such floor, so it is compared with the original's alone. What a reference answers
    may be luck: the whole 95 % interval over facts must lie above.
    """
    references = {arm: own for arm, own in scores.items() if arm.startswith("reference")}
    original, model = scores.get(ORIGINAL), scores["model"]
    if Attack().metric(forget) != "exact":
        for arm, own in references.items() if original else ():
            if own["loss"] <= original["loss"] + LOSS_MARGIN + ROUNDING:  # type: ignore[index]
                raise UserError(
                    f"the {arm} has a loss of {own['loss']:.2f} nats a token on the forget set and the original {original['loss']:.2f}: "  # type: ignore[index]
                    "the one knows it, or the other does not. Hand in a --reference that never saw it, an --original that did."
                )
        return
    facts = len({item.key for item in forget})
    chance = Counter(item.answer for item in forget).most_common(1)[0][1] / len(forget)
    told = f"where guessing gives {chance:.0%}"
    if original and original["exact"] <= chance + RECALL_MARGIN + ROUNDING:
        raise UserError(
            f"the original answers {original['exact']:.0%} of the forget questions, {told}: it does not know them, so nothing could come "
            "back. Hand in the model from before unlearning, or leave --original out."
        )
    known = {arm: estimate_shares([own["exact"]], facts).low > chance + RECALL_MARGIN + ROUNDING for arm, own in scores.items()}
    for arm, own in references.items():
        if known[arm] and (original or (known["model"] and own["exact"] >= model["exact"] - ROUNDING)):
            raise UserError(
                f"the {arm} answers {own['exact']:.0%} of the forget questions before any attack, {told}: it knows them, so it is no "
                "reference. Hand in a model that never saw the forget set."
            )
