"""A game of tossups for tests: a small deck, a clock that stands still unless it is told, and bots that do what they
are told."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sluicegate_study.deck.cards import Bonus, Card, Deck, DeckFile, Head, Part, Tossup
from sluicegate_study.deck.collection import make_deck
from sluicegate_study.deck.log import read_log
from sluicegate_study.game.bots import Plan
from sluicegate_study.game.playing import Match
from sluicegate_study.game.scoring import rules_of

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
LINE = '**alpha** centauri [accept **rigil**; prompt on centauri by asking "which star?"; reject proxima]'


class Clock:
    """Says the same until `pass_`."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += timedelta(seconds=seconds)


class Table(NamedTuple):
    """A match with its clock and its log."""

    match: Match
    clock: Clock

    def events(self, kind=None):
        return [event for event in read_log(self.match.path).events if kind in (None, event.kind)]

    def read(self, words):
        for _ in range(words):
            self.match.advance()

    def buzz(self, text, sure=None, *, at=None):
        """Buzz after `at` words with an answer, and a chance where one is asked for."""
        if at is not None:
            self.read(at - self.match.turn.at)
        self.match.buzz()
        self.match.answer(text)
        if self.match.stage == "sure":
            self.match.state(sure)

    def to(self, *stages):
        """Go on, answering nothing, until the game is at one of the stages."""
        while self.match.stage not in stages:
            step = {"reading": self.match.advance, "guessing": lambda: self.match.answer(""), "part": lambda: self.match.answer("")}
            step.get(self.match.stage, self.match.go_on)()


def tossup(number=1, line=LINE, cards=(), category=""):
    """Twenty words in four clues, the power mark after the tenth."""
    words = [f"w{n}" for n in range(1, 21)]
    words[17] = "this"
    words[18] = "star"
    text = f"{' '.join(words[:5])}. | {' '.join(words[5:10])}. (*) | {' '.join(words[10:15])}. | {' '.join(words[15:])} number{number}."
    return Tossup(text.replace(f"w20 number{number}", f"number{number}"), line, id=f"tu{number}", cards=cards, category=category)


def bonus(number=1):
    return Bonus(
        "About stars:", tuple(Part(f"part {n}", f"**star{n}**", level=level) for n, level in enumerate("emh", 1)), id=f"bo{number}"
    )


def deck(tossups=2, bonuses=2, cards=()) -> Deck:
    entries = [*cards, *(tossup(n) for n in range(1, tossups + 1)), *(bonus(n) for n in range(1, bonuses + 1))]
    return make_deck("stars", [DeckFile(Head(deck="stars", category="Astronomy"), tuple(entries))])


def table(tmp_path, monkeypatch=None, plan: Plan | None = None, of: Deck | None = None, rules="naqt", **options) -> Table:
    """A match; with a `plan`, every tossup has the bot do this."""
    if plan is not None:
        monkeypatch.setattr("sluicegate_study.game.playing.draw_plan", lambda *_: plan)
    clock = Clock()
    match = Match(of or deck(), tmp_path / "log.jsonl", "person:ada", clock=clock, rules=rules_of(rules), **options)
    return Table(match, clock)


def basic(key):
    return Card(f"What is {key}?", f"It is {key}", id=key)
