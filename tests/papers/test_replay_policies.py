import math
from collections import Counter

import numpy as np
import pytest

from sluicegate.errors import UserError
from sluicegate_papers.replay_policies import FIRST_INTERVAL, POLICIES, Memory, Replay

N = 12


def after(policy, *steps, n=N, seed=0, losses=None):
    """A sampler that saw (step, item, right, loss) of each."""
    replay = Replay(policy, n, seed=seed, losses=losses)
    for step, item, right, loss in steps:
        replay.saw(step, [item], [right], [loss])
    return replay


def test_uniform_draws_all_alike_without_replacement():
    replay = Replay("uniform", N, seed=3)
    counts = Counter()
    for step in range(1200):
        drawn = replay.draw(step, 3, range(N))
        assert len(set(drawn)) == 3
        counts.update(drawn)
    assert min(counts.values()) > 240  # 300 expected, standard deviation 15
    assert max(counts.values()) < 360


def test_round_robin_leaves_nothing_out():
    replay = Replay("round_robin", N)
    seen = []
    for step in range(8):
        drawn = replay.draw(step, 3, range(N))
        replay.saw(step, drawn, [step % 2 == 0] * 3, [0.5] * 3)
        seen.append(drawn)
    assert sorted(item for one in seen[:4] for item in one) == list(range(N))
    assert [sorted(one) for one in seen[4:]] == [sorted(one) for one in seen[:4]]


def test_leitner_doubles_the_interval_of_what_is_right_and_due():
    interval = int(FIRST_INTERVAL)
    replay = after("leitner", (0, 0, True, 0.1), (0, 1, True, 0.1))
    replay.saw(interval, [0], [True], [0.1])  # was due: up
    replay.saw(interval - 1, [1], [True], [0.1])  # was not
    assert replay.memory.box[:2].tolist() == [1, 0]
    assert replay.memory.interval([0, 1]).tolist() == [2 * interval, interval]
    # 12 steps on, the one of the first box is overdue, the other is not.
    assert replay.draw(interval + 12, 1, [0, 1]) == [1]
    replay.saw(interval + 13, [0], [False], [2.0])
    assert replay.memory.box[0] == 0


def test_leitner_is_not_fooled_by_cramming():
    replay = Replay("leitner", 2)
    for step in range(100):
        replay.saw(step, [0], [True], [0.1])
    assert replay.memory.box[0] == 0


def test_half_life_asks_first_what_is_predicted_to_be_lost():
    replay = after("half_life", (0, 0, True, 0.1), (0, 1, True, 0.1))
    replay.saw(100, [0, 1], [True, False], [0.1, 3.0])
    assert replay.memory.half[:2].tolist() == [2 * FIRST_INTERVAL, FIRST_INTERVAL / 2]
    assert replay.draw(105, 2, [0, 1]) == [1, 0]
    for step in range(200, 240):
        replay.saw(step, [1], [False], [3.0])
    assert replay.memory.half[1] == 1  # never less
    crammed = Memory(1)
    for step in range(50):
        crammed.saw(step, [0], [True], [0.1])
    assert crammed.half[0] < 4 * FIRST_INTERVAL + 50


def test_stale_loss_repeats_what_it_could_not_learn():
    replay = after("stale_loss", (0, 0, False, 3.0), (0, 1, False, 2.0), (0, 2, True, 0.1))
    assert replay.draw(1, 2, [0, 1, 2]) == [0, 1]
    replay.saw(1, [0], [True], [0.2])
    assert replay.draw(2, 2, [0, 1, 2]) == [1, 0]


def test_the_oracle_looks_at_the_loss_of_now():
    asked = []
    now = {0: 0.1, 1: 5.0, 2: 1.0}

    def losses(items):
        asked.append(sorted(items))
        return [now[i] for i in items]

    replay = after("oracle", (0, 0, False, 9.0), n=3, losses=losses)
    assert replay.draw(1, 2, [0, 1, 2]) == [1, 2]
    assert asked == [[0, 1, 2]]


def test_none_replays_nothing():
    assert Replay("none", N).draw(5, 4, range(N)) == []


@pytest.mark.parametrize("policy", [*POLICIES, "oracle"])
def test_what_holds_for_every_policy(policy):
    """Only the buffer is drawn from, no item twice a step, all of a small buffer, the same again for the same seed and
    history."""

    def history(seed):
        random = np.random.default_rng(0)
        replay = Replay(policy, N, seed=seed, losses=lambda items: [0.5] * len(items))
        found = []
        for step in range(60):
            drawn = replay.draw(step, 4, range(2 + step // 10))
            assert set(drawn) <= set(range(2 + step // 10))
            assert len(set(drawn)) == len(drawn) == min(4, 2 + step // 10)
            replay.saw(step, drawn, (random.random(len(drawn)) < 0.5).tolist(), random.random(len(drawn)).tolist())
            found.append(drawn)
        return found

    assert history(0) == history(0)
    if policy in ("uniform", "oracle"):  # in the others, ties are few
        assert history(0) != history(1)
    assert Replay(policy, N, losses=lambda items: []).draw(0, 4, []) == []


def test_an_item_that_stands_twice_in_a_step_counts_once():
    memory = Memory(3)
    memory.saw(0, [1, 1], [True, False], [0.1, 2.0])
    assert memory.loss[1] == 2.0
    assert memory.half[1] == FIRST_INTERVAL / 2
    memory.saw(1, [], [], [])
    assert memory.last.tolist() == [-1, 0, -1]


def test_mistakes():
    with pytest.raises(UserError, match="round_robin"):
        Replay("roundrobin", N)
    with pytest.raises(UserError, match="losses"):
        Replay("oracle", N)
    with pytest.raises(UserError, match="at least 1"):
        Replay("uniform", 0)
    with pytest.raises(UserError, match="0 or more"):
        Replay("uniform", N).draw(0, -1, range(N))
    with pytest.raises(UserError, match="2 items with 1 results"):
        Replay("uniform", N).saw(0, [1, 2], [True], [math.inf])
