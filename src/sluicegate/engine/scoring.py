"""Scores: does the model give the answer, how likely does it find it, and at what loss."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from sluicegate.engine.encoding import Rows
from sluicegate.engine.forward import Meter
from sluicegate.engine.losses import cross_entropy, portions, reduce_logits
from sluicegate.engine.oom import halving
from sluicegate.engine.training import Ledger, NotFinite
from sluicegate.values.items import Item


@dataclass(frozen=True)
class Scores:
    """One number a row; `mean` gives the group's.

    Answers are scored given the true tokens before them. An answer all of whose tokens are the
    model's first choice is exactly the answer that greedy decoding writes.
    """

    exact: torch.Tensor
    """[n] 1 where every answer token is the model's first choice."""
    argmax: torch.Tensor
    """[n] share of answer tokens that are the model's first choice."""
    probability: torch.Tensor
    """[n] probability of the whole answer."""
    loss: torch.Tensor
    """[n] mean cross-entropy of the answer's tokens, in nats a token."""

    def mean(self) -> dict[str, float]:
        """The group's mean of each score."""
        return {name: float(getattr(self, name).mean()) for name in ("exact", "argmax", "probability", "loss")}


@torch.no_grad()
def score(model: PreTrainedModel, rows: Rows, ledger: Ledger | None = None, size: int = 256) -> Scores:
    """Score every row's answer; `size` rows at a time or fewer (see `portions`), which does not change the numbers.

    Logits are made in pieces, so that memory above the weights does not depend on the vocabulary. The forward passes
    are entered in `ledger` as evaluation. Rows of mixed lengths score as they would alone, up to rounding. Raises
    `NotFinite` for the first row whose loss is NaN or infinity.
    """
    was_training = model.training
    model.eval()
    meter = Meter(model)
    exact, argmax, probability, loss = [], [], [], []
    for batch in portions(model, rows, size):
        answer = batch.answer.cpu()
        each = halving(batch, lambda part: reduce_logits(model, part, "answer", _loss_and_hit)).cpu()
        losses, hits = (torch.zeros(answer.shape, dtype=each.dtype).masked_scatter(answer, column) for column in each.unbind(1))
        count = answer.sum(1)
        exact.append((hits.sum(1) == count).float())
        argmax.append(hits.sum(1) / count)
        probability.append((-losses.sum(1)).exp())
        loss.append(losses.sum(1) / count)
        if ledger is not None:
            ledger.evaluation += meter(batch)
    model.train(was_training)
    found = Scores(torch.cat(exact), torch.cat(argmax), torch.cat(probability), torch.cat(loss))
    if not found.loss.isfinite().all():
        n = int(found.loss.isfinite().logical_not().nonzero()[0])
        said = f"the loss on {rows.items[n].text[:60]!r} is {float(found.loss[n])}: the model's outputs are not finite"
        raise NotFinite(f"{said}. Train it at a lower learning rate (--lr).")
    return found


def _loss_and_hit(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[c, 2] cross-entropy of each target, and whether it is the first choice."""
    return torch.stack([cross_entropy(scores, targets), scores.argmax(-1) == targets], 1)


def single_score(model: PreTrainedModel, rows: Rows, ledger: Ledger | None = None) -> float:
    """One number for how well the model knows the rows: the share of exact answers; for running text, exp(-loss)."""
    return in_one(score(model, rows, ledger).mean(), rows.items)


def in_one(scores: Mapping[str, float], items: Iterable[Item]) -> float:
    """One number of the mean scores of these items: the share of exact answers; for running text, exp(-loss)."""
    return scores["exact"] if any(item.prompt for item in items) else math.exp(-scores["loss"])
