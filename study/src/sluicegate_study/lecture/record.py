"""What happened to the claims of a lecture: predictions, cold tests and second looks, replayed from an append-only log.

Two programs may write at once: of two predictions (tests, looks) of one claim the first counts, as a second one is no
longer cold.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sluicegate_study.deck.log import Event, Log
from sluicegate_study.lecture.lecture import Claim

Arm = Literal["cards", "none"]
KINDS = ("arm", "predict", "cold", "void", "sense")
Stage = Literal["reading", "waiting", "cold", "sense", "report"]


@dataclass
class Record:
    """One claim: its arm, what was predicted and when, the cold answer, and whether it was right in the end.

    `right` is the learner's word where the judge was overruled. `void`: the gap could not be filled by anybody, and
    does not count."""

    claim: Claim
    arm: Arm | None = None
    seed: int = 0
    days: float = 7.0
    predicted: float | None = None
    read: datetime | None = None
    given: str | None = None
    hidden: str = ""
    verdict: str = ""
    confidence: float | None = None
    tested: datetime | None = None
    void: bool = False
    right: bool | None = None
    overruled: bool = False
    sense: bool | None = None

    def add(self, event: Event) -> None:
        """Take an event of this claim into account; a second one of its kind changes nothing."""
        more = event.more
        if event.kind == "arm" and self.arm is None:
            if more["arm"] not in ("cards", "none"):
                raise ValueError(f"arm is {more['arm']!r}: expected cards or none")
            if not 0 <= float(more["days"]) <= 3650:
                raise ValueError(f"days is {more['days']!r}: expected 0 to 3650")
            self.arm, self.seed, self.days = more["arm"], int(more["seed"]), float(more["days"])
        elif event.kind == "predict" and self.predicted is None:
            self.predicted, self.read = _chance(more["p"]), event.t
        elif event.kind == "cold" and self.tested is None and not self.void:
            self.given, self.hidden, self.verdict, self.tested = str(more["given"]), str(more["hidden"]), str(more["verdict"]), event.t
            self.confidence = _chance(more["conf"]) if "conf" in more else None
        elif event.kind == "void" and self.right is None:
            self.void = True
        elif event.kind == "sense" and self.right is None and self.tested is not None:
            self.right, self.sense = bool(more["right"]), bool(more["sense"])
            self.overruled = self.right != (self.verdict == "accept")


@dataclass
class Course:
    """A learner's way through the claims of one lecture, in the order in which they build on each other."""

    records: list[Record]
    withdrawn: int = 0
    unread: int = field(default=0)

    @classmethod
    def replay(cls, claims: Sequence[Claim], log: Log, learner: str) -> "Course":
        """`withdrawn` counts predictions for claims that were reworded or removed since; `unread` lines of the log that
        are no events."""
        records = {(claim.name, claim.rev): Record(claim) for claim in claims}
        gone = set()
        unread = len(log.problems)
        # A second look belongs to its test whatever the clocks of two machines say of their order.
        for event in sorted(log.timeline, key=lambda event: KINDS.index(event.kind) if event.kind in KINDS else 0):
            if event.learner != learner:
                continue
            key = (event.item, str(event.more.get("rev", "")))
            try:
                if key in records:
                    records[key].add(event)
                elif event.kind == "predict":
                    gone.add(key)
            except (KeyError, TypeError, ValueError):
                unread += 1
        return cls(list(records.values()), len(gone), unread)

    @property
    def due(self) -> datetime | None:
        """When the cold test may begin: so many days after the last prediction. None before the first."""
        read = [record.read + timedelta(days=record.days) for record in self.records if record.read]
        return max(read, default=None)

    def stage(self, now: datetime) -> Stage:
        """What comes next. The cold test waits until all claims are due: looking at one again would warm up the
        others."""
        if any(record.predicted is None for record in self.records) and not any(record.tested or record.void for record in self.records):
            return "reading"
        if self.pending("cold"):
            return "cold" if self.due is not None and now >= self.due else "waiting"
        return "sense" if self.pending("sense") else "report"

    def pending(self, stage: str) -> list[Record]:
        """The claims that a stage still has to ask about."""
        if stage == "reading":
            return [record for record in self.records if record.predicted is None and record.tested is None and not record.void]
        if stage == "cold":
            return [record for record in self.records if record.predicted is not None and record.tested is None and not record.void]
        return [record for record in self.records if record.tested is not None and record.right is None and not record.void]

    @property
    def done(self) -> list[Record]:
        """The claims that count: predicted, tested cold, looked at again."""
        return [record for record in self.records if record.right is not None and not record.void]


def draw_arms(claims: Sequence[Claim], seed: int, *, cards: bool = True) -> dict[str, Arm]:
    """Which claims get cards: of each two that follow each other one, by a seeded coin, so that the arms are as large
    and as late.

    With `cards` off, none does."""
    arms: dict[str, Arm] = {}
    for place in range(0, len(claims), 2):
        pair = claims[place : place + 2]
        first = hashlib.sha256(f"arm/{seed}/{pair[0].name}/{pair[0].rev}".encode()).digest()[0] % 2
        for number, claim in enumerate(pair):
            arms[claim.name] = "cards" if cards and number == first else "none"
    return arms


def make_arm_events(records: Iterable[Record], learner: str, now: datetime, *, seed: int, days: float, cards: bool) -> list[Event]:
    """The events that put claims without an arm into one."""
    new = [record.claim for record in records if record.arm is None]
    arms = draw_arms(new, seed, cards=cards)
    more: dict[str, Any] = {"seed": seed, "days": days}
    return [Event(now, learner, claim.name, "arm", {"rev": claim.rev, "arm": arms[claim.name], **more}) for claim in new]


def _chance(value: Any) -> float:
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{value!r} is no chance: expected 0 to 1")
    return float(value)
