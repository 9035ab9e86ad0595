"""Suppression: train a model so that it no longer shows what is in the forget set."""

import copy
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.errors import UserError
from sluicegate.items import Item, Split
from sluicegate.models import encode, width
from sluicegate.runs.room import Room
from sluicegate.sampling import Mixture, seed_of
from sluicegate.schedule import Schedule
from sluicegate.training import CrossEntropy, Fitted, fit, only_train
from sluicegate.unlearning.objectives import Method

RATE_OF_TRAINING = 0.384
"""Default learning rate times the model's width: 6e-3 at 64, where it was calibrated."""
RATE_OF_UNLEARNING = 0.064
"""The same for suppression: 1e-3 at a width of 64."""


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
    room: Room | None = None,
) -> Fitted:
    """Train `model` in place on next-token prediction; every item once an epoch."""
    rows = encode(tokenizer, items, max_length=max_length, template=template)
    batches = Mixture(rows, schedule.batch, seed_of(seed, "train"))
    objective = objective or CrossEntropy()
    schedule = schedule.for_width(width(model), RATE_OF_TRAINING)
    room = room or Room()
    return fit(model, objective, lambda step: {"train": batches(step)}, schedule, seed=seed, room=room, name="train", sites=sites)


def unlearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    method: Method,
    schedule: Schedule | None = None,
    *,
    seed: int = 0,
    sites: str = "*",
    max_length: int = 256,
    template: bool = False,
    room: Room | None = None,
    in_place: bool = False,
) -> tuple[PreTrainedModel, Fitted]:
    """Suppress `split.forget` while keeping `split.retain`; return the new model and what it cost.

    Each step sees `schedule.batch` rows of either set. Suppression hides knowledge; whether it is
    gone is for `relearn` to say. Raises `UserError` where one of the two sets is empty.
    """
    for name in ("forget", "retain"):
        if not split.group(name):
            raise UserError(f"unlearning needs a {name} set, and it is empty. Hand it in with --{name}.")
    room = room or Room()
    schedule = (schedule or Schedule(steps=80)).for_width(width(model), RATE_OF_UNLEARNING)
    model = model if in_place else copy.deepcopy(model)
    forget = encode(tokenizer, split.forget, max_length=max_length, template=template)
    retain = encode(tokenizer, split.retain, max_length=max_length, template=template)
    draw_forget = Mixture(forget, schedule.batch, seed_of(seed, "forget"))
    draw_retain = Mixture(retain, schedule.batch, seed_of(seed, "retain"))
    only_train(model, sites)
    before = Fitted.nothing()
    objective = method.prepare(model, forget, retain, before.ledger)
    done = fit(
        model,
        objective,
        lambda step: {"forget": draw_forget(step), "retain": draw_retain(step)},
        schedule,
        seed=seed,
        room=room,
        name="unlearn",
        sites=sites,
    )
    done.ledger.add(before.ledger)
    return model, done
