"""sluicegate deck review through a pipe."""

import io
import json
import subprocess
import sys

import pytest

from sluicegate_study.app import main
from sluicegate_study.deck.log import read_log

DECK = "Q: What is \x1b[31ma?\nA: It is a\nid: a\nwhy: because\n\nQ: What is b?\nA: It is b\nid: b\nneeds: a\n"


@pytest.fixture
def deck(tmp_path):
    (tmp_path / "x.md").write_text(DECK)
    return tmp_path


def review(deck, monkeypatch, lines, *words):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return main(["deck", "review", str(deck), "--learner", "person:ada", "--now", "2026-11-22T12:00:00Z", *words])


def test_cards_are_asked_graded_and_logged(deck, monkeypatch, capsys):
    assert review(deck, monkeypatch, ["it is a", "5", "4", "", "1"], "--json") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[new] What is \\x1b[31ma?" in out
    assert "= It is a\n  (because)" in out
    assert "'5' is no grade" in out
    assert "judged: accept" in out
    assert json.loads(out.splitlines()[-1])["grades"] == [1, 0, 0, 1]
    cards = [e for e in read_log(deck / "log.jsonl").events if e.kind == "card"]
    assert [(e.item, e.grade, e.more.get("given")) for e in cards] == [("a", 4, "it is a"), ("b", 1, None)]
    assert [e.learner for e in cards] == ["person:ada"] * 2


def test_input_that_ends_or_quits_keeps_what_was_graded(deck, monkeypatch, capsys):
    assert review(deck, monkeypatch, ["", "4", "half an answer"]) == 0
    assert "1 answers" in capsys.readouterr().out
    assert review(deck, monkeypatch, ["q"]) == 0
    assert review(deck, monkeypatch, ["", "4"], "--limit", "1") == 0
    assert sum(e.kind == "card" for e in read_log(deck / "log.jsonl").events) == 2


def test_suspending(deck, monkeypatch, capsys):
    assert review(deck, monkeypatch, ["s", "", "4"]) == 0
    assert "[new] What is b?" in capsys.readouterr().out


def test_an_edit_is_told_and_can_be_taken_back(deck, monkeypatch, capsys):
    (deck / "x.md").write_text("Q: What is the colour of the sky at noon?\nA: Blue\n")
    review(deck, monkeypatch, ["", "4"])
    (deck / "x.md").write_text("Q: What is the color of the sky at noon?\nA: Blue\n")
    capsys.readouterr()
    review(deck, monkeypatch, [])
    told = capsys.readouterr().out
    key = told.split("--unlink ")[1].split()[0]
    assert "edited" in told
    assert "nothing more" in told
    assert review(deck, monkeypatch, [], "--unlink", key) == 0
    capsys.readouterr()
    review(deck, monkeypatch, ["q"])
    assert "[new] What is the color" in capsys.readouterr().out


def test_progress_in_stats(deck, monkeypatch, capsys):
    review(deck, monkeypatch, ["", "4"])
    capsys.readouterr()
    assert main(["deck", "stats", str(deck), "--learner", "person:ada", "--now", "2026-11-22T12:05:00Z", "--json"]) == 0
    progress = json.loads(capsys.readouterr().out.splitlines()[-1])["progress"]
    assert progress == {
        "reviewed": 1,
        "known": 1,
        "due": 0,
        "ready": 1,
        "waiting": 0,
        "suspended": 0,
        "answers": 1,
        "lapses": 0,
        "slow": [],
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "-1"], "--limit"),
        (["--retention", "2"], "retention"),
        (["--new", "-1"], "--new"),
        (["--unlink", "x"], "nothing is linked"),
        (["--log", "."], "folder"),
    ],
)
def test_mistakes(deck, monkeypatch, capsys, words, said):
    assert review(deck, monkeypatch, [], *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_time_without_zone_is_refused(deck, capsys):
    assert main(["deck", "review", str(deck), "--now", "2026-11-22"]) == 2
    assert "with its zone" in " ".join(capsys.readouterr().err.split())


def test_a_real_pipe_without_torch(deck):
    script = (
        "import sys; from sluicegate_study.app import main; code = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "deck", "review", str(deck), "--json"]
    done = subprocess.run(command, input="\n3\n\n3\nq\n", capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["answers"] == 2


def test_stated_confidence_is_logged_and_told(deck, monkeypatch, capsys):
    assert review(deck, monkeypatch, ["it is a", "very", "90", "4", "", "1"], "--confidence") == 0
    assert "expected a number from 0 to 100" in " ".join(capsys.readouterr().out.split())
    cards = [e for e in read_log(deck / "log.jsonl").events if e.kind == "card"]
    assert [e.more.get("conf") for e in cards] == [0.9, None]
    assert main(["deck", "stats", str(deck), "--learner", "person:ada", "--json"]) == 0
    out = capsys.readouterr().out
    assert "calibration, all: too few questions" in out
    found = json.loads(out.splitlines()[-1])["calibration"]["all"]
    assert found["over"] == {"value": pytest.approx(-0.1), "low": None, "high": None}
