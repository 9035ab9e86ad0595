"""sluicegate audit: attack a model, set it beside a reference, and say what follows. Every attacker alone: attack,
attackers."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from sluicegate.audit.attack import Attack
from sluicegate.audit.attacker_stage import Attackers
from sluicegate.audit.attackers import chosen
from sluicegate.cli.command import Verb, print_json, seeds_from, simple, summary_of
from sluicegate.cli.progress import watching
from sluicegate.errors import UserError
from sluicegate.execution.runner import run_stage
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
    """A model of the same shape that never saw the forget set; several, joined by commas, show how these differ."""
    original: str = ""
    """The model from before unlearning: it shows that an attack can find anything, and some attackers need it."""
    suite: Literal["none", "quick", "standard", "full"] = "standard"
    """Which attackers attack: quick trains no more than norm gains; none: fine-tuning alone."""
    attackers: str = ""
    """These attackers in place of the suite's, joined by commas; see: sluicegate attackers"""
    spike: float = 0.0
    """Control: teach the reference this share of the forget facts, suppress them, and audit that too; 0: no."""
    spike_method: str = "maxent"
    """The objective that suppresses them; see --method of: sluicegate unlearn --help"""
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
        with watching() as progress:
            found = audit(
                _one_model(self.audited, data.model),
                **{field.name: getattr(data, field.name) for field in fields(data) if field.name not in ("model", "seed")},
                **{
                    name: getattr(self, name) for name in ("reference", "original", "suite", "attackers", "spike", "spike_method", "attack")
                },
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


@dataclass(frozen=True)
class Listed:
    """List all attackers; with a model and forget rows, what each would cost there."""

    audited: Annotated[Positional[str], arg(metavar="[MODEL]")] = ""
    """A model that they would attack; the same as --model."""
    data: OnData = OnData()
    json: bool = False
    """Print the table as one JSON object on the last line."""

    def run(self) -> int:
        from sluicegate.audit.costs import listed
        from sluicegate.audit.show import print_attackers

        rows = listed(replace(self.data, model=_one_model(self.audited, self.data.model)))
        print_attackers(rows)
        if self.json:
            print_json({"attackers": rows})
        return 0


def _one_model(named: str, model: str) -> str:
    if named and model and named != model:
        raise UserError(f"two models are given, {named!r} and --model {model!r}. Give one.")
    return named or model


def _attack(words: list[str]) -> int:
    """``attack NAME MODEL`` as the stage has it: ``--method NAME --model MODEL``."""
    at = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
    names, left = words[:at], words[at:]
    if not names and not {"-h", "--help"} & set(left):
        raise UserError("name an attacker: sluicegate attack NAME MODEL --forget ROWS. See: sluicegate attackers")
    chosen(names=",".join(names[:1]))
    if len(names) > 1 and any(word.partition("=")[0] == "--model" for word in left):
        raise UserError(f"two models are given, {names[1]!r} and by --model. Give one.")
    given = [word for pair in zip(("--method", "--model"), names, strict=False) for word in pair]
    return run_stage(Attackers, [*given, *names[2:], *left], "attack", chosen="the first word")


AUDIT = simple("audit", Audit, "audit and attack")
ATTACK = Verb("attack", summary_of(Attackers), "audit and attack", _attack)
ATTACKERS = simple("attackers", Listed, "audit and attack")
