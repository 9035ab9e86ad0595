"""A simulated learner whose memory is FSRS-6 with weights of its own, scheduled by the published ones."""

import random
from datetime import UTC, datetime, timedelta

from fsrs import Card, Rating, Scheduler
from fsrs.scheduler import DEFAULT_PARAMETERS, LOWER_BOUNDS_PARAMETERS, UPPER_BOUNDS_PARAMETERS

from sluicegate_study.deck.log import Event

START = datetime(2026, 1, 5, 8, tzinfo=UTC)


def other_weights(seed, size=0.5):
    """Weights of another person: the published ones, each moved by up to `size` of its logarithm, within its bounds."""
    draw = random.Random(seed)
    moved = [w * 2.718 ** draw.uniform(-size, size) for w in DEFAULT_PARAMETERS]
    return [min(max(w, low), high) for w, low, high in zip(moved, LOWER_BOUNDS_PARAMETERS, UPPER_BOUNDS_PARAMETERS, strict=True)]


def events(weights, seed, reviews=2000, cards_a_day=6, learner="me"):
    """`reviews` events: every day new cards and what is due; recalled with the chance that the learner's own weights
    give."""
    draw = random.Random(seed)
    own, plan = Scheduler(parameters=weights, enable_fuzzing=False), Scheduler(enable_fuzzing=False)
    memory, due, made, day = {}, {}, [], 0
    while len(made) < reviews:
        now = START + timedelta(days=day)
        for _ in range(cards_a_day):
            key = f"card{len(memory)}"
            memory[key], due[key] = Card(card_id=len(memory)), Card(card_id=len(memory))
        for key in sorted(key for key in memory if due[key].due <= now + timedelta(hours=12) or due[key].last_review is None):
            now += timedelta(seconds=20)
            known = memory[key].last_review is not None
            chance = own.get_card_retrievability(memory[key], now) if known else 0.6
            right = draw.random() < chance
            grade = draw.choices([2, 3, 4], [0.15, 0.7, 0.15])[0] if right else 1
            memory[key], _ = own.review_card(memory[key], Rating(grade), now)
            due[key], _ = plan.review_card(due[key], Rating(grade), now)
            made.append(Event(now, learner, key, "card", {"grade": grade}))
        day += 1
    return made[:reviews]
