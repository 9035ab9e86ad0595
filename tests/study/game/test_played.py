"""What the log tells of games: the numbers by hand, overrides, several learners, and lines that are broken."""

import math

import pytest

from sluicegate_study.deck.log import read_log
from sluicegate_study.errors import UserError
from sluicegate_study.formatting import nan_to_none
from sluicegate_study.game.bots import Plan
from sluicegate_study.game.gamesheet import format_advice, format_sheet
from sluicegate_study.game.played import advise, count_statistics, list_stated_answers, replay_games
from study_games import deck, table


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Five tossups alone: a power at word 4 (of 20), a ten at 15, a neg at 10, a wrong one at the end, one let go; one
    bonus of 20."""
    game = table(tmp_path, monkeypatch, Plan(), of=deck(5, 1), bot="none")
    game.buzz("alpha", 0.9, at=4)
    game.match.go_on()
    game.match.go_on()
    for said in ("star1", "star2", "x"):
        game.match.answer(said)
        game.match.go_on()
    for said, sure, at in (("alpha", 0.7, 15), ("beta", 0.6, 10), ("beta", 0.2, 20)):
        game.buzz(said, sure, at=at)
        game.to("over")
        game.match.go_on()
    game.read(21)
    game.match.answer("alpha")
    game.match.state(0.3)
    game.to("finished")
    return game


def games(table):
    return replay_games(read_log(table.match.path), "person:ada")


def test_the_numbers_by_hand(played):
    numbers = count_statistics(games(played))
    assert numbers == {
        "games": 1,
        "finished": 1,
        "tossups": 5,
        "heard_before": 0,
        "buzzes": 4,
        "powers": 1,
        "tens": 1,
        "negs": 1,
        "wrong": 1,
        "points": 15 + 20 + 10 - 5,
        "ppg": 40.0,
        "per_20": 160.0,
        "bonuses": 1,
        "ppb": 20.0,
        "celerity": pytest.approx((0.8 + 0.25) / 2),
        "power_rate": 0.5,
        "conversion": 0.4,
        "bpa": pytest.approx((0.8 + 0.25) / 5),
        "overrides": 0,
    }
    assert games(played)[0].ours == played.match.ours == 40


def test_the_log_agrees_with_the_game_whatever_happens(tmp_path):
    """Ten games against drawn bots, with overrides, prompts and bouncebacks: points from the log are the points on the
    table."""
    for seed in range(10):
        game = table(tmp_path, of=deck(8, 8), seed=seed, rules=("naqt", "acf", "pace")[seed % 3], bot=("weak", "even", "strong")[seed % 3])
        steps = 0
        while game.match.stage != "finished":
            steps += 1
            if game.match.overridable and (steps + seed) % 5 == 0:
                game.match.override()
            if game.match.stage == "reading":
                game.match.buzz() if (steps + seed) % 11 == 0 else game.match.advance()
            elif game.match.stage == "sure":
                game.match.state((steps % 10) / 10)
            elif game.match.stage in ("answering", "guessing", "part"):
                game.match.answer(("alpha", "centauri", "", "star2", "rigil")[(steps + seed) % 5])
            else:
                game.match.go_on()
        last = games(game)[-1]
        assert (last.ours, last.theirs, last.finished) == (game.match.ours, game.match.theirs, True)
    assert len(games(game)) == 10
    lines, numbers = format_sheet(games(game))
    assert numbers["games"] == 10
    assert numbers["heard_before"] > 0
    assert max(map(len, lines)) <= 62


def test_calibration_takes_buzzes_and_guesses_apart(played):
    assert [(s.confidence, s.right, s.category) for s in list_stated_answers(games(played))] == [
        (0.9, True, "Astronomy"),
        (0.7, True, "Astronomy"),
        (0.6, False, "Astronomy"),
        (0.2, False, "Astronomy"),
    ]
    assert [(s.confidence, s.right) for s in list_stated_answers(games(played), "pass")] == [(0.3, True)]


def test_what_bounced_is_no_bonus_of_ours(tmp_path, monkeypatch):
    plan = Plan(word=20, right=True, parts=(False,) * 6)
    game = table(tmp_path, monkeypatch, plan, of=deck(1, 1), rules="pace")
    game.to("part")
    game.match.answer("star1")
    game.to("finished")
    numbers = count_statistics(games(game))
    assert (numbers["points"], numbers["bonuses"]) == (10, 0)


def test_overriding_a_guess(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(), of=deck(1, 0), bot="none", cards=tmp_path / "missed.md")
    game.read(21)
    game.match.answer("beta")
    game.match.state(0.5)
    game.match.override()
    game.to("finished")
    assert [s.right for s in list_stated_answers(games(game), "pass")] == [True]
    assert (game.match.ours, game.match.added) == (0, [])


def test_overrides_count(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(), of=deck(2, 0), bot="none")
    game.buzz("beta", 0.9, at=4)
    game.match.override()
    game.to("finished")
    (one,) = games(game)
    numbers = count_statistics([one])
    assert (one.ours, numbers["powers"], numbers["negs"], numbers["overrides"]) == (15, 1, 0, 1)
    assert [s.right for s in list_stated_answers([one])] == [True]


def test_the_coach_reads_the_log(played):
    advice = advise(games(played))
    assert [(a.decision.buzzed, a.decision.tick, a.decision.mark, a.decision.left, a.decision.sure) for a in advice] == [
        (True, 4, 10, 5, 0.9),
        (True, 15, 10, 4, 0.7),
        (True, 10, 10, 3, 0.6),
        (True, 20, 10, 2, 0.2),
        (False, 20, 10, 1, 0.3),
    ]
    assert all(math.isnan(a.win) for a in advice)
    assert advice[-1].mistaken  # nothing is lost by an answer at the end
    assert advice[-1].points == pytest.approx(0.3 * (10 + 3 * 10 * 0.55))
    assert "buzzing was better; it cost 8.0 points" in format_advice(advice[-1])


def test_an_unfinished_game_counts_with_what_was_played(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(), bot="none")
    game.buzz("alpha", 0.5, at=4)
    numbers = count_statistics(games(game))
    assert (numbers["games"], numbers["finished"], numbers["tossups"], numbers["points"]) == (1, 0, 1, 15)
    assert "not finished" in format_sheet(games(game))[0][0]


def test_learners_share_a_log(played):
    assert replay_games(read_log(played.match.path), "person:bob") == []


def test_a_log_cut_off_or_spoilt_loses_these_lines_only(played):
    path = played.match.path
    lines = path.read_text().splitlines()
    spoilt = lines[1].replace('"pos": 0.2', '"pos": "x"')
    assert spoilt != lines[1]
    path.write_text("\n".join([lines[0], spoilt, *lines[2:-1], lines[-1][:40]]))
    numbers = count_statistics(games(played))
    assert (numbers["tossups"], numbers["finished"]) == (4, 0)
    path.write_text("\n".join(lines[1:]))  # without its beginning nothing is known of a game
    assert games(played) == []


@pytest.mark.parametrize(
    "head",
    [
        '{"rules": {"power": 7}, "bot": "even", "tossups": 3}',
        '{"rules": {"strange": 1}, "bot": "even", "tossups": 3}',
        '{"bot": "even", "tossups": 3}',
        '{"rules": 3, "bot": "even", "tossups": 3}',
    ],
)
def test_a_game_whose_rules_are_none_is_left_out(tmp_path, head):
    row = '{"t": "2026-11-22T12:00:00Z", "learner": "person:ada", "item": "g", "kind": "game", ' + head[1:]
    (tmp_path / "log.jsonl").write_text(row + "\n")
    assert replay_games(read_log(tmp_path / "log.jsonl"), "person:ada") == []


def test_no_game():
    with pytest.raises(UserError, match="no game"):
        count_statistics([])


def test_nan_becomes_null():
    assert nan_to_none({"a": [math.nan, 1.0], "b": (2, {"c": math.inf})}) == {"a": [None, 1.0], "b": [2, {"c": None}]}
