"""The page of an audited model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sluicegate.report.arms import PROBES, Role, Row, configs, curve_pictures, environment, group_scores, groups, probes, retain_table
from sluicegate.report.figures import Series
from sluicegate.report.html import render, write_page
from sluicegate.runs.arm import Arm
from sluicegate.values.statistics import Estimate

if TYPE_CHECKING:
    from sluicegate.audit.result import AuditResult


def report_audit(name: str, found: "AuditResult", path: Path) -> Path:
    """Write the page of one audited model to `path` and return it.

    Arms are shown as "the model", "the reference" and "harmless fine-tuning".
    """
    verdict, savings, level = found.verdict, found.verdict.savings, found.verdict.level
    said = [f"{verdict.word.capitalize()}.", *verdict.sentences, *filter(None, [found.summary()["measured"]])]
    arms = {"the model": found.model, "the reference": found.reference, "harmless fine-tuning": found.harmless}
    shown = {label: arm for label, arm in arms.items() if arm is not None}
    colours = {"the model": "suppressed", "the reference": "reference", "harmless fine-tuning": "distilled"}
    dashes = {"harmless fine-tuning": "dashed"}
    looks = {
        label: Series(label, f"a{i}", colours[label], dashes.get(label, "solid"), label == "the reference") for i, label in enumerate(shown)
    }
    attacked = {label: arm for label, arm in shown.items() if arm.attacks}
    table = [_audit_row(label, arm, savings if label == "the model" else None) for label, arm in shown.items()]
    seeds = tuple(found.model.results)
    page = render(
        "audit/audit.html",
        title=f"Audit of {name}",
        name=name,
        sentences=said,
        seeds=seeds,
        seeds_note=_audit_note(seeds),
        rows=table,
        looks=looks,
        probes=[label for label, _, _ in PROBES if any(row.at[label] for row in table)],
        savings=savings,
        level=level,
        has_reference=found.reference is not None,
        curves=curve_pictures("audit-", attacked, looks, level if savings else None),
        groups=groups(table),
        left=retain_table(shown),
        warnings=found.warnings(),
        configs=configs(shown),
        environment=environment(shown.values()),
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
