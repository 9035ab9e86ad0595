"""The dynamic programme: against games played out draw by draw, and what must hold of any such programme."""

import itertools

import numpy as np
import pytest

from sluicegate_study.errors import UserError
from sluicegate_study.game.buzz_claims import check_claims
from sluicegate_study.game.buzzing import WIDEST, Game, Policy, solve, solve_overtime
from sluicegate_study.game.players import OPPONENTS, Opponent, Reader, opponent_of
from sluicegate_study.game.scoring import PRESETS, Rules
from sluicegate_study.game.simulating import simulate

SETTINGS = [
    Game(PRESETS[rules], Reader(known=known), OPPONENTS[name]) for rules, known, name in itertools.product(PRESETS, (0.4, 0.7), OPPONENTS)
]


@pytest.fixture(scope="module")
def even():
    return solve(Game())


@pytest.mark.parametrize(("rules", "opponent", "tossups"), [("naqt", "even", 20), ("pace", "strong", 8), ("acf", "weak", 3)])
def test_the_value_is_what_games_come_to(rules, opponent, tossups):
    game = Game(PRESETS[rules], opponent=OPPONENTS[opponent])
    found, tie = solve(game, tossups=tossups), solve_overtime(game)
    played = simulate(game, found.policy, 100_000, 1, tie=tie, tossups=tossups)
    assert abs(played.win - found.win()) < 3 * played.error


def test_the_value_of_any_policy_is_what_games_come_to():
    game = Game()
    bold = Policy.constant(0.3)  # which misses often, so that rebounds count
    value = solve(game, policy=bold, tossups=6)
    played = simulate(game, bold, 100_000, 2, tie=solve_overtime(game), tossups=6)
    assert abs(played.win - value.win()) < 3 * played.error
    # The check can fail: another policy's value lies outside.
    other = solve(game, policy=Policy.constant(0.7), tossups=6)
    assert abs(played.win - other.win()) > 3 * played.error
    points = solve(game, points=True, tossups=6)
    seen = simulate(game, points.policy, 100_000, 3, tie=0.5, tossups=6)
    assert abs(seen.difference - points.win()) < 3 * seen.difference_error


@pytest.mark.parametrize("theta", [0.0, 0.5])
def test_a_game_in_which_every_branch_is_often_taken(theta):
    """Few ticks, a team that buzzes and misses often: the coin's toss, rebounds and their misses all weigh."""
    hasty = Opponent(share=0.9, shape=1.0, low=0.4, high=0.6, venture=0.0)
    game = Game(Rules(), Reader(known=0.9), hasty, ticks=4, mark=2)
    policy = Policy.constant(theta)
    value = solve(game, policy=policy, points=True, tossups=6)
    played = simulate(game, policy, 100_000, 4, tie=0.5, tossups=6)
    assert abs(played.difference - value.win()) < 3 * played.difference_error


def test_the_value_is_a_chance_and_grows_with_the_score(even):
    assert even.value.min() >= 0
    assert even.value.max() <= 1
    assert (np.diff(even.value, axis=1) >= -1e-9).all()


@pytest.mark.parametrize("game", SETTINGS, ids=lambda g: f"{g.rules.name}-{g.reader.known}-{g.opponent.name}")
def test_no_constant_threshold_is_better(game):
    best = solve(game, tossups=4, tie=0.5)
    for theta in (0.2, 0.5, 0.7, 0.9):
        other = solve(game, tossups=4, tie=0.5, policy=Policy.constant(theta))
        assert (best.value >= other.value - 1e-9).all()


def test_play_for_points_does_not_look_at_the_score():
    found = solve(Game(), points=True, tossups=3)
    middle = found.threshold[:, :, WIDEST - 40 : WIDEST + 41]
    assert np.nanmax(np.ptp(middle, axis=2)) < 1e-9
    assert (found.policy.first == found.policy.first[:, :, :1]).all()


def test_the_threshold_is_where_the_closed_form_says(even):
    """theta = (W - L) / (R - L), with W what waiting is worth where the other team does not win the coin's toss: by
    hand at a tick."""
    game = even.game
    for n, difference in ((1, 0), (3, -20), (8, 35)):
        after = dict(zip(even.differences.tolist(), even.value[n - 1].tolist(), strict=True))
        theta = even.theta(20, difference, n)
        # At the end there is no penalty, and waiting is worth V_{n-1}(d) unless they answer.
        ours = sum(chance * after[difference + 10 + b] for b, chance in game.rules.bonus(0.55, 0.55))
        them = sum(chance * after[difference - 10 - b] for b, chance in game.rules.bonus(0.55, 0.55))
        r, h, a = game.rebound()[-1], game.opponent.hazards()[-1], game.opponent.accuracy()[-1]
        missed = r * them + (1 - r) * after[difference]
        if np.isnan(theta):
            continue
        theirs = a * them + (1 - a) * max(theta * ours + (1 - theta) * after[difference], after[difference])
        waiting = (h / 2 * theirs + (1 - h) * after[difference]) / (1 - h / 2)
        assert theta == pytest.approx((waiting - missed) / (ours - missed), abs=1e-3) or theta == 0.0


def test_a_decided_game_is_not_buzzed_in(even):
    swing = even.game.rules.swing
    for n in (1, 2, 4):
        far = np.abs(even.differences) > n * swing
        assert far.any()
        assert not even.policy.first[n - 1][:, far].any()
        assert not even.policy.alone[n - 1][:, far].any()
        assert np.isnan(even.threshold[n - 1][:, far]).all()


@pytest.mark.parametrize("rules", ["naqt", "pace"])
def test_two_equal_teams_are_even(rules):
    """One tick, both sure to buzz, both right with the same chance: the same team twice."""
    same = Opponent(share=1.0, low=0.6, high=0.6, bonus=0.5)
    game = Game(PRESETS[rules], Reader(start=0.6, bonus=0.5), same, ticks=1, mark=0)
    # Both always answer: we could do better with bouncebacks, where a team that is ahead may rather not win the tossup.
    found = solve(game, tie=0.5, policy=Policy.constant(0.0))
    assert found.value[:, WIDEST] == pytest.approx(0.5, abs=1e-9)
    assert solve_overtime(game) == pytest.approx(0.5, abs=1e-9)


def test_beliefs_are_calibrated():
    reader = Reader(known=0.0)
    for kernel in reader.kernels():
        assert kernel.sum(axis=1) == pytest.approx(1)
        assert kernel @ reader.beliefs == pytest.approx(reader.beliefs, abs=1e-12)
    recognised = Reader(known=1.0).kernels()[-1]
    assert recognised[:37, 37] == pytest.approx(1)


def test_hazards_come_to_the_share_that_is_buzzed_on():
    for other in OPPONENTS.values():
        assert 1 - np.prod(1 - other.hazards()) == pytest.approx(other.share)
    assert Game().rebound().max() <= 1


def test_what_is_said_about_buzzing():
    found = check_claims(Game())
    assert len(found) == 6
    assert all(claim.numbers for claim in found)
    assert [claim.holds for claim in found] == [True, True, True, True, False, True]
    assert all(isinstance(claim.holds, bool) for claim in check_claims(Game(Rules(power=0, cycles=2))))


def test_mistakes_are_named():
    with pytest.raises(UserError, match="multiple of 5"):
        solve(Game(), tossups=1).win(3)
    with pytest.raises(UserError, match="tossups"):
        solve(Game(), tossups=0)
    with pytest.raises(UserError, match="weak"):
        opponent_of("feeble")
    with pytest.raises(UserError, match="share"):
        Opponent(share=1.5)
    with pytest.raises(UserError, match="known"):
        Reader(known=-1)
    with pytest.raises(UserError, match="ticks"):
        Game(ticks=0)
    with pytest.raises(UserError, match="at least 2"):
        simulate(Game(), Policy.constant(0.5), 1, 0, tie=0.5)
