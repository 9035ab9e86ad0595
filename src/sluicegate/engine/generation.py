"""Free text: what a model writes when it is asked, and how much of the answer stands in it."""

import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.engine.encoding import Batch, encode, fitting, render
from sluicegate.engine.forward import Meter
from sluicegate.engine.models import device
from sluicegate.engine.oom import fits
from sluicegate.engine.sampling import seed_of
from sluicegate.engine.training import Ledger
from sluicegate.errors import UserError
from sluicegate.runs.directory import Progress
from sluicegate.values.items import Item


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
    ledger: Ledger | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """What the model writes after each item's prompt, one text an item, without blanks at its ends.

    The prompt is what `encode` puts before the answer, so greedy decoding (temperature 0) writes the answer's tokens
    exactly where `score` finds it exact, in a batch as alone, up to rounding. It stops at the end token of tokenizer
    or model, with `template` at the end of the turn, or after `max_new_tokens` (0: one and a half times the longest
    answer and 8 more, within the model's positions). Above 0, `temperature` samples, from `seed` and the batch.
    `size` rows go together, padded on the left, and half as many where memory runs out.
    Raises `UserError` for items without a prompt, those that `encode` refuses, and one row that is too much.
    """
    if not all(item.prompt for item in items):
        raise UserError("running text asks nothing, so no answer can be written to it. Give rows with a prompt and an answer.")
    rows = encode(tokenizer, items, max_length=fitting(model, max_length), template=template)
    starts, longest = rows.starts.tolist(), int((rows.lengths - rows.starts).max())
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    new, stops = min(max_new_tokens or longest * 3 // 2 + 8, limit - max(starts)), sorted(_stops(model, tokenizer, template))
    how: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    settings = GenerationConfig(max_new_tokens=new, eos_token_id=stops or None, pad_token_id=stops[0] if stops else 0, **how)
    # The longest first: what memory cannot hold is known at once, and batches are hardly padded.
    texts, left, meter = [""] * len(items), sorted(range(len(items)), key=lambda i: -starts[i]), Meter(model)

    def write(size: int) -> None:
        now, width = left[:size], starts[left[0]]
        ids, mask = torch.zeros(2, len(now), width, dtype=torch.long)
        for n, i in enumerate(now):
            ids[n, width - starts[i] :], mask[n, width - starts[i] :] = rows.ids[i, : starts[i]], 1
        torch.manual_seed(seed_of(seed, left[0]))
        out = model.generate(ids.to(device()), attention_mask=mask.to(device()), generation_config=settings)  # type: ignore[operator]
        for i, answer in zip(now, out[:, width:].tolist(), strict=True):
            texts[i] = str(tokenizer.decode(answer, skip_special_tokens=True)).strip()
        if ledger is not None:  # with a cache, a text costs what one pass over it does
            ledger.evaluation += meter(Batch(out, out, out, out))
        del left[: len(now)]

    # The model's own settings would be filled in (a penalty for repeating, say), which is not what it would write.
    kept, was_training, model.generation_config = model.generation_config, model.training, GenerationConfig()
    model.eval()
    try:
        with torch.random.fork_rng():
            while left:
                _, size = fits(min(size, len(left)), write)
                if progress:
                    progress("write", len(items) - len(left), len(items), {})
    finally:
        model.generation_config = kept
        model.train(was_training)
    return texts


def _stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: bool) -> set[int]:
    """The tokens after which nothing more is written."""
    own = getattr(model.generation_config, "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    if template:
        with suppress(UserError):  # a template that takes no turn of the assistant's has no end of one
            said = "Seven arches."
            after = render(tokenizer, [{"role": role, "content": said} for role in ("user", "assistant")], opened=False).rpartition(said)[2]
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
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def match(written: str, answer: str) -> float:
    """1 where the normalised text begins with the normalised answer's words (HELM's quasi prefix match, arXiv
    2211.09110), since a model that was never taught to stop goes on; of an answer of signs alone, where they agree."""
    wanted = normalise(answer)
    return float(f"{normalise(written)} ".startswith(f"{wanted} ") if wanted else written.strip() == answer.strip())


WRITTEN: Mapping[str, Callable[[str, str], float]] = {
    "rouge": rouge_l,
    "match": match,
    "written": lambda written, answer: float(written.strip() == answer.strip()),
}
"""What is counted of a text: ROUGE-L recall, a normalised match, and being the answer but for blanks at the ends."""


def compare(texts: Sequence[str], items: Sequence[Item], measures: Iterable[str] = tuple(WRITTEN)) -> dict[str, float]:
    """Means over rows of these measures of `WRITTEN`, each with the best of a row's accepted answers."""
    pairs = [(text, (item.answer, *item.also)) for text, item in zip(texts, items, strict=True)]
    return {name: sum(max(WRITTEN[name](text, a) for a in answers) for text, answers in pairs) / len(pairs) for name in measures}
