"""Rows with several answers: any accepted one counts, and a choice is right where the model finds it likeliest."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from string import ascii_uppercase
from zlib import crc32

import torch
from transformers import PreTrainedModel

from sluicegate.engine.encoding import Rows
from sluicegate.engine.scoring import Scores, score
from sluicegate.engine.training import Ledger
from sluicegate.errors import UserError
from sluicegate.values.items import LOG, Item

Encode = Callable[[Sequence[Item]], Rows]


def score_any(model: PreTrainedModel, rows: Rows, encoded: Encode, ledger: Ledger | None = None) -> Scores:
    """`score`, where any accepted answer of an item counts (`Item.also`, which `encoded` turns into rows).

    exact, argmax: the highest of its answers; loss: the lowest; probability: the sum over its answers, without those
    whose tokens begin with another's (whatever begins so is counted there), so at most 1.
    """
    found = score(model, rows, ledger)
    others = [(n, replace(item, answer=text)) for n, item in enumerate(rows.items) for text in item.also]
    if not others:
        return found
    added = encoded([item for _, item in others])
    more, where = score(model, added, ledger), torch.tensor([n for n, _ in others])
    odds: list[dict[tuple[int, ...], float]] = [{} for _ in rows.items]
    for part, owners, scores in ((rows, range(len(rows)), found), (added, where.tolist(), more)):
        for n, ids, length, p in zip(owners, part.ids.tolist(), part.lengths.tolist(), scores.probability.tolist(), strict=True):
            odds[n][tuple(ids[:length])] = p
    sums = [sum(p for t, p in own.items() if not any(t != o == t[: len(o)] for o in own)) for own in odds]
    exact, argmax = (getattr(found, name).scatter_reduce(0, where, getattr(more, name), "amax") for name in ("exact", "argmax"))
    return Scores(exact, argmax, torch.tensor(sums), found.loss.scatter_reduce(0, where, more.loss, "amin"))


def choose(model: PreTrainedModel, items: Sequence[Item], encoded: Encode, ledger: Ledger | None = None) -> dict[str, float]:
    """How often the right one of an item's choices, its answer and the wrong ones, is the likeliest: over the items
    that have wrong ones, empty where none has.

    As lm-evaluation-harness has it. acc: by the log-probability of the choice's text; acc_norm: by that over its
    characters; acc_letters: the prompt lists the choices as "A. ...", and the letter is scored (MMLU, 2009.03300).
    chance: what guessing gives. Choices stand in the row's order; where it has none, the right one's place comes from a
    checksum of the prompt. Letters that cannot be scored are left out with a warning.
    """
    asked = [item for item in items if item.wrong]
    ends = [len(item.wrong) for item in asked]
    places = [min(i.place, n) if i.place >= 0 else crc32(i.prompt.encode()) % (n + 1) for i, n in zip(asked, ends, strict=True)]
    listed = [[*item.wrong[:n], item.answer, *item.wrong[n:]] for item, n in zip(asked, places, strict=True)]
    if not asked:
        return {}

    def sums(choices: Iterable[tuple[Item, Sequence[str]]]) -> Sequence[torch.Tensor]:
        """Log-probability of each of an item's texts, in nats."""
        rows = encoded([replace(item, answer=text, also=()) for item, texts in choices for text in texts])
        count = rows.lengths - rows.starts.clamp(min=1)
        found: Sequence[torch.Tensor] = (-score(model, rows, ledger).loss * count).split([len(own) for own in listed])
        return found

    def right(found: Iterable[torch.Tensor]) -> float:
        return sum(int(row.argmax()) == place for row, place in zip(found, places, strict=True)) / len(places)

    whole = sums(zip(asked, listed, strict=True))
    lengths = [torch.tensor([len(text.strip()) for text in own]) for own in listed]
    measured = {"acc": right(whole), "acc_norm": right(row / by for row, by in zip(whole, lengths, strict=True))}
    try:
        letters = [[f" {letter}" for letter in ascii_uppercase[: len(own)]] for own in listed]
        if any(len(own) > len(ascii_uppercase) for own in listed):
            raise UserError(f"there are more than {len(ascii_uppercase)} choices.")
        measured["acc_letters"] = right(sums(zip(map(_listing, asked, listed), letters, strict=True)))
    except UserError as error:
        LOG.warning("multiple choice by letters is left out: %s", error)
    return measured | {"chance": sum(1 / len(own) for own in listed) / len(listed)}


def _listing(item: Item, texts: Sequence[str]) -> Item:
    """The item with its choices listed under the question, "A. ..." each on a line, and "Answer:" at the end."""
    words = "".join(f"\n{letter}. {text.strip()}" for letter, text in zip(ascii_uppercase, texts, strict=False)) + "\nAnswer:"
    turns = tuple((role, said + words * (n == len(item.turns))) for n, (role, said) in enumerate(item.turns, start=1))
    return replace(item, prompt=item.prompt.strip() + words, turns=turns)
