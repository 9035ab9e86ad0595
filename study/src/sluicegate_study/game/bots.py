"""The other team, a bot: what it does is drawn for one tossup at a time from the same model that `buzzing` solves.

A bot knows nothing. When it buzzes, whether it is right, and what it makes of a bonus are drawn from an `Opponent`, by
a seed; it does not react to the player, except that a miss of the player lets it answer at the end.
"""

import math
from dataclasses import dataclass

import numpy as np

from sluicegate_study.game.players import TICKS, Opponent

MOST_PARTS = 6


@dataclass(frozen=True)
class Plan:
    """What a bot does in one tossup. It buzzes when so many words are read (`word`; 0: never), and is `right` or not;
    after the player's miss it answers at the end where it would have buzzed later or `ventures`, and is `right_late` or
    not. `parts`: the bonus parts that it knows."""

    word: int = 0
    right: bool = False
    ventures: bool = False
    right_late: bool = False
    parts: tuple[bool, ...] = (False,) * MOST_PARTS

    def rebounds(self, word: int) -> bool:
        """Whether the bot answers after the player's miss at this word; it may have wanted the very same."""
        return self.word >= word or self.ventures


def draw_plan(opponent: Opponent, words: int, *seed: int) -> Plan:
    """Draw what the bot does in a tossup of so many words; the same seed gives the same plan."""
    random = np.random.default_rng(np.random.SeedSequence(seed))
    # Everything is drawn whether it is needed or not, so that one change of a rate does not shift the other draws.
    when, right, ventures, right_late = random.random(4)
    parts = tuple(bool(known) for known in random.random(MOST_PARTS) < opponent.bonus)
    word, chance = 0, 0.0
    if when < opponent.share:
        share = (when / opponent.share) ** (1 / opponent.shape)
        tick = max(1, math.ceil(share * TICKS))
        word = words if tick == TICKS else max(1, min(words - 1, math.ceil(share * TICKS / (TICKS - 1) * words)))
        chance = float(opponent.accuracy(TICKS)[tick - 1])
    return Plan(word, bool(right < chance), bool(ventures < opponent.venture), bool(right_late < opponent.high), parts)


def find_tick(word: int, words: int) -> int:
    """The tick, 1 to 20, at which so many of the words are read; the last is "the reading is over"."""
    return TICKS if word >= words else max(1, min(TICKS - 1, math.ceil((TICKS - 1) * word / words)))


def find_mark(power: int, words: int) -> int:
    """The last tick in power, where so many words are; 0 without a power mark."""
    return find_tick(power, words) if power else 0
