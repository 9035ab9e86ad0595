"""What a deck is made of: cards, tossups and bonuses, as values that know nothing of files, learners or schedules."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from sluicegate_study.errors import UserError
from sluicegate_study.formatting import format_count

BRACKET = re.compile(r"\\[\[\]\\]|!\[\[[^\[\]\n]*+\]\]|!\[[^\[\]]*+\]|\[|\]")
"""In a cloze text: an escape, the head of a picture (left alone), or a bracket."""
_INSIDE = re.compile(rf"`[^`\n]*+`|{BRACKET.pattern}")
"""The same within a deletion, where brackets in code are code."""
MOST = 500
"""Deletions that a text may have: each is a question that repeats the text."""
LONGEST = 100_000
"""Characters that an entry may have."""
MARK = "(*)"


@dataclass(frozen=True)
class Question:
    """One thing to ask: what the learner sees, what is expected, and the key under which the log knows it.

    A card with a question and an answer is one of these; a cloze text is one for each deletion."""

    key: str
    prompt: str
    answer: str
    card: "Card"
    number: int = 1

    @property
    def rev(self) -> str:
        """Twelve hexadecimal digits of the content; another text has another rev, whatever its id."""
        return _hash("card", self.prompt, self.answer)


@dataclass(frozen=True)
class Card:
    """A question and its answer, or a cloze text with [deletions] (then `answer` is empty).

    `needs` are ids of cards to be known first, `accept`, `prompt` and `reject` are clauses of an answer line (see
    `answerline`), `allow` are lint rules that the author has looked at and waived. `path` and `line` say where it was
    read and do not count."""

    question: str
    answer: str = ""
    id: str = ""
    kind: Literal["basic", "cloze"] = "basic"
    topic: str = ""
    angle: str = ""
    needs: tuple[str, ...] = ()
    why: str = ""
    accept: str = ""
    prompt: str = ""
    reject: str = ""
    category: str = ""
    source: str = ""
    split: str = ""
    allow: tuple[str, ...] = ()
    path: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    @property
    def key(self) -> str:
        """The id, or else the hash of the content."""
        return self.id or _hash(self.kind, self.question, self.answer)

    def questions(self) -> list[Question]:
        """What is asked: one, or one for each deletion. The first has the card's key, the others key#2, key#3, ..."""
        key = self.key
        if self.kind == "basic":
            return [Question(key, self.question, self.answer, self)]
        # The text is taken apart once: before, within, between, ... and after the deletions, plain brackets taken off.
        cuts = [0, *(place for start, end in find_deletions(self.question) for place in (start, end)), len(self.question)]
        spans = enumerate(itertools.pairwise(cuts))
        pieces = [_strip_brackets(self.question[start:end], _INSIDE if n % 2 else BRACKET) for n, (start, end) in spans]
        plain, ends = "".join(pieces), list(itertools.accumulate(map(len, pieces)))
        return [
            Question(key if n == 1 else f"{key}#{n}", f"{plain[: ends[at - 1]]}[...]{plain[ends[at] :]}", pieces[at], self, n)
            for n, at in enumerate(range(1, len(pieces), 2), 1)
        ]


@dataclass(frozen=True)
class Tossup:
    """A pyramidal question: clues from hard to easy, read until somebody buzzes. `cards` are ids of the cards behind
    its clues.

    In `text` a ``|`` divides clues (without one: sentences do) and ``(*)`` is the power mark; ``\\|`` is a plain
    bar."""

    text: str
    answer: str
    id: str = ""
    category: str = ""
    source: str = ""
    cards: tuple[str, ...] = ()
    path: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    @property
    def key(self) -> str:
        return self.id or _hash("tossup", self.text, self.answer)

    @property
    def clues(self) -> list[str]:
        """The clues in order, without marks."""
        text = self.text.replace(MARK, " ")
        parts = re.split(r"(?<!\\)\|", text)
        if len(parts) == 1:
            parts = re.split(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9])", text)
        return [" ".join(part.replace("\\|", "|").split()) for part in parts if part.strip()]

    @property
    def words(self) -> list[str]:
        """The words in the order they are read, without marks."""
        return " ".join(self.clues).split()

    @property
    def power(self) -> int:
        """How many words are read up to the power mark; 0: there is none. A buzz on one of these words is a power."""
        before, mark, _ = self.text.partition(MARK)
        return len(re.sub(r"(?<!\\)\|", " ", before).split()) if mark else 0


@dataclass(frozen=True)
class Part:
    """One part of a bonus: its points, whether it is the easy, middle or hard one (e, m, h, or nothing), text, answer
    line."""

    text: str
    answer: str
    value: int = 10
    level: Literal["", "e", "m", "h"] = ""


@dataclass(frozen=True)
class Bonus:
    """A lead-in and its parts, asked of the team that won the tossup."""

    leadin: str
    parts: tuple[Part, ...]
    id: str = ""
    category: str = ""
    source: str = ""
    path: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    @property
    def key(self) -> str:
        return self.id or _hash("bonus", self.leadin, *(part.text for part in self.parts))


Entry = Card | Tossup | Bonus


@dataclass(frozen=True)
class Problem:
    """What is wrong with a deck, and where. Of an error the entry or the edge is left out; a warning loses nothing."""

    path: str
    line: int
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.severity}: {self.message}"


@dataclass(frozen=True)
class Head:
    """What a file says of itself in its front matter; `known` are symbols and terms that the reader brings along,
    `glossary` are the terms that count as new where a card uses them first."""

    deck: str = ""
    category: str = ""
    source: str = ""
    license: str = ""
    rules: str = ""
    known: tuple[str, ...] = ()
    glossary: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeckFile:
    """One Markdown file: its front matter and entries in their order."""

    head: Head = Head()
    entries: tuple[Entry, ...] = ()
    path: str = field(default="", compare=False)


@dataclass(frozen=True)
class Deck:
    """A folder of Markdown files (or one file), and what is wrong with it."""

    name: str = ""
    files: tuple[DeckFile, ...] = ()
    problems: tuple[Problem, ...] = field(default=(), compare=False)

    @property
    def entries(self) -> list[Entry]:
        return [entry for file in self.files for entry in file.entries]

    @property
    def cards(self) -> list[Card]:
        return [entry for entry in self.entries if isinstance(entry, Card)]

    @property
    def tossups(self) -> list[Tossup]:
        return [entry for entry in self.entries if isinstance(entry, Tossup)]

    @property
    def bonuses(self) -> list[Bonus]:
        return [entry for entry in self.entries if isinstance(entry, Bonus)]

    @property
    def errors(self) -> int:
        """How many of the problems are errors."""
        return sum(problem.severity == "error" for problem in self.problems)

    def questions(self) -> list[Question]:
        """Everything that the cards ask, in the order of the files."""
        return [question for card in self.cards for question in card.questions()]

    def count(self) -> dict[str, int]:
        """How many files, cards, questions, tossups and bonuses there are."""
        counts = {"files": len(self.files), "cards": len(self.cards), "questions": len(self.questions())}
        return {**counts, "tossups": len(self.tossups), "bonuses": len(self.bonuses)}

    def describe(self) -> str:
        """The counts in words."""
        nouns = ("file", "card", "question", "tossup", "bonus")
        return ", ".join(format_count(number, noun) for number, noun in zip(self.count().values(), nouns, strict=True))

    def head_of(self, entry: Entry) -> Head:
        """The front matter of the file an entry stands in."""
        return self._heads.get(id(entry), Head())

    @cached_property
    def _heads(self) -> dict[int, Head]:
        return {id(entry): file.head for file in reversed(self.files) for entry in file.entries}

    def to_json(self) -> dict[str, Any]:
        """The deck as plain lists and dictionaries; `from_json` gives an equal deck."""
        return {"name": self.name, "files": [_file_to_json(file) for file in self.files]}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Deck":
        """Raises `UserError` where `content` is not what `to_json` makes."""
        try:
            return cls(content["name"], tuple(_file_from_json(file) for file in content["files"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"not a deck as Deck.to_json writes it: {error!r}. Expected name and files, each with head and entries."
            ) from None

    def to_jsonl(self) -> Iterator[str]:
        """One line of JSON for each question: prompt, answer, topic, angle, split and id, as training and probing read
        them."""
        for question in self.questions():
            card = question.card
            row = {"prompt": question.prompt, "answer": question.answer, "topic": card.topic, "angle": card.angle, "split": card.split}
            yield json.dumps({**row, "id": question.key}, ensure_ascii=False)


def find_deletions(text: str) -> list[tuple[int, int]]:
    """Where the [deletions] of a cloze text are: (place of the opening bracket, place of the closing one).

    Raises `UserError` for brackets that do not close, lie within each other, or hold nothing, and where there are
    none."""
    spans: list[tuple[int, int]] = []
    opened = -1
    place = 0
    while found := (_INSIDE if opened >= 0 else BRACKET).search(text, place):
        place = found.end()
        if found[0] == "[":
            if opened >= 0:
                raise UserError(f"a [ within [{text[opened + 1 : found.start()]}: expected its ] first; a plain bracket is written \\[")
            opened = found.start()
        elif found[0] == "]":
            if opened < 0:
                raise UserError("a ] without its [: expected [deletion]; a plain bracket is written \\]")
            if not text[opened + 1 : found.start()].strip():
                raise UserError("an empty deletion []: expected the words to hide between the brackets")
            spans.append((opened, found.start()))
            opened = -1
    if opened >= 0:
        raise UserError(f"no ] after [{text[opened + 1 : opened + 21]}: expected [deletion]; a plain bracket is written \\[")
    if len(spans) > MOST:
        raise UserError(f"{len(spans)} deletions in one text: expected {MOST} at most. Make several texts of it.")
    if not spans:
        raise UserError("no deletion: expected at least one [deletion] in the text after C:")
    return spans


def replace_line(entry: Entry, path: str, line: int) -> Entry:
    """The same entry, read at another place."""
    return dataclasses.replace(entry, path=path, line=line)


def _strip_brackets(text: str, brackets: re.Pattern[str]) -> str:
    return brackets.sub(lambda found: found[0][1:] if found[0][0] == "\\" else "" if len(found[0]) == 1 else found[0], text)


def _hash(*parts: str) -> str:
    text = "\x1f".join(" ".join(part.split()) for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


_KINDS: dict[str, type[Any]] = {"card": Card, "tossup": Tossup, "bonus": Bonus}


def _file_to_json(file: DeckFile) -> dict[str, Any]:
    def entry(value: Entry) -> dict[str, Any]:
        row = dataclasses.asdict(value)
        return {"entry": type(value).__name__.lower(), **{name: v for name, v in row.items() if name not in ("path", "line")}}

    return {"head": dataclasses.asdict(file.head), "entries": [entry(value) for value in file.entries]}


def _file_from_json(content: dict[str, Any]) -> DeckFile:
    def entry(row: dict[str, Any]) -> Entry:
        row = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
        kind = row.pop("entry")
        if kind == "bonus":
            row["parts"] = tuple(Part(**part) for part in row["parts"])
        made: Entry = _KINDS[kind](**row)
        return made

    head: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content["head"].items()}
    return DeckFile(Head(**head), tuple(entry(row) for row in content["entries"]))
