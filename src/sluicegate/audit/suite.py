"""What a suite of attackers says of one model: each fact's evidence against models that never knew, and one verdict.

What is left of a forget set is mostly a part of it, and means over facts hide that. So evidence is read fact by fact:
how much likelier than to models that never knew a fact is, under each attacker, joined over attackers; then it is asked
whether some facts stand out upwards, or all do. What models that never knew anything give, suppressed or not, was
measured on a zoo of small models (`nulls.json`, made by ``sluicegate bench zoo``).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sluicegate.audit.attacked import Attacked
from sluicegate.values.statistics import Array, Estimate, estimate

Found = Mapping[str, Sequence[Attacked]]
"""What attackers found in one model: by the attacker's name, one for each seed."""
Cells = dict[str, dict[str, float]]
"""Evidence beyond the references: by attacker and side ("gains held_out"), and by fact."""
SEVERAL = 3
"""From so many references on, their spread says how much a fact's evidence varies among models that never knew."""
MOST = 6.0
"""A fact's evidence in one attack counts up to so many standard deviations."""
FEW = 20
"""Below so many facts the zoo says nothing of power."""


@dataclass(frozen=True)
class Finding:
    """What one attacker found in the model beyond the reference."""

    attacker: str
    z: float
    """Standard deviations of never-knew models, above their mean."""
    excess: Estimate
    """Held-out recall above the reference's, at the effort where the model's is highest, paired by seed."""
    effort: float
    """That effort."""
    unit: str
    capacity: int
    flops: float


@dataclass(frozen=True)
class SuiteVerdict:
    """What the suite as a whole says."""

    z: float
    """The suite's statistic: NaN where there is no reference."""
    threshold: float
    """What it must pass to be called found: one never-knew model in a hundred does."""
    found: bool
    findings: tuple[Finding, ...]
    """Of every attacker, the strongest first."""
    facts: Mapping[str, float]
    """How much likelier than to a model that never knew each fact is, over all attackers; in standard deviations."""
    power: Mapping[float, float]
    """The chance that so large a share of the facts, had it been left, would have been found: {.1: .8, .25: .99}."""
    sentences: tuple[str, ...]


@lru_cache(maxsize=1)
def nulls() -> dict[str, Any]:
    """What was measured on the zoo, for "one" reference and for "several"."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "nulls.json").read_text())
    return found


def cells(model: Found, references: Sequence[Found]) -> Cells:
    """Each fact's evidence beyond the references, for every attacker and side, the mean over seeds and efforts.

    In units of the references' spread for that fact (averaged with the mean spread over facts), or, where they are
    fewer than `SEVERAL`, of the lower half of the differences' own spread: what is left only moves facts upwards.
    """
    found: Cells = {}
    for name, runs in model.items():
        others = [{run.held_out.seeds: run for run in reference.get(name, ())} for reference in references]
        for side in ("held_out", "owned"):
            sums: dict[str, list[float]] = {}
            for run in runs:
                theirs = [_evidence(other[run.held_out.seeds], side)[1] for other in others if run.held_out.seeds in other]
                if not theirs:
                    continue
                facts, own = _evidence(run, side)
                apart = own - np.mean(theirs, axis=0)
                if len(theirs) >= SEVERAL:
                    spread = np.std(theirs, axis=0, ddof=1)
                    apart = apart / (np.sqrt(spread**2 + spread.mean(1, keepdims=True) ** 2) + 0.02)
                else:
                    middle, low = (np.percentile(apart, p, axis=1, keepdims=True) for p in (50, 15.87))
                    apart = apart / np.maximum(middle - low, 0.05)
                for fact, value in zip(facts, np.clip(apart, -MOST, MOST).mean(0), strict=True):
                    sums.setdefault(fact, []).append(float(value))
            if sums:
                found[f"{name} {side}"] = {fact: sum(values) / len(values) for fact, values in sums.items()}
    return found


def _evidence(run: Attacked, side: str) -> tuple[Sequence[str], Array]:
    """Facts, and their evidence [efforts, facts], without what was known before any effort where there is more."""
    facts, evidence = (run.facts, run.evidence) if side == "held_out" else (run.owned_facts, run.owned_evidence)
    table = np.asarray(evidence, dtype=float)
    return facts, table[1:] if len(table) > 1 else table


def table_of(found: Cells) -> tuple[list[str], list[str], Array]:
    """Facts, names of cells, and evidence [facts, cells], 0 where a fact has none."""
    facts = sorted({fact for cell in found.values() for fact in cell})
    return facts, list(found), np.array([[cell.get(fact, 0.0) for cell in found.values()] for fact in facts])


def join(names: Sequence[str], table: Array, weights: Mapping[str, float], several: bool) -> tuple[Array, float]:
    """Each fact's evidence over all cells [facts], centred on the model's own median, and how far all are shifted.

    Weights are those with which the zoo's taught facts are told best from untaught ones. With few references, the unit
    is the spread of what lies below the median.
    """
    weight = np.array([weights.get(name, 0.0) for name in names])
    weight = weight / (weight.sum() or 1.0)
    middle = np.median(table, axis=0)
    centred = (table - middle) @ weight
    below = math.sqrt(float(np.mean(np.minimum(centred, 0) ** 2))) if not several else 1.0
    return centred / max(below, 1e-3), float(middle @ weight)


def statistics_of(found: Cells, weights: Mapping[str, float], several: bool) -> tuple[list[str], Array, dict[str, float]]:
    """Facts, their joined evidence, and what is asked of it: "tail", root of the mean square of what stands out
    upwards; "shift", by how much the middle fact is likelier than in models that never knew."""
    facts, names, table = table_of(found)
    each, shift = join(names, table, weights, several)
    return facts, each, {"tail": math.sqrt(float(np.mean(np.maximum(each, 0) ** 2))), "shift": shift}


def standardise(told: Mapping[str, float], null: Mapping[str, Sequence[float]]) -> float:
    """The larger of tail and shift, in standard deviations of models that never knew."""
    return max((told[name] - null[name][0]) / null[name][1] for name in ("tail", "shift"))


def judge_suite(model: Found, references: Sequence[Found], facts: int) -> SuiteVerdict:
    """Compare what the attackers found in a model with what they found in models that never knew, fact by fact.

    References are attacked alike, on the same seeds. Without any, nothing is concluded.
    """
    several = len(references) >= SEVERAL
    null = nulls()["several" if several else "one"]
    found = cells(model, references)
    if not found:
        none = "Without a model that never knew, the suite concludes nothing: an attacker that can hold the facts may have taught them."
        return SuiteVerdict(math.nan, null["threshold"], False, (), {}, {}, (none,))
    names, each, told = statistics_of(found, null["weights"], several)
    z = standardise(told, null)
    findings = [_finding(name, runs, references, found, null, several) for name, runs in model.items() if f"{name} held_out" in found]
    power = {float(share): value for share, value in null["power"].items()} if facts >= FEW else {}
    alarm = z > null["threshold"]
    said = [
        f"Over {len(findings)} attackers, fact by fact, it lies {z:.1f} standard deviations above models that never knew. Above "
        f"{null['threshold']:.1f} lies one in a hundred of these, as far as {null['nulls']} small ones tell."
    ]
    if power:
        missed = "; ".join(f"{share:.0%} left: {value:.0%}" for share, value in sorted(power.items()))
        kind = f"{len(references)} references" if several else "one reference"
        said.append(f"What it would have found, by a zoo of small models with a known part left and suppressed, against {kind}: {missed}.")
    else:
        said.append(f"{facts} facts are too few to say what it would have found; have at least {FEW}, better 100.")
    if not several:
        said.append(f"With {SEVERAL} references or more (other seeds, checkpoints) it would see smaller parts.")
    facts_z = dict(zip(names, (each / null["fact"]).tolist(), strict=True))
    ordered = tuple(sorted(findings, key=lambda finding: -finding.z))
    return SuiteVerdict(z, null["threshold"], alarm, ordered, facts_z, power, tuple(said))


def _finding(
    name: str, runs: Sequence[Attacked], references: Sequence[Found], found: Cells, null: Mapping[str, Any], several: bool
) -> Finding:
    own = {cell: values for cell, values in found.items() if cell.partition(" ")[0] == name}
    told = statistics_of(own, dict.fromkeys(own, 1.0), several)[2]
    z = standardise(told, null["attackers"][name]) if name in null["attackers"] else math.nan
    means = np.mean([run.held_out.recall[0] for run in runs], axis=0)
    place = int(np.argmax(means))
    apart = []
    for run in runs:
        others = [one for reference in references for one in reference.get(name, ()) if one.held_out.seeds == run.held_out.seeds]
        if others:
            apart.append(run.held_out.recall[0][place] - sum(one.held_out.recall[0][place] for one in others) / len(others))
    first = runs[0]
    spent = sum(first.flops.values()) - first.flops.get("total", 0.0)
    return Finding(name, z, estimate(apart), first.held_out.effort[place], first.held_out.unit, first.capacity, spent)
