import json

import numpy as np
import pytest
import torch

from sluicegate.errors import UserError
from sluicegate.oversight.board import Board
from sluicegate.runs.directory import RunContext, open_run
from sluicegate_papers.oversight.arms import ARMS
from sluicegate_papers.oversight.evaluate import outlook
from sluicegate_papers.oversight.looking import table
from sluicegate_papers.oversight.settings import Settings, budget
from sluicegate_papers.oversight.steer import TO_DIAMOND, Around, AsIs, judged
from sluicegate_papers.oversight.train import Training, train

BOARD = Board()
SHORT = Settings(episodes=128, updates=12, look=4, width=16)


def run(arm="routed", share=0.2, board=BOARD, settings=SHORT, **more):
    return train(arm, board, share, settings, **more)


def test_the_routed_agent_learns_the_way_to_the_diamond():
    done = train("routed", BOARD, 0.1, Settings(updates=250, look=250), seed=0)
    last = done.looks[-1]
    assert last["return"] >= 0.6
    assert last["ghost_expert"] <= -0.5
    assert abs(last["mixture"]) <= 0.25


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_and_is_judged(arm):
    done = run(arm)
    assert [look["step"] for look in done.looks] == [0, 4, 8, 12]
    for look in done.looks:
        assert look["diamond"] + look["ghost"] + look["timeout"] == pytest.approx(1)
    assert done.policy.shape == (2016, 4)
    assert done.policy.sum(1) == pytest.approx(1, abs=1e-5)
    assert done.looks[-1]["return"] == pytest.approx(outlook(BOARD, done.policy[:504].double().numpy()).value, abs=1e-5)
    names = {"mixture", "ghost_expert", "gate_accuracy"}
    assert (names <= done.looks[-1].keys()) == ARMS[arm].mixture
    assert done.warnings == []
    for name, drawn in done.pictures.items():
        if name not in ("steps", "placements"):
            assert drawn.shape[:4] == (4, len(done.pictures["placements"]), 2, 9)
            known = drawn[..., 0] if name != "gate" else drawn
            assert torch.isnan(known).sum() == 2 * 2 * 4 * len(done.pictures["placements"])  # the Ghost's square and the Diamond's


def test_a_run_is_a_function_of_its_seed():
    first, again, other = run(seed=3), run(seed=3), run(seed=4)
    assert first.looks == again.looks
    assert all(torch.equal(a, b) for a, b in zip(first.agent.parameters(), again.agent.parameters(), strict=True))
    assert first.looks != other.looks


class Killed(BaseException):
    pass


@pytest.mark.parametrize("arm", ["routed", "routed_avoid", "reward_model", "naive"])
def test_killed_and_resumed_is_uninterrupted(tmp_path, arm):
    whole = run(arm)

    def kill(part, done, total, numbers):
        if done == 7:  # between two looks, so that a window is cut in two
            raise Killed

    about = {"digest": "d", "config": {}, "parents": {}, "environment": {}, "title": "t", "interval": 0.0}
    with pytest.raises(Killed), open_run(tmp_path / "run", progress=kill, **about) as room:
        run(arm, run=room)
    with open_run(tmp_path / "run", **about) as room:
        found = run(arm, run=room)
        assert json.dumps(found.looks) == json.dumps(whole.looks)
    assert all(torch.equal(a, b) for a, b in zip(found.agent.parameters(), whole.agent.parameters(), strict=True))
    assert found.pictures.keys() == whole.pictures.keys()
    assert all(torch.equal(found.pictures[k].nan_to_num(9), whole.pictures[k].nan_to_num(9)) for k in whole.pictures)


def test_a_board_without_a_table_learns_the_same():
    with_table = run(board=Board(3, tabulated=True))
    without = run(board=Board(3, tabulated=False))
    assert [look["return"] for look in without.looks] == pytest.approx([look["return"] for look in with_table.looks], abs=1e-3)


def test_a_large_board_is_judged_by_episodes():
    done = train("routed", Board(7, limit=6), 0.5, Settings(episodes=16, updates=2, look=2, width=8))
    assert done.policy is None
    assert done.looks[-1]["diamond"] + done.looks[-1]["ghost"] + done.looks[-1]["timeout"] == pytest.approx(1)


@pytest.mark.parametrize("arm", ["routed", "naive", "any_avoid", "single"])
def test_a_share_so_small_that_nothing_was_labelled_is_said(arm):
    done = run(arm, share=1e-9)
    assert len(done.warnings) == 3
    assert done.warnings[0].startswith(
        "none of 1,536 training episodes was seen to end at the Diamond, so nothing was learnt from that: at a share"
    )
    assert "the last look" in done.warnings[2]
    assert all(np.isnan(look["seen"]) and np.isnan(look["weighted"]) for look in done.looks)
    assert done.picks()["weighted"]["step"] == 12


def test_a_filter_that_lets_nothing_through_is_an_error_and_no_table():
    with pytest.raises(UserError, match=r"none of the first 2 episodes was labelled or timed out.*Take more episodes an update"):
        run("filter", share=1e-9, board=Board(limit=200), settings=Settings(episodes=2, updates=2, width=8))


def test_the_oracle_needs_no_labels():
    assert run("oracle", share=1e-9).warnings == []


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(UserError, match=r"there is no arm 'roted' to train\. Nearest: routed"):
        run("roted")
    with pytest.raises(UserError, match="the share of overseen squares is 0"):
        run(share=0.0)
    for name in ("episodes", "updates", "width", "look"):
        with pytest.raises(UserError, match=f"{name} is 0; it must be a whole number, at least 1"):
            Settings(**{name: 0})
    with pytest.raises(UserError, match="label_weight is 0"):
        Settings(label_weight=0.0)


def test_the_budgets_are_those_that_are_documented():
    assert [tuple(budget(n)) for n in (3, 4, 5)] == [(1024, 500), (2048, 450), (2048, 900)]


def test_steering_leaves_the_agent_as_it_was():
    training = Training(ARMS["routed_avoid"], BOARD, 0.1, SHORT, 0)
    agent, states = training.agent, BOARD.unseen
    plain = table(agent, BOARD, states)
    assert np.array_equal(table(agent, BOARD, states, 0 * Around()), plain)
    steered = table(agent, BOARD, states, TO_DIAMOND)
    both = table(agent, BOARD, states, judged(ARMS["routed_avoid"]))
    assert not np.allclose(steered, plain)
    assert not np.allclose(both, steered)
    assert np.array_equal(table(agent, BOARD, states), plain)
    assert np.array_equal(table(agent, BOARD, states, AsIs()), plain)
    with pytest.raises(ZeroDivisionError), (TO_DIAMOND + Around())(agent):
        raise ZeroDivisionError
    assert np.array_equal(table(agent, BOARD, states), plain)
    TO_DIAMOND.bake(agent)
    assert np.allclose(table(agent, BOARD, states), steered)


def test_going_round_multiplies_by_the_chance_that_it_is_not_the_ghost():
    agent = Training(ARMS["single_avoid"], BOARD, 0.1, SHORT, 0).agent
    plain = table(agent, BOARD, BOARD.unseen)
    with agent.looking(torch.from_numpy(BOARD.observe(BOARD.unseen))) as places:
        safe = torch.sigmoid(-agent.danger(places)).double().numpy()
    wanted = plain * safe**3
    assert table(agent, BOARD, BOARD.unseen, Around(3.0)) == pytest.approx(wanted / wanted.sum(1, keepdims=True), abs=1e-5)
    assert table(agent, BOARD, BOARD.unseen, Around(1.0) * 3) == pytest.approx(wanted / wanted.sum(1, keepdims=True), abs=1e-5)


def test_an_agent_that_was_told_nothing_goes_round_nothing():
    agent = Training(ARMS["routed"], BOARD, 0.1, SHORT, 0).agent
    with pytest.raises(UserError, match="this agent was not told which steps end at the Ghost"), Around()(agent):
        pass
    with pytest.raises(UserError, match="the dose is -1"):
        Around(-1.0)


def test_nets_must_look_before_they_answer():
    agent = Training(ARMS["routed"], BOARD, 0.1, SHORT, 0).agent
    with pytest.raises(UserError, match="the nets have not looked at any states"):
        agent(torch.tensor([0]))


def test_the_gate_sees_no_flags_and_the_nets_of_blind_arms_neither():
    squares = [x[:504] for x in BOARD.squares(BOARD.unseen)[:3]]
    for name, blind in (("filter_hidden", True), ("filter", False), ("routed", False)):
        agent = Training(ARMS[name], BOARD, 0.1, SHORT, 0).agent
        tables = [table(agent, BOARD, BOARD.number(*squares, flags)) for flags in (0, 3)]
        assert np.array_equal(*tables) == blind
    for name, blind in (("routed", True), ("routed_flags", False)):
        agent = Training(ARMS[name], BOARD, 0.1, SHORT, 0).agent
        opened = []
        for flags in (0, 3):
            with agent.looking(torch.from_numpy(BOARD.observe(BOARD.number(*squares, flags)))) as places:
                opened.append(agent.opening(places))
        assert torch.equal(*opened) == blind


def test_every_look_has_a_window_of_its_own():
    training = Training(ARMS["naive"], BOARD, 1.0, SHORT, 0)
    done = training.run(RunContext())
    assert done.looks[0]["labelled"] == 0
    assert sum(look["labelled"] for look in done.looks) == training.labelled.sum() <= 128 * 12
    assert all(0 < look["labelled"] <= 128 * 4 for look in done.looks[1:])


def test_a_room_need_not_keep():
    assert run(run=RunContext()).looks
