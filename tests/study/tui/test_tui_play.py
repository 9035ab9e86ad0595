"""play on the full screen, driven by keys as a person would; the log must be what plain mode writes."""

import asyncio
import io
import sys
from itertools import groupby

import pytest

pytest.importorskip("textual")

from textual.widgets import Input, Static

from sluicegate_study.app import main
from sluicegate_study.deck.log import read_log
from sluicegate_study.game.bots import Plan
from sluicegate_study.tui.play import PlayProgram
from study_games import deck, table

SMALL = (60, 20)


def run(program, keys, size=SMALL):
    """Press keys (or call functions) one after another; returns the program as it is then, with what is on the page."""

    async def act():
        async with program.run_test(size=size) as pilot:
            for calls, some in groupby(keys, callable):
                if not calls:
                    await pilot.press(*some)
                    await pilot.pause()
                    continue
                for call in some:
                    done = call(program)
                    if asyncio.iscoroutine(done):
                        await done
                    await pilot.pause()

    asyncio.run(act())
    return program


def page(program, *parts):
    """The text of the page, or of some parts of it."""
    return "\n".join(str(program.query_one(f"#{part}", Static).render()) for part in parts or ("head", *program.PARTS, "keys"))


def screen(found, name="page"):
    """A step that keeps what is on the page at this point."""
    return lambda program: found.__setitem__(name, page(program))


def keys(text):
    return ["space" if c == " " else c for c in text]


def test_a_tossup_word_by_word_then_buzz_answer_chance_and_ruling(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(), bot="none")
    found = {}
    steps = ["enter", "right", "right", "right", screen(found, "read"), "space", screen(found, "buzzed"), *keys("alpha"), "enter"]
    steps += [screen(found, "sure"), "7", "0", "enter", screen(found, "ruled")]
    run(PlayProgram(game.match, wpm=0), steps)
    assert "w1 w2 w3\n" in found["read"]
    assert "w4" not in found["read"]
    assert "w1 w2 w3 [buzz]" in found["buzzed"]
    assert "Right" not in found["sure"]
    assert "Right, +15" in found["ruled"]
    assert "The answer: alpha centauri" in found["ruled"]
    assert "star number" in found["ruled"]  # the rest of the tossup
    assert "you 15" in found["ruled"]
    (event,) = game.events("buzz")
    assert (event.more["word"], event.more["conf"], event.more["value"], event.more["given"]) == (3, 0.7, 15, "alpha")


def test_the_same_log_as_in_plain_mode(tmp_path, monkeypatch):
    """One game played both ways: the same events with the same content, times and numbers of the game aside."""
    (tmp_path / "d").mkdir()
    text = "T: One clue of this star. | Second clue. (*) | Name this star.\nANSWER: **Sirius** [prompt on dog star]\nid: a\n\n"
    text += "B: Lead\n[10] First?\nANSWER: **one**\n[10] Second?\nANSWER: **two**\n[10] Third?\nANSWER: **three**\nid: b\n"
    (tmp_path / "d" / "x.md").write_text(text)
    lines = ["", "b", "dog star", "60", "sirius", "o", "o", "", "one", "", "x", "o", "", "", ""]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    assert main(["play", str(tmp_path / "d"), "--bot", "none", "--learner", "person:ada", "--log", str(tmp_path / "plain.jsonl")]) == 0
    from sluicegate_study.deck.collection import load_deck

    game = table(tmp_path, of=load_deck(tmp_path / "d"), bot="none")
    pressed = ["enter", *["right"] * 5, "space", *keys("dog star"), "enter", *"60", "enter", *"sirius", "enter", "o", "o", "enter"]
    pressed += [*"one", "enter", "enter", "x", "enter", "o", "enter", "enter", "enter"]
    run(PlayProgram(game.match, wpm=0), pressed)

    def told(path):
        rows = [(e.learner, e.kind, {k: v for k, v in e.more.items() if k not in ("game", "ms")}) for e in read_log(path).events]
        return [(learner, kind, more) for learner, kind, more in rows]

    assert told(game.match.path) == told(tmp_path / "plain.jsonl")
    assert [kind for _, kind, _ in told(game.match.path)][-1] == "end"


def test_prompt_complaint_and_override(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(), bot="none")
    found = {}
    steps = ["enter", "right", "space", *"centauri", "enter", "x", "enter", screen(found, "bad"), *"50", "enter", screen(found, "asked")]
    steps += [*"beta", "enter", screen(found, "wrong"), "o", screen(found, "right"), "enter"]
    run(PlayProgram(game.match, wpm=0), steps)
    assert "'x': expected a number from 0 to 100, or nothing" in found["bad"]
    assert "Prompt: which star?" in found["asked"]
    assert "Wrong, -5" in found["wrong"]
    assert "o: I was right" in found["wrong"]
    assert "Right, +15" in found["right"]
    assert game.match.stage == "part"


def test_the_bot_and_a_guess(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(word=2, right=True), cards=tmp_path / "missed.md")
    found = {}
    steps = ["enter", "right", "right", "right", screen(found, "bot"), "space", *"beta", "enter", "enter", screen(found, "over"), "enter"]
    run(PlayProgram(game.match, wpm=0), steps)
    assert "The even team interrupts: right, +15." in found["bot"]
    assert "The answer" not in found["bot"]  # not before the guess
    assert "Wrong   you said: beta" in found["over"]
    assert len(game.match.added) == 1
    assert [e.more["given"] for e in game.events("pass")] == ["beta"]  # a space that came too late does not count


def test_bonus_and_the_sheet_at_the_end(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(), of=deck(1, 1), bot="none")
    found = {}
    steps = ["enter", "space", *"alpha", "enter", *"90", "enter", "enter", screen(found, "bonus")]
    for n in (1, 2, 3):
        steps += [*f"star{n}", "enter", "enter"]
    run(PlayProgram(game.match, wpm=0), [*steps, screen(found, "end"), "q"])
    assert "Your bonus. About stars:" in found["bonus"]
    assert "Part 1 of 3: part 1" in found["bonus"]
    assert "You have 45." in found["end"]
    assert "Coach: you stated a chance on 1 of 1 tossup" in found["end"]


def test_the_coach_speaks_after_a_tossup(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan())
    found = {}

    async def heard(program):
        await program.workers.wait_for_complete()

    steps = ["enter", "right", "space", *"beta", "enter", *"10", "enter", heard, screen(found), "enter", screen(found, "later")]
    run(PlayProgram(game.match, wpm=0), steps)
    assert "Coach: at tick 1 of 20" in found["page"]
    assert "waiting was better" in found["page"]
    assert "Coach:" in found["later"]  # still the same tossup


def test_nothing_of_a_deck_is_markup_or_steers_the_terminal(tmp_path, monkeypatch):
    from sluicegate_study.deck.cards import Bonus, DeckFile, Head, Part, Tossup
    from sluicegate_study.deck.collection import make_deck

    bad = "[bold red]x[/] \x1b[31mred\x07 [link=http://e]y[/link] $text {z} [/]"
    entries = (
        Tossup(f"{bad} this thing. | end", f"**{bad}**", id="t"),
        Bonus(bad, (Part(bad, bad),), id="b"),
    )
    of = make_deck("d", [DeckFile(Head(category=bad), entries)])
    game = table(tmp_path, monkeypatch, Plan(), of=of, bot="none")
    found = {}
    steps = ["enter", *["right"] * 5, "space", *"zed", "enter", *"50", screen(found, "asked"), "enter", screen(found, "ruled"), "o"]
    steps += ["enter", screen(found, "bonus"), "enter", screen(found, "part"), "enter", screen(found, "end")]
    shot = []
    run(PlayProgram(game.match, wpm=0), [*steps, lambda program: shot.append(program.export_screenshot())])
    shown = "[bold red]x[/] \\x1b[31mred\\x07 [link=http://e]y[/link] $text {z} [/]"
    for name in ("asked", "ruled", "bonus", "part"):
        assert "[bold red]x[/] \\x1b[31mred\\x07 [link=http://e]y[/link]" in " ".join(found[name].split()), name
    assert shown in " ".join(found["bonus"].split())
    assert not any("\x1b" in text or "\x07" in text for text in [*found.values(), *shot])


@pytest.mark.parametrize("stop", ["ctrl+c", "ctrl+q"])
def test_ending_while_typing(tmp_path, monkeypatch, stop):
    game = table(tmp_path, monkeypatch, Plan(), bot="none")
    program = run(PlayProgram(game.match, wpm=0), ["enter", "right", "space", *"alpha", "enter", *"50", "enter", "enter", *"star", stop])
    assert program.return_code == 0
    assert [e.kind for e in game.events()] == ["game", "buzz"]


def test_reading_by_the_clock(tmp_path, monkeypatch):
    """Words appear by themselves, pause when told, and the time after the last word runs out."""
    game = table(tmp_path, monkeypatch, Plan(), of=deck(1, 0), bot="none")

    async def until(ready):
        for _ in range(400):
            if ready():
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"never came: {game.match.stage} at {game.match.turn.at}")

    found = {}
    program = PlayProgram(game.match, wpm=2000, wait=0.2)
    steps = ["enter", lambda _: until(lambda: game.match.turn.at >= 3), "p", lambda _: found.__setitem__("at", game.match.turn.at)]
    steps += [lambda _: asyncio.sleep(0.2), lambda _: found.__setitem__("then", game.match.turn.at), "space", screen(found), "p"]
    run(program, [*steps, lambda _: until(lambda: game.match.stage == "guessing")])
    assert found["at"] == found["then"]
    assert "p: go on reading" in found["page"]
    assert game.match.turn.read


def test_the_time_to_answer_runs_out(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(), bot="none", confidence=False)

    async def ruled(_):
        for _ in range(400):
            if game.match.stage == "ruled":
                return
            await asyncio.sleep(0.02)

    run(PlayProgram(game.match, wpm=0, time=1.5), ["enter", "right", "space", *"alp", ruled])
    assert [e.more["given"] for e in game.events("buzz")] == ["alp"]  # what was typed by then


def test_the_bot_answers_within_the_time_after_the_last_word(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(word=20, right=True), of=deck(1, 0))

    async def guessing(_):
        for _ in range(400):
            if game.match.stage == "guessing":
                return
            await asyncio.sleep(0.02)

    run(PlayProgram(game.match, wpm=2000, wait=0.4), ["enter", guessing])
    assert game.match.theirs == 10


@pytest.mark.parametrize("size", [(40, 12), (60, 16), (160, 50)])
def test_keys_are_on_the_screen_at_any_size(tmp_path, monkeypatch, size):
    game = table(tmp_path, monkeypatch, Plan(), bot="none")
    seen = []

    def look(program):
        line, bar = program.query_one("#typed", Input), program.query_one("#keys", Static)
        seen.append((bar.region.bottom, bar.region.right, line.region.bottom <= bar.region.y, program.query_one("#page").region.height))

    run(PlayProgram(game.match, wpm=0), ["enter", *["right"] * 19, "space", look, *"x", "enter", look], size=size)
    for bottom, right, above, height in seen:
        assert bottom == size[1]
        assert right <= size[0]
        assert above
        assert height >= 3
