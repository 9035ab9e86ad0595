"""The review log: one line of JSON an event, only ever added to. It is the truth; every state is computed from it.

A line that cannot be read is left out and named; the others count. Two programs may add to one log at once: each adds
whole lines, under a lock. Where the last line was cut off, the next one begins on a line of its own.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sluicegate_study.deck.appending import open_locked
from sluicegate_study.deck.cards import Problem
from sluicegate_study.errors import UserError
from sluicegate_study.files import LARGEST, read_file

KINDS = ("card", "seen", "relink", "unlink", "suspend", "resume", "game", "buzz", "pass", "bonus", "override", "end")


@dataclass(frozen=True)
class Event:
    """Something that happened to a learner and an item, at `t` (aware, UTC). What else there is to say is in `more`.

    Kinds: `card` (a review; more: grade 1 to 4, rev, conf, given, verdict, ms), `seen` (the text and file of an item,
    so that it is found again after an edit), `relink` and `unlink` (item goes on as, or no longer as, `to`), `suspend`,
    `resume`; and of a game of tossups (see `playing`) `game`, `buzz`, `pass`, `bonus`, `override` and `end`."""

    t: datetime
    learner: str
    item: str
    kind: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grade(self) -> int:
        """1 again, 2 hard, 3 good, 4 easy; of a review."""
        return int(self.more["grade"])

    def line(self) -> str:
        """The event as a line of the log."""
        head = {
            "t": self.t.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "learner": self.learner,
            "item": self.item,
            "kind": self.kind,
        }
        return json.dumps({**head, **self.more}, ensure_ascii=False, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Log:
    """The events of a log as they were written, and the lines that could not be read."""

    events: tuple[Event, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def timeline(self) -> tuple[Event, ...]:
        """The events in the order of their times, which is another where logs were joined or clocks differ."""
        return tuple(sorted(self.events, key=lambda event: event.t))


def read_log(path: Path) -> Log:
    """Read a log; one that is not there yet is empty. Raises `UserError` where `path` is no file, or beyond 1 GiB."""
    if not path.exists():
        return Log()
    content = read_file(path, "the log", 16 * LARGEST)
    events, problems = [], []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            events.append(_event(json.loads(line.decode("utf-8"))))
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            expected = "expected one JSON object with t, learner, item and kind"
            said = str(error) if isinstance(error, UserError) else f"not an event ({type(error).__name__}); {expected}"
            problems.append(Problem(str(path), number, f"this line is left out: {said}", "warning"))
    return Log(tuple(events), tuple(problems))


def append(path: Path, events: Iterable[Event]) -> tuple[int, int]:
    """Add events to a log; waits while another program adds its own. Returns the log's size in bytes before and
    after."""
    text = "".join(event.line() for event in events).encode("utf-8", "backslashreplace")
    if not text:
        return (0, 0)
    with open_locked(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                text = b"\n" + text  # a last line that was cut off must not swallow the next one
        file.write(text)
        return size, size + len(text)


def _event(row: dict[str, Any]) -> Event:
    row = dict(row)
    t, learner, item, kind = (row.pop(name) for name in ("t", "learner", "item", "kind"))
    if not all(isinstance(value, str) for value in (t, learner, item, kind)):
        raise UserError("t, learner, item and kind must be texts")
    time = datetime.fromisoformat(t)
    if time.tzinfo is None:
        raise UserError(f"the time {t!r} has no zone: expected one like 2026-11-22T19:00:00Z")
    if not 1970 <= time.year < 3000:
        raise UserError(f"the time {t!r}: expected a year from 1970 to 2999")
    if kind == "card" and (isinstance(row.get("grade"), bool) or row.get("grade") not in (1, 2, 3, 4)):
        raise UserError(f"grade is {row.get('grade')!r}: expected 1 (again), 2 (hard), 3 (good) or 4 (easy)")
    if kind in ("relink", "unlink") and not isinstance(row.get("to"), str):
        raise UserError(f"{kind} without to: expected the key of the item it goes on as")
    if any(isinstance(value, float) and not math.isfinite(value) for value in row.values()):
        raise UserError("a number that is not finite")
    return Event(time.astimezone(UTC), learner, item, kind, row)
