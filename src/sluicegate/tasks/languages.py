"""Two languages over one vocabulary, one to keep and one to forget, and the user's own two texts in their place.

A language is a Markov chain of the second order: what follows two symbols is one of three, with the
probabilities `LIKELY`. Both languages use every symbol and every pair of them, so nothing but what
follows what tells them apart, and the first token of a row, which names its language. A perfect
model's loss is `Languages.floor`, a uniform one's the logarithm of the number of symbols.

This file imports neither torch nor transformers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sluicegate.errors import UserError
from sluicegate.items import Item

LIKELY = (0.8, 0.15, 0.05)
NAMES = ("retain", "forget")
BYTES = 257
"""Vocabulary of plain text: every byte, and the token that begins a row."""
BEGIN = 256


@dataclass(frozen=True)
class Languages:
    """Two languages, drawn from a seed."""

    symbols: int = 16
    """Symbols of the vocabulary; two more tokens name the languages."""
    length: int = 32
    """Tokens of a row, its language's name included."""
    seed: int = 0
    """Seed of both languages."""

    def __post_init__(self) -> None:
        if self.symbols < len(LIKELY):
            raise UserError(f"symbols is {self.symbols}; a language needs at least {len(LIKELY)}.")
        if self.length < 4:
            raise UserError(f"length is {self.length}; a row needs at least 4 tokens: the language, two symbols, and one to predict.")

    @property
    def vocabulary(self) -> int:
        return self.symbols + len(NAMES)

    @property
    def floor(self) -> float:
        """Entropy of the next symbol, in nats: the loss of a model that knows the language."""
        return -sum(p * math.log(p) for p in LIKELY)

    @property
    def first(self) -> int:
        """Position of the first token that can be predicted: before it come the language and two symbols."""
        return 3

    def followers(self, language: str) -> np.ndarray:
        """[symbols, symbols, 3] what may follow each pair, the likeliest first."""
        rng = np.random.default_rng([self.seed, _number(language)])
        return rng.random((self.symbols, self.symbols, self.symbols)).argsort(-1)[..., : len(LIKELY)]

    def rows(self, language: str, count: int, purpose: str = "train") -> np.ndarray:
        """[count, length] rows of a language; each purpose has rows of its own."""
        table = self.followers(language)
        rng = np.random.default_rng([self.seed, _number(language), *purpose.encode()])
        found = np.empty((count, self.length), dtype=np.int64)
        found[:, 0] = self.symbols + _number(language)
        found[:, 1:3] = rng.integers(self.symbols, size=(count, 2))
        choices = rng.choice(len(LIKELY), size=(count, self.length), p=LIKELY)
        for place in range(3, self.length):
            found[:, place] = table[found[:, place - 2], found[:, place - 1], choices[:, place]]
        return found


def _number(language: str) -> int:
    if language not in NAMES:
        raise UserError(f"no language {language!r}; there are {' and '.join(NAMES)}.")
    return NAMES.index(language)


def text_rows(items: Sequence[Item], length: int, least: int, name: str) -> np.ndarray:
    """[n, length] windows of a text's bytes, each after the token `BEGIN`; `UserError` where there are fewer than `least`.

    The items are joined by blank lines, and what does not fill a window at the end is left out.
    """
    content = np.frombuffer("\n\n".join(item.text for item in items).encode(), dtype=np.uint8).astype(np.int64)
    count = len(content) // (length - 1)
    if count < least:
        raise UserError(
            f"the {name} text has {len(content):,} bytes, which is {count} row(s) of {length - 1}; at least {least} are needed, "
            f"so hand in {least * (length - 1):,} bytes or more, or set a shorter length."
        )
    windows = content[: count * (length - 1)].reshape(count, length - 1)
    return np.concatenate([np.full((count, 1), BEGIN, dtype=np.int64), windows], axis=1)


def deal(count: int, sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    """Numbers of rows dealt out at random: as many as `sizes` says to each, and the rest to one more."""
    order = np.random.default_rng([seed, count]).permutation(count)
    return np.split(order, np.cumsum(sizes))
