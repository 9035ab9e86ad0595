"""Siblings: linear layers that read the same tensor, as those of queries, keys and values do.

The first of them to be called computes them all, as one function: their gradients of the input then add up
inside the products, and small models spend less time between these. Who is a sibling is seen in one pass and
holds from the next one on, so that a pass which is computed again under checkpointing finds what it found before.
"""

from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn


class Reader(Protocol):
    """A linear layer that may be computed with others."""

    module: nn.Module
    siblings: tuple[Any, ...]
    """Those that are called after this one with the same tensor."""
    alone: bool
    """Whether there once was one that was not, after all."""
    seen: Any
    """What it knows of the last batch; None makes it look again."""


class Ready(NamedTuple):
    """What a layer would answer, computed in advance, and to what."""

    x: Tensor
    version: int
    weight: Tensor
    y: Tensor
    first: Reader


class Siblings:
    """Who is computed together; one a context."""

    def __init__(self) -> None:
        self.ready: dict[Reader, Ready] = {}
        self._last: tuple[Tensor, Reader] | None = None
        self._changes: list[tuple[Reader, Reader | None]] = []

    def met(self, reader: Reader, x: Tensor) -> None:
        """Note that a layer was computed by itself."""
        if self._last is not None and self._last[0] is x:
            self._changes.append((self._last[1], reader))
        else:
            self._last = x, reader

    def taken(self, reader: Reader, x: Tensor) -> Tensor | None:
        """What was computed for a layer in advance; None if that was for something else."""
        found = self.ready.pop(reader, None)
        if found is None or found.x is not x or found.version != x._version or found.weight is not reader.module._parameters["weight"]:
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
