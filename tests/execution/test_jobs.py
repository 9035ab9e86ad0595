"""Which stage starts when, and what becomes of the others, whatever runs them."""

import dataclasses
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from sluicegate.cli.progress import ALL
from sluicegate.errors import UserError
from sluicegate.execution.jobs import Job, run_jobs
from sluicegate.runs.stage import Stage

OUT = Path("out")


class Pretended:
    """An executor whose tasks end one at a time, the oldest first, in the folder named like them or with the error that
    is told."""

    def __init__(self, places=1, errors=()):
        self.places, self.errors, self.begun, self.at_once, self.left = places, dict(errors), [], 0, None
        self._running = []

    @contextmanager
    def open_workers(self, most, progress):
        self.most = most
        try:
            yield self
        except BaseException as error:
            self.left = error
            raise

    def start(self, task):
        self.begun.append(task.title)
        self._running.append(task)
        self.at_once = max(self.at_once, len(self._running))

    def wait(self):
        task = self._running.pop(0)
        found = self.errors.get(task.title, task.out / task.title)
        if isinstance(found, BaseException) and not isinstance(found, Exception):
            raise found
        return [(task, found)]


@dataclass(frozen=True)
class Named(Stage):
    """A stage that is told from others by its words."""

    VERB: ClassVar[str] = "named"
    words: tuple[str, ...] = ()


def job(key, *needs, words=()):
    return Job(key, needs, lambda done: Named(words or (key, *(str(done[need]) for need in needs))), OUT)


def test_a_stage_waits_for_those_it_needs_and_the_earlier_of_two_comes_first():
    where = Pretended()
    done = run_jobs([job("c", "b"), job("a"), job("b", "a"), job("d")], where)
    assert where.begun == ["a", "b", "c", "d"]
    assert done == {key: OUT / key for key in "abcd"}
    assert list(done) == ["c", "a", "b", "d"], "in the order of the jobs, so that what is written of them is always the same"


def test_no_more_run_at_a_time_than_there_are_places():
    few, many = Pretended(places=2), Pretended(places=9)
    for where in (few, many):
        run_jobs([job(key) for key in "abcde"], where)
    assert (few.at_once, many.at_once, many.most) == (2, 5, 5)


def test_a_stage_that_several_want_runs_once_whether_it_is_running_or_over():
    same = ("same",)
    where = Pretended(places=2)
    done = run_jobs([job("a", words=same), job("b", words=same), job("x", "a"), job("c", "x", words=same)], where)
    assert where.begun == ["a", "x"]
    assert done["a"] == done["b"] == done["c"]


def test_a_failure_is_told_of_all_that_wanted_the_stage_and_stops_no_others():
    same = ("same",)
    where = Pretended(errors={"a": UserError("no such data")})
    jobs = [job("a", words=same), job("b", "a"), job("c", "b"), job("late", "good", words=same), job("good")]
    with pytest.raises(UserError) as error:
        run_jobs(jobs, where)
    assert where.begun == ["a", "good"]
    told = str(error.value).splitlines()
    assert told[0].startswith("4 of 5 stages did not finish; the others are kept.")
    assert told[1:] == ["  a: no such data", "  late: no such data", "  b: not run: it needs a", "  c: not run: it needs b"]
    assert where.left is None  # the workers were not broken off


def test_an_error_nobody_foresaw_keeps_its_trace():
    error = OSError("disk")
    with pytest.raises(UserError, match="a: OSError: disk") as raised:
        run_jobs([job("a"), job("b")], Pretended(errors={"a": error}))
    assert raised.value.__cause__ is error


def test_what_can_never_start_is_named():
    with pytest.raises(UserError, match="2 of 3 stages") as error:
        run_jobs([job("a", "b"), job("b", "a"), job("c")], Pretended())
    assert "a: not run: it waits for a stage that waits for it" in str(error.value)


def test_an_interrupt_reaches_the_workers():
    where = Pretended(errors={"a": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job("a")], where)
    assert isinstance(where.left, KeyboardInterrupt)


def test_what_can_be_spared_fails_alone_and_its_reason_is_handed_back():
    where, failed = Pretended(errors={"b": UserError("no norm gains")}), {}
    spare = [dataclasses.replace(each, spare=True) for each in (job("b"), job("c", "b"))]
    done = run_jobs([job("a"), *spare, job("d")], where, None, failed)
    assert done == {"a": OUT / "a", "d": OUT / "d"}
    assert failed == {"b": "no norm gains", "c": "not run: it needs b"}
    with pytest.raises(UserError, match=r"2 of 3 stages did not finish(?s:.*)a: broken"):
        run_jobs([job("a"), *spare[:1], job("d")], Pretended(errors={"b": UserError("no"), "a": UserError("broken")}), None, {})


def test_how_many_stages_have_ended_is_told_with_the_time_left(monkeypatch):
    clock = iter([0.0, 60.0, 60.0, 60.1, 60.1, 180.1])
    monkeypatch.setattr("sluicegate.execution.jobs.time.monotonic", lambda: next(clock))
    told = []
    run_jobs([job("a"), job("b"), job("c")], Pretended(), lambda *told_of: told.append(told_of))
    assert [(part, done, total) for part, done, total, _ in told] == [(ALL, n, 3) for n in range(4)]
    assert [numbers.get("minutes left") for *_, numbers in told] == [None, 2.0, 1.0, 0.0], "b was finished before: it took no time"
    told.clear()
    monkeypatch.undo()
    run_jobs([job("a")], Pretended(), lambda *told_of: told.append(told_of))
    assert not told
