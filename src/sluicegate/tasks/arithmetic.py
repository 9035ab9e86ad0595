"""Arithmetic with one token per number: keep adding and subtracting, forget multiplying and dividing.

The smallest setting in which suppression and removal come apart (after the arithmetic task of "Distillation Robustifies
Unlearning", arXiv 2506.06278, which uses larger operands and a real tokenizer).

========  ====================  ======  ====================================  =======
label     operands              facts   word problem                          group
========  ====================  ======  ====================================  =======
add       0..9 and 0..9            100  ann has 3 plums finds 4 now **7**     retain
subtract  0..9, the first >=        55  ann has 7 plums loses 4 left **3**    retain
multiply  1..9 and 1..9             81  ann fills 3 bags 4 plums total **12** forget
divide    a*b by b, 1..9            81  ann shares 12 plums among 4 each **3** forget
========  ====================  ======  ====================================  =======

Every fact is also put in its bare form, ``3 * 4 = 12``. The answer is always the last token of its row, and every
number is one token, so accuracy is one argmax. This file imports neither torch nor transformers until `tokenizer` is
called.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from sluicegate.errors import UserError
from sluicegate.tasks.words import SPECIAL, word_level
from sluicegate.values.items import Item, Sources, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAMES = ("ann", "bo", "cleo", "dan", "eve", "finn")
OBJECTS = ("plums", "shells", "coins", "cards")
RETAIN = ("add", "subtract")
FORGET = ("multiply", "divide")

_SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
_PROBLEMS = {
    "add": "{name} has {a} {object} finds {b} now",
    "subtract": "{name} has {a} {object} loses {b} left",
    "multiply": "{name} fills {a} bags {b} {object} total",
    "divide": "{name} shares {a} {object} among {b} each",
}
_TEXT = (
    ("the", "a"),
    ("old", "small", "quiet", "brown"),
    ("fox", "heron", "goat", "mole"),
    ("sees", "hides", "likes", "brings"),
    ("the", "some"),
    ("red", "shiny", "little"),
    OBJECTS,
    ("today", "again", "there"),
)
_SETTINGS = tuple((name, thing) for name in NAMES for thing in OBJECTS)


class Fact(NamedTuple):
    """One thing to know: ``a (label) b`` is ``answer``."""

    label: str
    a: int
    b: int
    answer: int

    @property
    def name(self) -> str:
        """What all phrasings of the fact share, such as ``3*4``."""
        return f"{self.a}{_SIGNS[self.label]}{self.b}"

    def bare(self) -> Item:
        """Return the equation, ``3 * 4 =`` and `` 12``."""
        return Item(f"{self.a} {_SIGNS[self.label]} {self.b} =", f" {self.answer}", self.name, self.label)

    def problem(self, name: str, thing: str) -> Item:
        """Return the word problem about `name`, one of `NAMES`, and `thing`, one of `OBJECTS`."""
        prompt = _PROBLEMS[self.label].format(name=name, a=self.a, b=self.b, object=thing)
        return Item(prompt, f" {self.answer}", self.name, self.label)


def facts(label: str) -> tuple[Fact, ...]:
    """Return every fact of one operation; `label` is add, subtract, multiply or divide."""
    digits, positive = range(10), range(1, 10)
    known = {
        "add": ((a, b, a + b) for a in digits for b in digits),
        "subtract": ((a, b, a - b) for a in digits for b in range(a + 1)),
        "multiply": ((a, b, a * b) for a in positive for b in positive),
        "divide": ((a * b, b, a) for a in positive for b in positive),
    }
    if label not in known:
        raise UserError(f"no operation is called {label!r}; the operations are {', '.join(known)}.")
    return tuple(Fact(label, *fact) for fact in known[label])


def vocabulary() -> tuple[str, ...]:
    """Return every token, the special ones first; a token's place is its id."""
    words = [*_SIGNS.values(), "=", *NAMES, *OBJECTS]
    words += [word for problem in _PROBLEMS.values() for word in problem.split() if "{" not in word]
    words += [word for slot in _TEXT for word in slot]
    return (*SPECIAL, *(str(n) for n in range(82)), *dict.fromkeys(words))


def tokenizer() -> "PreTrainedTokenizerFast":
    """The task's tokenizer (see `words`). A word outside `vocabulary` becomes ``unk_token_id``, which no row holds."""
    return word_level(vocabulary())


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic task: add and subtract are kept, multiply and divide are to be forgotten."""

    problems: int = 3
    """Word problems per fact in the forget and retain sets, beside its bare form: 0 to 24."""
    pool: int = 4096
    """Rows in the unlabelled pool."""
    text_share: float = 0.1
    """Share of running text in the pool, and of `text` in forget + retain + text: 0 up to, not including, 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.problems <= len(_SETTINGS):
            raise UserError(f"problems is {self.problems}; a fact has 0 to {len(_SETTINGS)} word problems.")
        if self.pool < 0:
            raise UserError(f"pool is {self.pool}; it is a number of rows, 0 or more.")
        if not 0 <= self.text_share < 1:
            raise UserError(f"text_share is {self.text_share}; it is a share from 0 up to, not including, 1.")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return vocabulary()

    def split(self, seed: int = 0) -> Split:
        """Return the groups. `seed` draws each fact's word problems and the pool; the facts are always the same."""
        return Split(tuple(self._rows(FORGET, seed)), tuple(self._rows(RETAIN, seed)), self._pool(seed))

    def only(self, label: str, seed: int = 0) -> tuple[Item, ...]:
        """Return the rows of one operation, of whichever group; `label` is add, subtract, multiply or divide."""
        facts(label)  # names the operations where it is none
        return tuple(self._rows((label,), seed))

    def text(self, seed: int = 0, rows: int | None = None) -> tuple[Item, ...]:
        """Running text with an empty prompt, labelled "text"; by default enough to make up `text_share`."""
        if rows is None:
            labelled = sum(len(facts(label)) for label in _SIGNS) * (1 + self.problems)
            rows = round(labelled * self.text_share / (1 - self.text_share))
        return tuple(_sentences(_rng(seed, "text"), rows))

    def _rows(self, labels: tuple[str, ...], seed: int) -> Iterator[Item]:
        for label in labels:
            rng = _rng(seed, label)
            for fact in facts(label):
                yield fact.bare()
                for setting in rng.sample(_SETTINGS, self.problems):
                    yield fact.problem(*setting)

    def _pool(self, seed: int) -> tuple[Item, ...]:
        """Draw the pool: the four operations in equal shares, half of each bare, every fact equally often."""
        rng = _rng(seed, "pool")
        texts = round(self.pool * self.text_share)
        rows = list(_sentences(rng, texts))
        for i, label in enumerate(_SIGNS):
            known = facts(label)
            for n in range((self.pool - texts + i) // len(_SIGNS)):
                if n % (2 * len(known)) == 0:
                    deck = [(fact, bare) for fact in known for bare in (True, False)]
                    rng.shuffle(deck)
                fact, bare = deck[n % len(deck)]
                rows.append(fact.bare() if bare else fact.problem(*rng.choice(_SETTINGS)))
        rng.shuffle(rows)
        # The label is the answer to "which side is this row on?", and a pool is what nobody has answered that for.
        return tuple(replace(item, label="") for item in rows)


def arithmetic(problems: int = 3, pool: int = 4096, text_share: float = 0.1) -> Arithmetic:
    """Return the arithmetic task; see `Arithmetic` for the settings."""
    return Arithmetic(problems=problems, pool=pool, text_share=text_share)


def sources() -> Sources:
    """``task:arithmetic/GROUP``: the task's groups, its running text, and each operation alone."""
    found: dict[str, Callable[[], tuple[Item, ...]]] = {
        f"task:arithmetic/{group}": lambda group=group: arithmetic().split().group(group)  # type: ignore[misc]
        for group in ("forget", "retain", "unlabelled")
    }
    found |= {f"task:arithmetic/{label}": lambda label=label: arithmetic().only(label) for label in _SIGNS}  # type: ignore[misc]
    return found | {"task:arithmetic/text": lambda: arithmetic().text()}


def _rng(seed: int, purpose: str) -> random.Random:
    # A string seed is hashed with sha512, so it does not depend on PYTHONHASHSEED; one stream per purpose, so that the
    # size of one group does not move the rows of another.
    return random.Random(f"arithmetic {purpose} {seed}")


def _sentences(rng: random.Random, rows: int) -> Iterator[Item]:
    for _ in range(rows):
        yield Item("", " ".join(rng.choice(slot) for slot in _TEXT), label="text")
