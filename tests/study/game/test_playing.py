"""A game of tossups: what each step is worth, what is logged, and that the log alone tells the game."""

import numpy as np
import pytest

from sluicegate_study.errors import UserError
from sluicegate_study.game import playing
from sluicegate_study.game.bots import Plan, draw_plan, find_mark, find_tick
from sluicegate_study.game.players import OPPONENTS, TICKS
from study_games import LINE, bonus, deck, table, tossup

SILENT = Plan()
DRAWS = 2000


@pytest.mark.parametrize(
    ("rules", "at", "said", "value"),
    [
        ("naqt", 10, "alpha", 15),
        ("naqt", 11, "alpha", 10),
        ("naqt", 19, "beta", -5),
        ("naqt", 20, "beta", 0),
        ("naqt", 0, "beta", -5),
        ("acf", 10, "alpha", 10),
        ("acf+powers", 10, "alpha", 15),
        ("pace", 10, "alpha", 20),
        ("pace", 10, "beta", 0),
        ("tossup-only", 3, "rigil", 15),
        ("tossup-only", 3, "", -5),
    ],
)
def test_what_an_answer_is_worth(tmp_path, monkeypatch, rules, at, said, value):
    game = table(tmp_path, monkeypatch, SILENT, rules=rules)
    game.buzz(said, at=at)
    assert game.match.ours == game.match.turn.value == value
    (event,) = game.events("buzz")
    assert (event.more["value"], event.more["word"], event.more["pos"]) == (value, at, at / 20)


def test_a_buzz_is_logged_with_all_that_the_coach_needs(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, SILENT)
    game.read(7)
    game.match.buzz()
    game.clock.pass_(2.5)
    game.match.answer("alpha centauri")
    assert game.match.stage == "sure"
    assert game.events() == []  # nothing is ruled before the chance is stated
    game.match.state(0.7)
    about, event = game.events()
    assert (about.kind, about.more["bot"], about.more["rules"]["power"]) == ("game", "even", 15)
    assert event.more == {
        "game": about.item, "pos": 0.35, "word": 7, "clue": 2, "tick": 7, "mark": 10, "power": True, "alone": False, "d": 0, "n": 2,
        "category": "Astronomy", "given": "alpha centauri", "verdict": "accept", "conf": 0.7, "ms": 2500, "value": 15,
    }  # fmt: skip


def test_prompts_are_asked_back_and_heard_together(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, SILENT)
    game.buzz("centauri", 0.5, at=3)
    assert (game.match.stage, game.match.turn.asking.ask) == ("answering", "which star?")
    game.match.answer("alpha")
    assert game.match.stage == "ruled"
    (event,) = game.events("buzz")
    assert (event.more["given"], event.more["then"], event.more["value"]) == ("centauri", ["alpha"], 15)


def test_prompts_come_to_an_end(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, SILENT, confidence=False)
    game.buzz("centauri", at=3)
    game.match.answer("centauri")
    game.match.answer("centauri")
    assert (game.match.stage, game.match.ours) == ("ruled", -5)


def test_an_answer_in_two_parts(tmp_path, monkeypatch):
    of = deck(0, 0)
    line = "**Martha Washington** [prompt on Washington; reject George Washington; reject Martha]"
    of = type(of)("d", (type(of.files[0])(entries=(tossup(1, line),)),))
    for said, right in (("Martha", True), ("George", False), ("Denzel", False)):
        game = table(tmp_path, monkeypatch, SILENT, of=of, confidence=False)
        game.buzz("Washington", at=3)
        game.match.answer(said)
        assert game.match.turn.asking.right is right


def test_the_bot_buzzes_where_it_planned_unless_the_player_is_faster(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(word=8, right=True))
    game.read(8)
    assert game.match.stage == "reading"
    game.match.advance()
    assert (game.match.stage, game.match.theirs, game.match.turn.at) == ("guessing", 15, 8)
    faster = table(tmp_path, monkeypatch, Plan(word=8, right=True))
    faster.buzz("alpha", at=8)
    assert (faster.match.ours, faster.match.theirs) == (15, 0)


def test_after_the_bots_miss_nobody_else_can_lose(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(word=8, right=False))
    game.read(9)
    assert (game.match.stage, game.match.theirs, game.match.turn.alone) == ("reading", -5, True)
    game.buzz("beta", 0.5, at=12)
    assert game.match.ours == 0
    mine = game.events("buzz")[-1]
    assert (mine.more["alone"], mine.more["d"]) == (True, 5)
    game.match.go_on()
    assert game.match.theirs == -5  # the bot has had its attempt


@pytest.mark.parametrize(
    ("planned", "points"),
    [
        (Plan(word=15, right=True, right_late=True), 10),
        (Plan(word=15, right=True, right_late=False), 0),
        (Plan(word=0, ventures=True, right_late=True), 10),
        (Plan(word=0, ventures=False, right_late=True), 0),
        (Plan(word=4, right=True, right_late=True), 10),  # it wanted this very word
    ],
)
def test_our_miss_leaves_the_rest_to_the_bot(tmp_path, monkeypatch, planned, points):
    game = table(tmp_path, monkeypatch, planned)
    game.buzz("beta", 0.5, at=4)
    assert game.match.theirs == 0
    game.match.go_on()
    assert game.match.theirs == points


def test_a_tossup_that_nobody_answers(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, SILENT)
    game.read(20)
    assert game.match.stage == "reading"
    game.match.advance()
    assert game.match.stage == "guessing"
    game.match.answer("alpha")
    game.match.state(0.4)
    assert (game.match.stage, game.match.ours) == ("over", 0)
    (event,) = game.events("pass")
    assert (event.more["verdict"], event.more["conf"], event.more["tick"]) == ("accept", 0.4, TICKS)


def test_the_last_word_is_not_an_interruption_for_the_bot_either(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(word=20, right=False))
    game.read(21)
    assert (game.match.theirs, game.match.stage) == (0, "reading")


def test_a_let_go_tossup_is_decided_at_the_score_before_the_bots_points(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(word=8, right=True))
    game.read(9)
    game.match.answer("")
    (event,) = game.events("pass")
    assert (event.more["d"], event.more["word"], event.more.get("given")) == (0, 8, None)


def test_bonus_after_our_tossup(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, SILENT)
    game.buzz("alpha", at=20)
    game.match.go_on()
    game.match.go_on()
    for said in ("star1", "no", "star3"):
        assert game.match.stage == "part"
        game.match.answer(said)
        game.match.go_on()
    assert (game.match.ours, game.match.stage, game.match.index) == (30, "reading", 1)
    assert [(e.more["part"], e.more["value"], e.more["level"]) for e in game.events("bonus")] == [(1, 10, "e"), (2, 0, "m"), (3, 10, "h")]


def test_the_bots_bonus_is_drawn(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(word=12, right=True, parts=(True, True, False, True, True, True)))
    game.to("over")
    game.match.go_on()
    assert game.match.theirs == 10 + 20
    assert game.match.index == 1


def test_no_bonus_without_any_in_the_deck_and_none_in_tossup_only(tmp_path, monkeypatch):
    for options in ({"of": deck(2, 0)}, {"rules": "tossup-only"}):
        game = table(tmp_path, monkeypatch, SILENT, **options)
        game.buzz("alpha", at=20)
        game.match.go_on()
        game.match.go_on()
        assert (game.match.stage, game.match.index) == ("reading", 1)


def test_bouncebacks(tmp_path, monkeypatch):
    """What we miss of our bonus the bot may answer, and the other way round."""
    game = table(tmp_path, monkeypatch, Plan(parts=(False, True, False, False, False, False)), rules="pace")
    game.buzz("alpha", at=20)
    game.match.go_on()
    game.match.go_on()
    for _ in range(3):
        game.match.answer("no")
        game.match.go_on()
    assert (game.match.ours, game.match.theirs) == (10, 10)
    game = table(tmp_path, monkeypatch, Plan(word=20, right=True, parts=(False, True, False, False, False, False)), rules="pace")
    game.to("part")
    assert (game.match.theirs, game.match.bonus.place, game.match.bonus.mine) == (10, 0, False)
    game.match.answer("star1")
    game.match.go_on()
    assert (game.match.ours, game.match.theirs, game.match.bonus.place) == (10, 20, 2)


def test_overriding_a_buzz_moves_the_points_and_the_bonus(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, SILENT)
    game.buzz("ceti alpha", 0.9, at=5)
    assert game.match.ours == -5
    game.match.override()
    assert game.match.ours == 15
    game.match.go_on()
    game.match.go_on()
    assert game.match.stage == "part"
    game.match.answer("starone")
    game.match.override()
    assert game.match.ours == 25
    game.match.override()
    assert game.match.ours == 15
    assert [(e.more["of"], e.more["verdict"], e.more["value"]) for e in game.events("override")] == [
        ("buzz", "accept", 15),
        ("bonus", "accept", 10),
        ("bonus", "reject", 0),
    ]


def test_overriding_ends_with_going_on(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(ventures=True, right_late=True))
    game.buzz("beta", 0.9, at=5)
    game.match.go_on()
    with pytest.raises(UserError, match="nothing to override"):
        game.match.override()


def test_a_step_out_of_turn_is_our_mistake_and_changes_nothing(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, SILENT)
    for step in (game.match.go_on, lambda: game.match.answer("x"), lambda: game.match.state(0.5)):
        with pytest.raises(RuntimeError, match="reading"):
            step()
    assert game.events() == []


def test_the_end_and_overtime(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, SILENT, of=deck(6, 6), tossups=1)
    game.to("over")
    game.match.go_on()
    assert (game.match.stage, game.match.turn.left, game.match.count) == ("reading", 0, 4)  # naqt: three tossups
    game.to("over")
    game.match.go_on()
    game.buzz("alpha", 0.5, at=4)
    game.match.go_on()
    game.match.go_on()
    assert game.match.stage == "reading"  # no bonus in overtime, and all three are played
    game.to("finished")
    assert (game.match.index, game.match.ours) == (4, 15)
    (end,) = game.events("end")
    assert end.more == {"game": game.match.game, "us": 15, "them": 0}


def test_sudden_death_lasts_until_it_is_decided_or_the_deck_is_empty(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, SILENT, of=deck(4, 0), tossups=1, rules="acf")
    game.to("finished")
    assert game.match.index == 4
    game = table(tmp_path, monkeypatch, SILENT, of=deck(4, 0), tossups=1, rules="acf")
    game.to("over")
    game.match.go_on()
    game.buzz("alpha", 0.5, at=4)
    game.to("finished")
    assert game.match.index == 2


def test_tossups_heard_least_come_first(tmp_path, monkeypatch):
    first = table(tmp_path, monkeypatch, SILENT, of=deck(6, 0), tossups=3, bot="none")
    first.to("finished")
    played = {event.item for event in first.events("pass")}
    second = table(tmp_path, monkeypatch, SILENT, of=deck(6, 0), tossups=3, bot="none")
    assert not played & {tossup.key for tossup in second.match.tossups[:3]}
    assert second.match.turn.again == 0


def test_the_same_seed_plays_the_same_game(tmp_path):
    def played(folder, seed):
        game = table(tmp_path / folder, of=deck(9, 0), tossups=9, seed=seed)
        game.to("finished")
        return [(e.learner, e.item, e.more.get("word"), e.more.get("value")) for e in game.events() if e.kind in ("buzz", "pass")]

    assert played("a", 1) == played("b", 1)
    assert played("a2", 1) != played("c", 2)


def test_alone_at_the_table(tmp_path):
    game = table(tmp_path, bot="none", of=deck(3, 0))
    game.to("finished")
    assert (game.match.theirs, len(game.events("buzz"))) == (0, 0)


def test_leaving_in_the_middle_loses_nothing_that_was_typed(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, SILENT)
    game.read(4)
    game.match.buzz()
    game.match.answer("alpha")
    game.match.close()
    assert [(e.more["value"], e.more.get("conf")) for e in game.events("buzz")] == [(15, None)]
    game = table(tmp_path, monkeypatch, Plan(word=4, right=True))
    game.read(5)
    game.match.close()
    assert len(game.events("pass")) == 1
    game = table(tmp_path, monkeypatch, SILENT)
    game.read(4)
    game.match.buzz()
    game.match.close()  # nothing was said: nothing happened
    assert len(game.events("buzz")) == 2


def test_a_game_that_is_not_begun_leaves_no_trace(tmp_path):
    game = table(tmp_path)
    game.read(3)
    game.match.close()
    assert not game.match.path.exists()


def test_reading_on_by_clues(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(word=12, right=False))
    game.match.read_on()
    assert (game.match.turn.at, game.match.turn.clue) == (5, 1)
    game.match.read_on()
    assert game.match.turn.text.endswith("w10. (*)")
    game.match.read_on()
    assert (game.match.turn.at, game.match.turn.alone) == (12, True)  # stopped by the bot
    game.match.read_on()
    assert game.match.turn.at == 15
    game.match.read_on(2)
    assert game.match.turn.at == 17


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bot": "huge"}, "weak, even, strong, or none"),
        ({"seed": -1}, "0 or more"),
        ({"category": "Opera"}, "Astronomy"),
        ({"of": deck(0, 1)}, "no tossups"),
    ],
)
def test_mistakes(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        table(tmp_path, **options)


def test_a_confidence_that_is_none(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, SILENT)
    game.match.buzz()
    game.match.answer("alpha")
    with pytest.raises(UserError, match="from 0 to 1"):
        game.match.state(1.2)


def test_categories(tmp_path):
    of = deck(1, 0)
    entries = (tossup(1, category="Music/Opera"), tossup(2, category="History"), bonus())
    of = type(of)("d", (type(of.files[0])(entries=entries),))
    assert [t.key for t in table(tmp_path, of=of, category="music").match.tossups] == ["tu1"]


@pytest.mark.parametrize("name", OPPONENTS)
@pytest.mark.parametrize("words", [20, 57])
def test_bots_buzz_as_often_and_as_well_as_the_model_says(name, words):
    opponent = OPPONENTS[name]
    drawn = [draw_plan(opponent, words, 3, words, n) for n in range(DRAWS)]
    buzzed = [p for p in drawn if p.word]
    ticks = np.array([find_tick(p.word, words) for p in buzzed])
    for tick in (5, 10, 15, TICKS - 1, TICKS):
        # A word ends where its tick may have begun: at most one tick late.
        share, error = (ticks <= tick).sum() / DRAWS, 4 * 0.5 / DRAWS**0.5
        assert opponent.cumulative()[tick - (tick < TICKS)] - error < share < opponent.cumulative()[tick] + error
    chances = opponent.accuracy()[ticks - 1]
    assert abs(np.mean([p.right for p in buzzed]) - chances.mean()) < 4 * 0.5 / len(buzzed) ** 0.5
    for made, expected in (
        ([p.ventures for p in drawn], opponent.venture),
        ([p.right_late for p in drawn], opponent.high),
        ([known for p in drawn for known in p.parts[:3]], opponent.bonus),
    ):
        assert abs(np.mean(made) - expected) < 4 * 0.5 / len(made) ** 0.5


def test_ticks():
    assert [find_tick(word, 38) for word in (0, 1, 2, 3, 19, 37, 38)] == [1, 1, 1, 2, 10, 19, 20]
    assert [find_tick(word, 3) for word in (1, 2, 3)] == [7, 13, 20]
    assert (find_tick(1, 1), find_mark(0, 20), find_mark(20, 38)) == (20, 0, 10)


def test_the_deck_of_these_tests_is_what_it_says():
    made = tossup()
    assert (len(made.words), made.power, len(made.clues), made.answer) == (20, 10, 4, LINE)


def test_an_interruption_right_after_the_log_was_written_counts_once(tmp_path, monkeypatch):
    game = table(tmp_path, bot="none")
    write = playing.append

    def interrupted(*words):
        write(*words)
        raise KeyboardInterrupt

    game.match.buzz()
    game.match.answer("beta")
    monkeypatch.setattr(playing, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        game.match.state(0.5)
    monkeypatch.setattr(playing, "append", write)
    game.match.close()
    assert len(game.events("buzz")) == 1
