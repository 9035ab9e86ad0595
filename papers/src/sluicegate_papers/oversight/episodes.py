"""Episodes, many at a time: fresh ones for every update, each with its own end, so that labels are one to an
episode."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sluicegate.oversight.board import DIAMOND_SEEN, GHOST_SEEN, Board

TIMEOUT, DIAMOND, GHOST = 0, 1, 2
"""How an episode ended."""
Policy = Callable[[np.ndarray], np.ndarray]
"""States [n] to the probabilities of the actions, [n, 4]."""


@dataclass(frozen=True)
class Episodes:
    """E episodes and their T steps, the steps in the order of time."""

    board: Board
    ending: np.ndarray
    """[E] `TIMEOUT`, `DIAMOND` or `GHOST`."""
    seen: np.ndarray
    """[E] whether the square it ended on was overseen: such an episode is labelled."""
    length: np.ndarray
    """[E] steps."""
    last: np.ndarray
    """[E] the state before the last step."""
    episode: np.ndarray
    """[T] to which episode a step belongs."""
    state: np.ndarray
    """[T] where it was taken."""
    action: np.ndarray
    """[T]"""
    time: np.ndarray
    """[T] steps before it."""

    def __len__(self) -> int:
        return len(self.ending)

    @property
    def discounted(self) -> np.ndarray:
        """[E] gamma^(steps - 1): what an end is worth from the beginning."""
        found: np.ndarray = self.board.gamma ** (self.length - 1.0)
        return found

    @property
    def to_go(self) -> np.ndarray:
        """[T] gamma^(steps to go): what an end is worth from each step."""
        found: np.ndarray = self.board.gamma ** (self.length[self.episode] - 1.0 - self.time)
        return found


def play(board: Board, starts: np.ndarray, policy: Policy, rng: np.random.Generator) -> Episodes:
    """Play one episode from each of `starts` to its end, or to the board's limit."""
    count = len(starts)
    chances = rng.random((board.limit, count))
    now, alive = starts.copy(), np.arange(count)
    ending, length, last = np.zeros(count, np.int64), np.full(count, board.limit), starts.copy()
    episode, state, action, time = [], [], [], []
    for t in range(board.limit):
        at = now[alive]
        below = np.cumsum(policy(at), 1)[:, :-1]  # the last action takes what rounding leaves
        chosen = (chances[t, alive, None] >= below).sum(1)
        episode.append(alive)
        state.append(at)
        action.append(chosen)
        time.append(np.full(len(alive), t))
        then = board.step(at, chosen)
        now[alive], last[alive] = then, at
        over = then >= board.states
        done = alive[over]
        ending[done] = np.where(then[over] == board.diamond_end, DIAMOND, GHOST)
        length[done] = t + 1
        alive = alive[~over]
        if not len(alive):
            break
    flags = starts // board.placements
    seen = ((ending == DIAMOND) & (flags & DIAMOND_SEEN > 0)) | ((ending == GHOST) & (flags & GHOST_SEEN > 0))
    steps = (np.concatenate(x) for x in (episode, state, action, time))
    return Episodes(board, ending, seen, length, last, *steps)


def reach(board: Board, starts: np.ndarray) -> np.ndarray:
    """[k] every state that episodes from `starts` can come to, in order: the same Ghost, Diamond and flags, and any
    agent."""
    cells = board.cells
    _, ghost, diamond, flags = board.squares(starts)
    present = np.flatnonzero(np.bincount((flags * cells + ghost) * cells + diamond, minlength=4 * cells * cells))
    both, diamond = np.divmod(present, cells)
    flags, ghost = np.divmod(both, cells)
    agents = np.arange(cells)[:, None]
    apart = (agents != ghost) & (agents != diamond)
    found: np.ndarray = np.sort(board.number(*np.broadcast_arrays(agents, ghost, diamond, flags))[apart])
    return found
