"""What a suite of attackers runs on which models, and what came of it."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
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
    from sluicegate.audit.attacked import Attacked

ORIGINAL, SPIKED, TEACH = "original", "spiked", "teach the spike"
LACKS = "it needs --"
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
    def references(self) -> list[str]:
        return [arm for arm in self.arms if arm.startswith("reference")]

    def scores(self, out: Path) -> list[Job]:
        """Jobs that score every model, before any attack."""
        return [Job(arm, (), lambda done, plan=plan: Score(**_shared(plan)), out) for arm, plan in self.arms.items()]  # type: ignore[misc]

    def jobs(self, out: Path) -> Iterator[Job]:
        """Every attack on every model: one model after the other, since a process loads the same one once."""
        if self.spike and self.attackers:
            own = _shared(self.arms["reference"]) | {"seed": self.seeds[0]}
            how = {name: value for name, value in own.items() if value or name == "seed"} | {"verb": "unlearn", "method": self.spike_method}
            yield Job(TEACH, (), lambda done: Spike(**own, share=self.spike), out, spare=True)
            yield Job(SPIKED, (TEACH,), lambda done: from_config(how | {"model": str(done[TEACH]), "base": ""}), out, spare=True)
        for arm in [*self.arms, *[SPIKED] * bool(self.spike)]:
            for name, attacker in self.attackers.items():
                if arm == ORIGINAL and ORIGINAL in attacker.NEEDS:
                    continue  # it has nothing to be compared with
                for seed in self.seeds:
                    stage = partial(self._stage, arm, attacker, seed)
                    yield Job(job_name(arm, name, seed), (SPIKED,) * (arm == SPIKED), stage, out, spare=True)

    def _stage(self, arm: str, attacker: Attacker, seed: int, done: Mapping[str, Path]) -> Attackers:
        own = _shared(self.arms["reference" if arm == SPIKED else arm]) | {"seed": seed}
        own |= {"model": str(done[SPIKED]), "base": ""} if arm == SPIKED else {}
        return Attackers(**own, original=self.arms[ORIGINAL].model if ORIGINAL in self.arms else "", attacker=attacker)

    def gather(self, done: Mapping[str, Path], failed: Mapping[str, str]) -> "dict[str, dict[str, list[Attacked]]]":
        """What each attacker found in each model, one a seed. One that failed on the model or on a reference is left
        out everywhere, since nothing can be said by it."""
        from sluicegate.audit.attacked import Attacked

        found: dict[str, dict[str, list[Attacked]]] = {}
        for arm, name in product([*self.arms, SPIKED], self.attackers):
            keys = [job_name(arm, name, seed) for seed in self.seeds]
            told = next((failed[key].splitlines()[0] for key in keys if key in failed), "")
            if told and (arm == "model" or arm in self.references):
                self.left_out.setdefault(name, told if arm == "model" else f"on the {arm}: {told}")
            elif all(key in done for key in keys):
                found.setdefault(arm, {})[name] = [Attacked.from_json(result_of(done[key])) for key in keys]
        kept = {arm: {name: own for name, own in by.items() if name not in self.left_out} for arm, by in found.items()}
        return {arm: by for arm, by in kept.items() if by}


def job_name(arm: str, attacker: str, seed: int) -> str:
    return f"{arm} {attacker} seed {seed}".replace("  ", " ")


def _shared(plan: OnData) -> dict[str, Any]:
    """What every stage on a model has in common."""
    return {f.name: getattr(plan, f.name) for f in dataclasses.fields(OnData)}


def pick(suite: str, names: str, sources: Mapping[str, str]) -> tuple[dict[str, Attacker], dict[str, str]]:
    """The attackers that are asked for, and those left out because no source that they need was handed in, with why.

    Raises `UserError` for a suite or a name that is none, and for an attacker that is named and lacks what it needs.
    """
    if suite not in ("none", *SUITES):
        raise UserError(f"no suite {suite!r}. There are: none, {', '.join(SUITES)}.")
    found = chosen(suite, names) if names or suite != "none" else {}
    lacks = {name: f"{LACKS}{need}" for name, a in found.items() for need in a.NEEDS if not sources.get(need)}
    if names and lacks:
        name, why = next(iter(lacks.items()))
        raise UserError(f"the attacker {name!r} was named, and {why}. Hand that in, or leave the attacker out of --attackers.")
    return {name: a for name, a in found.items() if name not in lacks}, lacks


def check_spike(share: float, method: str, able: bool) -> None:
    """Raise `UserError` where no spiked model can be made."""
    if not 0 <= share <= 1:
        raise UserError(f"--spike is {share}; it is the share of the forget facts that is taught, above 0 and at most 1, or 0: none.")
    if share and not able:
        raise UserError("--spike teaches the reference facts beside retain rows: hand in --reference and --retain, or leave --spike out.")
    stages()["unlearn"].method_called(method)


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


def write_answers(attacked: "Mapping[str, Mapping[str, Sequence[Attacked]]]", forget: Sequence[Item], path: Path) -> None:
    """Write a Parquet file with a row for each held-out fact of each attack, at the effort at which the audited model
    recalls most.

    before, evidence: how likely the fact is before the attack and at that effort, in nats a token or the attacker's own
    measure. exact: the share of its questions that are answered exactly then; null where the attacker does not say.
    """
    import pyarrow
    import pyarrow.parquet

    first, rows = {item.key: item for item in reversed(forget)}, []
    for arm, name in ((arm, name) for arm, by in attacked.items() for name in by):
        curves = [one.held_out for one in attacked.get("model", attacked[arm]).get(name, attacked[arm][name])]
        means = [sum(column) for column in zip(*(curve.recall[0] for curve in curves), strict=True)]
        at = means.index(max(means))
        for one in attacked[arm][name]:
            head = {"model": arm, "attacker": name, "seed": one.held_out.seeds[0], "effort": one.held_out.effort[at]}
            exact = one.exact[at] if one.exact else [None] * len(one.facts)
            for fact, before, evidence, right in zip(one.facts, one.evidence[0], one.evidence[at], exact, strict=True):
                asked = {"fact": fact, "question": first[fact].prompt, "answer": first[fact].answer}
                rows.append(head | asked | {"before": before, "evidence": evidence, "exact": right})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
