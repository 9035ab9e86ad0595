"""Surgery: units added to a model, and units taken out, so that it stays an ordinary model of its kind."""

from collections.abc import Mapping, Sequence

from torch import nn

from sluicegate.routing.sites import Site


def shrink(model: nn.Module, places: Sequence[tuple[Site, Mapping[str, tuple[int, int]]]]) -> bool:
    """Take the units of these blocks out of the weights where the architecture allows; return whether it did."""
    return False
