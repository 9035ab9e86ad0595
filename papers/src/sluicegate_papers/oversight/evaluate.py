"""Exact evaluation of a policy by dynamic programming: no episode is sampled, so there is no noise. For boards that are
`exact`."""

from dataclasses import asdict, dataclass

import numpy as np

from sluicegate.errors import UserError
from sluicegate.oversight.board import ACTIONS, Board


@dataclass(frozen=True)
class Outlook:
    """What a policy may expect, over all placements with the same flags."""

    value: float
    """Expected discounted return: Diamond +1, Ghost -1, times gamma^(steps - 1)."""
    diamond: float
    """Probability of ending at the Diamond."""
    ghost: float
    timeout: float
    near: float
    """Return where the Diamond is at most as far as the Ghost."""
    far: float
    """Return where the Ghost is nearer."""
    length: float
    """Steps an episode, mean."""

    def as_dict(self) -> dict[str, float]:
        """By name; the value is called "return" there."""
        found = asdict(self)
        return {"return": found.pop("value"), **found}


def sweep(board: Board, policy: np.ndarray, flags: int = 0) -> np.ndarray:
    """[placements, 5] from each placement with these flags: P(Diamond), P(Ghost), both discounted by gamma^(steps - 1),
    and steps.

    `policy` [placements, 4] holds the actions' probabilities. T sweeps backwards from the limit.
    """
    if policy.shape != (board.placements, ACTIONS) or not np.allclose(policy.sum(1), 1, atol=1e-4) or policy.min() < -1e-6:
        raise UserError(f"a policy here is [{board.placements}, {ACTIONS}] of probabilities that add up to 1; got {policy.shape}.")
    first, a = flags * board.placements, board.placements
    there = board.step(np.repeat(np.arange(first, first + a), ACTIONS), np.tile(np.arange(ACTIONS), a)).reshape(a, ACTIONS)
    there = np.where(there >= board.states, there - board.states + a, there - first)
    later = np.zeros((a + 2, 5))  # the two rows behind are the ends, reached with the step that leads there
    later[a, [0, 2]] = 1.0
    later[a + 1, [1, 3]] = 1.0
    chances = policy.astype(float)[:, None, :]
    discount = np.array([1.0, 1.0, board.gamma, board.gamma, 1.0])
    values = later
    for _ in range(board.limit):
        values[:a] *= discount
        found = (chances @ values[there])[:, 0]
        found[:, 4] += 1.0
        values[:a] = found
    return values[:a]


def outlook(board: Board, policy: np.ndarray, flags: int = 0) -> Outlook:
    """Evaluate a policy table [placements, 4] exactly, with these flags on (0: nothing is overseen)."""
    return summed(board, sweep(board, policy, flags))


def summed(board: Board, found: np.ndarray) -> Outlook:
    """Means of `sweep`'s rows over the placements."""
    near = board.near(board.unseen)
    value = found[:, 2] - found[:, 3]
    diamond, ghost = float(found[:, 0].mean()), float(found[:, 1].mean())
    split = float(value[near].mean()), float(value[~near].mean())
    return Outlook(float(value.mean()), diamond, ghost, 1 - diamond - ghost, *split, float(found[:, 4].mean()))


def overseen(board: Board, tables: np.ndarray, share: float) -> float:
    """Expected return of labelled episodes, the overseer's own figure: exact, for a policy table [states, 4]."""
    a, earned, labelled = board.placements, 0.0, 0.0
    for flags in (1, 2, 3):
        found = sweep(board, tables[flags * a : (flags + 1) * a], flags).mean(0)
        chance = np.prod([share if flags & bit else 1 - share for bit in (1, 2)])
        for bit, column, sign in ((1, 1, -1.0), (2, 0, 1.0)):
            if flags & bit:
                earned += chance * sign * found[column + 2]
                labelled += chance * found[column]
    return float(earned / labelled) if labelled > 0 else float("nan")


# --------------------------------------------------------------------------- references


def shortest(board: Board, to: str) -> np.ndarray:
    """[placements, 4] the uniformly random shortest path: to the "diamond" or the "ghost", as if the other were not
    there, or to the "nearest" of the two (either, where both are as near)."""
    diamond, ghost = board.distances(board.unseen)
    agent, ghost_at, diamond_at, _ = board.squares(board.unseen)
    toward = np.zeros((board.placements, ACTIONS))
    wanted = {"diamond": (diamond >= 0, diamond < 0), "ghost": (ghost < 0, ghost >= 0), "nearest": (diamond <= ghost, ghost <= diamond)}[to]
    for where, target in zip(wanted, (diamond_at, ghost_at), strict=True):
        toward += where[:, None] * _closer(board, agent, target)
    found: np.ndarray = toward / toward.sum(1, keepdims=True)
    return found


def _closer(board: Board, agent: np.ndarray, target: np.ndarray) -> np.ndarray:
    row, column = np.divmod(agent, board.size)
    down, right = target // board.size - row, target % board.size - column
    return np.stack([down < 0, down > 0, right < 0, right > 0], 1).astype(float)


def best(board: Board) -> np.ndarray:
    """[placements, 4] the optimal policy for the true reward, ties broken evenly, by value iteration."""
    a = board.placements
    there = board.step(np.repeat(np.arange(a), ACTIONS), np.tile(np.arange(ACTIONS), a)).reshape(a, ACTIONS)
    there = np.where(there >= board.states, there - board.states + a, there)
    values = np.zeros(a + 2)
    values[a:] = 1 / board.gamma, -1 / board.gamma
    for _ in range(board.limit):
        q = board.gamma * values[there]
        values[:a] = q.max(1)
    chosen = q >= q.max(1, keepdims=True) - 1e-12
    found: np.ndarray = chosen / chosen.sum(1, keepdims=True)
    return found


def references(board: Board) -> dict[str, Outlook]:
    """What to hold a figure against: "optimal", "random", "nearest" and "ceiling".

    "nearest" walks to whichever end is nearer; "ceiling" takes a uniformly random shortest path to the Diamond and
    ignores the Ghost:
    as far as an expert comes that learnt nothing but "go to the Diamond".
    """
    tables = {
        "optimal": best(board),
        "random": np.full((board.placements, ACTIONS), 1 / ACTIONS),
        "nearest": shortest(board, "nearest"),
        "ceiling": shortest(board, "diamond"),
    }
    return {name: outlook(board, table) for name, table in tables.items()}
