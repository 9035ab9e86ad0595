"""sluicegate audit: attack a model, set it beside a reference, and say what follows."""

from dataclasses import dataclass, fields
from typing import Annotated

from tyro.conf import Positional, arg

from sluicegate.audit.attack import Attack
from sluicegate.cli.command import print_json, seeds_from, simple
from sluicegate.cli.progress import watching
from sluicegate.errors import UserError
from sluicegate.tasks.stage import OnData


@dataclass(frozen=True)
class Audit:
    """Attack an "unlearned" model and say whether the knowledge is gone or only hidden.

    Hand in a model that never saw the forget set with --reference: without one, recovery cannot be
    told from plain learning."""

    audited: Annotated[Positional[str], arg(metavar="[MODEL]")] = ""
    """The model to audit; the same as --model."""
    data: OnData = OnData()
    reference: str = ""
    """A model of the same shape that never saw the forget set."""
    attack: Attack = Attack()
    seeds: int = 3
    """Attack seeds, from --seed on: each draws another half of the facts for the attacker."""
    out: str = ""
    """Folder of the attacks, audit.json and report.html. Default: the attacks in runs/audit, the rest in a folder there
    for each audit."""
    workers: int = 0
    """Attacks side by side; 0: one a core, on accelerators never more than one each."""
    procs: int = 0
    """Processes that work on each attack together, one attack after another; 0: one."""
    shard: bool = False
    """With --procs, divide weights and the optimiser's memory among the processes (FSDP2)."""
    json: bool = False
    """Print the findings as the last line."""

    def run(self) -> int:
        from sluicegate.audit.audit import audit
        from sluicegate.audit.show import print_audit

        data = self.data
        if self.audited and data.model and self.audited != data.model:
            raise UserError(f"two models are given, {self.audited!r} and --model {data.model!r}. Give one.")
        with watching() as progress:
            found = audit(
                self.audited or data.model,
                **{field.name: getattr(data, field.name) for field in fields(data) if field.name not in ("model", "seed")},
                reference=self.reference,
                attack=self.attack,
                seeds=seeds_from(data.seed, self.seeds),
                out=self.out,
                workers=self.workers,
                procs=self.procs,
                shard=self.shard,
                progress=progress,
            )
        print_audit(found)
        if self.json:
            print_json(found.summary())
        return 0


AUDIT = simple("audit", Audit, "audit and attack")
