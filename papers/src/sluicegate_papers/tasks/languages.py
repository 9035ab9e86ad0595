"""Two languages over one vocabulary, one to keep and one to forget, and the user's own two texts in their place.

A language is a Markov chain of the second order: what follows two symbols is one of three, with the
probabilities `LIKELY`. Both languages use every symbol and every pair of them, so nothing but what
follows what tells them apart, and the first token of a row, which names its language. A perfect
model's loss is `Languages.floor`, a uniform one's the logarithm of the number of symbols.

Nothing here imports torch before rows are made for training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sluicegate.errors import UserError
from sluicegate.values.items import Item

if TYPE_CHECKING:
    from sluicegate.engine.encoding import Rows

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


# ------------------------------------------------------------------------------- rows, ready for training


@dataclass(frozen=True)
class Corpus:
    """Two bodies of rows, one to keep and one to lose, and what of them is held out."""

    train: "Rows"
    """Retain rows, then forget rows."""
    kept: int
    """How many of them are retain rows."""
    held: Mapping[str, "Rows"]
    """Rows that nothing is trained on, by "retain" and "forget"."""
    relearn: "Rows"
    """A few forget rows that training does not see."""
    repair: "Rows"
    """As many retain rows that training does not see."""
    choose: "Rows"
    """And retain rows to decide with when a repair is done."""
    vocabulary: int

    def labelled(self, share: float, seed: int) -> "tuple[np.ndarray, np.ndarray]":
        """Numbers of the forget rows that are labelled, a random `share`, and of those that are not.

        What is labelled at a smaller share is labelled at every larger one, too.
        """
        count = len(self.train) - self.kept
        order = self.kept + np.random.default_rng([seed, count]).permutation(count)
        labelled = round(share * count)
        return np.sort(order[:labelled]), np.sort(order[labelled:])

    def forget_tokens(self, rows: "np.ndarray") -> int:
        """Tokens to be predicted in those of the rows that are forget rows."""
        own = rows[rows >= self.kept]
        return int((self.train.lengths[own] - self.train.starts[own].clamp(min=1)).sum())


def two_languages(languages: Languages, rows: int, held_out: int, few: int) -> Corpus:
    """Rows of the two languages: `rows` in all for training, two thirds to keep; `held_out` and `few` of either beside
    them."""
    kept = rows - rows // 3

    def made(name: str, count: int, purpose: str) -> "Rows":
        return _rows(languages.rows(name, count, purpose), languages.first)

    train = np.concatenate([languages.rows("retain", kept), languages.rows("forget", rows // 3)])
    return Corpus(
        _rows(train, languages.first),
        kept,
        {name: made(name, held_out, "held out") for name in NAMES},
        made("forget", few, "relearn"),
        made("retain", few, "repair"),
        made("retain", few, "choose"),
        languages.vocabulary,
    )


def two_texts(texts: Mapping[str, "Rows"], rows: int, held_out: int, few: int, seed: int, vocabulary: int) -> Corpus:
    """The same from the rows of two texts ("retain", "forget"), dealt out at random; at most `rows` for training.

    Raises `UserError` where a text has too few rows.
    """
    import torch

    dealt = {}
    for name, own in texts.items():
        spare = held_out + few * (2 if name == "retain" else 1)
        if len(own) < spare + few:
            raise UserError(
                f"the {name} text gives {len(own)} rows, and {spare + few} are the least: {held_out} held out, and {few} each for "
                "training, relearning and repairing. Hand in a longer text, or set a shorter length, held_out or relearn_rows."
            )
        order = np.random.default_rng([seed, _number(name)]).permutation(len(own))
        most = rows - rows // 3 if name == "retain" else rows // 3
        dealt[name] = np.split(order, [held_out, held_out + few, spare, spare + max(most, few)])
    parts = [texts[name].select(dealt[name][3].tolist()) for name in NAMES]
    width = max(part.ids.shape[1] for part in parts)
    ids = torch.cat([torch.nn.functional.pad(part.ids, (0, width - part.ids.shape[1])) for part in parts])
    train = type(parts[0])(
        ids, torch.cat([p.lengths for p in parts]), torch.cat([p.starts for p in parts]), tuple(i for p in parts for i in p.items)
    )

    def few_of(name: str, place: int) -> "Rows":
        return texts[name].select(dealt[name][place].tolist())

    held = {name: few_of(name, 0) for name in NAMES}
    return Corpus(train, len(parts[0]), held, few_of("forget", 1), few_of("retain", 1), few_of("retain", 2), vocabulary)


def byte_rows(items: Sequence[Item], length: int) -> "Rows":
    """Windows of a text's bytes, each a row of `length` tokens that begins with the token `BEGIN`.

    The items are joined by blank lines; what does not fill a window at the end is left out.
    """
    content = np.frombuffer("\n\n".join(item.text for item in items).encode(), dtype=np.uint8).astype(np.int64)
    count = len(content) // (length - 1)
    windows = content[: count * (length - 1)].reshape(count, length - 1)
    return _rows(np.concatenate([np.full((count, 1), BEGIN, dtype=np.int64), windows], axis=1), 1)


def _rows(ids: np.ndarray, first: int) -> "Rows":
    import torch

    from sluicegate.engine.encoding import Rows

    count, length = ids.shape
    every = torch.ones(count, dtype=torch.long)
    return Rows(torch.from_numpy(ids), every * length, every * first, (Item("", ""),) * count)
