"""Exposure: which parameters of a routed model learn from which label, measured."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sluicegate.errors import UserError
from sluicegate.routing.labels import Policy
from sluicegate.routing.parameter_pieces import JOINT, Piece

_JOINT = "joint"


class Routed(Protocol):
    """What is asked of a router here."""

    model: nn.Module
    policy: Policy
    batch_dim: int

    def __call__(self, labels: Tensor) -> AbstractContextManager[None]: ...

    def pieces(self) -> Mapping[str, tuple[Piece, ...]]: ...

    def ledgers(self) -> list[set[tuple[bool, ...]]]: ...


@dataclass(frozen=True)
class Row:
    """One share of one parameter."""

    parameter: str
    block: str
    """The block that it belongs to, "rest", or "joint" where it is not divided at all."""
    norms: Mapping[str, float]
    """Gradient norm by label."""
    protected: tuple[str, ...]
    """The labels that must not move it."""
    size: float
    """Norm of the weights themselves."""
    share: float = 0.0
    """How many of all the model's weights it is."""


@dataclass(frozen=True)
class Report:
    """What each label's data does to each share of the model."""

    rows: tuple[Row, ...]
    labels: tuple[str, ...]
    mixed: tuple[str, ...] = ()
    """Where rows meet, so that a row's loss reaches what other rows train: one sentence a kind."""

    def learning(self, label: str) -> tuple[Row, ...]:
        """The shares that receive a gradient from a label."""
        return tuple(row for row in self.rows if row.norms.get(label))

    @property
    def leaks(self) -> tuple[Row, ...]:
        """Shares that are protected from a label and receive a gradient from it."""
        return tuple(row for row in self.rows if any(row.norms.get(label) for label in row.protected))

    @property
    def joint(self) -> tuple[str, ...]:
        """Parameters that are protected from no label, wholly or in part: they learn from everything."""
        return tuple(dict.fromkeys(row.parameter for row in self.rows if row.block == _JOINT))

    def relative(self) -> dict[tuple[str, str], float]:
        """(block, label) -> gradient norm over weight norm, over all parameters of the block.

        What SGTM (arXiv 2512.05648) reads absorption from: unlabelled forget data that moves the
        forget block more than the rest.
        """
        found = {}
        for block in dict.fromkeys(row.block for row in self.rows):
            mine = [row for row in self.rows if row.block == block]
            size = sum(row.size**2 for row in mine) ** 0.5
            for label in self.labels:
                found[block, label] = sum(row.norms[label] ** 2 for row in mine) ** 0.5 / max(size, 1e-12)
        return found

    def caveats(self) -> list[str]:
        """What is not held back from any row: the parameters with their shares of all weights, the largest first; and
        where rows meet."""
        joint = sorted((row for row in self.rows if row.block == _JOINT), key=lambda row: -row.share)
        if not joint:
            return list(self.mixed)
        named = ", ".join(f"{row.parameter} ({row.share:.2g})" for row in joint[:6])
        more = f", and {len(joint) - 6} more" if len(joint) > 6 else ""
        return [f"learns from every label, {sum(row.share for row in joint):.2g} of the weights: {named}{more}", *self.mixed]

    def check(self) -> None:
        """Raise `UserError` naming every leak."""
        if self.leaks:
            named = "; ".join(
                f"{row.parameter} ({row.block}) from {', '.join(label for label in row.protected if row.norms.get(label))}"
                for row in self.leaks[:8]
            )
            more = f" and {len(self.leaks) - 8} more" if len(self.leaks) > 8 else ""
            raise UserError(
                f"{len(self.leaks)} protected share(s) still receive a gradient: {named}{more}. The weight is used where the router does "
                "not see it (shared between modules, or called without its module). Declare it in joint_params=, or route at another site."
            )

    def __str__(self) -> str:
        relative = self.relative()
        blocks = list(dict.fromkeys(row.block for row in self.rows))
        width = max(len(block) for block in [*blocks, "block"])
        lines = [
            "gradient norm over weight norm, by block and label",
            f"{'block':<{width}}  " + "  ".join(f"{name:>10}" for name in self.labels),
        ]
        for block in blocks:
            lines.append(f"{block:<{width}}  " + "  ".join(f"{relative[block, label]:>10.3g}" for label in self.labels))
        return "\n".join([*lines, *self.caveats()])


def exposure(router: Routed, batch: Any, loss: Callable[[nn.Module, Any], Tensor] | None) -> Report:
    """Run the batch once a label, all its rows under that label, and measure the gradients."""
    model, count = router.model, _rows(batch, router.batch_dim)
    parameters = dict(model.named_parameters())
    before = {name: p.grad for name, p in parameters.items()}
    ledgers = [(ledger, set(ledger)) for ledger in router.ledgers()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    norms: dict[tuple[str, str], dict[str, float]] = {}
    try:
        for number, label in enumerate(router.policy.labels):
            for parameter in parameters.values():
                parameter.grad = None
            with torch.random.fork_rng(), router(torch.full((count,), number)):
                _loss(model, batch, loss).backward()
            for name, parameter in parameters.items():
                for block, share in _shares(router, name, parameter.grad):
                    norms.setdefault((name, block), {})[label] = float(share.norm()) if share is not None else 0.0
    finally:
        for name, parameter in parameters.items():
            parameter.grad = before[name]
        for buffer, value in buffers:
            buffer.copy_(value)
        for ledger, passes in ledgers:
            ledger.intersection_update(passes)
    trains = router.policy.trains()
    rows, every = [], sum(p.numel() for p in parameters.values())
    for (name, block), found in norms.items():
        held: tuple[str, ...] = ()
        if block != _JOINT:
            column = router.policy.columns.index(block)
            held = tuple(label for i, label in enumerate(router.policy.labels) if not trains[i, column])
        weights = dict(_shares(router, name, parameters[name].detach()))[block]
        assert weights is not None
        rows.append(Row(name, block, found, held, float(weights.norm()), weights.numel() / every))
    return Report(tuple(rows), router.policy.labels, tuple(mixing(model)))


def mixing(model: nn.Module) -> list[str]:
    """Say which modules compute a row from other rows too, as a batch norm does by its batch's mean and variance."""
    kinds = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    norms = [name for name, m in kinds if m.training or m.running_mean is None]
    said = "what any row loses reaches the weights that others train, and every row moves the running statistics. Put them in eval mode"
    first = f"rows meet in {len(norms)} batch norm(s) in training mode, {norms[0]!r} first: " if norms else ""
    return [f"{first}{said} (.eval()) while routing, or use GroupNorm or LayerNorm."] if norms else []


def _shares(router: Routed, name: str, tensor: Tensor | None) -> list[tuple[str, Tensor | None]]:
    cut = router.pieces().get(name)
    if cut is None:
        return [(_JOINT, tensor)]
    found: list[tuple[str, Tensor | None]] = []
    for piece in cut:
        block = _JOINT if piece.column == JOINT else router.policy.columns[piece.column]
        if tensor is None or piece.runs is None:
            found.append((block, tensor))
        else:
            found.append((block, torch.cat([tensor.narrow(piece.dim, a, b - a).flatten() for a, b in piece.runs])))
    return found


def _rows(batch: Any, batch_dim: int) -> int:
    tensors = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else [batch]
    for tensor in tensors:
        if isinstance(tensor, Tensor) and tensor.dim():
            return tensor.shape[batch_dim if tensor.dim() > batch_dim else 0]
    raise UserError("the batch holds no tensor, so its number of rows cannot be told. Give a tensor, a tuple, or a mapping of tensors.")


def _loss(model: nn.Module, batch: Any, loss: Callable[[nn.Module, Any], Tensor] | None) -> Tensor:
    if loss is not None:
        return loss(model, batch)
    answer = model(**batch) if isinstance(batch, Mapping) else model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
    value = getattr(answer, "loss", answer if isinstance(answer, Tensor) and not answer.dim() else None)
    if value is None:
        raise UserError("the model's answer holds no loss. Put labels into the batch, or give loss=lambda model, batch: ...")
    return value
