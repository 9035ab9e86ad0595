"""The campaign of bad inputs finds what is broken, and counts it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.campaign import inputs
from tests.campaign.child import run


@pytest.fixture
def place(tmp_path):
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: 0, "accepted"),
        (lambda: print("error: no") or 2, "clear"),
        (lambda: 2, "broken"),
        (lambda: print("error\n" * 50) or 2, "broken"),
        (lambda: 1 // 0, "traceback"),
        (lambda: [0] * 10**12 and 0, "traceback"),
        (lambda: __import__("os").kill(__import__("os").getpid(), 9), "broken"),
        (lambda: __import__("time").sleep(60), "hang"),
    ],
)
def test_how_a_command_ends_is_told_apart(place, call, kind):
    assert run([], place, limit=2.0, call=call).kind == kind


def test_memory_beyond_the_bound_is_told(place, monkeypatch):
    monkeypatch.setattr("tests.campaign.child.MEMORY", 2**20)
    assert run([], place, call=lambda: len(b"1" * 2**22) * 0).kind == "memory"


def test_a_few_inputs_of_each_kind_end_well():
    """Thirty of the campaign's inputs; the whole of it is `python -m tests.campaign inputs 5000`."""
    counts = inputs.run_campaign(30, seed=11)
    assert counts["tried"] == 30
    assert counts["clear"] >= 10
    assert {name: counts[name] for name in ("broken", "tracebacks", "hangs", "memory")} == {
        "broken": 0,
        "tracebacks": 0,
        "hangs": 0,
        "memory": 0,
    }


def test_an_input_accepted_without_a_reason_counts_as_broken():
    ended = inputs.Ended("accepted", "", 0.1)
    found = [inputs.Found("rows", n, "", [], ended, reason) for n, reason in enumerate(["", "sound"])]
    assert inputs.tally(found) == {"tried": 2, "clear": 0, "accepted": 1, "broken": 1, "tracebacks": 0, "hangs": 0, "memory": 0}
