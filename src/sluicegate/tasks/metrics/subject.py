"""A model to be measured: what it gives every token of an answer, and what it writes itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.engine.encoding import Rows, encode, fitting
from sluicegate.engine.generation import generate, rouge_l
from sluicegate.engine.losses import portions, reduce_logits
from sluicegate.engine.training import NotFinite
from sluicegate.runs.directory import Progress
from sluicegate.values.items import Item

Array = NDArray[np.float64]
Pairs = Sequence[tuple[str, str]]
"""Prompts and their answers; an empty prompt before running text."""
LONGEST = 4096
"""Longest row, in tokens, where the model has so many positions."""
LOGP, MEAN, SD, FIRST = range(4)
"""What a token has: its log-probability (nats), the mean and standard deviation of log-probabilities over the
vocabulary under the model itself, and 1 where it is the model's first choice."""


@dataclass(frozen=True)
class Subject:
    """A model, and how rows are put to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: bool = False
    progress: Progress | None = None
    warnings: list[str] = field(default_factory=list)
    """Where a number cannot mean what it should."""
    intervals: dict[str, list[float | None]] = field(default_factory=dict)
    """95 % intervals of the numbers that have one, by name."""

    def encoded(self, items: Sequence[Item]) -> Rows:
        """Items as rows of up to `LONGEST` tokens."""
        return encode(self.tokenizer, items, max_length=fitting(self.model, LONGEST), template=self.template)

    def tokens(self, pairs: Pairs, part: str, size: int = 64) -> list[Array]:
        """The tokens of each answer, given its prompt and the true tokens before: [k, 4] (see `LOGP`)."""
        items = [Item(prompt, answer if not prompt or prompt[-1].isspace() else f" {answer.lstrip()}") for prompt, answer in pairs]
        rows, found = self.encoded(items), list[Array]()
        for batch in portions(self.model.eval(), rows, size):
            told = reduce_logits(self.model, batch, "answer", of_tokens).double().cpu().numpy()
            if not np.isfinite(told).all():
                raise NotFinite(f"{part}: the model's outputs are not finite. Train it at a lower learning rate (--lr).")
            found += np.split(told, np.cumsum(batch.answer.sum(1).tolist())[:-1])
            if self.progress:
                self.progress(part, len(found), len(rows), {})
        # A long text is several rows of one item, one after the other.
        windows = groupby(zip(rows.items, found, strict=True), key=lambda pair: id(pair[0]))
        return [np.concatenate([told for _, told in group]) for _, group in windows]

    def losses(self, pairs: Pairs, part: str) -> Array:
        """[n] mean loss of each answer, nats a token."""
        return np.array([-told[:, LOGP].mean() for told in self.tokens(pairs, part)])

    def written(self, pairs: Pairs, part: str, most: int = 0, line: bool = False, f1: bool = False) -> float:
        """Mean ROUGE-L (recall, or F1) against the answers of what the model writes greedily, up to `most` tokens; of
        its first `line` alone, where asked. Warns where the texts say nothing."""
        items, how = [Item(*pair) for pair in pairs], {"max_length": LONGEST, "template": self.template}
        texts = generate(self.model, self.tokenizer, items, max_new_tokens=most, progress=self.progress, **how)  # type: ignore[arg-type]
        texts = [text.strip().partition("\n")[0] if line else text for text in texts]
        empty, same = texts.count(""), max(map(texts.count, {*texts}))
        if len(texts) > 1 and max(10 * empty, 2 * same) > len(texts):
            what = f"{empty} of {len(texts)} texts are empty" if 10 * empty > len(texts) else f"{same} of {len(texts)} texts are the same"
            self.warnings.append(f"{part}: {what}, so ROUGE says little of what is known")
        recall = np.array([rouge_l(text, answer) for text, (_, answer) in zip(texts, pairs, strict=True)])
        if not f1:
            return float(recall.mean())
        precise = np.array([rouge_l(answer, text) for text, (_, answer) in zip(texts, pairs, strict=True)])
        return float((2 * recall * precise / np.maximum(recall + precise, 1e-9)).mean())


def of_tokens(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[c, 4] what tokens have (see `LOGP`), from logits [c, V] in float32 and the tokens [c]."""
    logp = logits.log_softmax(-1).clamp(min=-1e4)  # a token that is ruled out (-inf) weighs nothing, and not NaN
    mean = (logp.exp() * logp).sum(-1)
    sd = ((logp.exp() * logp.square()).sum(-1) - mean.square()).clamp(min=0).sqrt()
    return torch.stack([logp.gather(-1, targets[:, None])[:, 0], mean, sd, (logp.argmax(-1) == targets).float()], -1)
