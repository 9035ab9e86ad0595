"""The campaigns find what they look for: nothing as the library is, and something once a part of it is broken."""

import contextlib

import pytest

from campaign import kills, races
from sluicegate.runs import directory


def write_in_place(path, text):
    """What `write_atomic` is there to avoid: for a moment half of the file is there."""
    path.write_text(text[: len(text) // 2])
    with path.open("a") as file:
        file.write(text[len(text) // 2 :])


def break_writing():
    directory.write_atomic = write_in_place


def break_the_lock():
    directory.hold = lambda path: contextlib.nullcontext()


def sums(found):
    return {key: value for key, value in found.items() if key != "kinds"}


def test_killed_runs_come_out_equal(capfd):
    found = kills.run(3, 1, only=("train", "relearn"), timed=False)
    assert sums(found) == {"tried": 3, "equal": 3, "accepted": 0, "broken": 0, "tracebacks": 0, "hangs": 0}, capfd.readouterr().err


def test_races_come_out_clear(capfd):
    found = races.run(3, 1, only=("first start, 2", "rm and start", "another run, same folder"))
    assert sums(found) == {"tried": 3, "clear": 3, "accepted": 0, "broken": 0, "tracebacks": 0, "hangs": 0}, capfd.readouterr().err


@pytest.mark.slow
def test_files_that_are_written_in_place_are_found_out():
    assert kills.run(6, 1, only=("train",), timed=False, before=break_writing)["broken"]


@pytest.mark.slow
def test_a_lock_that_holds_nothing_is_found_out():
    assert races.run(3, 1, only=("first start, 2",), before=break_the_lock)["broken"]
