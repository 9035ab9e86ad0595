"""How far a learner is with a deck."""

import statistics
from collections import defaultdict
from datetime import datetime
from typing import Any

from sluicegate_study.judge.calibration import Said
from sluicegate_study.review.memory import resolve_link
from sluicegate_study.review.sitting import Sitting

SLOW = 20.0
"""Seconds (median of three answers or more) from which on a card is named: one step takes some six."""


def measure_progress(sitting: Sitting, now: datetime) -> dict[str, Any]:
    """Counts of a deck's items at `now`: reviewed, known, due, ready to be introduced, waiting for what they need;
    answers, and lapses (an `again` after a success); and the slow ones, as (key, median seconds)."""
    queue, memory = sitting.queue, sitting.queue.memory
    keys = list(queue.questions)
    seconds: dict[str, list[float]] = defaultdict(list)
    answers = lapses = 0
    succeeded: set[str] = set()
    for event in sitting.log.timeline:
        key = resolve_link(memory.links, event.item)
        if event.kind != "card" or event.learner != sitting.learner or key not in queue.questions:
            continue
        answers += 1
        lapses += event.grade == 1 and key in succeeded
        if event.grade > 1:
            succeeded.add(key)
        if isinstance(ms := event.more.get("ms"), int | float):
            seconds[key].append(ms / 1000)
    medians = {key: statistics.median(values) for key, values in seconds.items() if len(values) >= 3}
    reviewed = [key for key in keys if key in memory.states]
    ready = sum(queue.introducible(key, now) for key in keys)
    return {
        "reviewed": len(reviewed),
        "known": sum(memory.known(key, now) for key in reviewed),
        "due": sum(memory.states[key].due <= now and key not in memory.suspended for key in reviewed),
        "ready": ready,
        "waiting": sum(key not in memory.states and key not in memory.suspended for key in keys) - ready,
        "suspended": sum(key in memory.suspended for key in keys),
        "answers": answers,
        "lapses": lapses,
        "slow": sorted(((key, value) for key, value in medians.items() if value >= SLOW), key=lambda pair: -pair[1]),
    }


def list_stated_reviews(sitting: Sitting) -> list[Said]:
    """The learner's answers with a stated confidence; right is what was graded better than `again`."""
    queue, found = sitting.queue, []
    for event in sitting.log.timeline:
        key, sure = resolve_link(queue.memory.links, event.item), event.more.get("conf")
        known = event.kind == "card" and event.learner == sitting.learner and key in queue.questions
        if known and isinstance(sure, int | float) and 0 <= sure <= 1:
            card = queue.questions[key].card
            found.append(Said(float(sure), event.grade > 1, key, card.category or sitting.deck.head_of(card).category))
    return found
