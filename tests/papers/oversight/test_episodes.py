import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.oversight.board import DIAMOND_SEEN, GHOST_SEEN, Board
from sluicegate_papers.oversight.episodes import DIAMOND, GHOST, TIMEOUT, play, reach


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 4), st.floats(0.05, 1), st.integers(0, 2**32 - 1))
def test_episodes_are_walks_that_end_once(size, share, seed):
    board = Board(size)
    rng = np.random.default_rng(seed)
    policy = rng.dirichlet(np.ones(4), board.states)
    starts = board.start(rng, 60, share)
    e = play(board, starts, lambda at: policy[at], rng)
    flags = starts // board.placements
    for i in range(60):
        own = e.episode == i
        states, actions = e.state[own], e.action[own]
        assert e.time[own].tolist() == list(range(e.length[i]))
        assert states[0] == starts[i]
        assert states[-1] == e.last[i]
        then = board.step(states, actions)
        assert (then[:-1] == states[1:]).all()
        ends = {board.diamond_end: DIAMOND, board.ghost_end: GHOST}
        assert e.ending[i] == ends.get(int(then[-1]), TIMEOUT)
        if e.ending[i] == TIMEOUT:
            assert e.length[i] == board.limit
        bit = {DIAMOND: DIAMOND_SEEN, GHOST: GHOST_SEEN, TIMEOUT: 0}[int(e.ending[i])]
        assert e.seen[i] == bool(flags[i] & bit)
        assert e.to_go[own] == pytest.approx(board.gamma ** np.arange(e.length[i] - 1, -1, -1))
        assert e.discounted[i] == pytest.approx(e.to_go[own][0])
    assert np.isin(e.state, reach(board, starts)).all()


def test_reach_is_every_agents_square_and_no_other_board():
    board = Board()
    starts = board.number(np.array([0, 4]), np.array([1, 1]), np.array([8, 8]), np.array([0, 3]))
    found = reach(board, starts)
    assert len(found) == 14
    assert (np.diff(found) > 0).all()
    _agent, ghost, diamond, flags = board.squares(found)
    assert set(flags.tolist()) == {0, 3}
    assert set(ghost.tolist()) == {1}
    assert set(diamond.tolist()) == {8}
    assert (reach(board, np.arange(board.states)) == np.arange(board.states)).all()


def test_actions_are_drawn_as_often_as_the_policy_says():
    board = Board(limit=1)
    starts = np.full(40_000, 0)
    e = play(board, starts, lambda at: np.tile([0.1, 0.2, 0.3, 0.4], (len(at), 1)), np.random.default_rng(0))
    assert np.bincount(e.action, minlength=4) / 40_000 == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.01)
