"""Pieces: how a parameter is divided among the blocks and the rest."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sluicegate.routing.sites import Part, runs

JOINT = -1
"""Column of what is held back from no row at all."""
Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Piece:
    """A share of one parameter that belongs to one column, or to `JOINT`."""

    column: int
    dim: int
    runs: Runs | None
    """Where along `dim`; None for all of it."""


def pieces(parameter: Tensor, part: Part | None, blocks: Mapping[int, tuple[int, int]], *, gated: bool = False) -> tuple[Piece, ...]:
    """Cut a parameter into each block's share and the rest's.

    `part` is the site's part of it, if any, with the units of each block (by column). An index that
    serves units of several columns (a shared key head) is the rest's; where the gradient is `gated`
    by unit, which cannot tell whose it is there, it is held back from nobody.
    """
    if part is None:
        return (Piece(0, 0, None),)
    rest = torch.ones(parameter.shape[part.dim], dtype=torch.bool)
    shared = torch.zeros_like(rest)
    found = []
    for column, (start, stop) in blocks.items():
        mine = part.belongs(start, stop)
        rest &= ~mine
        shared |= part.touches(start, stop) & ~mine
        if mine.any():
            found.append(Piece(column, part.dim, runs(mine)))
    if gated and shared.any():
        rest &= ~shared
        found.append(Piece(JOINT, part.dim, runs(shared)))
    if rest.any():
        found.append(Piece(0, part.dim, runs(rest)))
    if len(found) == 1:
        return (Piece(found[0].column, part.dim, None),)
    return tuple(found)
