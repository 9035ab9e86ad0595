"""Suppression: train a model so that it no longer shows what is in the forget set."""

import copy
import math
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.engine.models import Meter, encode, fitting, width
from sluicegate.engine.sampling import Mixture, seed_of
from sluicegate.engine.training import CrossEntropy, Evaluation, Fitted, every, fit, only_train
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.unlearning.distill import goodness
from sluicegate.unlearning.objectives import Method
from sluicegate.unlearning.sam import Sharpness
from sluicegate.values.items import Item, Split
from sluicegate.values.schedule import Schedule, training_rate, unlearning_rate


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    schedule: Schedule,
    *,
    objective: CrossEntropy | None = None,
    seed: int = 0,
    sites: str = "*",
    max_length: int = 256,
    template: bool = False,
    run: RunContext | None = None,
    look: tuple[Sequence[Item], int] | None = None,
) -> Fitted:
    """Train `model` in place on next-token prediction; every item once an epoch.

    `look` are items and an interval: their score, as a student's is taken, is noted every so many steps in what comes back.
    """
    rows = encode(tokenizer, items, max_length=fitting(model, max_length), template=template)
    batches = Mixture(rows, schedule.batch, seed_of(seed, "train"))
    objective = objective or CrossEntropy()
    schedule = schedule.or_rate(training_rate(width(model)))
    evaluation = None
    if look is not None:
        seen = encode(tokenizer, look[0], max_length=fitting(model, max_length), template=template)
        evaluation = Evaluation(lambda model, ledger: {"retain": goodness(model, seen, ledger)}, every(look[1], schedule.steps))
    return fit(
        model,
        objective,
        lambda step: {"train": batches(step)},
        schedule,
        seed=seed,
        run=run or RunContext(),
        name="train",
        sites=sites,
        evaluation=evaluation,
    )


def unlearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    method: Method,
    schedule: Schedule | None = None,
    *,
    seed: int = 0,
    sites: str = "*",
    sam: float = 0.0,
    max_length: int = 256,
    template: bool = False,
    run: RunContext | None = None,
    in_place: bool = False,
) -> tuple[PreTrainedModel, Fitted]:
    """Suppress `split.forget` while keeping `split.retain`; return the new model and what it cost.

    Each step sees `schedule.batch` rows of either set. With `sam`, the radius of a ball around the
    weights, steps are sharpness-aware (see `Sharpness`) and cost twice as much. Suppression hides knowledge;
    whether it is gone is for `relearn` to say. Raises `UserError` where one of the two sets is empty.
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
    only_train(model, sites)
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
        sites=sites,
        meter=(lambda batch: 2 * forward(batch)) if sam else forward,
    )
    done.ledger.add(before.ledger)
    return model, done
