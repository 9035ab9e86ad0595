"""One learner's sitting with a deck: the queue, kept in step with a log that others may write too."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsrs import Scheduler

from sluicegate_study.deck.cards import Deck, Problem, Question
from sluicegate_study.deck.log import Event, append, read_log
from sluicegate_study.deck.shipped import find_deck
from sluicegate_study.errors import UserError
from sluicegate_study.review.memory import Memory, use_fitted_weights
from sluicegate_study.review.queue import NextQuestion, Queue
from sluicegate_study.review.relink import Link, find_changed, find_links, make_seen_event, relative_file


class Sitting:
    """Ask and record. Every answer is in the log before the next question is chosen; what another program added
    meanwhile is read first."""

    def __init__(self, deck: Deck, log: Path, learner: str, *, root: str = "", new: int = 15, by: Scheduler | None = None) -> None:
        if not learner.strip():
            raise UserError("the learner has no name: expected one like person:ada.")
        if new < 0:
            raise UserError(f"--new is {new}: expected 0 or more, the number of items to introduce on one day.")
        self.deck, self.path, self.learner, self.root, self.new = deck, log, learner, root and str(find_deck(root)), new
        self.by = use_fitted_weights(log, learner, by)  # weights fitted to this learner's reviews, where there are some
        self._size = -1
        self.refresh()

    def refresh(self) -> None:
        """Read the log again where it has grown."""
        size = os.stat(self.path).st_size if self.path.exists() else 0
        if size == self._size:
            return
        self._size = size
        self.log = read_log(self.path)
        memory = Memory.replay(self.log, self.learner, self.by)
        before = getattr(self, "queue", None)
        self.queue = Queue(self.deck, memory, new=self.new)
        if before is not None:
            self.queue.pending, self.queue.last = before.pending, before.last
        self._texts = {(event.item, event.more.get("rev")) for event in self.log.events if event.kind == "seen"}

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The lines of the log that could not be read."""
        return self.log.problems

    def relink(self, now: datetime) -> list[Link]:
        """Link items whose cards were edited with what they are now, in the log; returns the new links."""
        links = find_links(self.deck, self.log, self.root)
        self._append([link.event(now, self.learner) for link in links])
        self._again()
        changed = find_changed(self.deck, self.log, self.root)
        self._append([make_seen_event(question, now, self.learner, relative_file(question, self.root)) for question in changed])
        self._again()
        return links

    def unlink(self, key: str, now: datetime) -> list[str]:
        """Take back the links to an item, for good. Returns the old keys; raises `UserError` where there are none."""
        old = [before for before, after in self.queue.memory.links.items() if after == key]
        if not old:
            raise UserError(f"nothing is linked to {key!r}: expected the key that `deck review` named when it linked an edited card.")
        self._append([Event(now, self.learner, before, "unlink", {"to": key}) for before in old])
        self._again()
        return old

    def next(self, now: datetime) -> NextQuestion | None:
        """The next question, or None where this sitting is over."""
        self.refresh()
        return self.queue.next(now)

    def answer(self, question: Question, grade: int, now: datetime, **more: Any) -> None:
        """Log a review: grade 1 again, 2 hard, 3 good, 4 easy; `more` may hold given, verdict, conf and ms."""
        if grade not in (1, 2, 3, 4):
            raise UserError(f"the grade is {grade!r}: expected 1 (again), 2 (hard), 3 (good) or 4 (easy).")
        event = Event(now.astimezone(UTC), self.learner, question.key, "card", {"rev": question.rev, "grade": grade, **more})
        place = relative_file(question, self.root)
        text = [] if (question.key, question.rev) in self._texts else [make_seen_event(question, now, self.learner, place)]
        # The queue records the answer first: a replay of the log could not tell this lapse from an old one.
        self.queue.record(event)
        self._append([*text, event])
        self._texts.add((question.key, question.rev))

    def suspend(self, question: Question, now: datetime) -> None:
        """Ask this no more, until a `resume` event."""
        event = Event(now.astimezone(UTC), self.learner, question.key, "suspend")
        self.queue.record(event)
        self._append([event])

    def _again(self) -> None:
        self._size = -1
        self.refresh()

    def _append(self, events: list[Event]) -> None:
        """Add to the log events that the queue knows of already; read it again only where somebody else wrote too."""
        if events:
            before, after = append(self.path, events)
            if before == self._size:
                self._size = after
