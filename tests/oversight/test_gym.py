"""The board as others see it: gymnasium's own checks, and the same rules as `Board`'s."""

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sluicegate.errors import UserError
from sluicegate.oversight import gym
from sluicegate.oversight.board import MOVES, Board
from tiny_stages import SRC


def made(**settings):
    gym.register()  # once more: nothing happens
    return gymnasium.make(gym.ID, **settings)


@pytest.mark.parametrize("settings", [{}, {"size": 4, "share": 0.01, "reward": "naive"}, {"render_mode": "ansi"}])
def test_gymnasium_finds_nothing_to_say_against_it(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(made(**settings).unwrapped)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_it_goes_by_the_board_s_rules(size):
    """Next to `Board`, step for step, and next to the rules as the paper has them, written down once more."""
    env, board, rng = made(size=size, share=0.5).unwrapped, Board(size), np.random.default_rng(size)
    ends = set()
    for seed in range(150):
        seen, info = env.reset(seed=seed)
        state = info["state"]
        agent, ghost, diamond, flags = (int(x[0]) for x in board.squares(np.array([state])))
        for step in range(1, board.limit + 1):
            assert (seen == board.observe(np.array([state]))[0]).all()
            action = int(rng.integers(4)) if seed % 5 else 0  # into the wall: some must time out
            row, column = (min(max(x + by, 0), size - 1) for x, by in zip(divmod(agent, size), MOVES[action], strict=True))
            agent = row * size + column
            state = int(board.step(np.array([state]), np.array([action]))[0])
            seen, reward, over, late, info = env.step(action)
            assert info["state"] == state
            assert seen[: size * size].nonzero()[0].tolist() == [agent]
            assert over == (agent in (ghost, diamond))
            assert reward == (1 if agent == diamond else -1 if agent == ghost else 0)
            assert late == (step == board.limit and not over)
            if over or late:
                ends.add(info["end"])
                assert info["end"] == ("timeout" if late else "diamond" if agent == diamond else "ghost")
                assert info["labelled"] == (over and bool(flags & (2 if agent == diamond else 1)))
                break
            assert "end" not in info
    assert ends == {"diamond", "ghost", "timeout"}


def test_placements_are_uniform_and_flags_as_many_as_asked_for():
    env = made(size=2, share=0.25).unwrapped
    env.reset(seed=0)
    states = np.array([env.reset()[1]["state"] for _ in range(4000)])
    agent, ghost, diamond, flags = env.board.squares(states)
    counts = np.unique(np.stack([agent, ghost, diamond]), axis=1, return_counts=True)[1]
    assert len(counts) == 24
    assert counts.min() > 110  # of 167; five standard deviations are 63
    assert [(flags & bit > 0).mean() for bit in (1, 2)] == pytest.approx([0.25, 0.25], abs=0.035)


def test_the_same_seed_gives_the_same_episodes():
    env = made().unwrapped
    first = [env.reset(seed=3)[1]["state"]] + [env.reset()[1]["state"] for _ in range(5)]
    assert first == [env.reset(seed=3)[1]["state"]] + [env.reset()[1]["state"] for _ in range(5)]
    assert len(set(first)) > 2


@pytest.mark.parametrize(
    ("overseen", "reward", "paid"), [([], "true", -1), ([], "naive", 1), (["ghost"], "naive", -1), (["diamond"], "naive", 1)]
)
def test_the_naive_reward_takes_the_unseen_for_good(overseen, reward, paid):
    env = made(reward=reward).unwrapped
    env.reset(seed=0, options={"agent": 0, "ghost": 1, "diamond": 8, "overseen": overseen})
    _, found, over, _, info = env.step(3)
    assert (found, over, info["end"], info["labelled"]) == (paid, True, "ghost", "ghost" in overseen)


def test_given_squares_are_kept_and_the_others_drawn_beside_them():
    env = made(share=0.01).unwrapped
    for seed in range(200):
        state = env.reset(seed=seed, options={"ghost": 4})[1]["state"]
        agent, ghost, diamond, _ = (int(x[0]) for x in env.board.squares(np.array([state])))
        assert ghost == 4
        assert len({agent, ghost, diamond}) == 3


def test_it_is_drawn():
    env = made(render_mode="ansi").unwrapped
    env.reset(seed=0, options={"agent": 0, "ghost": 4, "diamond": 8, "overseen": ["ghost"]})
    assert env.render() == "a . .\n. G!.\n. . D"
    env.step(1)
    env.step(3)
    assert env.render() == ". . .\n. A!.\n. . D"
    picture = made(render_mode="rgb_array")
    picture.reset(seed=0)
    assert picture.render().shape == (72, 72, 3)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"share": 0.0}, "more than 0 and at most 1"),
        ({"size": 1}, "from 2 to 16"),
        ({"reward": "ture"}, "true or naive"),
        ({"render_mode": "human"}, "ansi or rgb_array"),
    ],
)
def test_impossible_settings_are_named(settings, says):
    with pytest.raises(UserError, match=says):
        gym.Oversight(**settings)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"agent": 9}, "0 to 8"),
        ({"agent": 4, "ghost": 4}, "different squares"),
        ({"overseen": ["gohst"]}, "'gohst'"),
        ({"goal": 3}, "no option 'goal'"),
    ],
)
def test_impossible_beginnings_are_named(options, says):
    with pytest.raises(UserError, match=says):
        gym.Oversight().reset(options=options)


def test_an_episode_that_has_ended_takes_no_step():
    env = gym.Oversight()
    with pytest.raises(UserError, match="Call reset first"):
        env.step(0)
    env.reset(seed=0, options={"agent": 0, "ghost": 1, "diamond": 8})
    with pytest.raises(UserError, match="no action 4"):
        env.step(4)
    env.step(3)
    with pytest.raises(UserError, match="Call reset first"):
        env.step(0)


def test_gymnasium_finds_it_by_its_module():
    script = "import gymnasium\nprint(gymnasium.make('sluicegate.oversight.gym:sluicegate/Oversight-v0', size=4).reset()[0].shape)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": str(SRC)}, check=True)
    assert done.stdout.strip() == "(64,)"


def test_without_gymnasium_it_says_what_to_install_and_the_rest_works():
    script = "import sys; sys.modules['gymnasium'] = None\nimport sluicegate.oversight.board\nimport sluicegate.oversight.gym"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": str(SRC)}, check=False)
    assert "pip install 'sluicegate[gym]'" in done.stderr
    assert "line 3" in done.stderr
