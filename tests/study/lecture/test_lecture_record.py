"""The log of a lecture: the first word counts, edits lose predictions, and the coin is fair."""

from datetime import UTC, datetime, timedelta

import pytest

from sluicegate_study.deck.log import Event, Log
from sluicegate_study.lecture.lecture import Claim
from sluicegate_study.lecture.record import Course, draw_arms, make_arm_events

START = datetime(2026, 11, 1, tzinfo=UTC)
CLAIMS = [Claim("a", "One step"), Claim("b", "Another step", ("a",))]


def event(kind, name="a", day=0.0, learner="me", rev=None, **more):
    return Event(START + timedelta(days=day), learner, name, kind, {"rev": rev or CLAIMS[name == "b"].rev, **more})


def course(*events):
    return Course.replay(CLAIMS, Log(events), "me")


ARMS = tuple(make_arm_events(course().records, "me", START, seed=3, days=7, cards=True))
READ = (*ARMS, event("predict", p=0.9), event("predict", "b", 1, p=0.5))
COLD = (event("cold", day=9, given="x", hidden="step", verdict="reject", conf=0.4), event("void", "b", 9))


def test_the_stages_follow_each_other():
    day = [START + timedelta(days=n) for n in range(12)]
    assert course().stage(day[0]) == "reading"
    assert course(*READ[:3]).stage(day[9]) == "reading"
    assert course(*READ).stage(day[7]) == "waiting"  # the last prediction counts
    assert course(*READ).due == day[8]
    assert course(*READ).stage(day[8]) == "cold"
    assert course(*READ, COLD[0]).stage(day[9]) == "cold"
    tested = course(*READ, *COLD)
    assert tested.stage(day[9]) == "sense"
    assert [r.claim.name for r in tested.pending("sense")] == ["a"]
    done = course(*READ, *COLD, event("sense", day=9, right=True, sense=True))
    assert done.stage(day[9]) == "report"
    (record,) = done.done
    assert (record.predicted, record.verdict, record.right, record.overruled, record.confidence) == (0.9, "reject", True, True, 0.4)


def test_the_first_word_counts_and_other_learners_do_not():
    twice = course(*READ, *COLD, event("predict", day=2, p=0.1), event("cold", day=10, given="step", hidden="step", verdict="accept"))
    assert (twice.records[0].predicted, twice.records[0].given) == (0.9, "x")
    assert course(event("predict", learner="you", p=0.2)).records[0].predicted is None
    assert course(event("sense", right=True, sense=True)).records[0].right is None  # before any test


def test_a_reworded_claim_has_no_prediction():
    found = course(event("predict", rev="000000000000", p=0.2))
    assert (found.records[0].predicted, found.withdrawn) == (None, 1)


@pytest.mark.parametrize(
    "broken", [event("predict", p=7), event("predict"), event("predict", p="x"), event("arm", arm="x", seed=0, days=1)]
)
def test_events_that_make_no_sense_are_counted_and_left_out(broken):
    found = course(broken)
    assert found.unread == 1
    assert (found.records[0].predicted, found.records[0].arm) == (None, None)


def test_the_coin_gives_equal_arms_and_is_fair():
    claims = [Claim(f"c{n}", f"text {n}") for n in range(41)]
    heads = 0
    for seed in range(100):
        arms = draw_arms(claims, seed)
        assert arms == draw_arms(claims, seed)
        carded = [name for name, arm in arms.items() if arm == "cards"]
        assert len(carded) in (20, 21)
        heads += arms["c0"] == "cards"
    assert 30 < heads < 70
    assert set(draw_arms(claims, 0, cards=False).values()) == {"none"}
