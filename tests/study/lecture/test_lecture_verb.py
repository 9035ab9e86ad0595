"""sluicegate lecture, from notes to the report, through a pipe and on a terminal."""

import json
import os
import pty
import subprocess
import sys
import threading
from io import StringIO

import pytest

from sluicegate_study.app import main
from sluicegate_study.deck.collection import load_deck
from sluicegate_study.deck.log import read_log

FACTS = "Softmax turns \x1b[31mscores into weights.\n\nKeys offer content.\n\nQueries seek content.\n\n# Two\nValues carry information.\n"


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "my notes.md"
    path.write_text(FACTS)
    return path


def lecture(notes, monkeypatch, day, lines=(), *words):
    monkeypatch.setattr(sys, "stdin", StringIO("".join(f"{line}\n" for line in lines)))
    return main(["lecture", str(notes), "--learner", "me", "--now", f"2026-11-{day:02d}", *words])


def last(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def hidden(notes):
    """What the cold test hides, from the gap that was shown."""
    return {
        event.item: event.more["hidden"] for event in read_log(notes.with_name("my notes.lecture.jsonl")).events if event.kind == "cold"
    }


def test_from_notes_to_the_report(notes, monkeypatch, capsys):
    assert lecture(notes, monkeypatch, 1, (), "--json") == 0
    found = last(capsys)
    assert (found["stage"], found["claims"]) == ("reading", 4)
    claims = notes.with_name("my notes.claims.txt")
    claims.write_text(claims.read_text() + "blank: information\n")
    assert lecture(notes, monkeypatch, 1, ["90", "a lot", "101", "80"], "--json") == 0
    found = last(capsys)
    assert (found["stage"], found["left"]["reading"]) == ("reading", 2)
    assert lecture(notes, monkeypatch, 2, ["70", "60%"], "--seed", "9", "--days", "1", "--json") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "2 claims have cards, 2 have none" in out
    found = json.loads(out.splitlines()[-1])
    assert found["stage"] == "waiting"
    assert found["due"].startswith("2026-11-09")  # seven days were settled on the first day
    cards = notes.with_name("my notes.cards")
    assert len(load_deck(cards).cards) == 2
    assert lecture(notes, monkeypatch, 5, (), "--json") == 0
    assert last(capsys)["stage"] == "waiting"
    assert lecture(notes, monkeypatch, 10, ["nonsense", "40", "", ":q"], "--json") == 0
    out = capsys.readouterr().out
    assert "[...]" in out
    assert json.loads(out.splitlines()[-1])["left"] == {"reading": 0, "cold": 2, "sense": 2}
    # The second look waits for the whole cold test.
    assert lecture(notes, monkeypatch, 10, (), "--stage", "sense") == 2
    assert "still to be tested cold" in capsys.readouterr().err
    assert lecture(notes, monkeypatch, 10, [":s", "information", "95", "", "y"], "--json") == 0
    assert last(capsys)["left"] == {"reading": 0, "cold": 0, "sense": 2}
    assert lecture(notes, monkeypatch, 10, ["n", "", "y"], "--json") == 0
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert found["stage"] == "report"
    numbers = found["report"]
    assert (numbers["claims"], numbers["void"], numbers["overruled"], numbers["first_broken"]) == (3, 1, 0, "c1")
    assert numbers["accuracy"] == pytest.approx(1 / 3)
    assert numbers["gap"]["value"] == pytest.approx((0.9 + 0.8 + 0.6) / 3 - 1 / 3)
    assert numbers["sense"] == pytest.approx(2 / 3)
    assert numbers["verdict"].startswith("too few claims to tell")
    assert (numbers["chains"], numbers["rebuild_rate"]) == (1, 1.0)  # the chain with the void step does not count
    assert "first broken link: [c1]" in out
    mended = {card.id for card in load_deck(cards).cards if card.angle == "mend"}
    assert mended == {"my-notes-c1-mend", "my-notes-c2-mend"}
    assert load_deck(cards).problems == ()


def read_all(notes, monkeypatch, *words):
    lecture(notes, monkeypatch, 1)
    lecture(notes, monkeypatch, 1, ["50"] * 4, *words)


def test_an_overruled_verdict_is_logged(notes, monkeypatch, capsys):
    read_all(notes, monkeypatch)
    assert lecture(notes, monkeypatch, 10, ["zzz", "5"] * 4 + ["y", "n"] * 4, "--json") == 0
    found = last(capsys)["report"]
    assert (found["accuracy"], found["overruled"], found["sense"], found["broken"]) == (1.0, 4, 0.0, [])
    senses = [e.more for e in read_log(notes.with_name("my notes.lecture.jsonl")).events if e.kind == "sense"]
    assert [m["right"] for m in senses] == [True] * 4
    assert not notes.with_name("my notes.cards").joinpath("mend.md").exists()


def test_without_cards_there_is_one_arm(notes, monkeypatch, capsys):
    read_all(notes, monkeypatch, "--no-cards")
    assert not notes.with_name("my notes.cards").exists()
    capsys.readouterr()
    assert lecture(notes, monkeypatch, 1, (), "--stage", "report", "--json") == 0
    assert last(capsys)["report"]["missing"] == {"none": 20}


def test_a_cold_test_before_its_time_is_said(notes, monkeypatch, capsys):
    read_all(notes, monkeypatch)
    capsys.readouterr()
    assert lecture(notes, monkeypatch, 3, [":q"], "--stage", "cold") == 0
    assert "due only from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--days", "-1"], "--days"),
        (["--seed", "-1"], "--seed"),
        (["--stage", "split"], "left as it is"),
        (["--stage", "cold"], "no prediction yet"),
    ],
)
def test_mistakes(notes, monkeypatch, capsys, words, said):
    lecture(notes, monkeypatch, 1)
    capsys.readouterr()
    assert lecture(notes, monkeypatch, 1, (), *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_notes_without_claims_are_refused(tmp_path, monkeypatch, capsys):
    path = tmp_path / "x.md"
    path.write_text("Why?\n\n- So.\n")
    assert lecture(path, monkeypatch, 1) == 2
    assert "2 text(s) left out" in " ".join(capsys.readouterr().err.split())
    assert [p.name for p in tmp_path.iterdir()] == ["x.md"]
    path.write_text("So it is, as it was.\n")
    assert lecture(path, monkeypatch, 1) == 2
    assert "has no word that could be hidden" in " ".join(capsys.readouterr().err.split())


def test_a_log_cut_in_a_line_loses_that_line_only(notes, monkeypatch, capsys):
    read_all(notes, monkeypatch)
    log = notes.with_name("my notes.lecture.jsonl")
    log.write_bytes(log.read_bytes()[:-20])
    capsys.readouterr()
    assert lecture(notes, monkeypatch, 1, ["50"], "--json") == 0
    out = capsys.readouterr().out
    assert "1 line(s) of" in out
    assert json.loads(out.splitlines()[-1])["stage"] == "waiting"


def test_two_at_once_ask_nothing_twice_and_lose_nothing(tmp_path):
    notes = tmp_path / "n.md"
    notes.write_text("".join(f"Sentence number{n} speaks of matter{n}.\n\n" for n in range(30)))
    command = [sys.executable, "-m", "sluicegate_study", "lecture", str(notes), "--learner", "me", "--now", "2026-11-01"]
    script = (
        "import sys; from sluicegate_study.app import main; code = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", script, *command[3:]]
    subprocess.run(command, check=True, capture_output=True)
    done = []

    def run():
        done.append(subprocess.run(command, input="50\n" * 30, capture_output=True, text=True))

    both = [threading.Thread(target=run) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [d.returncode for d in done] == [0, 0]
    log = read_log(tmp_path / "n.lecture.jsonl")
    assert log.problems == ()
    assert {e.item for e in log.events if e.kind == "predict"} == {f"c{n}" for n in range(1, 31)}
    arms = {e.item: set() for e in log.events if e.kind == "arm"}
    for event in log.events:
        if event.kind == "arm":
            arms[event.item].add(event.more["arm"])
    assert all(len(found) == 1 for found in arms.values())
    ids = [card.id for card in load_deck(tmp_path / "n.cards").cards]
    assert len(ids) == len(set(ids)) == 15
    assert load_deck(tmp_path / "n.cards").problems == ()


def test_on_a_terminal(notes):
    script = "import sys; from sluicegate_study.app import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "lecture", str(notes), "--learner", "me", "--now", "2026-11-01", "--stage", "reading"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True) as process:
        os.close(theirs)
        os.write(ours, b"90\n80\n70\n60\n")
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:
            pass  # the terminal closes with the last process on it
        assert process.wait() == 0
    os.close(ours)
    assert b"the cold test is due from 2026-11-08" in said
    predicted = [e.more["p"] for e in read_log(notes.with_name("my notes.lecture.jsonl")).events if e.kind == "predict"]
    assert predicted == [0.9, 0.8, 0.7, 0.6]
