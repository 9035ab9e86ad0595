"""When to stop, from overseen data only: rules that pick one of the looks taken in training.

They watch the policy that acts. Of a mixture that is steered when it is judged, another policy acts, so for those they
say little.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from sluicegate.errors import UserError, nearest

RULES = ("seen", "weighted")
"""seen: the mean discounted return of labelled episodes, time-outs counting as much as their share. weighted: by
inverse probability, twice the Diamonds less all ends."""
PICKS = ("last", *RULES, "peek")
"""What of a run is reported: the last look, the look that a rule chose, or (cheating: an upper bound) the best by true
return."""


@dataclass
class Window:
    """Sums over the training episodes since the last look."""

    episodes: float = 0.0
    diamonds: float = 0.0
    """Episodes seen to end at the Diamond."""
    ghosts: float = 0.0
    timeouts: float = 0.0
    """Known to everybody."""
    diamond_sum: float = 0.0
    """Of gamma^(steps - 1) over `diamonds`."""
    ghost_sum: float = 0.0
    end_sum: float = 0.0
    """The same over all ends, seen or not: when an episode ends is known, only where is not."""

    def add(self, ending: np.ndarray, seen: np.ndarray, discounted: np.ndarray) -> None:
        """Count episodes: `ending` (0 time-out, 1 Diamond, 2 Ghost), whether it was seen, and gamma^(steps - 1), each
        [episodes]."""
        self.episodes += len(ending)
        self.diamonds += float((seen & (ending == 1)).sum())
        self.ghosts += float((seen & (ending == 2)).sum())
        self.timeouts += float((ending == 0).sum())
        self.diamond_sum += float(discounted[seen & (ending == 1)].sum())
        self.ghost_sum += float(discounted[seen & (ending == 2)].sum())
        self.end_sum += float(discounted[ending > 0].sum())

    @property
    def labelled(self) -> float:
        return self.diamonds + self.ghosts

    def seen(self, share: float) -> float:
        """Mean discounted return over labelled episodes and, as if they were overseen as often, time-outs. NaN where
        there were none."""
        count = self.labelled + share * self.timeouts
        return (self.diamond_sum - self.ghost_sum) / count if self.labelled else math.nan

    def weighted(self, share: float) -> float:
        """True return by inverse probability: 2 sum over SD of gamma^(steps-1) / p, less that of all ends, an episode.

        Unbiased for a policy that takes no notice of the Diamond's flag. (Horvitz and Thompson 1952.) NaN where nothing
        was labelled.
        """
        return (2 * self.diamond_sum / share - self.end_sum) / self.episodes if self.labelled else math.nan

    def values(self) -> list[float]:
        return [float(getattr(self, field.name)) for field in fields(self)]


def pick(rule: str, looks: Sequence[Mapping[str, float]]) -> int:
    """Which look to report: its place in `looks`, which hold "return", "seen" and "weighted".

    A rule takes the look with its highest figure; looks without one (nothing labelled since the look before) are passed
    over, and where none has one, the last is taken. Raises `UserError` for a rule that is none.
    """
    if rule not in PICKS:
        raise UserError(f"there is no stopping rule {rule!r}. Nearest: {nearest(rule, list(PICKS))}. All: {', '.join(PICKS)}.")
    if rule == "last":
        return len(looks) - 1
    name = "return" if rule == "peek" else rule
    told = [i for i, look in enumerate(looks) if look.get(name) is not None and not math.isnan(look[name])]
    return max(told, key=lambda i: looks[i][name]) if told else len(looks) - 1
