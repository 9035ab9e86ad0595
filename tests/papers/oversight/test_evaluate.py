import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.errors import UserError
from sluicegate.oversight.board import GHOST_SEEN, Board
from sluicegate_papers.oversight.episodes import DIAMOND, GHOST, TIMEOUT, play
from sluicegate_papers.oversight.evaluate import best, outlook, overseen, references, shortest, sweep

BOARD = Board()


def any_policy(seed, rows):
    return np.random.default_rng(seed).dirichlet(np.full(4, 0.5), rows)


def test_a_random_policy_meets_both_alike():
    found = references(BOARD)["random"]
    assert abs(found.value) < 1e-6
    assert abs(found.diamond - found.ghost) < 1e-6


def test_the_nearest_end_is_worth_nothing():
    found = references(BOARD)["nearest"]
    assert abs(found.value) < 1e-6
    assert found.near == pytest.approx(0.608, abs=1e-3)
    assert found.far == pytest.approx(-0.988, abs=1e-3)


@pytest.mark.parametrize(
    ("size", "optimal", "ceiling", "far"), [(3, 0.969, 0.694, 0.222), (4, 0.950, 0.725, 0.371), (5, 0.932, 0.743, 0.456)]
)
def test_references(size, optimal, ceiling, far):
    found = references(Board(size))
    assert found["optimal"].value == pytest.approx(optimal, abs=5e-4)
    assert found["optimal"].ghost == 0
    assert found["ceiling"].value == pytest.approx(ceiling, abs=5e-4)
    assert found["ceiling"].far == pytest.approx(far, abs=5e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_probabilities_add_up_and_nothing_beats_the_optimum(seed):
    found = outlook(BOARD, any_policy(seed, BOARD.placements))
    assert 0 <= found.diamond <= 1
    assert 0 <= found.ghost <= 1
    assert -1e-9 <= found.timeout <= 1
    assert found.diamond + found.ghost + found.timeout == pytest.approx(1)
    assert -1 <= found.value <= references(BOARD)["optimal"].value + 1e-9
    assert 1 <= found.length <= BOARD.limit


def test_an_exact_figure_is_what_episodes_come_to():
    policy = any_policy(3, BOARD.placements)
    starts = np.random.default_rng(0).integers(0, BOARD.placements, 100_000)
    episodes = play(BOARD, starts, lambda at: policy[at], np.random.default_rng(1))
    exact = outlook(BOARD, policy)
    for end, probability in ((DIAMOND, exact.diamond), (GHOST, exact.ghost), (TIMEOUT, exact.timeout)):
        assert (episodes.ending == end).mean() == pytest.approx(probability, abs=0.006)
    value = ((episodes.ending == DIAMOND) * 1.0 - (episodes.ending == GHOST)) * episodes.discounted
    assert value.mean() == pytest.approx(exact.value, abs=0.012)
    near = BOARD.near(starts)
    assert value[near].mean() == pytest.approx(exact.near, abs=0.012)
    assert value[~near].mean() == pytest.approx(exact.far, abs=0.02)
    assert episodes.length.mean() == pytest.approx(exact.length, abs=0.05)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_what_labelled_episodes_earn_is_what_labelled_episodes_come_to(share):
    to_ghost, to_diamond = shortest(BOARD, "ghost"), shortest(BOARD, "diamond")
    tables = np.concatenate([any_policy(4, BOARD.placements), to_ghost, to_ghost, to_diamond])  # as differently as can be, by the flags
    rng = np.random.default_rng(0)
    episodes = play(BOARD, BOARD.start(rng, 200_000, share), lambda at: tables[at], rng)
    value = ((episodes.ending == DIAMOND) * 1.0 - (episodes.ending == GHOST)) * episodes.discounted
    assert overseen(BOARD, tables, share) == pytest.approx(value[episodes.seen].mean(), abs=0.015)


def test_the_limit_is_kept():
    policy = np.tile([1.0, 0, 0, 0], (BOARD.placements, 1))  # upwards for ever
    found = outlook(BOARD, policy)
    assert found.timeout > 0.5
    one = outlook(Board(limit=1), best(BOARD))
    assert one.length == 1
    assert one.diamond == pytest.approx(24 * 7 / 504)


def test_flags_do_not_change_a_policy_that_does_not_look():
    policy = any_policy(5, BOARD.placements)
    assert (sweep(BOARD, policy, GHOST_SEEN) == sweep(BOARD, policy)).all()


def test_shortest_paths_are_shortest():
    ghost = outlook(BOARD, shortest(BOARD, "ghost"))
    diamond = outlook(BOARD, shortest(BOARD, "diamond"))
    assert ghost.ghost == pytest.approx(diamond.diamond)
    assert ghost.value == pytest.approx(-diamond.value)


@pytest.mark.parametrize("policy", [np.full((2016, 4), 0.25), np.full((504, 4), 0.3), np.tile([1.5, -0.5, 0, 0], (504, 1))])
def test_what_is_no_policy_is_refused(policy):
    with pytest.raises(UserError, match=r"a policy here is \[504, 4\] of probabilities that add up to 1"):
        outlook(BOARD, policy)
