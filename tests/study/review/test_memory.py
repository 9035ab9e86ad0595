"""Replayed states: equal to the library's, and to the equations written down a second time."""

import math
import random
from datetime import UTC, datetime, timedelta

import pytest
from fsrs import Card as State
from fsrs import Rating, Scheduler
from fsrs.scheduler import DEFAULT_PARAMETERS as W

from sluicegate_study.deck.log import Event, Log, append, read_log
from sluicegate_study.errors import UserError
from sluicegate_study.review.memory import Memory, make_scheduler, replay_links, resolve_link

START = datetime(2026, 11, 22, 19, tzinfo=UTC)


def review(t, grade, item="a", learner="person:ada"):
    return Event(t, learner, item, "card", {"grade": grade})


def history(seed, reviews=12):
    draw, t = random.Random(seed), START
    for _ in range(reviews):
        yield t, draw.choice([1, 2, 3, 3, 3, 4])
        t += timedelta(minutes=draw.choice([1, 15, 60 * 30, 60 * 24 * draw.randint(1, 60)]), microseconds=draw.randint(0, 999))


def equations(past):
    """Stability and difficulty after a history, by FSRS-6 as it is published; a check that does not use the library."""
    s = d = 0.0
    last = None
    factor = 0.9 ** (-1 / W[20]) - 1
    for t, g in past:
        first = W[4] - math.exp(W[5] * (g - 1)) + 1
        if last is None:
            s, d = W[g - 1], first
        else:
            days = (t - last).days
            r = (1 + factor * days / s) ** -W[20]
            if days < 1:
                growth = math.exp(W[17] * (g - 3 + W[18])) * s ** -W[19]
                s *= max(growth, 1) if g >= 2 else growth
            elif g == 1:
                s = min(W[11] * d ** -W[12] * ((s + 1) ** W[13] - 1) * math.exp(W[14] * (1 - r)), s / math.exp(W[17] * W[18]))
            else:
                bonus = {2: W[15], 3: 1.0, 4: W[16]}[g]
                s *= 1 + math.exp(W[8]) * (11 - d) * s ** -W[9] * (math.exp(W[10] * (1 - r)) - 1) * bonus
            easy = W[4] - math.exp(W[5] * 3) + 1
            d = W[7] * easy + (1 - W[7]) * (d + (10 - d) / 9 * -W[6] * (g - 3))
        s, d, last = max(s, 0.001), min(max(d, 1), 10), t
    return s, d


@pytest.mark.parametrize("seed", range(20))
def test_a_replayed_state_is_the_librarys(seed, tmp_path):
    past = list(history(seed))
    path = tmp_path / "log.jsonl"
    for t, grade in past:
        append(path, [review(t, grade), review(t, 1, learner="person:bob"), review(t, 4, item="b")])
    memory = Memory.replay(read_log(path), "person:ada")
    state, plain = State(card_id=1), Scheduler(enable_fuzzing=False)
    for t, grade in past:
        state, _ = plain.review_card(state, Rating(grade), t)
    mine = memory.states["a"]
    assert mine.stability == pytest.approx(state.stability, abs=1e-9)
    assert mine.difficulty == pytest.approx(state.difficulty, abs=1e-9)
    assert (mine.due, mine.state, mine.step) == (state.due, state.state, state.step)
    later = past[-1][0] + timedelta(days=40)
    assert memory.recall("a", later) == pytest.approx(plain.get_card_retrievability(state, later), abs=1e-9)
    stability, difficulty = equations(past)
    assert mine.stability == pytest.approx(stability, rel=1e-9)
    assert mine.difficulty == pytest.approx(difficulty, rel=1e-9)


def test_a_card_is_known_after_a_success_while_it_is_recalled():
    memory = Memory.replay(Log((review(START, 1),)), "person:ada")
    assert not memory.known("a", START)
    memory.add(review(START + timedelta(minutes=5), 3))
    assert memory.known("a", START + timedelta(minutes=5))
    assert not memory.known("a", START + timedelta(days=365))
    assert not memory.known("b", START)
    assert memory.recall("b", START) == 0
    assert memory.due("b") is None


def test_a_clock_that_went_back_does_no_harm():
    memory = Memory.replay(Log(), "person:ada")
    memory.add(review(START, 3))
    memory.add(review(START - timedelta(days=3), 3))
    assert memory.states["a"].last_review == START


def test_links_move_progress_and_can_be_taken_back():
    def link(n, kind, old, new):
        return Event(START + timedelta(days=n), "x", old, kind, {"to": new})

    events = [review(START, 3), link(1, "relink", "a", "b"), link(2, "relink", "b", "c")]
    assert set(Memory.replay(Log(tuple(events)), "person:ada").states) == {"c"}
    assert set(Memory.replay(Log((*events, link(3, "unlink", "b", "c"))), "person:ada").states) == {"b"}
    back = replay_links([*events, link(3, "relink", "c", "a")])
    assert resolve_link(back, "c") == resolve_link(back, "b") == "a"
    assert resolve_link({"a": "b", "b": "a"}, "a") in ("a", "b")


def test_weights_and_retention_are_checked():
    with pytest.raises(UserError, match="21"):
        make_scheduler([1.0])
    with pytest.raises(UserError, match="retention"):
        make_scheduler(retention=1.0)
