"""What attackers there are, and what each costs on a model and rows before anything runs."""

from typing import Any

from sluicegate.audit.attack import Attack
from sluicegate.audit.attackers import SUITES, attackers, describe
from sluicegate.tasks.stage import OnData
from sluicegate.values.items import halves


def listed(plan: OnData) -> list[dict[str, Any]]:
    """Name, first line, effort's unit, suite and source of every attacker, those of the smallest suite first.

    Where `plan` names a model and forget rows, also how many numbers it fits, its FLOPs, and these as a multiple of the
    fine-tuning that an audit does on one model for one seed. FLOPs are its own count of forward passes over a row.
    """
    known = dict(sorted(attackers().items(), key=lambda pair: SUITES.index(pair[1].SUITE)))
    told: list[dict[str, Any]] = [
        {"name": name, "suite": a.SUITE, "what": describe(a), "unit": a.UNIT, "source": a.SOURCE} for name, a in known.items()
    ]
    if not (plan.model or plan.forget):
        return told
    from sluicegate.engine.forward import Meter

    plan.need("model", "forget")
    model, tokenizer = plan.load()
    mine, theirs = map(plan.encoder(model, tokenizer), halves(plan.split().forget, plan.seed))
    row, attack = Meter(model)(mine.batch(range(len(mine)))) / len(mine), Attack()
    looks = len(attack.checkpoints_within()) * (len(mine) + len(theirs))
    audit = len(attack.rates(plan.width())) * (3.0 * attack.steps * attack.batch + looks)
    for line in told:
        attacker = known[line["name"]]()
        passes = attacker.passes(len(mine), len(theirs))
        line |= {"capacity": attacker.capacity(model), "flops": passes * row, "audits": passes / audit}
    return told
