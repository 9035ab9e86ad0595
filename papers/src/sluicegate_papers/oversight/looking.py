"""A look at an agent: exact figures of the policy that is judged, and policies for pictures."""

import numpy as np
import torch
from torch import Tensor

from sluicegate.engine.sampling import seed_of
from sluicegate.oversight.board import GHOST_SEEN, Board, shown
from sluicegate.values.edits import Edit
from sluicegate_papers.oversight.arms import Arm
from sluicegate_papers.oversight.episodes import DIAMOND, GHOST, TIMEOUT, play
from sluicegate_papers.oversight.evaluate import Outlook, outlook, overseen
from sluicegate_papers.oversight.nets import Agent
from sluicegate_papers.oversight.steer import TO_DIAMOND, TO_GHOST, AsIs, judged

SAMPLED = 4096
"""Episodes from which boards are judged that are too large for an exact figure."""


def table(agent: Agent, board: Board, states: np.ndarray, edit: Edit | None = None) -> np.ndarray:
    """[n, 4] the policy on these states, under an edit."""
    with (edit or AsIs())(agent), agent.looking(torch.from_numpy(board.observe(states))) as places:
        found: np.ndarray = agent(places).double().softmax(-1).numpy()
    return found


def look_at(agent: Agent, arm: Arm, board: Board, share: float, seed: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Figures and pictures.

    The figures are `Outlook`'s of the judged policy where nothing is overseen, and "ghost_flagged", its return where
    the Ghost's square is; "overseen", what labelled episodes earn in training; and for mixtures "mixture" and
    "ghost_expert", returns of the unsteered policy and of the other expert, and "gate_accuracy", the share of states in
    which the gate opens towards the nearer end.
    """
    edit = judged(arm)
    if not board.exact:
        return _sampled(agent, board, edit, seed), {}
    every = np.arange(board.states)
    acting = table(agent, board, every)
    own = table(agent, board, every, edit)
    a = board.placements
    figures = outlook(board, own[:a]).as_dict()
    figures["ghost_flagged"] = outlook(board, own[GHOST_SEEN * a : (GHOST_SEEN + 1) * a], GHOST_SEEN).value
    figures["overseen"] = overseen(board, acting, share)
    pictures = {"judged": _drawn(board, own)}
    if arm.mixture:
        other, straight = table(agent, board, every, TO_GHOST), table(agent, board, every, TO_DIAMOND)
        gate = _gate(agent, board, every)
        figures["mixture"] = outlook(board, acting[:a]).value
        figures["ghost_expert"] = outlook(board, other[:a]).value
        diamond, ghost = board.distances(board.unseen)
        told = diamond != ghost
        figures["gate_accuracy"] = float(((gate[:a] > 0.5) == (diamond < ghost))[told].mean())
        pictures |= {"mixture": _drawn(board, acting), "diamond": _drawn(board, straight), "ghost_expert": _drawn(board, other)}
        pictures["gate"] = _drawn(board, gate[:, None])[..., 0]
    return figures, pictures


def _gate(agent: Agent, board: Board, states: np.ndarray) -> np.ndarray:
    with agent.looking(torch.from_numpy(board.observe(states))) as places:
        found: np.ndarray = agent.opening(places).numpy()
    return found


def _drawn(board: Board, values: np.ndarray) -> Tensor:
    """[boards, 2, cells, c] of values [states, c] on the boards that are shown, without a flag and with the Ghost's.

    NaN where the agent would stand on the Ghost or the Diamond.
    """
    agents = np.arange(board.cells)
    found = np.full((len(shown(board)), 2, board.cells, values.shape[1]), np.nan, np.float32)
    for i, (ghost, diamond) in enumerate(shown(board)):
        apart = (agents != ghost) & (agents != diamond)
        for j, flags in enumerate((0, GHOST_SEEN)):
            one = np.ones(int(apart.sum()), np.int64)
            found[i, j, apart] = values[board.number(agents[apart], ghost * one, diamond * one, flags)]
    return torch.from_numpy(found)


def _sampled(agent: Agent, board: Board, edit: Edit, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed_of(seed, "judged"))
    starts = rng.integers(0, board.placements, SAMPLED)
    episodes = play(board, starts, lambda at: table(agent, board, at, edit), rng)
    value = ((episodes.ending == DIAMOND) * 1.0 - (episodes.ending == GHOST)) * episodes.discounted
    near = board.near(starts)
    diamond, ghost, timeout = (float((episodes.ending == end).mean()) for end in (DIAMOND, GHOST, TIMEOUT))
    split = float(value[near].mean()), float(value[~near].mean())
    return Outlook(float(value.mean()), diamond, ghost, timeout, *split, float(episodes.length.mean())).as_dict()


__all__ = ["SAMPLED", "look_at", "table"]
