"""deck review on the full screen: the same sitting and log as in plain mode."""

import asyncio
import io
import subprocess
import sys
from datetime import UTC, datetime
from itertools import groupby

import pytest

pytest.importorskip("textual")

from textual.widgets import Static

from sluicegate_study.app import main
from sluicegate_study.deck.collection import load_deck
from sluicegate_study.deck.log import read_log
from sluicegate_study.review.sitting import Sitting
from sluicegate_study.tui.review import ReviewProgram
from tiny_stages import SRC

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DECK = "Q: What is \x1b[31m[bold]a[/bold]?\nA: It is a [b]\nid: a\nwhy: [i]because[/i]\n\nQ: What is b?\nA: It is b\nid: b\nneeds: a\n"


@pytest.fixture
def deck(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.md").write_text(DECK)
    return tmp_path / "d"


def review(deck, steps, size=(60, 20), log="log.jsonl", **options):
    """Press keys; a name in brackets keeps the page under this name. Returns the program and the pages."""
    sitting = Sitting(load_deck(deck), deck / log, "person:ada", root=str(deck))
    program, pages = ReviewProgram(sitting, lambda: NOW, **options), {}

    async def act():
        async with program.run_test(size=size) as pilot:
            await pilot.pause()
            for named, some in groupby(steps, lambda step: step[:1] == "<"):
                if not named:
                    await pilot.press(*some)
                    await pilot.pause()
                    continue
                parts = ("head", *program.PARTS, "keys")
                for name in some:
                    pages[name] = "\n".join(str(program.query_one(f"#{part}", Static).render()) for part in parts)

    asyncio.run(act())
    return program, pages


def cards(path):
    return [(e.item, e.kind, {k: v for k, v in e.more.items() if k != "ms"}) for e in read_log(path).events]


def test_asked_answered_graded_and_logged_as_in_plain_mode(deck, monkeypatch):
    steps = ["<asked>", *"it", "space", *"is", "space", "a", "enter", "<shown>", "4", "enter", "<seen>", "1", "<again>"]
    program, pages = review(deck, steps, log="screen.jsonl")
    assert "What is \\x1b[31m[bold]a[/bold]?" in pages["<asked>"]
    assert "It is a" not in pages["<asked>"]
    assert "Judged: prompt" in pages["<shown>"]
    assert "= It is a [b]" in pages["<shown>"]
    assert "[i]because[/i]" in pages["<shown>"]
    assert "Judged" not in pages["<seen>"]
    assert "= It is b" in pages["<seen>"]
    assert program.grades == [1, 0, 0, 1]
    monkeypatch.setattr(sys, "stdin", io.StringIO("it is a\n4\n\n1\n"))
    words = ["--learner", "person:ada", "--now", NOW.isoformat(), "--log", str(deck / "plain.jsonl")]
    assert main(["deck", "review", str(deck), *words]) == 0
    assert cards(deck / "screen.jsonl") == cards(deck / "plain.jsonl")
    assert len(cards(deck / "plain.jsonl")) == 4


def test_confidence_is_asked_before_the_answer_is_shown(deck):
    steps = [*"ab", "enter", "<sure>", *"no", "enter", "<bad>", *"80", "enter", "3"]
    _, pages = review(deck, steps, confidence=True)
    assert "It is a" not in pages["<sure>"] + pages["<bad>"]
    assert "'no': expected a number from 0 to 100" in pages["<bad>"]
    (_, (_, _, more), *_) = cards(deck / "log.jsonl")
    assert (more["conf"], more["verdict"], more["grade"]) == (0.8, "reject", 3)


def test_suspending_before_and_after_the_answer(deck):
    review(deck, ["ctrl+s", *"it", "enter", "s", "<end>"])
    assert [(item, kind) for item, kind, _ in cards(deck / "log.jsonl")] == [("a", "suspend"), ("b", "suspend")]


def test_the_end(deck):
    program, pages = review(deck, ["enter", "4", "enter", "4", "<end>", "q"])
    assert "Nothing more is due or ready now." in pages["<end>"]
    assert "2 easy" in pages["<end>"]
    assert program.asked is None
    _, pages = review(deck, ["<end>"])
    assert "Nothing more" in pages["<end>"]


def test_a_limit(deck):
    program, pages = review(deck, ["enter", "4", "<end>"], limit=1)
    assert "1 answered, as you wished." in pages["<end>"]
    assert sum(program.grades) == 1


@pytest.mark.parametrize("stop", ["ctrl+c", "ctrl+q"])
def test_ending_in_the_middle_keeps_what_was_graded(deck, stop):
    program, _ = review(deck, ["enter", "4", *"half", stop])
    assert program.return_code == 0
    assert [item for item, kind, _ in cards(deck / "log.jsonl") if kind == "card"] == ["a"]


def test_digits_are_typed_into_an_answer_and_grade_only_after_it(deck):
    review(deck, ["4", "2", "enter", "x", "2"])
    (_, (_, _, more)) = cards(deck / "log.jsonl")
    assert (more["given"], more["grade"]) == ("42", 2)


def test_a_long_card_scrolls_by_keys(deck):
    (deck / "x.md").write_text("Q: " + "\n".join(f"line {n}" for n in range(60)) + "\nA: end\n")
    sitting = Sitting(load_deck(deck), deck / "log.jsonl", "person:ada", root=str(deck))
    program, places = ReviewProgram(sitting, lambda: NOW), []

    async def act():
        async with program.run_test(size=(60, 20)) as pilot:
            for key in ("pagedown", "down", "up", "pageup"):
                await pilot.press(key)
                await pilot.pause()
                places.append(program.query_one("#page").scroll_y)

    asyncio.run(act())
    assert places == [10, 11, 10, 0]


def test_a_terminal_gets_the_program_unless_plain_is_asked_for(deck, monkeypatch, capsys):
    """On a terminal the program runs; --plain, a pipe, a dumb terminal and a missing textual take lines."""
    from sluicegate_study.tui import prompts

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    ran = []
    monkeypatch.setattr(ReviewProgram, "run", lambda self: ran.append(self.sitting.learner))
    monkeypatch.setenv("TERM", "xterm")

    def start(*words, stdin=Terminal):
        ran.clear()
        monkeypatch.setattr(sys, "stdin", stdin(""))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        assert main(["deck", "review", str(deck), "--learner", "person:ada", *words]) == 0
        return bool(ran)

    assert start()
    assert not start("--plain")
    assert not start(stdin=io.StringIO)
    monkeypatch.setenv("TERM", "dumb")
    assert not start()
    monkeypatch.setenv("TERM", "xterm")
    capsys.readouterr()
    monkeypatch.setattr(prompts, "find_spec", lambda name: None)
    assert not start()
    assert "sluicegate-study[tui]" in capsys.readouterr().out


def test_the_programs_import_no_torch_and_the_command_line_no_textual():
    programs = "import sluicegate_study.tui.play, sluicegate_study.tui.review"
    for code, absent in ((programs, "torch"), ("import sluicegate.app.verbs", "textual")):
        script = f"import sys\n{code}\nassert not [name for name in sys.modules if name.split('.')[0] == {absent!r}]"
        subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": str(SRC)})
