"""The log: what is added is read, a cut line costs that line only, and two writers do not disturb each other."""

import json
import multiprocessing
import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate_study.deck.log import Event, append, read_log
from sluicegate_study.errors import UserError

START = datetime(2026, 11, 22, 19, tzinfo=UTC)


def review(n, grade=3, item="a", **more):
    return Event(START + timedelta(minutes=n), "person:ada", item, "card", {"rev": "x", "grade": grade, **more})


def test_what_is_added_is_read(tmp_path):
    path = tmp_path / "sub" / "log.jsonl"
    assert read_log(path).events == ()
    events = [
        review(0, given="naïve\u2028\n\x1b"),
        review(1, 1, ms=5200),
        Event(START + timedelta(days=1), "model:m", "t", "buzz", {"pos": 0.5}),
    ]
    append(path, events[:1])
    append(path, [])
    append(path, events[1:])
    assert list(read_log(path).events) == events
    assert len(path.read_text().split("\n")) == 4


@pytest.mark.parametrize("cut", range(1, 120, 7))
def test_a_cut_last_line_loses_that_line_only(tmp_path, cut):
    path = tmp_path / "log.jsonl"
    append(path, [review(0, given="é"), review(1, given="é"), review(2, given="é")])
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - cut)
    kept = read_log(path)
    # Cut at the very end of the line nothing is lost but the line's end.
    assert len(kept.events) == (3 if cut == 1 else 2)
    assert len(kept.problems) == (0 if cut == 1 or cut >= len(review(2, given="é").line().encode()) else 1)
    append(path, [review(3)])
    assert [e.t for e in read_log(path).events] == [e.t for e in [*kept.events, review(3)]]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        '{"t": "2026-11-22T19:00:00Z"}',
        '{"t": "2026-11-22T19:00:00", "learner": "x", "item": "a", "kind": "card", "grade": 3}',
        '{"t": "yesterday", "learner": "x", "item": "a", "kind": "card", "grade": 3}',
        '{"t": "2026-11-22T19:00:00Z", "learner": "x", "item": "a", "kind": "card", "grade": 7}',
        '{"t": "2026-11-22T19:00:00Z", "learner": "x", "item": "a", "kind": "card", "grade": true}',
        '{"t": "2026-11-22T19:00:00Z", "learner": "x", "item": "a", "kind": "card", "grade": 3, "conf": NaN}',
        '{"t": "2026-11-22T19:00:00Z", "learner": "x", "item": 4, "kind": "card", "grade": 3}',
        '{"t": "2026-11-22T19:00:00Z", "learner": "x", "item": "a", "kind": "relink"}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_bad_line_is_named_and_the_rest_counts(tmp_path, line):
    path = tmp_path / "log.jsonl"
    append(path, [review(0)])
    with path.open("ab") as file:
        file.write(line.encode("utf-8", "surrogateescape") + b"\n")
    append(path, [review(1)])
    log = read_log(path)
    assert len(log.events) == 2
    assert [p.line for p in log.problems] == [2]


def test_events_are_in_the_order_of_their_times(tmp_path):
    append(tmp_path / "log", [review(2), review(0), review(1)])
    assert [e.t for e in read_log(tmp_path / "log").timeline] == [review(n).t for n in range(3)]
    with pytest.raises(UserError, match="folder"):
        read_log(tmp_path)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5), st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.integers(), st.booleans())
    )
)
def test_any_event_is_one_line_and_comes_back(more):
    from sluicegate_study.deck.log import _event

    more = {k: v for k, v in more.items() if k not in ("t", "learner", "item", "kind")}
    event = Event(START, "x", "y", "buzz", more)
    assert event.line().count("\n") == 1
    assert _event(json.loads(event.line())) == event


def _write(path, who):
    for n in range(100):
        append(path, [review(n, item=f"{who}-{n}", given="x" * 3000), review(n, item=f"{who}+{n}")])


def test_two_writers_at_once(tmp_path):
    path = tmp_path / "log.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, who)) for who in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    log = read_log(path)
    assert log.problems == ()
    assert {e.item for e in log.events} == {f"{who}{sign}{n}" for who in "ab" for sign in "-+" for n in range(100)}
    # What one call adds stays together.
    items = [json.loads(line)["item"] for line in path.read_text().splitlines()]
    assert all(first.replace("-", "+") == second for first, second in zip(items[::2], items[1::2], strict=True))
    assert os.path.getsize(path) > 600_000
