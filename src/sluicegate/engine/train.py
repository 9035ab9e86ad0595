"""Train a language model on rows by next-token prediction."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.deprecated import renamed
from sluicegate.engine.encoding import encode, fitting
from sluicegate.engine.models import width
from sluicegate.engine.sampling import Mixture, seed_of
from sluicegate.engine.scoring import single_score
from sluicegate.engine.training import CrossEntropy, Evaluation, Fitted, every, fit
from sluicegate.runs.directory import RunContext
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule, training_rate


@renamed(room="run", sites="params")
def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    schedule: Schedule,
    *,
    objective: CrossEntropy | None = None,
    seed: int = 0,
    params: str = "*",
    max_length: int = 256,
    template: bool = False,
    run: RunContext | None = None,
    look: tuple[Sequence[Item], int] | None = None,
) -> Fitted:
    """Train `model` in place on next-token prediction; every item once an epoch.

    `look` are items and an interval: their score, as a student's is taken, is noted every so many steps in what comes
    back.
    """
    rows = encode(tokenizer, items, max_length=fitting(model, max_length), template=template)
    batches = Mixture(rows, schedule.batch, seed_of(seed, "train"))
    objective = objective or CrossEntropy()
    schedule = schedule.or_rate(training_rate(width(model)))
    evaluation = None
    if look is not None:
        seen = encode(tokenizer, look[0], max_length=fitting(model, max_length), template=template)
        evaluation = Evaluation(lambda model, ledger: {"retain": single_score(model, seen, ledger)}, every(look[1], schedule.steps))
    return fit(
        model,
        objective,
        lambda step: {"train": batches(step)},
        schedule,
        seed=seed,
        run=run or RunContext(),
        name="train",
        params=params,
        evaluation=evaluation,
    )
