"""What a network is asked from a deck: clues, the closed set it chooses among, and which of those the deck's judge
would accept."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sluicegate_study.deck.cards import Deck, Question, Tossup
from sluicegate_study.deck.graph import Graph
from sluicegate_study.errors import UserError, program
from sluicegate_study.judge.answerline import read_answer_line
from sluicegate_study.judge.judging import judge, judge_card

Among = Literal["category", "topic", "all"]
Kind = Literal["tossups", "cards"]


@dataclass(frozen=True)
class Asked:
    """One question: its clues from first to last (a card has one), and the closed set of answers.

    `right` says which of the candidates the judge accepts by the question's own answer line. `topic`, `angle` and
    `split` are a card's."""

    key: str
    category: str
    clues: tuple[str, ...]
    candidates: tuple[str, ...]
    right: tuple[bool, ...]
    topic: str = ""
    angle: str = ""
    split: str = ""

    @property
    def chance(self) -> float:
        """How often a guess drawn at random is right."""
        return sum(self.right) / len(self.right)


def asked_of(deck: Deck, kind: Kind | Literal["auto"] = "auto", among: Among | Literal["auto"] = "auto") -> list[Asked]:
    """The questions of a deck, each with the answers of its group as candidates, in the order of the deck.

    `auto` asks the tossups where there are any, else the cards; tossups choose among the answers of their category,
    cards among those of their topic (of their category where they have none). Raises `UserError` for a deck without
    such questions, or where a group has one answer only."""
    if kind == "auto":
        kind = "tossups" if deck.tossups or not deck.cards else "cards"
    asked: list[Question] | list[Tossup] = deck.tossups if kind == "tossups" else deck.questions()
    if not asked:
        raise UserError(f"the deck has no {kind}: nothing to ask. It holds {len(deck.tossups)} tossups and {len(deck.cards)} cards.")
    if kind == "tossups" and among == "topic":
        raise UserError("tossups have no topic. Use --among category, or all.")
    rows = [_row(deck, entry) for entry in asked]
    if among == "auto":
        among = "category" if kind == "tossups" else "topic"
    groups: dict[str, dict[str, str]] = defaultdict(dict)  # group -> folded answer -> answer as it is first written
    for row in rows:
        groups[row.group(among)].setdefault(row.answer.casefold(), row.answer)
    made = []
    for row in rows:
        candidates = tuple(groups[row.group(among)].values())
        if len(candidates) < 2:
            where = f"{among} {row.group(among)!r}" if among != "all" else "whole deck"
            raise UserError(
                f"question {row.key!r}: its {where} has one answer only ({row.answer!r}), so there is nothing to choose among. "
                "Use --among all."
            )
        right = tuple(c.casefold() == row.answer.casefold() or row.accepts(c) for c in candidates)
        made.append(Asked(row.key, row.category, row.clues, candidates, right, row.topic, row.angle, row.split))
    return made


def dependents(deck: Deck, keys: Iterable[str]) -> set[str]:
    """The cards that need one of these, directly or through others, themselves left out: where removing the one should
    show."""
    graph, wanted = Graph(deck.cards), set(keys)
    found: set[str] = set()
    for key in graph.order:  # every card after what it needs
        if any(need in wanted or need in found for need in graph.needs[key]):
            found.add(key)
    return found - wanted


@dataclass(frozen=True)
class _Row:
    key: str
    category: str
    clues: tuple[str, ...]
    answer: str
    accepts: Callable[[str], bool]
    topic: str = ""
    angle: str = ""
    split: str = ""

    def group(self, among: str) -> str:
        if among == "all":
            return ""
        return self.topic or self.category if among == "topic" else self.category


def _row(deck: Deck, entry: Question | Tossup) -> _Row:
    if isinstance(entry, Tossup):
        category = entry.category or deck.head_of(entry).category
        line = read_answer_line(entry.answer)
        return _named(_Row(entry.key, category, tuple(entry.clues), line.shown, lambda given: judge(line, given).ruling == "accept"))
    card, question = entry.card, entry
    category = card.category or deck.head_of(card).category
    answer = " ".join(question.answer.replace("**", "").split()).rstrip(".")

    def accepts(given: str) -> bool:
        return judge_card(question, given).ruling == "accept"

    return _named(_Row(question.key, category, (question.prompt,), answer, accepts, card.topic, card.angle, card.split))


def _named(row: _Row) -> _Row:
    if not row.clues or not row.answer:
        raise UserError(f"question {row.key!r} has no {'answer' if row.clues else 'clues'}: nothing to ask. See: {program()} deck check")
    return row


def by(asked: Iterable[Asked], what: Literal["category", "topic", "angle", "split"]) -> Mapping[str, list[int]]:
    """The places of the questions of each category (topic, angle, split), by its name."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, question in enumerate(asked):
        groups[getattr(question, what)].append(place)
    return dict(sorted(groups.items()))
