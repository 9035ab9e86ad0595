"""The coach against the programme itself, and against games played out."""

import math

import numpy as np
import pytest

from sluicegate_study.game.buzzing import Game, solve
from sluicegate_study.game.coach import SILENT, Coach, Decision, sum_costs
from sluicegate_study.game.players import OPPONENTS, Opponent, Reader
from sluicegate_study.game.scoring import PRESETS


def made(buzzed=True, tick=10, mark=10, difference=0, left=20, alone=False, sure=0.6):
    return Decision("x", buzzed, tick, mark, difference, left, alone, sure)


@pytest.fixture(scope="module")
def coach():
    return Coach(PRESETS["naqt"], OPPONENTS["even"], 20)


@pytest.fixture(scope="module")
def best():
    return solve(Game())


@pytest.mark.parametrize(("tick", "difference", "left"), [(1, 0, 20), (10, 0, 20), (12, -40, 5), (19, 20, 1), (20, 0, 3), (10, 300, 2)])
def test_the_threshold_is_the_programmes(coach, best, tick, difference, left):
    advice = coach.advise(made(tick=tick, difference=difference, left=left))
    assert advice.threshold == pytest.approx(best.theta(tick, difference, left), abs=1e-9, nan_ok=True)


def test_what_a_choice_costs_is_what_the_other_one_gains(coach):
    for sure in (0.2, 0.45, 0.55, 0.9):
        buzz, wait = coach.advise(made(sure=sure)), coach.advise(made(buzzed=False, sure=sure))
        assert buzz.threshold == wait.threshold
        better = "buzz" if sure > buzz.threshold else "wait"
        assert buzz.play == wait.play == better
        assert (buzz.mistaken, wait.mistaken) == (better == "wait", better == "buzz")
        assert (buzz.win == 0) == (better == "buzz")
        assert (wait.win == 0) == (better == "wait")
        assert max(buzz.win, wait.win) > 0


def test_at_the_threshold_nothing_is_lost(coach):
    theta = coach.advise(made()).threshold
    assert coach.advise(made(sure=theta)).win == pytest.approx(0, abs=1e-6)


def test_the_cost_of_a_buzz_by_hand():
    """One tossup without a bonus, one point of view: the last tick against a team that never buzzes is worth p times
    the ten."""
    coach = Coach(PRESETS["tossup-only"], None, 1)
    never = coach.advise(made(buzzed=False, tick=20, mark=0, left=1, sure=0.3))
    assert never.points == pytest.approx(3.0, abs=1e-9)
    assert math.isnan(never.win)
    assert never.threshold == pytest.approx(0, abs=1e-6)
    early = coach.advise(made(buzzed=True, tick=19, mark=0, left=1, sure=0.3))
    # Buzzing now: .3 x 10 - .7 x 5; waiting: no worse than the same chance at the end.
    assert early.points >= 3.0 - (3.0 - 3.5) - 1e-9


def test_alone_after_their_miss_there_is_no_penalty(coach):
    """At the last tick any chance is better than none, and the cost of silence is p times what a right answer is
    worth."""
    advice = coach.advise(made(buzzed=False, tick=20, alone=True, sure=0.5))
    assert advice.threshold == pytest.approx(0, abs=0.03)
    assert advice.points == pytest.approx(0.5 * (10 + 3 * 10 * Reader().bonus), rel=1e-6)
    # Before the end there is no hurry either: the chance can only grow.
    early = coach.advise(made(tick=12, alone=True, sure=0.5))
    assert math.isnan(early.threshold)
    assert early.points > 0


def test_each_tossup_has_its_own_power_mark(coach):
    inside, outside = coach.advise(made(tick=12, mark=12)), coach.advise(made(tick=12, mark=11))
    assert inside.threshold < outside.threshold


def test_a_decided_game_is_the_same_either_way(coach):
    advice = coach.advise(made(difference=400, left=1))
    assert (advice.play, advice.mistaken, advice.win) == ("either", False, 0)
    assert math.isnan(advice.threshold)


def test_what_cannot_be_told(coach):
    advice = coach.advise(made(sure=None))
    assert (advice.play, advice.mistaken) == ("", False)
    assert math.isnan(advice.win)
    assert 0.4 < advice.threshold < 0.6
    assert coach.advise(made(left=0)) is None  # overtime
    assert coach.advise(made(left=21)) is None


def test_the_total_is_over_what_was_stated(coach):
    given = [coach.advise(made(sure=sure)) for sure in (0.1, None, 0.3)]
    wins, points = sum_costs(given)
    assert wins == pytest.approx(given[0].win + given[2].win)
    assert points == pytest.approx(given[0].points + given[2].points)
    assert math.isnan(sum_costs([Coach(PRESETS["acf"], None, 2).advise(made(left=1))])[0])


def test_a_gain_in_points_is_what_games_come_to():
    """Buzz at tick 3 with chance p or wait, played out by hand-drawn games of one tossup in three ticks."""
    reader, they = Reader(start=0.5, known=0.0, concentration=1e6), Opponent("t", share=0.8, shape=1.0, low=0.6, high=0.6, venture=0.0)
    game = Game(PRESETS["tossup-only"], reader, they, ticks=3, mark=0)
    gain, _ = solve(game, tossups=1, points=True).gains(1, 0)
    d = 90
    p = 0.5
    random = np.random.default_rng(5)
    size = 400_000
    h = they.hazards(3)
    wants, toss = random.random((size, 3)) < h, random.random(size) < 0.5
    right, late = random.random(size) < p, random.random(size) < 0.6
    # Buzz at tick 2 (of 3), against waiting for tick 3 and answering there.
    first = ~wants[:, 1] | toss
    rebound = (wants[:, 1] | wants[:, 2]) & late
    ours = np.where(right, 10.0, -5.0 - 10 * rebound)
    theirs = np.where(random.random(size) < 0.6, -10.0, 5.0 + 10 * right)  # after their miss we answer at the end
    buzz = np.where(first, ours, theirs)
    end_first = ~wants[:, 2] | toss
    end = np.where(end_first, np.where(right, 10.0, -10.0 * (wants[:, 2] & late)), np.where(late, -10.0, 10.0 * right))
    wait = np.where(wants[:, 1], theirs, end)
    error = (buzz - wait).std() / size**0.5
    assert abs((buzz - wait).mean() - gain[1, d, 20]) < 4 * error


def test_nobody_at_the_other_end():
    assert SILENT.hazards().max() == 0
