"""Sets of orthonormal vectors: the nearest, one with a common direction, projections. All in float64."""

import torch
from torch import Tensor


def unit(rows: Tensor) -> Tensor:
    """[k, d] rows of length 1; a row of zeros stays one."""
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)  # type: ignore[no-any-return]


def without(rows: Tensor, spared: Tensor) -> Tensor:
    """[k, d] rows minus their projection on the orthonormal rows of `spared` [m, d]. Done twice, against rounding."""
    for _ in range(2):
        rows = rows - (rows @ spared.T) @ spared
    return rows


def basis(rows: Tensor) -> Tensor:
    """[r, d] an orthonormal basis of the space that the rows span (r is its dimension)."""
    if not len(rows):
        return rows.double()
    _, singular, directions = torch.linalg.svd(rows.double(), full_matrices=False)
    return directions[singular > singular.max() * 1e-10]  # type: ignore[no-any-return]


def lowdin(rows: Tensor) -> Tensor:
    """[k, d] the orthonormal rows nearest to independent ones at length 1 (Löwdin 1950): ``(M M^T)^(-1/2) M``."""
    rows = unit(rows.double())
    for _ in range(2):  # the second time takes out what rounding left of the first
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        rows = (vectors * values.clamp(min=1e-12).rsqrt()) @ (vectors.T @ rows)
    return rows


def simplex(common: Tensor, fillers: Tensor) -> Tensor:
    """[k, d] orthonormal rows that all have the same component, 1/sqrt(k), along `common`.

    `common` [d], `fillers` [k - 1, d]: together linearly independent. No orthonormal set can have more of a direction
    in every row (Bessel's inequality).
    """
    count = len(fillers) + 1
    first = common.double() / common.double().norm()
    rest = lowdin(without(fillers.double(), first[None])) if count > 1 else fillers.double()
    rows = torch.cat([first[None], rest])
    # Householder's reflection that sends the first unit vector to (1, ..., 1) / sqrt(k).
    v = torch.full((count,), -(count**-0.5), dtype=torch.float64)
    v[0] += 1
    if float(v.norm()) < 1e-12:
        return rows
    v = v / v.norm()
    return rows - 2 * v[:, None] * (v @ rows)[None]  # type: ignore[no-any-return]


def tangent(gradient: Tensor, frame: Tensor) -> Tensor:
    """[k, d] the part of a gradient that turns `frame` and keeps its rows orthonormal (Stiefel manifold)."""
    product = gradient @ frame.T
    return gradient - 0.5 * (product + product.T) @ frame
