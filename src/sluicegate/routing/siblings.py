"""Siblings: linear layers that read the same tensor, as those of queries, keys and values do.

The first of them to be called computes them all, as one function: their gradients of the input then add up
inside the products, and small models spend less time between these. Who is a sibling is seen in one pass and
holds from the next one on, so that a pass which is computed again under checkpointing finds what it found before.
"""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from sluicegate.routing.protect import Shield


class Ready(NamedTuple):
    """What a layer would answer, computed in advance, and to what."""

    x: Tensor
    version: int
    weight: Tensor
    y: Tensor
    first: "Shield"


class Siblings:
    """Who is computed together; one a flow."""

    def __init__(self) -> None:
        self.ready: dict[Shield, Ready] = {}
        self._last: tuple[Tensor, Shield] | None = None
        self._changes: list[tuple[Shield, Shield | None]] = []

    def met(self, shield: "Shield", x: Tensor) -> None:
        """Note that a layer was computed by itself."""
        if self._last is not None and self._last[0] is x:
            self._changes.append((self._last[1], shield))
        else:
            self._last = x, shield

    def taken(self, shield: "Shield", x: Tensor) -> Tensor | None:
        """What was computed for a layer in advance; None if that was for something else."""
        found = self.ready.pop(shield, None)
        if found is None or found.x is not x or found.version != x._version or found.weight is not shield.module._parameters["weight"]:
            return None
        return found.y

    def leave(self) -> None:
        """A pass ended: whoever was computed for nothing is not computed in advance again."""
        self._last = None
        self._changes += [(found.first, None) for found in self.ready.values()]
        self.ready.clear()
        for first, other in self._changes:
            if other is None:
                first.siblings, first.alone = (), True
            elif other is not first and other not in first.siblings and not first.alone:
                first.siblings = (*first.siblings, other)
            first.seen = None
        self._changes.clear()
