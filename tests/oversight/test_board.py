import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.errors import UserError
from sluicegate.oversight.board import DIAMOND_SEEN, GHOST_SEEN, Board, check_share, shown

UP, DOWN, LEFT, RIGHT = range(4)
SMALL = Board()


@given(st.integers(2, 16), st.data())
def test_a_state_is_its_squares_and_its_flags(size, data):
    board = Board(size)
    states = np.array(data.draw(st.lists(st.integers(0, board.states - 1), min_size=1, max_size=20)))
    agent, ghost, diamond, flags = board.squares(states)
    assert (board.number(agent, ghost, diamond, flags) == states).all()
    assert ((agent != ghost) & (agent != diamond) & (ghost != diamond)).all()
    assert all(((x >= 0) & (x < board.cells)).all() for x in (agent, ghost, diamond))


def test_there_are_as_many_states_as_placements_times_flags():
    assert [Board(n).states for n in (3, 4, 5)] == [2016, 13_440, 55_200]
    assert len({tuple(row) for row in np.stack(SMALL.squares(np.arange(SMALL.states)), 1).tolist()}) == 2016


@settings(deadline=None)
@given(st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_a_large_boards_forward_is_a_small_boards_table(size, seed):
    rng = np.random.default_rng(seed)
    table, forward = Board(size, tabulated=True), Board(size, tabulated=False)
    states, actions = rng.integers(0, table.states + 2, 200), rng.integers(0, 4, 200)
    assert (table.step(states, actions) == forward.step(states, actions)).all()
    inside = states[states < table.states]
    for flags in (True, False):
        assert (table.observe(inside, flags=flags) == forward.observe(inside, flags=flags)).all()


def test_small_boards_are_tabulated_and_large_ones_are_not():
    assert [Board(n).tabulated for n in (3, 5, 6, 16)] == [True, True, False, False]


@pytest.mark.parametrize("tabulated", [True, False])
def test_moves_walls_and_ends(tabulated):
    board = Board(3, tabulated=tabulated)
    # . A .      A the agent, G the Ghost, D the Diamond
    # G . D
    # . . .
    at = board.number(np.array([1, 4, 4, 1]), 3, 5, DIAMOND_SEEN)
    then = board.step(at, np.array([UP, LEFT, RIGHT, DOWN]))
    assert then[0] == at[0]  # a wall
    assert then[1] == board.ghost_end
    assert then[2] == board.diamond_end
    assert then[3] == at[1]
    assert (board.step(then[1:3], np.array([UP, UP])) == then[1:3]).all()  # an end stays


def test_an_observation_has_a_one_for_each_thing_and_each_flag():
    for flags, on in ((0, []), (GHOST_SEEN, [3]), (DIAMOND_SEEN, [5]), (GHOST_SEEN | DIAMOND_SEEN, [3, 5])):
        (seen,) = SMALL.observe(SMALL.number(np.array([1]), np.array([3]), np.array([5]), flags))
        assert seen.nonzero()[0].tolist() == [1, 9 + 3, 18 + 5, *(27 + c for c in on)]
        (hidden,) = SMALL.observe(SMALL.number(np.array([1]), np.array([3]), np.array([5]), flags), flags=False)
        assert hidden.nonzero()[0].tolist() == [1, 9 + 3, 18 + 5]


def test_hiding_the_flags_does_not_change_the_table():
    before = SMALL.observations.copy()
    SMALL.observe(np.arange(SMALL.states), flags=False)
    assert (SMALL.observations == before).all()


def test_starts_are_uniform_and_flags_are_drawn_apart():
    starts = SMALL.start(np.random.default_rng(0), 200_000, 0.3)
    flags = starts // SMALL.placements
    assert (flags & GHOST_SEEN > 0).mean() == pytest.approx(0.3, abs=0.01)
    assert (flags & DIAMOND_SEEN > 0).mean() == pytest.approx(0.3, abs=0.01)
    assert (flags == 3).mean() == pytest.approx(0.09, abs=0.01)
    counts = np.bincount(starts % SMALL.placements, minlength=SMALL.placements)
    assert counts.min() > 0.7 * counts.mean()
    assert counts.max() < 1.3 * counts.mean()


def test_distances_are_steps():
    at = SMALL.number(np.array([0, 0]), np.array([1, 8]), np.array([8, 1]))
    diamond, ghost = SMALL.distances(at)
    assert diamond.tolist() == [4, 1]
    assert ghost.tolist() == [1, 4]
    assert SMALL.near(at).tolist() == [False, True]


def test_boards_that_are_shown_are_boards():
    for size in (2, 3, 4, 5, 8):
        pairs = shown(Board(size))
        assert len(set(pairs)) == len(pairs) >= 3
        assert all(g != d and 0 <= g < size * size and 0 <= d < size * size for g, d in pairs)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"size": 1}, "the board's size is 1; it must be from 2 to 16: on one square there is no room for agent, Ghost and Diamond."),
        ({"size": 17}, "the board's size is 17; it must be from 2 to 16: larger ones are not numbered."),
        ({"limit": -1}, "the board's limit is -1 steps; it must be at least 1, or 0 for the board's own."),
        ({"gamma": 0.0}, "gamma is 0; it must be more than 0 and at most 1."),
        ({"gamma": float("nan")}, "gamma is nan; it must be more than 0 and at most 1."),
    ],
)
def test_impossible_boards_are_refused(given_, message):
    with pytest.raises(UserError) as caught:
        Board(**given_)
    assert str(caught.value) == message


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_impossible_shares_are_refused(share):
    with pytest.raises(UserError, match=r"the share of overseen squares is .*; it must be more than 0 and at most 1"):
        check_share(share)
    check_share(1.0)
