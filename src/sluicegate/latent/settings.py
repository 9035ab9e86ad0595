"""What is trained for. Apart from the training, so that reading a command line needs no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from sluicegate.values.ranges import Checked, Range, Share, Weight

Arm = Literal["routed", "unrouted", "penalty_routed", "labelled_only"]
UNKNOWN = -1
"""The label of an image whose class is not known."""


@dataclass(frozen=True)
class Settings(Checked):
    """What is trained for. Chosen on validation images of MNIST and of the 8 x 8 digits."""

    penalty: Weight = 3.0
    """Half of it times the squared distance of an amount, before its ReLU, from -rest is added, for every block."""
    rest: Weight = 0.5
    """How far below 0 the penalty pulls amounts: the further, the fewer blocks stir on images of other classes."""
    leak: Share = 0.5
    """Share of the gradient that an amount below 0 gets all the same, so that a block that is off can come on again."""
    sigma: Weight = 0.3
    """Standard deviation of the noise on the amounts."""
    rise: Share = 0.5
    """Share of the steps over which the noise rises from 0."""
    divergence: Weight = 1.0
    """Weight of the styles' divergence from a standard normal distribution."""
    anneal: Share = 0.8
    """Share of the steps over which that weight rises from 0 (Bowman et al. 2016, arXiv 1511.06349): else styles that
    would pay later are given up while they are still noise."""
    own: Weight = 0.3
    """Scale of a block's own part of the weights that draw its styles, beside the common part (see `sharing`)."""
    empty: Weight = 1.0
    """Weight of drawing the empty code black; at 0 the decoder draws one class by default, whose block then dies."""
    alone: Share = 0.3
    """Share of the steps in which images without a label train no block and pay no penalty."""
    sure: Share = 0.0
    """After that they train the block that reads them, where its lead over the second is at least this share of it."""
    shift: Annotated[int, Range(0, 2**10)] = 0
    """Pixels by which training images are moved at random, up, down, left and right."""
