"""What an audit found: the models, the verdict, and the numbers as JSON has them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.audit.verdict import Verdict
from sluicegate.runs.arm import Arm
from sluicegate.values.items import Item
from sluicegate.values.statistics import Estimate

if TYPE_CHECKING:
    from sluicegate.audit.attacked import Attacked
    from sluicegate.audit.suite import SuiteVerdict


@dataclass(frozen=True)
class AuditResult:
    """What an audit found."""

    model: Arm
    reference: Arm | None
    harmless: Arm | None
    """The model under fine-tuning on retain rows only, where retain rows were handed in."""
    verdict: Verdict
    page: Path
    """The report, as HTML; audit.json lies beside it."""
    differs: str = ""
    """In what the reference is built otherwise than the model; empty where it is not."""
    suite: "SuiteVerdict | None" = None
    """What the suite of attackers says; None where there was none."""
    attacked: "Mapping[str, Mapping[str, Sequence[Attacked]]]" = field(default_factory=dict)
    """By model (model, reference, reference 2, original, spiked) and attacker: what it found, one a seed."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Attackers that did not attack, and why."""
    spiked: "SuiteVerdict | None" = None
    """What the suite says of the spiked model, in which there is something to be found."""
    forget: Sequence[Item] = ()
    """The rows whose facts were attacked."""

    def warnings(self) -> list[str]:
        """What makes the attacks weaker than they could be, once for each arm and text."""
        found = [f"reference: {self.differs}"] * bool(self.differs)
        for name, arm in (("model", self.model), ("reference", self.reference), ("harmless fine-tuning", self.harmless)):
            texts = {text for attack in (arm.attacks.values() if arm else ()) for text in attack["warnings"]}
            found += [f"{name}: {text}" for text in sorted(texts)]
        return found

    def summary(self) -> dict[str, Any]:
        """The numbers, as audit.json and --json give them."""
        arms = {"model": self.model, "reference": self.reference, "harmless": self.harmless}
        verdict = self.verdict
        return {
            "verdict": verdict.word,
            "savings": verdict.savings.as_list() if verdict.savings else None,
            "held_out_above_reference": verdict.excess.as_list() if verdict.excess else None,
            "owned_above_reference": verdict.owned_excess.as_list() if verdict.owned_excess else None,
            "measure": next(iter(self.model.attacks.values())).get("measure", "exact"),
            "measured": next(iter(self.model.attacks.values())).get("measured", ""),
            "seeds": list(self.model.attacks),
            "arms": {name: _summarize_arm(arm) for name, arm in arms.items() if arm},
            "sentences": list(verdict.sentences),
            "warnings": self.warnings(),
        } | ({"suite": _plain(self.suite), "spiked": _plain(self.spiked), "left_out": dict(self.left_out)} if self.attacked else {})


def _plain(value: Any) -> Any:
    """A value as JSON holds it: a dataclass is a table, an estimate a list, and what is no finite number null."""
    if isinstance(value, Estimate):
        return value.as_list()
    value = vars(value) if dataclasses.is_dataclass(value) else value
    if isinstance(value, Mapping):
        return {str(name): _plain(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summarize_arm(arm: Arm) -> dict[str, Any]:
    return {
        "scores": {group: arm.scores(group) for group in next(iter(arm.results.values()))["scores"]},
        "steps": list(arm.owned.effort),
        "owned": [list(row) for row in arm.owned.recall],
        "held_out": [list(row) for row in arm.held_out.recall],
    }
