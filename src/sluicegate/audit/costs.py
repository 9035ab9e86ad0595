"""What attackers there are, and what each costs on a model and rows before anything runs."""

from typing import Any

from sluicegate.audit.attack import Attack
from sluicegate.audit.attackers import Attacker, attackers, describe
from sluicegate.tasks.stage import OnData
from sluicegate.values.items import halves


def listed(plan: OnData) -> list[dict[str, Any]]:
    """Name, first line, effort's unit, suite and source of every attacker, those of the smallest suite first.

    Where `plan` names a model and forget rows, also how many numbers it fits, its FLOPs, and these as a multiple of the
    fine-tuning that an audit does on one model for one seed. FLOPs are its own count of forward passes over a row.
    """
    known = sorted(attackers().items(), key=lambda pair: ("quick", "standard", "full").index(pair[1].SUITE))
    told = [{"name": name, "suite": a.SUITE, "what": describe(a), "unit": a.UNIT, "source": a.SOURCE} for name, a in known]
    if not (plan.model or plan.forget):
        return told
    costs = _costs(plan, {name: cls() for name, cls in known})
    return [row | costs[row["name"]] for row in told]


def _costs(plan: OnData, made: dict[str, Attacker]) -> dict[str, dict[str, float]]:
    from sluicegate.engine.forward import Meter

    plan.need("model", "forget")
    model, tokenizer = plan.load()
    mine, theirs = map(plan.encoder(model, tokenizer), halves(plan.split().forget, plan.seed))
    row = Meter(model)(mine.batch(range(len(mine)))) / len(mine)
    attack, rows = Attack(), len(mine) + len(theirs)
    audit = len(attack.rates(plan.width())) * (3.0 * attack.steps * attack.batch + len(attack.checkpoints_within()) * rows)
    found = {}
    for name, attacker in made.items():
        passes = attacker.passes(len(mine), len(theirs))
        found[name] = {"capacity": attacker.capacity(model), "flops": passes * row, "audits": passes / audit}
    return found
