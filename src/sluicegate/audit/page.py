"""The page of an audited model."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.audit.attackers import attackers, describe
from sluicegate.report.arms import PROBES, Role, Row, configs, curve_pictures, environment, group_scores, groups, probes, retain_table
from sluicegate.report.charts import Line, small_picture
from sluicegate.report.figures import Series
from sluicegate.report.formatting import percent, plain
from sluicegate.report.html import render, write_page
from sluicegate.runs.arm import Arm
from sluicegate.values.curves import Curve, stack
from sluicegate.values.statistics import Estimate

if TYPE_CHECKING:
    from sluicegate.audit.attacked import Attacked
    from sluicegate.audit.result import AuditResult
    from sluicegate.audit.suite import Found

SHOWN = 50
"""Facts that the page holds as plain rows, without JavaScript and in print."""
LABELS = {"model": "the model", "reference": "the reference", "original": "the original", "spiked": "the spiked reference"}
COLOURS = {
    "the model": "suppressed",
    "the reference": "reference",
    "harmless fine-tuning": "distilled",
    "the original": "pretrained",
    "the spiked reference": "control",
}
DASHES = {"harmless fine-tuning": "dashed", "the original": "dashdot", "the spiked reference": "dashed"}


def report_audit(name: str, found: "AuditResult", path: Path) -> Path:
    """Write the page of one audited model to `path` and return it.

    Arms are shown as "the model", "the reference" and "harmless fine-tuning". Where a suite of attackers was run, the
    page has its verdict, a picture and a row for each attacker, and every fact.
    """
    verdict, savings, suite = found.verdict, found.verdict.savings, found.suite
    arms = {"the model": found.model, "the reference": found.reference, "harmless fine-tuning": found.harmless}
    shown = {label: arm for label, arm in arms.items() if arm is not None}
    others = [LABELS.get(arm, arm) for arm in found.attacked]
    looks = {
        label: Series(
            label,
            f"a{i}",
            COLOURS.get(label, "reference"),
            DASHES.get(label, "solid" if label in COLOURS else "dotted"),
            label == "the reference",
        )
        for i, label in enumerate(dict.fromkeys([*shown, *others]))
    }
    attacked = {label: arm for label, arm in shown.items() if arm.attacks}
    table = [_audit_row(label, arm, savings if label == "the model" else None) for label, arm in shown.items()]
    seeds = tuple(found.model.results)
    measured = next((str(attack.get("measured", "")) for attack in found.model.attacks.values()), "")
    said = [f"{verdict.word.capitalize()}.", *(suite.sentences if suite else ()), *verdict.sentences, measured]
    attacks = _attacks(found)
    notes = [f"{one.attacker}: {note}" for own in found.attacked.get("model", {}).values() for one in own for note in one.notes]
    page = render(
        "audit/audit.html",
        title=f"Audit of {name}",
        name=name,
        sentences=list(dict.fromkeys(filter(None, said))),
        seeds=seeds,
        seeds_note=_audit_note(seeds),
        rows=table,
        looks=looks,
        probes=[label for label, _, _ in PROBES if any(row.at[label] for row in table)],
        savings=savings,
        level=verdict.level,
        has_reference=found.reference is not None,
        curves=curve_pictures("audit-", attacked, looks, verdict.level if savings else None),
        groups=groups(table),
        left=retain_table(shown),
        warnings=list(dict.fromkeys([*found.warnings(), *notes])),
        configs=configs(shown),
        environment=environment(shown.values()),
        suite=suite,
        power=[(percent(share), percent(chance)) for share, chance in sorted(suite.power.items())] if suite else [],
        attackers=attacks,
        others=others,
        pictures=[_picture(attack, found.attacked, looks) for attack in attacks],
        left_out=dict(found.left_out),
        **_facts(found, attacks),
    )
    return write_page(path, page)


def _audit_row(label: str, arm: Arm, saved: Estimate | None) -> Row:
    role: Role = "reference" if label == "the reference" else "other"
    return Row(label, role, "", "", None, (), group_scores(arm), probes(arm), saved, None, None, None, by=arm.by)


def _audit_note(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return "One attack seed: every number is a single measurement. Brackets in the verdict are 95 % intervals over facts."
    return (
        f"Means over {len(seeds)} attack seeds. Brackets are 95 % intervals: Student's t over seeds; in the verdict, of shares, facts too."
    )


@dataclass(frozen=True)
class Attack:
    """One attacker's row: what it is, and what it found at the effort at which its finding is read."""

    name: str
    about: str
    measure: str
    z: str
    found: bool
    excess: Estimate | None
    effort: float
    unit: str
    capacity: int
    flops: Estimate
    told: str


def _attacks(found: "AuditResult") -> list[Attack]:
    """Every attacker's row, in the order of the findings; last those without one, at the effort of highest recall."""
    own, kinds, rows = found.attacked.get("model", {}), attackers(), []
    findings = {finding.attacker: finding for finding in found.suite.findings} if found.suite else {}
    for name in [*(name for name in findings if name in own), *(name for name in own if name not in findings)]:
        finding, kind, curve = findings.get(name), kinds.get(name), _curve(own[name])
        means = [sum(column) for column in zip(*curve.recall, strict=True)]
        effort = finding.effort if finding else curve.effort[means.index(max(means))]
        z = finding.z if finding else math.nan
        flops = finding.flops if finding else sum(one.flops.get("total", 0.0) for one in own[name])
        rows.append(
            Attack(
                name,
                describe(kind) if kind else "",
                kind.MEASURE if kind else "nats a token",
                "" if math.isnan(z) else plain(z, 1),
                bool(found.suite and z > found.suite.threshold),
                finding.excess if finding else None,
                effort,
                curve.unit,
                own[name][0].capacity,
                Estimate(flops, math.nan, math.nan, 1),
                _told(found.attacked, name, effort),
            )
        )
    return rows


def _told(attacked: "Mapping[str, Found]", attacker: str, effort: float) -> str:
    """Held-out recall of every model at an effort, the setting, and what was left of the retain score."""
    shares = []
    for arm, own in attacked.items():
        if values := [one.held_out.per_seed(effort)[0] for one in own.get(attacker, ()) if effort in one.held_out.effort]:
            shares.append(f"{LABELS.get(arm, arm)} {percent(sum(values) / len(values))}")
    at = [(one, one.held_out.effort.index(effort)) for one in attacked["model"][attacker] if effort in one.held_out.effort]
    settings = Counter(one.settings[i] for one, i in at if one.settings[i]).most_common(1)
    kept = [one.retain[i] for one, i in at if len(one.retain) > i]
    left = [f"retain score left: {percent(sum(kept) / len(kept))}"] if kept else []
    return "; ".join([", ".join(shares), *(name for name, _ in settings), *left])


def _curve(found: "Sequence[Attacked]") -> Curve:
    return stack([one.held_out for one in found])


def _picture(attack: Attack, attacked: "Mapping[str, Found]", looks: Mapping[str, Series]) -> str:
    found = {LABELS.get(arm, arm): own[attack.name] for arm, own in attacked.items() if own.get(attack.name)}
    label = f"{attack.name}: held-out recall against {attack.unit}. Arms: {', '.join(found)}."
    return small_picture(f"attacker-{attack.name}", label, [Line(looks[arm], _curve(own)) for arm, own in found.items()])


def _facts(found: "AuditResult", attacks: Sequence[Attack]) -> dict[str, Any]:
    """Every held-out fact, the likeliest first: the strongest as rows, all of them as JSON for the page's script."""
    if not attacks or found.suite is None:
        return {"facts": [], "data": "", "facts_total": 0}

    def read(arm: str, what: str = "evidence") -> list[dict[str, float]]:
        """Of each attacker, over all models whose name begins so."""
        arms = [own for name, own in found.attacked.items() if name.startswith(arm)]
        return [_by_fact([one for own in arms for one in own.get(a.name, ())], a.effort, what) for a in attacks]

    after, right, theirs = read("model"), read("model", "exact"), read("reference")
    before, before_right = (_untouched(found.attacked["model"], what) for what in ("evidence", "exact"))
    comparable = [i for i, attack in enumerate(attacks) if attack.measure.startswith("nats")] or list(range(len(attacks)))
    rows, likelier = {item.key: item for item in reversed(found.forget)}, found.suite.facts
    names = sorted({fact for own in after for fact in own}, key=lambda fact: (-likelier.get(fact, -math.inf), fact))

    def gain(fact: str, i: int) -> float:
        return after[i].get(fact, -math.inf) - theirs[i].get(fact, 0.0)

    def columns(values: Sequence[Mapping[str, float]]) -> list[list[float | None]]:
        return [[float(f"{own[fact]:.3g}") if math.isfinite(own.get(fact, math.nan)) else None for fact in names] for own in values]

    best = [max(comparable, key=lambda i, fact=fact: gain(fact, i)) for fact in names]  # type: ignore[misc]
    asked = [(rows[fact].prompt, rows[fact].answer) if fact in rows else (fact, "") for fact in names]
    data: dict[str, Any] = {
        "question": [question.strip() or "(running text)" for question, _ in asked],
        "answer": [answer.strip() for _, answer in asked],
        "z": columns([likelier])[0],
        "before": columns([before, before_right]),
        "best": best,
        "attackers": [{"name": a.name, "nats": a.measure.startswith("nats"), "measure": a.measure} for a in attacks],
        "after": columns(after),
        "right": columns(right),
        "reference": columns(theirs),
        "original": columns(read("original")),
    }
    shown = []
    for i, (fact, b) in enumerate(zip(names[:SHOWN], best, strict=False)):
        nats, z = data["attackers"][b]["nats"], plain(likelier[fact], 1) if fact in likelier else "–"
        told = [_chance(before.get(fact), before_right.get(fact)), _chance(after[b].get(fact), right[b].get(fact), nats)]
        shown.append((data["question"][i], data["answer"][i], *told, _chance(theirs[b].get(fact), None, nats), z, attacks[b].name))
    return {"facts": shown, "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"), "facts_total": len(names)}


def _chance(evidence: float | None, right: float | None, nats: bool = True) -> str:
    """Evidence as the tables show it: of log-probabilities the probability of a token; a tick where it is answered."""
    if evidence is None:
        return "–"
    return (percent(math.exp(evidence)) if nats else plain(evidence)) + (" ✓" if right is not None and right >= 0.5 else "")


def _mean(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    own: dict[str, list[float]] = {}
    for fact, value in pairs:
        own.setdefault(fact, []).append(value)
    return {fact: sum(values) / len(values) for fact, values in own.items()}


def _by_fact(found: "Sequence[Attacked]", effort: float, what: str = "evidence") -> dict[str, float]:
    """A number of every held-out fact at an effort: the mean over the attacks in which it is held out."""
    at = [(one, getattr(one, what), one.held_out.effort.index(effort)) for one in found if effort in one.held_out.effort]
    return _mean(pair for one, rows, i in at if len(rows) > i for pair in zip(one.facts, rows[i], strict=True))


def _untouched(found: "Found", what: str = "evidence") -> dict[str, float]:
    """The same before any attack: of each seed what most attackers read first. (A probe reads its first layer.)"""
    seeds: dict[int, Counter[tuple[tuple[str, float], ...]]] = {}
    for own in found.values():
        for one in own:
            for row in getattr(one, what)[:1]:
                first = tuple(zip(one.facts, (round(value, 3) for value in row), strict=True))
                seeds.setdefault(one.held_out.seeds[0], Counter())[first] += 1
    return _mean(pair for counts in seeds.values() for pair in counts.most_common(1)[0][0])
