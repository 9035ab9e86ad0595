"""What a game is made of: a question that is being answered, a tossup in play, a bonus in play."""

from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Any, Literal

from sluicegate_study.deck.cards import MARK, Bonus, Part, Tossup
from sluicegate_study.game.bots import Plan
from sluicegate_study.judge.answerline import read_answer_line
from sluicegate_study.judge.judging import judge

MOST_PROMPTS = 2


@dataclass
class Asking:
    """One question that is answered by typing: what was said so far, and what to ask back (`ask`; empty: only "be more
    specific")."""

    line: str
    given: list[str] = field(default_factory=list)
    ask: str = ""
    prompted: bool = False
    right: bool = False

    def hear(self, text: str) -> bool:
        """Judge what was said; False where it is asked back. An answer to that counts alone or together with the words
        before it."""
        before = " ".join(self.given)
        self.given.append(" ".join(text.split()))
        verdict = judge(self.line, text)
        joined = [f"{before} {text}", f"{text} {before}"] if before else []
        self.right = verdict.ruling == "accept" or any(judge(self.line, said).ruling == "accept" for said in joined)
        self.prompted = not self.right and verdict.ruling == "prompt" and len(self.given) <= MOST_PROMPTS
        self.ask = verdict.ask if self.prompted else ""
        return not self.prompted

    @property
    def logged(self) -> dict[str, Any]:
        """What goes into the log."""
        then = {"then": self.given[1:]} if len(self.given) > 1 else {}
        return {"given": self.given[0] if self.given else "", **then, "verdict": "accept" if self.right else "reject"}


@dataclass
class Turn:
    """One tossup: how much of it is read (`at` words), what the bot will do, and what came of it.

    `alone`: the bot has missed. `buzzed`: the word of our buzz. `sure`: the stated chance. `value`: our points. `left`:
    tossups left with this one; 0 in overtime. `again`: how often the player has heard it. `difference`: the score
    difference that a buzz is decided at."""

    tossup: Tossup
    category: str
    left: int
    again: int
    difference: int
    plan: Plan
    words: list[str]
    at: int = 0
    alone: bool = False
    buzzed: int | None = None
    asking: Asking = field(default_factory=lambda: Asking(""))
    sure: float | None = None
    value: int = 0
    winner: Literal["us", "them", ""] = ""
    asked_at: datetime = datetime.min
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    carded: bool = False

    @property
    def text(self) -> str:
        """What is read so far, with the power mark once it is passed."""
        return self.between(0, self.at)

    def between(self, start: int, end: int) -> str:
        """The words after `start` up to `end`, with the power mark if it lies between them."""
        power = self.tossup.power
        marked = [f"{word} {MARK}" if number == power else word for number, word in enumerate(self.words[start:end], start + 1)]
        return " ".join(marked)

    @property
    def ends(self) -> list[int]:
        """The word at which each clue ends."""
        return list(accumulate(len(clue.split()) for clue in self.tossup.clues))

    @property
    def clue(self) -> int:
        """The number of the clue that is being read, from 1."""
        return next((number for number, end in enumerate(self.ends, 1) if self.at <= end), len(self.ends))

    @property
    def read(self) -> bool:
        """Whether the reading is over."""
        return self.at >= len(self.words)

    @property
    def answer(self) -> str:
        """The main answer."""
        return read_answer_line(self.tossup.answer).shown


@dataclass
class BonusTurn:
    """A bonus in play: whose it is, which part is asked, and what each part changed in the score difference so far;
    `told`: the lead-in was read."""

    bonus: Bonus
    mine: bool
    parts: tuple[Part, ...]
    place: int = -1
    asking: Asking = field(default_factory=lambda: Asking(""))
    points: list[int] = field(default_factory=list)
    told: bool = False

    @property
    def part(self) -> Part:
        return self.parts[self.place]

    @property
    def answer(self) -> str:
        return read_answer_line(self.part.answer).shown
