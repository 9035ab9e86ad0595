"""What to ask next: an ancestor after a lapse, then what is due, then what is new and ready, then what is due in some
minutes."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from fsrs import State as Stage

from sluicegate_study.deck.cards import Deck, Question
from sluicegate_study.deck.graph import Graph
from sluicegate_study.deck.log import Event
from sluicegate_study.review.memory import Memory

Reason = Literal["ancestor", "due", "new", "soon"]


class NextQuestion(NamedTuple):
    """A question and why it is asked now."""

    question: Question
    reason: Reason


@dataclass
class Queue:
    """One sitting of one learner with a deck.

    `new` is how many items are introduced on one day (of the learner's own clock), `ahead` how long before its time a
    card in learning is asked when nothing else is left."""

    deck: Deck
    memory: Memory
    new: int = 15
    ahead: timedelta = timedelta(minutes=20)
    pending: list[str] = field(default_factory=list)
    last: str = ""

    def __post_init__(self) -> None:
        self.graph = Graph(self.deck.cards)
        self.questions = {question.key: question for question in self.deck.questions()}
        self._of_card = {key: [q.key for q in card.questions()] for key, card in self.graph.cards.items()}
        self._order = [question for key in self.graph.order for question in self._of_card[key]]

    def next(self, now: datetime) -> NextQuestion | None:
        """What to ask at `now` (aware); None where nothing is left for this sitting."""
        while self.pending:
            key = self.pending.pop(0)
            if key not in self.memory.suspended:
                return self._asked(key, "ancestor")
        memory = self.memory
        active = [key for key in self._order if key in memory.states and key not in memory.suspended]
        due = sorted((memory.states[key].due, n, key) for n, key in enumerate(active))
        ready = [key for when, _, key in due if when <= now]
        if ready:
            return self._asked(next((key for key in ready if key != self.last), ready[0]), "due")
        if self.introduced(now) < self.new:
            fresh = next((key for key in self._order if self.introducible(key, now)), None)
            if fresh is not None:
                return self._asked(fresh, "new")
        soon = [key for when, _, key in due if when <= now + self.ahead and memory.states[key].state != Stage.Review]
        if soon:
            return self._asked(next((key for key in soon if key != self.last), soon[0]), "soon")
        return None

    def introduced(self, now: datetime) -> int:
        """How many items the learner met first on this day."""
        today = now.astimezone().date()
        return sum(when.astimezone().date() == today for when in self.memory.first.values())

    def introducible(self, key: str, now: datetime) -> bool:
        """Whether an item is new and everything that its card needs is known. The second deletion of a text waits for
        the first."""
        if key in self.memory.states or key in self.memory.suspended:
            return False
        question = self.questions[key]
        before = self._of_card[question.card.key][: question.number - 1]
        needed = [asked for need in self.graph.needs[question.card.key] for asked in self._of_card[need]]
        return all(self.memory.known(need, now) for need in [*needed, *before])

    def record(self, event: Event) -> None:
        """Take an answer into account. After a lapse the weakest ancestor is asked next, once."""
        lapsed = event.kind == "card" and event.grade == 1 and self.memory.successes.get(event.item, 0) > 0
        self.memory.add(event)
        self.last = event.item
        if lapsed and event.item in self.questions:
            weakest = self.weakest_ancestor(event.item, event.t)
            if weakest:
                self.pending = [weakest]

    def weakest_ancestor(self, key: str, now: datetime) -> str:
        """The item beneath this one with the lowest recall; empty where there is none. One never asked counts if it
        could be introduced."""
        beneath = [asked for card in self.graph.ancestors(self.questions[key].card.key) for asked in self._of_card[card]]
        can = [
            asked
            for asked in beneath
            if asked not in self.memory.suspended and (asked in self.memory.states or self.introducible(asked, now))
        ]
        return min(can, key=lambda asked: self.memory.recall(asked, now), default="")

    def _asked(self, key: str, reason: Reason) -> NextQuestion:
        return NextQuestion(self.questions[key], reason)
