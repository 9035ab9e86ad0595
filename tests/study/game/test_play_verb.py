"""sluicegate play through a pipe, as a user meets it."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sluicegate_study.app import main
from sluicegate_study.deck.collection import load_deck
from sluicegate_study.deck.log import read_log
from tiny_stages import SRC

DECK = """+++
deck = "sky"
category = "Astronomy"
rules = "acf+powers"
+++

Q: What is a star?
A: A ball of hot gas
id: star

T: One clue \x1b[31mred [bold]of[/bold] this star. | Second clue. (*) | For 10 points, name this star.
ANSWER: **Sirius** [prompt on dog star by asking "\x1b[2Jwhich name?"]
id: tu-sirius
cards: star

B: Lead, for 10 points each:
[10e] First part?
ANSWER: **one**
[10m] Second part?
ANSWER: **two**
[10h] Third part?
ANSWER: **three**
id: bo
"""


@pytest.fixture
def deck(tmp_path):
    folder = tmp_path / "sky"
    folder.mkdir()
    (folder / "sky.md").write_text(DECK)
    return folder


def play(deck, monkeypatch, lines, *words):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return main(["play", str(deck), "--learner", "person:ada", "--bot", "none", *words])


def test_a_game_from_the_first_word_to_the_sheet(deck, monkeypatch, capsys):
    lines = ["", "b", "dog star", "80 %", "sirius", "", "one", "", "2", "o", "", "x", ""]
    assert play(deck, monkeypatch, lines, "--json") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "One clue \\x1b[31mred [bold]of[/bold] this star." in out
    assert "prompt: \\x1b[2Jwhich name?" in out
    assert "right, +15. The answer: Sirius" in out
    assert "The rest: Second clue. (*) For 10 points, name this star." in out
    assert "You have 25." in out
    found = json.loads(out.splitlines()[-1])
    assert (found["us"], found["points"], found["powers"], found["ppb"], found["over"]) == (15 + 10, 25, 1, 10.0, True)
    assert found["coach"]["decisions"][0]["sure"] == 0.8
    assert found["calibration"]["all"]["over"]["value"] == pytest.approx(-0.2)
    assert found["cards"] == []
    assert read_log(deck / "log.jsonl").problems == ()


def test_numbers_are_answers_too(deck, monkeypatch, capsys):
    """2 is what the answer line calls two."""
    assert play(deck, monkeypatch, ["b", "sirius", "", "", "1", "", "2", "", "3", ""], "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["us"] == 15 + 30


def test_a_missed_tossup_is_learnt_with_deck_review(deck, monkeypatch, capsys):
    assert play(deck, monkeypatch, ["", "", "b", "canopus", "10", ""], "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["us"], found["cards"]) == (-5, ["missed-tu-sirius-2"])
    loaded = load_deck(deck)
    assert loaded.problems == ()
    assert [(card.key, card.needs) for card in loaded.cards] == [("missed-tu-sirius-2", ("star",)), ("star", ())]
    monkeypatch.setattr(sys, "stdin", io.StringIO("a ball\n4\nsirius\n3\n"))
    assert main(["deck", "review", str(deck), "--learner", "person:ada"]) == 0
    out = capsys.readouterr().out
    assert out.index("What is a star?") < out.index("Second clue. Name this star.")
    assert "judged: accept" in out


def test_the_file_of_cards_and_none(deck, monkeypatch, capsys, tmp_path):
    assert play(deck, monkeypatch, ["b", "x", "", ""], "--no-cards") == 0
    assert [path.name for path in sorted(deck.iterdir())] == ["log.jsonl", "sky.md"]
    assert play(deck, monkeypatch, ["b", "x", "", ""], "--missed", str(tmp_path / "m.md")) == 0
    assert [card.needs for card in load_deck(tmp_path / "m.md").cards] == [()]
    assert play(deck, monkeypatch, ["b", "x", "", ""], "--missed", str(tmp_path / "m.txt")) == 2
    assert "m.txt" in capsys.readouterr().err


def test_a_tossup_let_go(deck, monkeypatch, capsys):
    assert play(deck, monkeypatch, ["", "", "", "", "sirius", "40", "o", "o", ""], "--json") == 0
    out = capsys.readouterr().out
    assert "* Time is up." in out
    assert "your guess counts as wrong" in out
    found = json.loads(out.splitlines()[-1])
    assert (found["guesses"]["all"]["right"], found["us"], found["buzzes"]) == (1.0, 0, 0)
    assert play(deck, monkeypatch, ["", "", "", ""], "--no-guess", "--no-confidence") == 0
    assert "what would you have said" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "lines", [[], [""], ["b"], ["b", "sirius"], ["b", "dog star"], ["b", "dog star", "5"], ["b", "sirius", "50"], ["q"]]
)
def test_the_input_may_end_anywhere(deck, monkeypatch, capsys, lines):
    assert play(deck, monkeypatch, lines, "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    typed = len(lines) > 1
    assert found["over"] is False
    assert found["tossups"] == typed
    if typed:
        assert [e.more["given"] for e in read_log(deck / "log.jsonl").events if e.kind == "buzz"] == [lines[1]]


def test_what_is_no_command_is_said_again(deck, monkeypatch, capsys):
    assert play(deck, monkeypatch, ["x\x1b", "b", "sirius", "much", "101", "5", "?", "q"]) == 0
    out = capsys.readouterr().out
    assert "'x\\x1b': expected nothing, b or q" in out
    assert "'much': expected a number from 0 to 100, or nothing, or q" in out
    assert "'?': expected nothing, o or q" in out


def test_words_at_a_time(deck, monkeypatch, capsys):
    play(deck, monkeypatch, ["", "", "b", "sirius", "60", "q"], "--words", "2")
    (event,) = [e for e in read_log(deck / "log.jsonl").events if e.kind == "buzz"]
    assert event.more["word"] == 4


def test_statistics_of_all_games(deck, monkeypatch, capsys):
    assert main(["play", str(deck), "--stats"]) == 2
    assert "no game of person:" in capsys.readouterr().err
    for lines in (["b", "sirius", "90", *[""] * 7], ["", "b", "x", "50", "", ""]):
        play(deck, monkeypatch, lines)
    capsys.readouterr()
    for flag in ("--stats", "--report"):
        assert main(["play", str(deck), flag, "--learner", "person:ada", "--json"]) == 0
        out = capsys.readouterr().out
        found = json.loads(out.splitlines()[-1])
        assert (found["games"], found["tossups"], found["heard_before"], found["powers"], found["negs"]) == (2, 2, 1, 1, 1)
        assert found["calibration"]["all"]["verdict"].startswith("too few questions")
        assert "2 games, 2 finished." in out


def test_rules_come_from_the_deck_and_can_be_others(deck, monkeypatch):
    def power(*words):
        (deck / "log.jsonl").unlink(missing_ok=True)
        play(deck, monkeypatch, ["b", "sirius", "90", "q"], *words)
        events = read_log(deck / "log.jsonl").events
        return events[0].more["rules"]["name"], events[1].more["value"]

    assert power() == ("acf+powers", 15)
    assert power("--rules", "pace") == ("pace", 20)
    mine = deck / "mine.toml"
    mine.write_text("power = 30\nneg = 0\n")
    assert power("--rules", str(mine)) == ("mine", 30)


def test_the_bot_plays(deck, monkeypatch, capsys):
    """Against each strength, letting everything go: a sheet, and the bot's points in it."""
    for bot in ("weak", "even", "strong"):
        assert play(deck, monkeypatch, [""] * 40, "--bot", bot, "--seed", "3", "--json") == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found["over"]
        assert found["us"] == 0
        assert found["them"] in {-5, 0, 10, 15, 20, 25, 30, 35, 40, 45}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bot", "x"], "weak, even, strong"),
        (["--rules", "x"], "naqt"),
        (["--words", "-1"], "--words"),
        (["--wpm", "-1"], "--wpm"),
        (["--wpm", "nan"], "--wpm"),
        (["--tossups", "-1"], "0 or more"),
        (["--category", "Opera"], "Astronomy"),
        (["--learner", " "], "no name"),
    ],
)
def test_mistakes(deck, monkeypatch, capsys, words, said):
    assert play(deck, monkeypatch, [], *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (deck / "log.jsonl").exists()


def test_the_deck_that_comes_along(monkeypatch, capsys, tmp_path):
    """Without a deck, the shipped tossups; what is kept of them lies with the user."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.StringIO("b\nnonsense\n10\n\n\nq\n"))
    assert main(["play", "--bot", "none", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["log"].startswith(str(tmp_path))
    assert load_deck(tmp_path / "sluicegate" / "decks" / "tossups" / "missed.md").problems == ()
    assert len(found["cards"]) == 1


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_loses_nothing(deck, kill):
    # A shell starts what it sends to the background with SIGINT ignored, and a child inherits that: the child takes it
    # back first.
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from sluicegate_study.app import main"
    command = [sys.executable, "-u", "-c", f"{start}; sys.exit(main(sys.argv[1:]))"]
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    words = ["play", str(deck), "--bot", "none", "--learner", "person:ada", "--json"]
    running = subprocess.Popen([*command, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        running.stdin.write("b\nbetelgeuse\n70\n")
        running.stdin.flush()
        deadline = time.monotonic() + 60
        log = deck / "log.jsonl"
        while not (log.exists() and log.read_text().endswith("-5}\n")) and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(kill)
        out, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    (event,) = [e for e in read_log(deck / "log.jsonl").events if e.kind == "buzz"]
    assert (event.more["given"], event.more["conf"], event.more["value"]) == ("betelgeuse", 0.7, -5)
    if kill == signal.SIGINT:
        assert running.returncode == 130
        found = json.loads(out.splitlines()[-1])
        assert (found["negs"], found["over"], len(found["cards"])) == (1, False, 1)
    assert main(["play", str(deck), "--stats", "--learner", "person:ada"]) == 0
