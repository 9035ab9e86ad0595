"""Audit a model: score it, attack it, set it beside a reference, and say what follows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluicegate.audit.attack import Attack
from sluicegate.audit.stage import Relearn
from sluicegate.audit.verdict import Evidence, Verdict, judge
from sluicegate.execution.jobs import Job, run_jobs
from sluicegate.execution.local import LocalPool
from sluicegate.runs.arm import Arm
from sluicegate.runs.directory import Progress, result_of, write_atomic
from sluicegate.runs.stage import from_config, settings_of
from sluicegate.tasks.stage import OnData


@dataclass(frozen=True)
class Inspection:
    """What an audit found."""

    model: Arm
    reference: Arm | None
    harmless: Arm | None
    """The model under fine-tuning on retain rows only, where retain rows were handed in."""
    verdict: Verdict

    def warnings(self) -> list[str]:
        """What makes the attacks weaker than they could be, once for each arm and text."""
        found = []
        for name, arm in (("model", self.model), ("reference", self.reference), ("harmless fine-tuning", self.harmless)):
            texts = {text for attack in (arm.attacks.values() if arm else ()) for text in attack["warnings"]}
            found += [f"{name}: {text}" for text in sorted(texts)]
        return found

    def summary(self) -> dict[str, Any]:
        """The numbers, for --json."""
        arms = {"model": self.model, "reference": self.reference, "harmless": self.harmless}
        verdict = self.verdict
        return {
            "verdict": verdict.word,
            "savings": verdict.savings.as_list() if verdict.savings else None,
            "held_out_above_reference": verdict.excess.as_list() if verdict.excess else None,
            "seeds": list(self.model.attacks),
            "arms": {name: _arm_summary(arm) for name, arm in arms.items() if arm},
            "sentences": list(verdict.sentences),
            "warnings": self.warnings(),
        }


def _arm_summary(arm: Arm) -> dict[str, Any]:
    return {
        "scores": {group: arm.scores(group) for group in next(iter(arm.results.values()))["scores"]},
        "steps": list(arm.owned.effort),
        "owned": [list(row) for row in arm.owned.recall],
        "held_out": [list(row) for row in arm.held_out.recall],
    }


def inspect(
    data: Mapping[str, Any],
    attack: Attack,
    *,
    reference: str = "",
    seeds: Sequence[int] = (0, 1, 2),
    out: Path,
    workers: int = 0,
    progress: Progress | None = None,
) -> Inspection:
    """Attack the model named in `data` (settings of `OnData`), and the reference alike, over several seeds.

    A seed chooses which half of the facts the attacker owns and the order of its rows. With retain
    rows, the model is also fine-tuned on those alone. Writes audit.json into `out`.
    """
    flat = {name: value for name, value in Relearn(attack=attack).config().items() if name in settings_of(Relearn)}
    shared = {"verb": "relearn", **flat, **data}
    plans = {"model": shared}
    if reference:
        plans["reference"] = {**shared, "model": reference}
    if data.get("retain") and attack.kind == "forget":
        plans["harmless"] = {**shared, "kind": "retain"}
    jobs = [
        Job(f"{name} seed {seed}", (), lambda done, plan=plan, seed=seed: from_config({**plan, "seed": seed}), out)  # type: ignore[misc]
        for seed in seeds
        for name, plan in plans.items()
    ]
    folders = run_jobs(jobs, LocalPool(workers), progress)
    arms = {name: _arm(name, {seed: folders[f"{name} seed {seed}"] for seed in seeds}) for name in plans}
    evidence = {name: _evidence(arm) for name, arm in arms.items()}
    verdict = judge(evidence["model"], evidence.get("reference"), evidence.get("harmless"))
    found = Inspection(arms["model"], arms.get("reference"), arms.get("harmless"), verdict)
    write_atomic(out / "audit.json", json.dumps(found.summary(), indent=1))
    return found


def _arm(name: str, folders: dict[int, Path]) -> Arm:
    results = {seed: result_of(folder) for seed, folder in folders.items()}
    # The model was handed in, so what making it cost is not known here.
    return Arm(name, results, results, dict.fromkeys(results, 0.0), folders)


def _evidence(arm: Arm) -> Evidence:
    scores = {measure: arm.scores("forget", measure)[0] for measure in ("exact", "probability")}  # no seed in them: the model is given
    measure = next(iter(arm.attacks.values())).get("measure", "exact")
    return Evidence(scores["exact"], scores["probability"], arm.owned, arm.held_out, measure)


def data_settings(data: OnData) -> dict[str, Any]:
    """The settings that every attack of an audit shares, from the command's own."""
    return {name: value for name, value in data.config().items() if name not in ("verb", "seed")}
