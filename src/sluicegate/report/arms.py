"""What pages show of arms: a row of a table, curves under attack, settings, and the machines they ran on."""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import tomli_w

from sluicegate.report.charts import Line, curves_picture
from sluicegate.report.figures import Series
from sluicegate.runs.arm import Arm
from sluicegate.values.curves import Curve
from sluicegate.values.statistics import Estimate, estimate

Role = Literal["reference", "pretrained", "suppressed", "distilled", "dial", "control", "other"]


PROBES = (("A@10", "owned", 10.0), ("A@30", "owned", 30.0), ("B@10", "held_out", 10.0), ("B@100", "held_out", 100.0))
"""The columns read off the curves: label, which facts, attack steps."""


@dataclass(frozen=True)
class Row:
    """One arm as the tables show it; None where it was not measured."""

    name: str
    role: Role
    verb: str
    method: str
    alpha: float | None
    """The noise dial's setting, where the arm has one."""
    made_from: tuple[tuple[str, str], ...]
    """(setting, other arm), for example ("model", "base")."""
    scores: dict[str, dict[str, Estimate]]
    """Group -> measure -> mean over seeds."""
    at: dict[str, Estimate | None]
    """A@10, A@30, B@100."""
    savings: Estimate | None
    steps: Estimate | None
    cost: Estimate | None
    """FLOPs from the pretrained model on."""
    relative: Estimate | None
    """The same as a multiple of the reference's, paired by seed."""
    own: dict[str, float] = field(default_factory=dict)
    """The stage's own FLOPs, mean over seeds: student, teacher, evaluation, total."""
    by: str = "exact"
    """What its scores are read by: exact answers, or on running text argmax, the tokens that are the first choice."""

    def score(self, group: str, measure: str = "") -> Estimate | None:
        return self.scores.get(group, {}).get(measure or self.by)


def group_scores(arm: Arm) -> dict[str, dict[str, Estimate]]:
    """Group -> measure -> mean over the seeds that have it."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in arm.results.values():
        for group, scores in result.get("scores", {}).items():
            for measure, value in scores.items():
                found.setdefault(group, {}).setdefault(measure, []).append(float(value))
    return {
        group: {m: estimate(v, at_least=0.0, at_most=math.inf if m == "loss" else 1.0) for m, v in scores.items()}
        for group, scores in found.items()
    }


def probes(arm: Arm) -> dict[str, Estimate | None]:
    """A@10, A@30, B@100, or B@10 in its place under a shorter attack; None where it is shorter still, or there was
    none."""
    if not arm.attacks:
        return {label: None for label, _, _ in PROBES}
    curves: dict[str, Curve] = {"owned": arm.owned, "held_out": arm.held_out}
    found = {label: curves[which].at(x) if x <= curves[which].budget else None for label, which, x in PROBES}
    if found["B@100"]:
        found["B@10"] = None
    return found


def read_toml(path: Any) -> dict[str, Any]:
    """The content of a TOML file, empty where there is none to be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def curve_pictures(prefix: str, arms: Mapping[str, Arm], looks: Mapping[str, Series], level: float | None) -> list[dict[str, str]]:
    if not arms:
        return []
    found = []
    for which, title, note, mark in (
        ("owned", "Facts the attacker holds", "Recall of the half it fine-tunes on: relearning.", level),
        ("held_out", "Facts it never sees", "Recall of the other half: what comes back by itself was still in the weights.", None),
    ):
        lines = [Line(looks[name], getattr(arm, which)) for name, arm in arms.items()]
        label = f"Recall against attack steps. {title}. Arms: {', '.join(arms)}."
        picture = curves_picture(f"{prefix}{which.replace('_', '-')}", label, lines, mark)
        found.append({"title": title, "note": note, "svg": picture})
    return found


def groups(table: Sequence[Row]) -> list[str]:
    known = [group for row in table for group in row.scores]
    return [g for g in ("forget", "retain", "adjacent") if g in known] + sorted(set(known) - {"forget", "retain", "adjacent"})


def retain_table(arms: Mapping[str, Arm]) -> dict[str, Any] | None:
    """Retain score before the attack and after some of it, by arm."""
    steps = (0.0, 10.0, 30.0, 100.0)
    found = {}
    for name, arm in arms.items():
        series = [(a["owned"]["effort"], a["retain"]) for a in arm.attacks.values() if a.get("retain")]
        cells = {step: retain_left(series, step) for step in steps}
        if any(cells.values()):
            found[name] = cells
    shown = [step for step in steps if any(cells[step] for cells in found.values())]
    return {"steps": shown, "arms": found} if found else None


def configs(arms: Mapping[str, Arm]) -> list[tuple[str, str]]:
    """Every arm's config.toml of its first seed; run folders are named without the folders above them."""
    found = []
    for name, arm in arms.items():
        for seed, folder in list(arm.folders.items())[:1]:
            config = read_toml(folder / "config.toml")
            if config:
                above = f"{folder.parent}/"
                own = {k: v.replace(above, "") if isinstance(v, str) else v for k, v in config.items()}
                found.append((f"{name} (seed {seed}): {folder.name}", tomli_w.dumps(own)))
    return found


def environment(arms: Any) -> str:
    """What differs between the arms' env.json is listed, what does not is said once."""
    found: list[str] = []
    for arm in arms:
        for folder in arm.folders.values():
            try:
                text = json.dumps(json.loads((folder / "env.json").read_text(encoding="utf-8")), indent=1)
            except (OSError, ValueError):
                continue
            if text not in found:
                found.append(text)
    return "\n".join(found)


def retain_left(attacks: Sequence[tuple[Sequence[float], Sequence[float]]], effort: float) -> Estimate | None:
    """Retain score after so much of the attack, from (efforts, scores) a seed."""
    values = [scores[list(efforts).index(effort)] for efforts, scores in attacks if effort in efforts and len(scores) == len(efforts)]
    return estimate(values, at_least=0.0, at_most=1.0) if values else None
