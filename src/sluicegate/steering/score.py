"""What vectors do: KL to the base-steered model, greedy answers with a vector a row, the behaviour's rate."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.steering.parts import Slice
from sluicegate.steering.prompts import Rule, prompt_ids
from sluicegate.steering.vector import SteeringSet, SteeringVector

Floats = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


class Kls(NamedTuple):
    """KL(base || vector) in nats a token, of k vectors on p prompts."""

    several: Floats
    """[k, p] mean over the first `tokens` tokens of the base's own greedy answer, teacher-forced."""
    last: Floats
    """[k, p] at the last token of the prompt alone."""


@torch.no_grad()
def continuation(
    model: PreTrainedModel, ids: Tensor, vector: SteeringVector | SteeringSet | None, tokens: int, *, stops: bool = True
) -> Tensor:
    """[b, s + n] prompt and greedy answer of n <= `tokens` tokens: a row for a vector (or None), one a vector of a set.

    `ids` [s], or [b, s] of several prompts for one vector. With `stops` a row ends at the model's end token, and what
    follows is padding (that token again).
    """
    prompts = ids.reshape(-1, ids.shape[-1])
    rows = len(vector) if isinstance(vector, SteeringSet) else len(prompts)
    edit = vector.rows(range(rows)) if isinstance(vector, SteeringSet) else vector
    prompt = prompts.to(next(model.parameters()).device).expand(rows, -1)
    settings: dict[str, Any] = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": _pad(model)}
    if not stops:
        settings["min_new_tokens"] = tokens
    with edit(model) if edit else nullcontext():
        found: Tensor = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **settings)  # type: ignore[operator]
    return found


def _pad(model: PreTrainedModel) -> int:
    for config in (getattr(model, "generation_config", None), model.config):
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(config, name, None)
            if isinstance(value, list):
                value = value[0] if value else None
            if value is not None:
                return int(value)
    return 0


def answered(model: PreTrainedModel, prompts: Sequence[Tensor], vector: SteeringVector, tokens: int) -> list[Tensor]:
    """Each prompt [s] with its greedy answer, [s + tokens]; prompts of one length are answered together."""
    found: list[Tensor] = list(prompts)
    if tokens > 0:
        for length in sorted({len(ids) for ids in prompts}):
            own = [n for n, ids in enumerate(prompts) if len(ids) == length]
            rows = continuation(model, torch.stack([prompts[n] for n in own]), vector, tokens, stops=False)
            for n, row in zip(own, rows, strict=True):
                found[n] = row
    return found


class Continued:
    """A prompt, what the base makes the model answer, and how likely the base-steered model finds each token of that.
    `full`: prompt and answer, where they are known (see `answered`); `skips`: see `Slice`."""

    def __init__(
        self,
        model: PreTrainedModel,
        ids: Tensor,
        base: SteeringVector,
        *,
        tokens: int = 12,
        target: str = "",
        full: Tensor | None = None,
        skips: bool | None = None,
    ) -> None:
        if tokens < 1:
            raise UserError(f"the KL is over {tokens} tokens; it must be at least 1.")
        full = answered(model, [ids], base, tokens - 1)[0] if full is None else full
        self.tokens, self.prompt, self.base = tokens, len(ids), base
        self.part = Slice(model, full, source=base.module, target=target, tokens=base.tokens, skips=skips)
        with torch.no_grad():
            self.wanted = self.part.logits(base.values[None], tokens)[0].log_softmax(-1)
            """[n, V] log-probabilities under the base."""
            self.unsteered = self._kl(self.part.logits(torch.zeros_like(base.values)[None], tokens))[0]
            """[n] KL(base || unsteered)."""

    def _kl(self, logits: Tensor) -> Tensor:
        """[b, n] KL(base || these logits)."""
        return (self.wanted.exp() * (self.wanted - logits.log_softmax(-1))).sum(-1)

    def kl(self, values: Tensor) -> Tensor:
        """[b, n] KL(base || values[i]) at every token, in nats; gradients flow to `values` [b, d]."""
        return self._kl(self.part.logits(values, self.tokens))


def continued(
    model: PreTrainedModel, prompts: Sequence[Tensor], base: SteeringVector, *, tokens: int = 12, target: str = ""
) -> Iterator[Continued]:
    """`Continued` of each prompt [s]; cheaper than one by one, since prompts of one length are answered together."""
    skips: bool | None = None  # a matter of the model, which need not be found out for every prompt
    for ids, full in zip(prompts, answered(model, prompts, base, tokens - 1), strict=True):
        one = Continued(model, ids, base, tokens=tokens, target=target, full=full, skips=skips)
        skips = one.part.cached
        yield one


def kl(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    base: SteeringVector,
    values: Tensor,
    prompts: Sequence[str],
    *,
    tokens: int = 12,
    batch: int = 32,
    template: bool | None = None,
    run: RunContext | None = None,
) -> Kls:
    """KL(base || vector) of vectors [k, d] on prompts, forced along the base's greedy answer of `tokens`."""
    some = continued(model, [prompt_ids(tokenizer, prompt, template) for prompt in prompts], base, tokens=tokens)
    return kl_of(list(some), values, batch=batch, run=run)


@torch.no_grad()
def kl_of(some: Sequence[Continued], values: Tensor, *, batch: int = 32, run: RunContext | None = None) -> Kls:
    """The same for continuations that are there already."""
    run, done = run or RunContext(), 0
    several, last = np.zeros((len(values), len(some))), np.zeros((len(values), len(some)))
    for p, one in enumerate(some):
        for start in range(0, len(values), batch):
            found = one.kl(values[start : start + batch]).double().cpu().numpy()
            several[start : start + batch, p], last[start : start + batch, p] = found.mean(1), found[:, 0]
            done += len(found)
            run.progress("KL", done, several.size, {})
    return Kls(several, last)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vectors: SteeringSet | SteeringVector | None,
    prompts: Sequence[str],
    *,
    new_tokens: int = 40,
    batch: int = 64,
    template: bool | None = None,
    run: RunContext | None = None,
) -> list[list[str]]:
    """Greedy answers, [k][p]: of every vector (one for a single one, or for None, the plain model) to every prompt."""
    run = run or RunContext()
    count = len(vectors) if isinstance(vectors, SteeringSet) else 1
    texts: list[list[str]] = [[] for _ in range(count)]
    for p, prompt in enumerate(prompts):
        ids = prompt_ids(tokenizer, prompt, template)
        for start in range(0, count, batch):
            stop = min(start + batch, count)
            chosen = (
                SteeringSet(vectors.values[start:stop], vectors.module, vectors.tokens) if isinstance(vectors, SteeringSet) else vectors
            )
            found = continuation(model, ids, chosen, new_tokens)[:, len(ids) :]
            for number, text in zip(range(start, stop), tokenizer.batch_decode(found, skip_special_tokens=True), strict=True):
                texts[number].append(text)
            run.progress("answers", p * count + stop, count * len(prompts), {})
    return texts


def shown(texts: Sequence[Sequence[str]], rule: Rule | Callable[[str], bool]) -> Flags:
    """[k, p] whether each answer shows the behaviour."""
    says = rule.shows if isinstance(rule, Rule) else rule
    return np.array([[bool(says(text)) for text in row] for row in texts], dtype=bool)


def behaviour_rate(texts: Sequence[Sequence[str]], rule: Rule | Callable[[str], bool]) -> Floats:
    """[k] share of the answers that show the behaviour."""
    return shown(texts, rule).mean(1)  # type: ignore[no-any-return]
