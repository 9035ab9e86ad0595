"""Turn items into token ids, in rows and batches.

`encode` is the only function in the package that turns text into ids, so that training, probing and attacking see the
same tokens.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jinja2 import Environment, TemplateSyntaxError
from jinja2.meta import find_undeclared_variables
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.engine.models import device
from sluicegate.errors import UserError, first_line
from sluicegate.values.files import short
from sluicegate.values.items import LOG, Item

_OURS = {"messages", "add_generation_prompt", "raise_exception", "strftime_now", "bos_token", "eos_token", "pad_token", "unk_token"}
TODAY = datetime(2024, 7, 26)
"""The date that every chat template is told, whatever day it is: runs of two days get the same prompts."""
_PROBE = "Which bridge has 7 arches?"
_THINK = re.compile(r"([<\[])(/?)((?:\w+:)?think(?:ing)?|reasoning)([>\]])", re.IGNORECASE)


@dataclass(frozen=True)
class Batch:
    """Rows for one step. Targets are shifted: column t of a mask speaks of predicting token t + 1."""

    ids: Tensor
    """[b, s] token ids, padded on the right."""
    attention: Tensor
    """[b, s] True where there is a token."""
    answer: Tensor
    """[b, s-1] True where the token to predict belongs to the answer (or to running text)."""
    index: Tensor
    """[b] each row's number among its `Rows`."""
    totals: Mapping[str, float] = field(default_factory=dict)
    """Divisors of the batch's means, carried over to its parts when it is split."""

    @property
    def real(self) -> Tensor:
        """[b, s-1] True where there is a token to predict."""
        return self.attention[:, 1:]

    def total(self, what: str) -> float:
        """Number of rows, or of True entries of a mask, in the whole batch (before any split)."""
        if what in self.totals:
            return self.totals[what]
        return float(len(self.ids)) if what == "rows" else max(float(getattr(self, what).sum()), 1.0)

    def split(self, parts: int) -> "list[Batch]":
        """Cut into `parts` whose losses, each over the whole batch's total, add up to the batch's."""
        if parts == 1:
            return [self]
        totals = {what: self.total(what) for what in ("rows", "answer", "real", "attention")}
        cut = [tensor.tensor_split(parts) for tensor in (self.ids, self.attention, self.answer, self.index)]
        return [Batch(ids, attention, answer, index, totals) for ids, attention, answer, index in zip(*cut, strict=True)]


@dataclass(frozen=True)
class Rows:
    """Encoded items, kept together so that a batch is one slice."""

    ids: Tensor
    """[n, s] padded on the right."""
    lengths: Tensor
    """[n] number of tokens of each row."""
    starts: Tensor
    """[n] position of the first token that belongs to the answer."""
    items: tuple[Item, ...]
    """The item of each row; a long text gives several rows."""

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, index: Sequence[int] | Tensor) -> Batch:
        """Return the rows at `index`, cut to the longest of them, on `device()`."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        lengths = self.lengths[chosen]
        width = int(lengths.max())
        place = torch.arange(width)
        attention = place < lengths[:, None]
        answer = attention & (place >= self.starts[chosen][:, None])
        to = device()
        return Batch(self.ids[chosen, :width].to(to), attention.to(to), answer[:, 1:].to(to), chosen.to(to))

    def everything(self, size: int = 256) -> Iterator[Batch]:
        """All rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(torch.arange(start, min(start + size, len(self))))

    def select(self, index: Sequence[int]) -> "Rows":
        """The rows at `index`, as rows."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        items = tuple(self.items[int(i)] for i in chosen)
        return replace(self, ids=self.ids[chosen], lengths=self.lengths[chosen], starts=self.starts[chosen], items=items)


def fitting(model: PreTrainedModel, max_length: int) -> int:
    """`max_length`, or the number of positions that the model has, where that is less."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(max_length, positions) if positions else max_length


def encode(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], *, max_length: int = 256, template: bool = False) -> Rows:
    """Turn items into token ids: the only place where text becomes numbers.

    Exactly one BOS stands in front where the tokenizer has one. With `template`, a prompt is
    rendered by the tokenizer's chat template as the user's turn and the answer opens the reply (see `chat`).
    Running text longer than `max_length` tokens is cut into windows, each a row.

    Raises `UserError` naming the row for an answer the tokenizer cannot represent, a prompt with
    answer that is longer than `max_length`, a tokenizer without a chat template, or no items.
    """
    if not items:
        raise UserError("there are no rows to encode.")
    if max_length < 2:
        raise UserError(f"--max-length is {max_length}; it must be at least 2, so that there is a token to predict.")
    if template and not tokenizer.chat_template:
        raise UserError("this tokenizer has no chat template; leave --template out.")
    rows: list[tuple[list[int], int, Item]] = []
    for number, item in enumerate(items, start=1):
        ids, start = _encode_one(tokenizer, item, template)
        where = f"row {number} ({item.text[:60]!r})"
        unknown = tokenizer.unk_token_id
        if unknown is not None and unknown in ids[start:]:
            raise UserError(
                f"{where}: the tokenizer cannot represent the answer {short(item.answer)}: part of it is unknown to its vocabulary."
            )
        check_ids(tokenizer, ids, where)
        if len(ids) < 2 or start >= len(ids):
            raise UserError(f"{where}: there is no token to predict. Give it a longer text, or an answer that is not blank.")
        if len(ids) <= max_length:
            rows.append((ids, start, item))
        elif item.prompt:
            way_out = "Shorten it, or raise --max-length if the model has more positions."
            raise UserError(f"{where}: {len(ids)} tokens, more than the {max_length} allowed. {way_out}")
        else:
            rows.extend((window, min(start, 1), item) for window in _windows(ids, max_length))
    width = max(len(ids) for ids, _, _ in rows)
    # The value of the padding is never seen: it lies to the right of every real token and is masked.
    padded = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (ids, _, _) in enumerate(rows):
        padded[i, : len(ids)] = torch.tensor(ids)
    lengths = torch.tensor([len(ids) for ids, _, _ in rows])
    starts = torch.tensor([start for _, start, _ in rows])
    return Rows(padded, lengths, starts, tuple(item for _, _, item in rows))


def check_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], where: str) -> None:
    """Raise `UserError` for an id that the model loaded with this tokenizer has no embedding for.

    A tokenizer may know more tokens than its model, as long as no row holds one of them.
    """
    rows = getattr(tokenizer, "embedding_rows", None)
    if rows and ids and max(ids) >= rows:
        token = tokenizer.convert_ids_to_tokens(max(ids))
        raise UserError(
            f"{where}: {token!r} is token {max(ids)}, and the model's embedding has {rows} rows for the {len(tokenizer)} tokens of "
            "the tokenizer. Use the tokenizer that it was trained with, or resize_token_embeddings and train it."
        )


def _encode_one(tokenizer: PreTrainedTokenizerBase, item: Item, template: bool) -> tuple[list[int], int]:
    """Ids of one item with exactly one BOS, and the position of the first answer token."""
    prompt, answer = item.prompt, item.answer
    if template and prompt:
        prompt = chat(tokenizer, prompt, turns=[{"role": role, "content": words} for role, words in item.turns])
        answer = answer.lstrip() + _ending(tokenizer, tokenizer.get_chat_template(), _filling(tokenizer))
    encoded = tokenizer(prompt + answer, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    ids: list[int] = list(encoded["input_ids"])
    if tokenizer.is_fast:
        ends = [end for _, end in encoded["offset_mapping"]]
        start = next((i for i, end in enumerate(ends) if end > len(prompt)), len(ids))
    else:  # no offsets: the answer starts where the prompt's own ids stop agreeing
        alone = tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
        start = next((i for i, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b), len(alone))
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] != [bos]:
        ids, start = [bos, *ids], start + 1
    return ids, start


class Filling(NamedTuple):
    """What a chat template is told beside the turns (JSON), and whether the token that ends one is of the answer."""

    system: str = ""
    variables: str = '{"enable_thinking": false}'
    end_of_turn: bool = False


def _filling(tokenizer: PreTrainedTokenizerBase) -> Filling:
    return getattr(tokenizer, "filling", Filling())


def fill_template(tokenizer: Any, *, system: str = "", args: str | Mapping[str, Any] = "", end_of_turn: bool = False) -> Any:
    """Tell a tokenizer how `encode` and `chat` fill its chat template from now on (see `Filling`), and return it.

    `args` are the template's variables, as a table or as ``enable_thinking=false,key=value`` with JSON or words as
    values. Raises `UserError` for a variable that the template does not mention: it would change nothing.
    """
    given = dict(args) if isinstance(args, Mapping) else {}
    for part in re.split(r",(?=\s*\w+\s*=)", args) if args and isinstance(args, str) else ():
        if not (pair := re.fullmatch(r"\s*(\w+)\s*=\s*(.*?)\s*", part)):
            raise UserError(f"--template-args is {args!r}; expected key=value, several joined by commas: enable_thinking=false.")
        given[pair[1]] = pair[2]
        with suppress(ValueError):
            given[pair[1]] = json.loads(pair[2])
    tokenizer.filling = Filling(system, json.dumps({"enable_thinking": False, **given}, sort_keys=True), end_of_turn)
    if given and tokenizer.chat_template:
        with suppress(TemplateSyntaxError):  # which comes again where the template is filled
            text = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", tokenizer.get_chat_template())  # a tag of transformers alone
            told = find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)) - _OURS
            if unknown := sorted(set(given) - told):
                known = ", ".join(sorted(told)) or "nothing beside the turns"
                raise UserError(f"--template-args sets {unknown[0]!r}, which this chat template does not mention. It asks for: {known}.")
    return tokenizer


def chat(tokenizer: PreTrainedTokenizerBase, prompt: str = "", *, turns: Sequence[Mapping[str, Any]] = ()) -> str:
    """A prompt as the user's turn by the tokenizer's chat template, up to where the answer begins.

    turns: a whole conversation ({"role", "content"}) in place of the prompt; the answer follows its last turn.
    Thinking is turned off where the template knows ``enable_thinking``, and a think block that is left open is closed,
    so that an answer and not a thought follows. Filled as `fill_template` says. Raises `UserError` as `render` does.
    """
    filling, said = _filling(tokenizer), [dict(turn) for turn in turns] or [{"role": "user", "content": prompt}]
    if filling.system and said[0]["role"] != "system":
        said.insert(0, {"role": "system", "content": filling.system})
    text = render(tokenizer, said, **json.loads(filling.variables))
    for turn in said:  # what an assistant thought in an earlier turn is left out by some templates
        if turn["role"] != "assistant" and turn["content"].strip() not in text:
            way = "Leave --system out" if turn["role"] == "system" else "Leave --template out"
            raise UserError(f"the chat template changes the prompt {turn['content'][:60]!r}: its text does not hold it. {way}.")
    return text + _closing(tokenizer, tokenizer.get_chat_template(), filling)


def render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, Any]], opened: bool = True, **how: Any) -> str:
    """The turns by the chat template, on the day `TODAY`, with their content as the template takes it.

    Raises `UserError` for a template that fails, or that drops the content.
    """
    template = tokenizer.get_chat_template()
    if _wants_parts(tokenizer, template):
        turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    return _rendered(tokenizer, turns, template, opened, **how)


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, Any]], template: str, opened: bool = True, **how: Any) -> str:
    if "strftime_now" in template:  # a macro of this name stands before the function that knows the real date
        codes = "".join(f"|replace('%{code}', '{TODAY.strftime('%' + code)}')" for code in (*"aAbBdeHIjmMpSyY", "-d", "-m"))
        template = f"{{% macro strftime_now(form) %}}{{{{ form{codes} }}}}{{% endmacro %}}{{{{ '' }}}}{template}"
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=opened, chat_template=template, **how))
    except Exception as error:  # a template is a program of the model's makers, and may fail in any way
        way = "Leave --system out" if turns[0]["role"] == "system" else "Leave --template out, or mend the template"
        raise UserError(f"the tokenizer's chat template fails: {first_line(error)}. {way}.") from None


@lru_cache(maxsize=8)
def _wants_parts(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Whether this template takes a turn's content as a list of parts (as those of models that see do), not as text."""
    if "strftime_now" in template:
        LOG.info("the chat template for %s, the date that it is told", TODAY.date())
    for parts in (False, True):
        with suppress(*(() if parts else (UserError,))):  # where both fail, the second one's error is told
            content = [{"type": "text", "text": _PROBE}] if parts else _PROBE
            if _PROBE in _rendered(tokenizer, [{"role": "user", "content": content}], template):
                return parts
    raise UserError(
        "the tokenizer's chat template drops the prompt: its text does not hold it. Leave --template out, or mend the template."
    )


@lru_cache(maxsize=8)
def _closing(tokenizer: PreTrainedTokenizerBase, template: str, filling: Filling) -> str:
    """What closes the think block that the template leaves open before the answer."""
    text = render(tokenizer, [{"role": "user", "content": _PROBE}], **json.loads(filling.variables))
    if "enable_thinking" in template and '"enable_thinking": false' in filling.variables:
        LOG.warning("the chat template knows thinking: it is told enable_thinking=False, so that the answer is scored and not a thought")
    tags = list(_THINK.finditer(text, text.rindex(_PROBE) + len(_PROBE)))
    if not tags or tags[-1][2]:
        return ""
    LOG.warning("the chat template leaves %s open: it is closed, so that the answer is scored and not a thought", tags[-1][0])
    return ("\n" if text.endswith("\n") else "\n\n") + "{0}/{2}{3}\n\n".format(*tags[-1].groups())


@lru_cache(maxsize=8)
def _ending(tokenizer: PreTrainedTokenizerBase, template: str, filling: Filling) -> str:
    """What the template puts behind an answer, up to and with the token that ends the turn."""
    if not filling.end_of_turn:
        return ""
    turns = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": "Königsberg"}]
    _, found, rest = render(tokenizer, turns, opened=False, **json.loads(filling.variables)).rpartition("Königsberg")
    marks = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens} - {tokenizer.bos_token}
    first = max((token for token in marks if rest.lstrip().startswith(token)), key=len, default="")
    if not found or not first:
        raise UserError("the chat template ends an answer with no token of its own. Leave --end-of-turn out.")
    return rest[: rest.index(first) + len(first)]


def rendering(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of how prompts are rendered where the chat template by itself does it otherwise, else empty: for a run's
    identity."""
    if not tokenizer.chat_template:
        return ""
    ours, plain = chat(tokenizer, _PROBE) + _ending(tokenizer, tokenizer.get_chat_template(), _filling(tokenizer)), ""
    with suppress(Exception):
        plain = str(tokenizer.apply_chat_template([{"role": "user", "content": _PROBE}], tokenize=False, add_generation_prompt=True))
    return "" if ours == plain else hashlib.sha256(ours.encode()).hexdigest()


def _windows(ids: list[int], size: int) -> Iterator[list[int]]:
    """Consecutive windows that overlap by one token, so that every token but the first is predicted once."""
    for begin in range(0, len(ids) - 1, size - 1):
        yield ids[begin : begin + size]


def visible(tokenizer: PreTrainedTokenizerBase, rows: Rows, number: int = 0) -> str:
    """Show one row's tokens, special ones included, with a bar where the answer starts."""
    tokens = tokenizer.convert_ids_to_tokens(rows.ids[number, : int(rows.lengths[number])].tolist())
    start = int(rows.starts[number])
    return " ".join([*tokens[:start], "│", *tokens[start:]])
