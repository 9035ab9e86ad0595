"""Find cards again after an edit: which items of the log are cards of the deck whose text, id or file has changed.

An item that is in the log and no longer in the deck is matched with a card that is in the deck and not yet in the log:
by equal content, or within one file by the ratio of their texts. Cards that could be meant by two, or whose numbers or
answers differ, are not linked: a lost history costs some reviews, a wrong one hides that a card was never learnt.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from rapidfuzz import fuzz

from sluicegate_study.deck.cards import Deck, Question
from sluicegate_study.deck.log import Event, Log
from sluicegate_study.review.memory import replay_links, resolve_link

RATIO = 0.85
ANSWERS = 0.6
MARGIN = 0.03


@dataclass(frozen=True)
class Link:
    """An old key, the key it goes on under, and how alike their texts are (1: the same)."""

    old: str
    new: str
    ratio: float

    def event(self, t: datetime, learner: str) -> Event:
        return Event(t, learner, self.old, "relink", {"to": self.new, "ratio": round(self.ratio, 4)})


def make_seen_event(question: Question, t: datetime, learner: str, file: str) -> Event:
    """The event that lets a question be found again after an edit."""
    more = {"rev": question.rev, "file": file, "prompt": question.prompt, "answer": question.answer}
    return Event(t, learner, question.key, "seen", more)


def find_links(deck: Deck, log: Log, root: str = "") -> list[Link]:
    """The links that the log does not have yet, best first. `root` is the deck's folder, which file names are told
    from."""
    refused = {(event.item, str(event.more["to"])) for event in log.events if event.kind == "unlink"}
    texts, reviewed = _last_seen(log)
    questions = {question.key: question for question in deck.questions()}
    lost = {key: texts[key] for key in reviewed if key not in questions and key in texts}
    fresh = [question for key, question in questions.items() if key not in reviewed]
    # Only texts with the same numbers can be one: no need to compare all with all.
    alike: dict[tuple[str, ...], list[Question]] = defaultdict(list)
    for question in fresh:
        alike[_numbers(f"{question.prompt}\n{question.answer}")].append(question)
    pairs = [
        Link(old, question.key, ratio)
        for old, event in lost.items()
        for question in alike[_numbers(f"{event.more['prompt']}\n{event.more['answer']}")]
        if (old, question.key) not in refused and (ratio := _ratio(event, question, root)) >= RATIO
    ]
    return _one_to_one(pairs)


def find_changed(deck: Deck, log: Log, root: str = "") -> list[Question]:
    """The reviewed questions whose text or file is another than the log saw last: the next edit is compared with what
    stands there now."""
    texts, reviewed = _last_seen(log)
    return [
        question
        for question in deck.questions()
        if question.key in reviewed
        and (
            (seen := texts.get(question.key)) is None
            or seen.more["rev"] != question.rev
            or not _same_file(str(seen.more["file"]), relative_file(question, root))
        )
    ]


def _last_seen(log: Log) -> tuple[dict[str, Event], set[str]]:
    """The last `seen` event of each item, by the key it goes on under, and the items that were reviewed."""
    links = replay_links(log.events)
    texts: dict[str, Event] = {}
    reviewed: set[str] = set()
    for event in log.events:
        key = resolve_link(links, event.item)
        if event.kind == "seen" and {"rev", "file", "prompt", "answer"} <= event.more.keys():
            texts[key] = event
        elif event.kind == "card":
            reviewed.add(key)
    return texts, reviewed


def _same_file(one: str, other: str) -> bool:
    """Whether two names may be of one file: a deck of one file has no name for it, and folders may be told from
    elsewhere."""
    return not one or not other or one.rpartition("/")[2] == other.rpartition("/")[2]


def relative_file(question: Question, root: str) -> str:
    """The file of a question, told from the deck's folder."""
    return question.card.path.removeprefix(root).lstrip("/")


def _ratio(event: Event, question: Question, root: str) -> float:
    if event.more["rev"] == question.rev:
        return 1.0
    if not _same_file(str(event.more["file"]), relative_file(question, root)):
        return 0.0
    prompt, answer = str(event.more["prompt"]), str(event.more["answer"])
    if fuzz.ratio(answer.casefold(), question.answer.casefold()) / 100 < ANSWERS:
        return 0.0
    return fuzz.ratio(f"{prompt}\n{answer}", f"{question.prompt}\n{question.answer}") / 100


def _one_to_one(pairs: Iterable[Link]) -> list[Link]:
    """The best pairs, each key once; a pair that is hardly better than another with one of its keys is no pair."""
    rest = sorted(pairs, key=lambda link: (-link.ratio, link.old, link.new))
    of: dict[tuple[str, str], list[Link]] = defaultdict(list)
    for link in rest:
        of["old", link.old].append(link)
        of["new", link.new].append(link)
    kept: list[Link] = []
    taken: set[tuple[str, str]] = set()
    for best in rest:
        ends = {("old", best.old), ("new", best.new)}
        if ends & taken:
            continue
        rivals = [r for end in ends for r in of[end] if r is not best and not {("old", r.old), ("new", r.new)} & taken]
        if not any(best.ratio - rival.ratio < MARGIN for rival in rivals):
            kept.append(best)
        taken |= ends
    return kept


def _numbers(text: str) -> tuple[str, ...]:
    return tuple(sorted(re.findall(r"\d+(?:[.,]\d+)*", text)))
