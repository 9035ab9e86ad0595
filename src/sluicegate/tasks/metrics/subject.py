"""A model to be measured: what it gives every token of an answer, and what it writes itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.engine.encoding import Batch, encode, fitting
from sluicegate.engine.forward import logits
from sluicegate.values.items import Item

Array = NDArray[np.float64]
LONGEST = 4096
"""Longest row of a benchmark, in tokens, where the model has so many positions."""
LOGP, MEAN, SD, FIRST = range(4)
"""What a token has: its log-probability (nats), the mean and standard deviation of log-probabilities over the
vocabulary under the model itself, and 1 where it is the model's first choice."""


@dataclass(frozen=True)
class Subject:
    """A model, and how rows are put to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: bool = False
    progress: Callable[[str, int, int, Mapping[str, float]], None] = lambda part, done, total, numbers: None
    warnings: list[str] = field(default_factory=list)
    """Where a number cannot mean what it should; each once."""
    intervals: dict[str, list[float]] = field(default_factory=dict)
    """95 % intervals of those numbers that have one, by name."""

    @torch.no_grad()
    def tokens(self, pairs: Sequence[tuple[str, str]], part: str, size: int = 16) -> list[Array]:
        """The tokens of each answer, given its prompt and the true tokens before: [k, 4] (see `LOGP`)."""
        items = [Item(prompt, answer if not prompt or prompt[-1:].isspace() else f" {answer.lstrip()}") for prompt, answer in pairs]
        rows = encode(self.tokenizer, items, max_length=fitting(self.model, LONGEST), template=self.template)
        found: list[Array] = []
        for batch in rows.everything(size):
            told = _reduced(self.model.eval(), batch).double().cpu().numpy()
            found += np.split(told, np.cumsum(batch.answer.sum(1).tolist())[:-1])
            self.progress(part, len(found), len(rows), {})
        # A long text is several rows, one after the other, of one item.
        windows = groupby(zip(rows.items, found, strict=True), key=lambda pair: id(pair[0]))
        return [np.concatenate([told for _, told in group]) for _, group in windows]

    def losses(self, pairs: Sequence[tuple[str, str]], part: str) -> Array:
        """[n] mean loss of each answer, nats a token."""
        return np.array([-told[:, LOGP].mean() for told in self.tokens(pairs, part)])

    def written(self, prompts: Sequence[tuple[str, str]], part: str, most: int = 0) -> list[str]:
        """What the model writes greedily after each prompt, up to `most` tokens; warns where that says nothing."""
        items = [Item(prompt, answer) for prompt, answer in prompts]
        more: dict[str, Any] = {"max_new_tokens": most} if most else {}
        told = _generate(self.model, self.tokenizer, items, template=self.template, **more)
        empty, same = sum(not text.strip() for text in told), max(map(told.count, {*told}))
        if empty > len(told) / 10:
            self.warnings.append(f"{part}: {empty} of {len(told)} texts written are empty, so ROUGE says little of what is known")
        elif len(told) > 1 and same > len(told) / 2:
            self.warnings.append(f"{part}: {same} of {len(told)} texts written are the same, so ROUGE says little of what is known")
        return told


def _reduced(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    out, targets = logits(model, batch)[batch.answer].float().log_softmax(-1), batch.ids[:, 1:][batch.answer]
    mean = (out.exp() * out).sum(-1)
    sd = ((out.exp() * out.square()).sum(-1) - mean.square()).clamp(min=0).sqrt()
    return torch.stack([out.gather(-1, targets[:, None])[:, 0], mean, sd, (out.argmax(-1) == targets).float()], -1)


def rouge(written: Sequence[str], answers: Sequence[str], measure: str) -> Array:
    """[n] ROUGE-L of texts against answers: its ``recall`` or ``fmeasure`` (Lin 2004), words stemmed."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return np.array([getattr(scorer.score(answer, text)["rougeL"], measure) for text, answer in zip(written, answers, strict=True)])


@torch.no_grad()
def _generate(model: Any, tokenizer: Any, items: Sequence[Item], *, template: bool, max_new_tokens: int = 0) -> list[str]:
    # Stands in for engine.generation until that is there.
    longest = max(len(tokenizer(item.answer, add_special_tokens=False)["input_ids"]) for item in items)
    told = []
    for item in items:
        rows = encode(tokenizer, [item], max_length=LONGEST, template=template)
        ids = rows.ids[:, : int(rows.starts[0])]
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens or int(longest * 1.5) + 8,
            pad_token_id=0,
        )
        told.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return told
