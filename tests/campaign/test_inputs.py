"""The campaign of bad inputs finds what is broken, and counts it."""

import pytest

from campaign import inputs
from campaign.bounded import run


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
    monkeypatch.setattr("campaign.bounded.MEMORY", 2**20)
    assert run([], place, call=lambda: len(b"1" * 2**22) * 0).kind == "memory"


@pytest.mark.parametrize(
    ("kind", "n"),
    [
        ("rows", 40),
        ("decks", 24),
        ("packages", 26),
        ("recipes", 40),
        ("configs", 12),
        ("models", 75),
        ("runfolders", 16),
        ("vectors", 30),
        ("images", 46),
        ("words", 16),
    ],
)
def test_the_known_bad_inputs_of_each_kind_end_well(kind, n, monkeypatch):
    """What once broke, written out, and the first random ones; many more: `python -m tests.campaign inputs 5000`."""
    for name in ("HF_HUB_OFFLINE", "SLUICEGATE_KEEP_SECONDS", "COLUMNS", "OMP_NUM_THREADS", "SLUICEGATE_CACHE"):
        monkeypatch.setenv(name, "0")  # is set to its own by the campaign, and restored
    found = inputs.try_kind(kind, 0, n, seed=11)
    assert len(found) == n
    assert [f"{f.note}: {f.ended.kind}, {f.ended.text[-300:]}" for f in found if f.failed] == []


def test_an_input_accepted_without_a_reason_counts_as_broken():
    ended = inputs.Ended("accepted", "", 0.1)
    found = [inputs.Found("rows", n, "", [], ended, reason) for n, reason in enumerate(["", "sound"])]
    assert inputs.tally(found) == {"tried": 2, "clear": 0, "accepted": 1, "broken": 1, "tracebacks": 0, "hangs": 0, "memory": 0}
