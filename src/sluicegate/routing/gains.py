"""Gains and shifts of norms in the parameter form: each row's own, for next to nothing.

A norm that is computed a second time for its weights' gradients costs more than the products that
the parameter form leaves out. What is multiplied feature by feature has a shorter way. Used without
function transforms only.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sluicegate.routing.parameter_pieces import JOINT, Piece


def _rows_sum(each: Tensor, weights: Tensor, own: tuple[Piece, ...]) -> Tensor:
    """[features] `each` [rows, features] summed over the rows times their weight [rows, columns], piece by piece."""
    if len(own) == 1 and own[0].runs is None and own[0].column != JOINT:
        return weights[:, own[0].column].to(each.dtype) @ each
    out = torch.zeros_like(each[0])
    for piece in own:
        total = each.sum(0) if piece.column == JOINT else weights[:, piece.column].to(each.dtype) @ each
        for start, stop in piece.runs or ((0, len(out)),):
            out[start:stop] = total[start:stop]
    return out


class NormGains(torch.autograd.Function):
    """Stands behind a fused norm whose weights are held: passes everything on, and gives the weights their
    gradients."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor, own: Any, norm: nn.Module) -> Tensor:
        ctx.rows, ctx.own, ctx.norm = rows, own, norm
        ctx.save_for_backward(x)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,), rows = ctx.saved_tensors, ctx.rows
        gw = gb = None
        lead = rows.dim() - 1
        flat = rows.reshape(-1, rows.shape[-1])

        def apart(each: Tensor) -> Tensor:
            inner = tuple(range(lead, each.dim() - 1))
            return (each.sum(inner) if inner else each).reshape(len(flat), -1)

        if ctx.needs_input_grad[2]:
            gw = _rows_sum(apart(g * _normed(ctx.norm, x.to(g.dtype))), flat, ctx.own[0])
        if ctx.needs_input_grad[3]:
            gb = _rows_sum(apart(g), flat, ctx.own[1])
        return g, None, gw, gb, None, None, None


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    """The norm without gain and shift."""
    if isinstance(norm, nn.LayerNorm):
        return F.layer_norm(x, norm.normalized_shape, None, None, norm.eps)
    assert isinstance(norm, nn.RMSNorm)
    return F.rms_norm(x, norm.normalized_shape, None, norm.eps)


def is_fused(norm: nn.Module) -> bool:
    """Whether this is one of torch's own norms over the features."""
    own = (nn.LayerNorm, nn.RMSNorm)
    return isinstance(norm, own) and type(norm).forward in (kind.forward for kind in own) and len(norm.normalized_shape) == 1


def may_be_by_feature(module: nn.Module) -> bool:
    """Whether a module looks like a norm written by hand, whose weights are multiplied feature by feature."""
    plain = not type(module).__module__.startswith("torch.") and type(module).__name__.endswith("Norm")
    own = list(module.parameters(recurse=False))
    return plain and bool(own) and all(p.dim() == 1 for p in own) and not list(module.buffers(recurse=False))
