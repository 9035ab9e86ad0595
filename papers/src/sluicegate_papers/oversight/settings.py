"""How to train, whatever the arm. Apart from training, so that reading a command line needs no torch."""

from dataclasses import dataclass
from typing import NamedTuple

from sluicegate.values.ranges import Checked, Count, Positive, Rows, Weight, Width
from sluicegate.values.schedule import Schedule


class Budget(NamedTuple):
    """How many episodes, and how many updates on them."""

    episodes: int
    updates: int


def budget(size: int) -> Budget:
    """A board's own budget: 512,000 episodes on 3 x 3, .9 million on 4 x 4 and 1.8 million on larger ones."""
    return {2: Budget(1024, 500), 3: Budget(1024, 500), 4: Budget(2048, 450)}.get(size, Budget(2048, 900))


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of a run. Raises `UserError` for what cannot be."""

    episodes: Rows = 1024
    """Fresh episodes an update."""
    updates: Count = 500
    width: Width = 64
    """Hidden width of every net."""
    label_weight: Positive = 10.0
    """How often a labelled episode counts, where the arm weights them."""
    entropy: Weight = 0.02
    """Weight of the entropy bonus, where the arm has none of its own."""
    look: Count = 20
    """Updates between two looks, over which the stopping rules' figures are taken."""
    lr: Positive = 2e-3
    """Learning rate of Adam."""

    def schedule(self) -> Schedule:
        """Adam at a constant rate, gradients clipped at a norm of 1."""
        return Schedule(steps=self.updates, lr=self.lr, beta2=0.999, clip=1.0)
