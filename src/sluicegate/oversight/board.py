"""The board: an agent, a Ghost and a Diamond on a grid, and two flags that say which of the two squares is overseen.

A state is a number, so a whole batch of episodes is an array of numbers. Small boards hold a table of all observations
and successors; larger ones work both out from the number.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sluicegate.errors import UserError

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Row and column of each action: up, down, left, right. Walls stop the agent."""
ACTIONS = len(MOVES)
CHANNELS = 4
"""Agent, Ghost, Diamond, and the overseen ones among the two squares."""
LARGEST = 16
_TABLE_BYTES = 32_000_000
"""Size of the observations up to which they are held in a table: boards up to 5 x 5."""
GHOST_SEEN, DIAMOND_SEEN = 1, 2
"""Bits of a state's flags."""


@dataclass(frozen=True)
class Board:
    """An N x N board. Agent, Ghost and Diamond begin on three different squares, uniformly.

    States are numbered 0 to `states` - 1, `placements` for each of the four values of the flags, those without
    flags first; `diamond_end` and `ghost_end`, the two numbers after, are the ends.
    """

    size: int = 3
    """Squares on a side: 2 to 16."""
    limit: int = 0
    """Steps after which an episode is stopped; 0: 8 (N - 1), which is 16 on 3 x 3 and 24 on 4 x 4."""
    gamma: float = 0.97
    """Discount a step."""
    tabulated: bool | None = None
    """Whether observations and successors are looked up; None: where the table is small enough."""

    def __post_init__(self) -> None:
        if not 2 <= self.size <= LARGEST:
            why = "on one square there is no room for agent, Ghost and Diamond" if self.size < 2 else "larger ones are not numbered"
            raise UserError(f"the board's size is {self.size}; it must be from 2 to {LARGEST}: {why}.")
        if self.limit < 0:
            raise UserError(f"the board's limit is {self.limit} steps; it must be at least 1, or 0 for the board's own.")
        if not 0 < self.gamma <= 1:
            raise UserError(f"gamma is {self.gamma:g}; it must be more than 0 and at most 1.")
        object.__setattr__(self, "limit", self.limit or 8 * (self.size - 1))
        if self.tabulated is None:
            object.__setattr__(self, "tabulated", 4 * self.states * self.features <= _TABLE_BYTES)

    @property
    def cells(self) -> int:
        return self.size * self.size

    @property
    def features(self) -> int:
        """Length of an observation: four channels of N x N."""
        return CHANNELS * self.cells

    @property
    def placements(self) -> int:
        """States without their flags: n (n - 1) (n - 2)."""
        return self.cells * (self.cells - 1) * (self.cells - 2)

    @property
    def states(self) -> int:
        return 4 * self.placements

    @property
    def diamond_end(self) -> int:
        return self.states

    @property
    def ghost_end(self) -> int:
        return self.states + 1

    @property
    def exact(self) -> bool:
        """Whether policies can be judged exactly, by dynamic programming: up to 6 x 6. Larger are sampled."""
        return self.placements <= 50_000

    @property
    def unseen(self) -> np.ndarray:
        """Numbers of the states without a flag, on which agents are judged."""
        return np.arange(self.placements)

    def number(self, agent: np.ndarray, ghost: np.ndarray, diamond: np.ndarray, flags: np.ndarray | int = 0) -> np.ndarray:
        """States from squares, numbered row by row, and flags (bits `GHOST_SEEN` and `DIAMOND_SEEN`)."""
        agent, ghost, diamond = (np.asarray(x, dtype=np.int64) for x in (agent, ghost, diamond))
        other = ghost - (ghost > agent)  # the Ghost's place among the squares without the agent
        last = diamond - (diamond > agent) - (diamond > ghost)
        placement = (agent * (self.cells - 1) + other) * (self.cells - 2) + last
        return placement + np.asarray(flags) * self.placements  # type: ignore[no-any-return]

    def squares(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Agent's, Ghost's and Diamond's square, and the flags, of states: the reverse of `number`."""
        flags, rest = np.divmod(np.asarray(states, dtype=np.int64), self.placements)
        rest, last = np.divmod(rest, self.cells - 2)
        agent, other = np.divmod(rest, self.cells - 1)
        ghost = other + (other >= agent)
        low, high = np.minimum(agent, ghost), np.maximum(agent, ghost)
        diamond = last + (last >= low)
        diamond = diamond + (diamond >= high)
        return agent, ghost, diamond, flags

    def start(self, rng: np.random.Generator, count: int, share: float) -> np.ndarray:
        """[count] states to begin in: placements are uniform, each flag is on with probability `share`."""
        flags = (rng.random((2, count)) < share).astype(np.int64)
        overseen = GHOST_SEEN * flags[0] + DIAMOND_SEEN * flags[1]
        return rng.integers(0, self.placements, count) + overseen * self.placements  # type: ignore[no-any-return]

    def step(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The states after one action each; an end stays what it is."""
        if self.tabulated:
            return self.successors[states, actions]  # type: ignore[no-any-return]
        return self._moved(np.asarray(states, dtype=np.int64), np.asarray(actions))

    def observe(self, states: np.ndarray, *, flags: bool = True) -> np.ndarray:
        """[n, 4 N N] float32, 0 or 1: agent, Ghost, Diamond, overseen squares (all 0 without `flags`)."""
        found = self.observations[states] if self.tabulated else self._seen(np.asarray(states, dtype=np.int64))
        if not flags:
            found[:, 3 * self.cells :] = 0
        return found

    @cached_property
    def successors(self) -> np.ndarray:
        """[states + 2, 4] the state after each action."""
        every = np.arange(self.states + 2)
        return np.stack([self._moved(every, np.full(len(every), action)) for action in range(ACTIONS)], 1)

    @cached_property
    def observations(self) -> np.ndarray:
        """[states, 4 N N] every observation."""
        return self._seen(np.arange(self.states))

    def _moved(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        over = states >= self.states
        agent, ghost, diamond, flags = self.squares(np.where(over, 0, states))
        row, column = np.divmod(agent, self.size)
        by = np.array(MOVES)[actions]
        there = np.clip(row + by[..., 0], 0, self.size - 1) * self.size + np.clip(column + by[..., 1], 0, self.size - 1)
        ended = over | (there == diamond) | (there == ghost)
        found = self.number(np.where(ended, agent, there), ghost, diamond, flags)
        found = np.where(there == diamond, self.diamond_end, np.where(there == ghost, self.ghost_end, found))
        return np.where(over, states, found)

    def _seen(self, states: np.ndarray) -> np.ndarray:
        agent, ghost, diamond, flags = self.squares(states)
        found, rows = np.zeros((len(states), self.features), np.float32), np.arange(len(states))
        for channel, where in enumerate((agent, ghost, diamond)):
            found[rows, channel * self.cells + where] = 1
        for bit, where in ((GHOST_SEEN, ghost), (DIAMOND_SEEN, diamond)):
            on = (flags & bit) > 0
            found[rows[on], 3 * self.cells + where[on]] = 1
        return found

    def distances(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps from the agent to the Diamond and to the Ghost, were the other not there."""
        agent, ghost, diamond, _ = (np.stack(np.divmod(squares, self.size)) for squares in self.squares(states))
        return np.abs(agent - diamond).sum(0), np.abs(agent - ghost).sum(0)

    def near(self, states: np.ndarray) -> np.ndarray:
        """Whether the Diamond is at most as far as the Ghost."""
        diamond, ghost = self.distances(states)
        return diamond <= ghost


def check_share(share: float) -> None:
    """Raise `UserError` for a share of overseen squares that is none."""
    if not (0 < share <= 1 and math.isfinite(share)):
        raise UserError(
            f"the share of overseen squares is {share:g}; it must be more than 0 and at most 1, for example 0.01. "
            "With nothing overseen, no arm can tell the Diamond from the Ghost."
        )


def shown(board: Board) -> tuple[tuple[int, int], ...]:
    """(Ghost's square, Diamond's square) of the boards in pictures: in the way, at the side, and far off."""
    n, last = board.size, board.cells - 1
    pairs = [(n + n // 2, n - 1), (last // 2, last), (n * (n // 2) + 1, n * (n // 2) + n - 1), (0, last), (n - 1, last), (last - 1, last)]
    pairs += [(1, n - 1), (last, 0)]
    return tuple(dict.fromkeys(p for p in pairs if p[0] != p[1]))
