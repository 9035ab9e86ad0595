"""sluicegate audit: attack a model, set it beside a reference, and say what follows."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from sluicegate.audit.attack import Attack
from sluicegate.cli.command import print_json, seeds_from, simple
from sluicegate.cli.progress import watching
from sluicegate.tasks.stage import OnData


@dataclass(frozen=True)
class AuditData(OnData):
    """What the audit shares with every stage."""

    model: Positional[str] = dataclasses.field(default="", metadata={"source": "model"})
    """The model to audit: folder, run folder, packaged configuration, fetched model, or hub id."""


@dataclass(frozen=True)
class Audit:
    """Attack an "unlearned" model and say whether the knowledge is gone or only hidden.

    Hand in a model that never saw the forget set with --reference: without one, recovery cannot be
    told from plain learning."""

    data: AuditData = AuditData()
    reference: str = ""
    """A model of the same shape that never saw the forget set."""
    attack: Attack = Attack()
    seeds: int = 3
    """Attack seeds, from --seed on: each draws another half of the facts for the attacker."""
    out: str = "runs/audit"
    """Folder of the results and report.html."""
    workers: int = 0
    """Processes; 0: one a core."""
    json: bool = False
    """Print the findings as the last line."""

    def run(self) -> int:
        from sluicegate.audit.audit import data_settings
        from sluicegate.audit.audit import inspect as inspect_model
        from sluicegate.audit.page import report_audit
        from sluicegate.audit.show import inspection
        from sluicegate.engine.models import locate

        self.data.need("model", "forget")
        for name in filter(None, (self.data.model, self.reference)):
            locate(name)
        out = Path(self.out)
        seeds = seeds_from(self.data.seed, self.seeds)
        with watching() as progress:
            found = inspect_model(
                data_settings(self.data),
                self.attack,
                reference=self.reference,
                seeds=seeds,
                out=out,
                workers=self.workers,
                progress=progress,
            )
        said = [f"{found.verdict.word.capitalize()}.", *found.verdict.sentences]
        page = report_audit(
            self.data.model, found.model, found.reference, said, found.warnings(), out / "report.html", harmless=found.harmless
        )
        inspection(found, page)
        if self.json:
            print_json(found.summary())
        return 0


AUDIT = simple("audit", Audit, "audit and attack")
