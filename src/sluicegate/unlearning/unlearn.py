"""Suppress a forget set by training on an unlearning objective: the model no longer shows what is in it."""

import copy
import math

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.deprecated import alias, renamed
from sluicegate.engine.encoding import encode, fitting
from sluicegate.engine.forward import Meter
from sluicegate.engine.models import width
from sluicegate.engine.sampling import Mixture, seed_of
from sluicegate.engine.training import Fitted, fit, only_train
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.unlearning.objectives import Method
from sluicegate.unlearning.sam import Sharpness
from sluicegate.values.items import Split
from sluicegate.values.schedule import Schedule, unlearning_rate


@renamed(room="run", sites="params")
def unlearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    method: Method,
    schedule: Schedule | None = None,
    *,
    seed: int = 0,
    params: str = "*",
    sam: float = 0.0,
    max_length: int = 256,
    template: bool = False,
    run: RunContext | None = None,
    in_place: bool = False,
) -> tuple[PreTrainedModel, Fitted]:
    """Suppress `split.forget` while keeping `split.retain`; return the new model and what it cost.

    Each step sees `schedule.batch` rows of either set. With `sam`, the radius of a ball around the
    weights, steps are sharpness-aware (see `Sharpness`) and cost twice as much. Suppression hides knowledge;
    `relearn` measures whether it is gone. Raises `UserError` where one of the two sets is empty.
    """
    if not 0 <= sam < math.inf:
        raise UserError(f"sam is {sam:g}; it is the radius of a ball around the weights, for example .01, or 0 for ordinary steps.")
    for name in ("forget", "retain"):
        if not split.group(name):
            raise UserError(f"unlearning needs a {name} set, and it is empty. Hand it in with --{name}.")
    run = run or RunContext()
    schedule = (schedule or Schedule(steps=100)).or_rate(unlearning_rate(width(model)))
    model = model if in_place else copy.deepcopy(model)
    forget = encode(tokenizer, split.forget, max_length=fitting(model, max_length), template=template)
    retain = encode(tokenizer, split.retain, max_length=fitting(model, max_length), template=template)
    draw_forget = Mixture(forget, schedule.batch, seed_of(seed, "forget"))
    draw_retain = Mixture(retain, schedule.batch, seed_of(seed, "retain"))
    only_train(model, params)
    before = Fitted.nothing()
    objective = method.prepare(model, forget, retain, before.ledger)
    forward = Meter(model)
    done = fit(
        model,
        Sharpness(objective, sam) if sam else objective,
        lambda step: {"forget": draw_forget(step), "retain": draw_retain(step)},
        schedule,
        seed=seed,
        run=run,
        name="unlearn",
        params=params,
        meter=(lambda batch: 2 * forward(batch)) if sam else forward,
    )
    done.ledger.add(before.ledger)
    return model, done


__getattr__ = alias(__name__, train="sluicegate.engine.train.train")
