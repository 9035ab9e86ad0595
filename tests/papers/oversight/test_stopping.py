import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.errors import UserError
from sluicegate.oversight.board import Board
from sluicegate_papers.oversight.episodes import DIAMOND, GHOST, play
from sluicegate_papers.oversight.stopping import PICKS, RULES, Window, pick


def look(value, seen, weighted):
    return {"return": value, "seen": seen, "weighted": weighted}


def test_rules_pick_by_their_own_figure():
    looks = [look(0.0, math.nan, math.nan), look(0.9, 0.1, 0.5), look(0.2, 0.8, 0.4), look(0.3, 0.2, 0.45)]
    assert {rule: pick(rule, looks) for rule in PICKS} == {"last": 3, "seen": 2, "weighted": 1, "peek": 1}


def test_looks_without_a_figure_are_passed_over():
    looks = [look(0.0, None, math.nan), look(0.1, math.nan, None)]
    assert [pick(rule, looks) for rule in RULES] == [1, 1]  # none has one: the last
    assert pick("seen", [look(0.5, -0.3, 0.0), look(0.1, math.nan, 0.0)]) == 0


def test_an_unknown_rule_is_named_with_its_neighbours():
    with pytest.raises(UserError, match=r"there is no stopping rule 'sen'\. Nearest: .*seen.*All: last, seen, weighted, peek\."):
        pick("sen", [look(0, 0, 0)])


def test_figures_of_a_window():
    window = Window()
    window.add(np.array([1, 2, 0, 1]), np.array([True, True, False, False]), np.array([1.0, 0.5, 0.1, 0.9]))
    assert window.labelled == 2
    assert window.seen(0.1) == pytest.approx((1.0 - 0.5) / (2 + 0.1))
    assert window.weighted(0.1) == pytest.approx((2 * 1.0 / 0.1 - 2.4) / 4)
    before = window.weighted(0.1)
    window.add(np.array([0]), np.array([False]), np.array([0.5]))
    assert window.weighted(0.1) == pytest.approx(before * 4 / 5)


def test_without_labelled_episodes_there_is_no_figure():
    assert math.isnan(Window().seen(0.1))
    assert math.isnan(Window().weighted(0.1))
    window = Window()
    window.add(np.array([1, 2]), np.array([False, False]), np.array([1.0, 1.0]))
    assert math.isnan(window.seen(0.1))


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(0, 1)), min_size=1, max_size=30))
def test_a_window_is_the_sum_of_its_parts(episodes):
    ending, seen, discounted = (np.array(x) for x in zip(*episodes, strict=True))
    seen = seen & (ending > 0)
    whole, parts = Window(), Window()
    whole.add(ending, seen, discounted)
    for i in range(len(ending)):
        parts.add(ending[i : i + 1], seen[i : i + 1], discounted[i : i + 1])
    assert parts.values() == pytest.approx(whole.values())
    assert Window(*whole.values()) == whole


def test_weighting_by_probability_is_unbiased_for_a_policy_that_takes_no_notice_of_flags():
    board = Board()
    rng = np.random.default_rng(0)
    policy = rng.dirichlet(np.full(4, 0.4), board.placements)
    episodes = play(board, board.start(rng, 300_000, 0.1), lambda at: policy[at % board.placements], rng)
    window = Window()
    window.add(episodes.ending, episodes.seen, episodes.discounted)
    true = (((episodes.ending == DIAMOND) * 1.0 - (episodes.ending == GHOST)) * episodes.discounted).mean()
    assert window.weighted(0.1) == pytest.approx(true, abs=0.03)
