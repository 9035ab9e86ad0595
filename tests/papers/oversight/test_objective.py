import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.oversight.board import Board
from sluicegate_papers.oversight.arms import ARMS
from sluicegate_papers.oversight.episodes import DIAMOND, GHOST, TIMEOUT, Episodes, play, reach
from sluicegate_papers.oversight.nets import Agent
from sluicegate_papers.oversight.objective import Objective, lesson, tally
from sluicegate_papers.oversight.train import routed

BOARD = Board()
ROUTED = [name for name, arm in ARMS.items() if arm.routed == "labels"]


def played(share, seed=0, count=40):
    rng = np.random.default_rng(seed)
    policy = rng.dirichlet(np.ones(4), BOARD.states)
    return play(BOARD, BOARD.start(rng, count, share), lambda at: policy[at], rng)


def made(arm, seed=0):
    torch.manual_seed(seed)
    return Agent(arm, BOARD, width=8).double()


def gradients(agent, arm, episodes, share=0.5, label_weight=10.0, seed=0):
    """What the library gets: nets once on every state, rows of (state, label), through the router."""
    states = reach(BOARD, episodes.state)
    agent.look(torch.from_numpy(BOARD.observe(states)).double())
    verdict = np.full(len(episodes), 0.3) if agent.verdict is not None else None
    taught = lesson(arm, episodes, share, label_weight, np.random.default_rng(seed), verdict)
    router = routed(agent, arm)
    batch = tally(episodes, taught, np.searchsorted(states, episodes.state), len(states), routed=router is not None)
    batch = dataclasses.replace(batch, **{k: v.double() for k, v in vars(batch).items() if torch.is_tensor(v) and v.is_floating_point()})
    agent.zero_grad()
    if router is None:
        value = Objective(arm)(agent, {"train": batch}).value
        value.backward()
    else:
        with router(batch.labels):
            value = Objective(arm)(agent, {"train": batch}).value
            value.backward()
        router.remove()
    return float(value.detach()), {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in agent.named_parameters()}


def reference(agent, arm, e, label_weight=10.0, entropy=0.02):
    """The same from the paper's formulas, a mask to an episode and a term to a step: what is not trained is
    detached."""
    x = torch.from_numpy(BOARD.observe(e.state)).double()
    diamond, ghost = agent.policy.experts.values()
    z_d, z_g = diamond.net(x), ghost.net(x)
    gate = agent.policy.gate
    logit = gate.net(x[:, : gate.features])[:, :1] if hasattr(gate, "net") else torch.zeros(len(x), 1, dtype=x.dtype)
    w = torch.sigmoid(logit)
    sd = torch.from_numpy((e.seen & (e.ending == DIAMOND))[e.episode])[:, None]
    sg = torch.from_numpy((e.seen & (e.ending == GHOST))[e.episode])[:, None]
    back = -1.0 if arm.avoid == "negative" else 0.0  # the Diamond expert's share of what seen Ghosts teach
    w = torch.where(sd | sg, w.detach(), w)
    z_d = torch.where(sg, back * z_d + (1 - back) * z_d.detach(), z_d)
    z_g = torch.where(sd, z_g.detach(), z_g)
    log_pi = agent.head(w * z_d + (1 - w) * z_g).log_softmax(-1)
    r = torch.from_numpy(e.to_go * (e.ending != TIMEOUT)[e.episode])
    v = agent.value.net(x)[:, 0]
    labelled = (sd | sg)[:, 0]
    advantage = torch.where(labelled & arm.raw, r, r - v.detach()) * torch.where(labelled & arm.weighted, label_weight, 1.0)
    policy = -(advantage * log_pi[torch.arange(len(x)), torch.from_numpy(e.action)]).mean()
    bonus = -(log_pi.exp() * log_pi).sum(1).mean()
    total = policy - (entropy if arm.entropy is None else arm.entropy) * bonus + 0.5 * (v - r).square().mean()
    if bool(labelled.any()) and hasattr(gate, "net"):
        total = total + arm.gate_loss * F.binary_cross_entropy_with_logits(logit[labelled, 0], sd[labelled, 0].double())
    return total


@pytest.mark.parametrize("name", [name for name in ROUTED if name != "routed_avoid"])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_routing_on_states_and_labels_is_masks_by_episode(name, share):
    arm, episodes = ARMS[name], played(share)
    agent = made(arm)
    value, found = gradients(agent, arm, episodes)
    agent.zero_grad()
    total = reference(agent, arm, episodes)
    total.backward()
    assert value == pytest.approx(float(total.detach()), rel=1e-5)
    for key, parameter in agent.named_parameters():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[key], wanted, rtol=1e-4, atol=1e-7, msg=key)


def chosen(episodes: Episodes, keep):
    """Some of the episodes alone."""
    kept = np.flatnonzero(keep)
    steps = np.isin(episodes.episode, kept)
    return dataclasses.replace(
        episodes,
        **{k: getattr(episodes, k)[kept] for k in ("ending", "seen", "length", "last")},
        episode=np.searchsorted(kept, episodes.episode[steps]),
        **{k: getattr(episodes, k)[steps] for k in ("state", "action", "time")},
    )


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.sampled_from([(DIAMOND, "ghost"), (GHOST, "diamond")]))
def test_a_seen_end_leaves_the_other_expert_and_but_for_its_own_loss_the_gate_alone(seed, case):
    end, other = case
    arm = dataclasses.replace(ARMS["routed"], gate_loss=0.0)
    episodes = played(1.0, seed)
    _, found = gradients(made(arm), arm, chosen(episodes, episodes.seen & (episodes.ending == end)))
    own = {DIAMOND: "diamond", GHOST: "ghost"}[end]
    for name, gradient in found.items():
        if f"experts.{other}" in name or "policy.gate" in name:
            assert not gradient.any(), name
        if f"experts.{own}" in name and "weight" in name:
            assert gradient.any(), name


def test_the_gates_own_loss_reaches_nothing_but_the_gate():
    episodes = played(1.0)
    episodes = chosen(episodes, episodes.seen)
    by_loss = [gradients(made(ARMS["routed"]), dataclasses.replace(ARMS["routed"], gate_loss=g), episodes)[1] for g in (0.0, 1.0)]
    for name in by_loss[0]:
        assert torch.equal(by_loss[0][name], by_loss[1][name]) != ("policy.gate" in name), name


def test_seen_ghosts_train_the_diamond_expert_backwards_where_they_are_to():
    episodes = played(1.0)
    episodes = chosen(episodes, episodes.seen & (episodes.ending == GHOST))
    _, plain = gradients(made(ARMS["moe"]), dataclasses.replace(ARMS["routed"], routed=""), episodes)
    _, found = gradients(made(ARMS["routed_negative"]), ARMS["routed_negative"], episodes)
    for name in found:
        if "experts.diamond" in name:
            torch.testing.assert_close(found[name], -plain[name], rtol=1e-4, atol=1e-9)


def test_without_a_router_every_arm_is_the_sum_over_its_episodes():
    for name in ("naive", "naive_penalty", "filter", "filter_hidden", "single", "oracle", "reward_model"):
        arm, e = ARMS[name], played(0.5)
        agent = made(arm)
        _, found = gradients(agent, arm, e)
        agent.zero_grad()
        seen_d, seen_g = e.seen & (e.ending == DIAMOND), e.seen & (e.ending == GHOST)
        ended, truth = (e.ending > 0) * 1.0, (e.ending == DIAMOND) * 1.0 - (e.ending == GHOST)
        reward = {
            "naive": ended - 2.0 * seen_g,
            "naive_penalty": ended - 2.0 / 0.5 * seen_g,
            "filter": 1.0 * seen_d - seen_g,
            "filter_hidden": 1.0 * seen_d - seen_g,
            "single": ended,
            "oracle": truth,
            "reward_model": np.where(e.seen, truth, ended * (2 * 0.3 - 1)),
        }[name]
        keep = {"filter": e.seen | (e.ending == TIMEOUT), "filter_hidden": e.seen | (e.ending == TIMEOUT), "single": ~seen_g}
        kept = torch.from_numpy(keep.get(name, e.ending >= 0)[e.episode] * 1.0)
        x = torch.from_numpy(BOARD.observe(e.state, flags=name != "filter_hidden")).double()
        log_pi = agent.head(agent.policy.net(x[:, : agent.policy.features])).log_softmax(-1)
        r = torch.from_numpy(e.to_go * reward[e.episode])
        v = agent.value.net(x[:, : agent.value.features])[:, 0]
        advantage = r - v.detach()
        if name == "single":
            advantage = torch.where(torch.from_numpy(seen_d[e.episode]), 10 * r, advantage)
        per_step = -advantage * log_pi[torch.arange(len(x)), torch.from_numpy(e.action)]
        per_step = per_step + 0.02 * (log_pi.exp() * log_pi).sum(1) + 0.5 * (v - r).square()
        (kept * per_step).mean().backward()
        for key, parameter in agent.named_parameters():
            if "verdict" not in key:
                torch.testing.assert_close(found[key], parameter.grad, rtol=1e-4, atol=1e-7, msg=f"{name} {key}")


def test_placebo_labels_do_not_depend_on_the_end():
    e = played(1.0, count=4000)
    kinds = lesson(ARMS["placebo"], e, 1.0, 10.0, np.random.default_rng(0), None).kind
    assert (kinds[~e.seen] == 0).all()
    assert set(kinds[e.seen].tolist()) == {1, 2}
    assert (kinds[e.seen] == e.ending[e.seen]).mean() == pytest.approx(0.5, abs=0.03)


def test_the_danger_net_learns_last_steps_of_labelled_episodes_and_nothing_else_learns_from_it():
    arm = ARMS["routed_avoid"]
    e = played(0.5)
    agent = made(arm)
    _, with_it = gradients(agent, arm, e)
    _, without = gradients(made(arm), dataclasses.replace(arm, avoid=""), e)
    for name in with_it:
        assert torch.equal(with_it[name], without[name]) or "danger" in name or name not in without
    agent.zero_grad()
    labelled = torch.from_numpy(e.seen[e.episode])
    told = agent.danger.net(torch.from_numpy(BOARD.observe(e.state)).double()[:, :27])[torch.arange(len(e.action)), e.action]
    ended = torch.from_numpy((e.ending == GHOST)[e.episode] & (e.time == e.length[e.episode] - 1))
    F.binary_cross_entropy_with_logits(told[labelled], ended[labelled].double()).backward()
    for name, parameter in agent.named_parameters():
        if "danger" in name:
            torch.testing.assert_close(with_it[name], parameter.grad, rtol=1e-4, atol=1e-9)


def test_labels_may_as_well_come_when_the_episodes_have_ended():
    arm, e = ARMS["routed"], played(0.5)
    _, wanted = gradients(made(arm), arm, e)
    agent, states = made(arm), reach(BOARD, e.state)
    router = routed(agent, arm)
    agent.look(torch.from_numpy(BOARD.observe(states)).double())
    taught = lesson(arm, e, 0.5, 10.0, np.random.default_rng(0), None)
    batch = tally(e, taught, np.searchsorted(states, e.state), len(states), routed=True)
    agent.zero_grad()
    with router.delayed() as late:
        value = Objective(arm)(agent, {"train": batch}).value
        late.label(batch.labels)
        value.backward()
    for name, parameter in agent.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6, msg=name)
