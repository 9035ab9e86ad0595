"""Free text: what a model writes when it is asked, and how much of the answer stands in it."""

import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.engine.encoding import encode, fitting, render
from sluicegate.engine.models import device
from sluicegate.engine.sampling import seed_of
from sluicegate.errors import UserError
from sluicegate.runs.directory import Progress
from sluicegate.values.items import Item

_TURN = "Seven arches."
WRITTEN = ("rouge", "match", "written")
"""Measures of what a model writes: see `compare`."""


class _Gumbel(LogitsProcessor):
    """Logits over `temperature` plus Gumbel noise, whose largest is a sample of their softmax (Gumbel 1954). The noise
    comes from `seed`, the row's number and the step, so it does not depend on the rows beside."""

    def __init__(self, temperature: float, seed: int, rows: Sequence[int], start: int) -> None:
        self.temperature, self.seed, self.rows, self.start = temperature, seed, rows, start

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step, drawn = ids.shape[1] - self.start, []
        for row in self.rows:
            generator = torch.Generator().manual_seed(seed_of(self.seed, row, step))
            drawn.append(-torch.empty(scores.shape[1]).exponential_(generator=generator).log())
        return scores.float() / self.temperature + torch.stack(drawn).to(scores.device)


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    max_new_tokens: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
    template: bool = False,
    max_length: int = 256,
    size: int = 32,
    progress: Progress | None = None,
) -> list[str]:
    """What the model writes after each item's prompt, one text an item, without blanks at its ends.

    The prompt is what `encode` puts before the answer, so greedy decoding (temperature 0) writes the answer's tokens
    exactly where `score` finds the answer exact. It stops at the tokenizer's or the model's end token, with `template`
    at the end of the turn too, or after `max_new_tokens` (0: one and a half times the longest answer and 8 more, within
    the model's positions). Above 0, `temperature` samples. `size` rows go together, padded on the left, and fewer where
    memory runs out; a text does not depend on the rows beside, up to rounding.
    Raises `UserError` for items without a prompt, for those that `encode` refuses, and where one row alone is too much.
    """
    if not all(item.prompt for item in items):
        raise UserError("running text asks nothing, so no answer can be written to it. Give rows with a prompt and an answer.")
    rows = encode(tokenizer, items, max_length=fitting(model, max_length), template=template)
    starts, longest = rows.starts.tolist(), int((rows.lengths - rows.starts).max())
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    new = min(max_new_tokens or longest * 3 // 2 + 8, limit - max(starts))
    if min(starts) < 1 or new < 1:
        raise UserError(f"a prompt has {min(starts) and max(starts)} tokens, and the model takes 1 to {limit - 1} before an answer.")
    stops = sorted(_stops(model, tokenizer, template))
    settings = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=stops or None, pad_token_id=stops[0] if stops else 0)
    # The model's own settings would be filled in (a penalty for repeating, say), which is not what it would write.
    kept, was_training, texts = model.generation_config, model.training, [""] * len(items)
    model.eval()
    model.generation_config = GenerationConfig()
    # The longest first: what memory cannot hold is known at once, and batches are hardly padded.
    left = sorted(range(len(items)), key=lambda i: -starts[i])
    try:
        while left:
            now, width = left[:size], starts[left[0]]
            place = torch.arange(width)
            ids, mask = torch.zeros(len(now), width, dtype=torch.long), torch.zeros(len(now), width, dtype=torch.long)
            for n, i in enumerate(now):
                ids[n, width - starts[i] :] = rows.ids[i, : starts[i]]
                mask[n] = place >= width - starts[i]
            draw = LogitsProcessorList([_Gumbel(temperature, seed, now, width)] if temperature else [])
            try:
                out = model.generate(ids.to(device()), attention_mask=mask.to(device()), generation_config=settings, logits_processor=draw)
            except RuntimeError as error:
                size = _halved(error, len(now))
                continue
            for i, answer in zip(now, out[:, width:].tolist(), strict=True):
                texts[i] = tokenizer.decode(answer, skip_special_tokens=True).strip()
            left = left[len(now) :]
            if progress:
                progress("write", len(items) - len(left), len(items), {})
    finally:
        model.generation_config = kept
        model.train(was_training)
    return texts


def _halved(error: RuntimeError, rows: int) -> int:
    """Half of so many rows where memory ran out; raises the error where it did not, `UserError` below one row."""
    from accelerate.utils.memory import should_reduce_batch_size

    if not should_reduce_batch_size(error):
        raise error
    if rows == 1:
        raise UserError("memory runs out while one answer alone is written. Use a smaller --dtype, or shorter rows.") from None
    getattr(torch, device().type).empty_cache() if device().type != "cpu" else None
    return rows // 2


def _stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: bool) -> set[int]:
    """The tokens after which nothing more is written."""
    own = getattr(model.generation_config, "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    if template:
        with suppress(UserError):  # a template that takes no turn of the assistant's has no end of one
            turns = [{"role": "user", "content": _TURN}, {"role": "assistant", "content": _TURN}]
            after = render(tokenizer, turns, opened=False).rpartition(_TURN)[2]
            ids = tokenizer(after, add_special_tokens=False)["input_ids"]
            found.update([i for i in ids if i in tokenizer.all_special_ids or i in tokenizer.added_tokens_decoder][:1])
    return found


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError("ROUGE-L needs the package rouge-score: pip install 'sluicegate[eval]'.") from None
    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l(written: str, answer: str) -> float:
    """ROUGE-L recall: words of the longest common subsequence over the answer's words, stemmed (Lin 2004; as TOFU,
    arXiv 2401.06121, has it). What is written beside the answer costs nothing."""
    return float(_scorer().score(answer, written)["rougeL"].recall)


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and double blanks (SQuAD's evaluation; Rajpurkar et al. 2016)."""
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def match(written: str, answer: str) -> float:
    """1 where the normalised text begins with the words of the normalised answer (HELM's quasi prefix match, arXiv
    2211.09110): a model that was never taught to stop may go on."""
    wanted = normalise(answer)
    return float(f"{normalise(written)} ".startswith(f"{wanted} ")) if wanted else float(written.strip() == answer.strip())


def exactly(written: str, answer: str) -> float:
    """1 where the text is the answer, but for blanks at the ends."""
    return float(written.strip() == answer.strip())


COMPARE: Mapping[str, Callable[[str, str], float]] = {"rouge": rouge_l, "match": match, "written": exactly}


def compare(texts: Sequence[str], items: Sequence[Item], measures: Iterable[str] = WRITTEN) -> dict[str, float]:
    """Means over rows of each measure, with the best of a row's accepted answers: rouge (`rouge_l`), match (`match`),
    written (`exactly`)."""
    pairs = [(text, (item.answer, *item.also)) for text, item in zip(texts, items, strict=True)]
    return {name: sum(max(COMPARE[name](text, a) for a in answers) for text, answers in pairs) / len(pairs) for name in measures}
