"""Losses at the positions that count, without the logits of a whole batch.

A model's output layer is the dearest part of a pass with a large vocabulary: [b, s, V] logits, of which a loss reads a
few rows. Here the model runs as ever, but its output layer sees only the hidden states of the positions that count,
and a piece of them at a time. Small vocabularies go the plain way, bit for bit as before there was another.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from sluicegate.engine.encoding import Batch, Rows
from sluicegate.engine.forward import forward
from sluicegate.engine.models import device, width
from sluicegate.values.items import LOG

SMALL, SMALL_VOCABULARY = 2**24, 4096
"""Logits of a batch, and words, up to which they are computed whole, as they always were."""
PIECE = 2**25
"""Logits that are held at a time, 128 MiB in float32."""
STATES = 2**22
"""Numbers of one hidden state that scoring computes at a time: tokens times width."""
PACKED = 512
"""Tokens behind one another in a packed row, where no single row is longer."""

Where = Tensor | Literal["real", "answer"]
"""Which tokens to predict count: a mask [b, s-1], or a batch's own by name."""
Of = Callable[[Tensor, slice], Tensor]
"""A value for each row of the logits of a piece: [c, V] -> [c], or [b, s-1, V] -> [b, s-1]. Differentiable."""

_PACKS: WeakSet[nn.Module] = WeakSet()
_WHOLE: WeakSet[nn.Module] = WeakSet()
_MARKS = torch.linspace(-100, 100, 33)


class Outputs:
    """The logits of one pass at the positions that count, in pieces, float32.

    `pieces` are what to ask `at` for. Differentiable. The model's own forward runs once, so that what is hooked onto
    it sees the pass; other arguments are handed to it, and `answer` is what it gave (its logits aside).
    """

    def __init__(self, model: PreTrainedModel, batch: Batch, where: Where, small: bool | None = None, **asked: Any) -> None:
        self.where: Tensor = getattr(batch, where) if isinstance(where, str) else where
        self._after: Callable[[Tensor], Tensor] = lambda z: z
        self._head: Any = nn.Identity()
        self._batch = batch
        b, s = batch.ids.shape
        vocabulary = model.config.get_text_config().vocab_size
        fits = vocabulary <= SMALL_VOCABULARY and b * s * vocabulary <= SMALL and not _packs(model)
        self.small = fits if small is None else small
        head = None if self.small else _plain_head(model)
        if head is None:
            self.answer = forward(model, batch, **asked)
            out = self.answer.logits[:, :-1]
            self._states = out if self.small else out[self.where]
        else:
            self._ask(model, head, vocabulary, asked)
        step = max(PIECE // vocabulary, 1)
        self.pieces = [slice(None)] if self.small else [slice(i, i + step) for i in range(0, max(int(self.where.sum()), 1), step)]

    def _ask(self, model: PreTrainedModel, head: nn.Module, vocabulary: int, asked: dict[str, Any]) -> None:
        batch, own, caught = self._batch, head.forward, []
        inputs, place = (
            {"input_ids": batch.ids, "attention_mask": batch.attention.long()},
            F.pad(self.where, (0, 1)).flatten().nonzero()[:, 0],
        )
        if _packs(model) and not asked:
            inputs, place = _pack(batch, self.where)
        # FSDP2 gathers the output layer's weight for the model's own pass only, so its logits are all made there.
        at_once = len(place) * vocabulary <= PIECE or hasattr(model, "unshard")

        def chosen(states: Tensor) -> Tensor:
            caught.append(states.flatten(0, -2).index_select(0, place.to(states.device)))
            return own(caught[-1][None]) if at_once else _MARKS.to(states)[None, None]

        with _instead(head, chosen):
            self.answer = model(**inputs, use_cache=False, **asked)
        out = self.answer.logits
        if not caught:  # the weight was used without its module
            self._states = out.flatten(0, -2)[place]
        elif at_once:
            self._states = out[0]
        # What the model does to its logits afterwards shows in what became of the marks.
        elif (after := _afterwards(model, _MARKS.to(caught[0]), out)) is not None:
            self._states, self._head, self._after = caught[0], head, after
        else:
            _WHOLE.add(model)
            self.answer = forward(model, self._batch, **asked)
            self._states = self.answer.logits[:, :-1][self.where]

    def at(self, piece: slice) -> Tensor:
        """[c, V] of a piece of the positions in row order; [b, s-1, V] where the vocabulary is small."""
        states = self._states if self.small else self._states[piece]
        return self._float32(self._head(states))

    def _float32(self, z: Tensor) -> Tensor:
        z = self._after(z)
        return z.float() if z.itemsize < 4 else z

    def pick(self, values: Tensor, piece: slice) -> Tensor:
        """Of values [b, s-1, ...], those that belong to the logits of a piece."""
        return values if self.small else values[self.where][piece].to(self._states.device)

    def values(self, of: Of) -> Tensor:
        """[b, s-1] what `of` makes of the logits, 0 where not counted.

        Of several pieces none is kept: the backward pass computes their logits again.
        """
        if self.small:
            return of(self.at(slice(None)), slice(None)) * self.where
        again = len(self.pieces) > 1 and torch.is_grad_enabled()
        if again and type(self._head) is nn.Linear and "forward" not in vars(self._head):
            weight, bias = self._head.weight, self._head.bias
            flat = _Pieces.apply(self._states, weight, bias, lambda z, p: of(self._float32(z), p), self.pieces)  # type: ignore[no-untyped-call]
        elif again:
            flat = torch.cat([checkpoint(lambda p: of(self.at(p), p), p, use_reentrant=False) for p in self.pieces])
        else:
            flat = torch.cat([of(self.at(p), p) for p in self.pieces])
        flat = flat.to(self.where.device)
        return torch.zeros_like(self.where, dtype=flat.dtype).masked_scatter(self.where, flat)

    def through(self, states: Tensor, head: nn.Module) -> "Outputs":
        """The same positions, read from other hidden states [b, s, d] by this output layer."""
        other = object.__new__(Outputs)
        other.__dict__ = self.__dict__ | {"_head": head, "_after": lambda z: z}
        other._states = states[:, :-1] if self.small else states[:, :-1][self.where]
        return other


class _Pieces(torch.autograd.Function):
    """[n] of(logits of a piece), with logits = states [n, d] times weight [V, d]; a piece of logits at a time.

    Each value depends on its own row of logits alone, so dL/dlogits is its slope times dL/dvalue. Gradients of the
    weight are added up in place: one copy of it, however many pieces.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, of: Of, pieces: list[slice]) -> Tensor:
        ctx.save_for_backward(states, weight, bias)
        ctx.of, ctx.pieces = of, pieces
        return torch.cat([of(F.linear(states[p], weight, bias), p) for p in pieces])

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias = ctx.saved_tensors
        down, of_weight, of_bias = (
            torch.zeros_like(t) if needed else None for t, needed in zip((states, weight, bias), ctx.needs_input_grad, strict=False)
        )
        for p in ctx.pieces:
            out = F.linear(states[p], weight, bias).requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(ctx.of(out, p), out, above[0][p])
            if down is not None:
                torch.mm(slope, weight, out=down[p])
            if of_weight is not None:
                of_weight.addmm_(slope.T, states[p])
            if of_bias is not None:
                of_bias += slope.sum(0)
        return down, of_weight, of_bias, None, None


class _CrossEntropy(torch.autograd.Function):
    """[c] -log softmax(z)[y], which keeps one copy of z [c, V] and makes one more in the backward pass."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor) -> Tensor:
        logs = z.log_softmax(-1)
        ctx.save_for_backward(logs, y)
        return -logs.gather(1, y[:, None])[:, 0]

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        logs, y = ctx.saved_tensors
        slope = logs.exp()
        slope.scatter_add_(1, y[:, None], slope.new_full((len(y), 1), -1.0))
        return slope.mul_(above[0][:, None]), None


def cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats: [c] of logits [c, V], or [b, s] of [b, s, V]."""
    if scores.dim() == 2:
        loss: Tensor = _CrossEntropy.apply(scores, targets)  # type: ignore[no-untyped-call]
        return loss
    return F.cross_entropy(scores.transpose(1, 2), targets, reduction="none")


def token_losses(model: PreTrainedModel, batch: Batch, where: Where) -> Tensor:
    """[b, s-1] cross-entropy of the next tokens that count, in nats, float32; 0 where not counted."""
    out = Outputs(model, batch, where)
    return out.values(lambda z, piece: cross_entropy(z, out.pick(batch.ids[:, 1:], piece)))


@torch.no_grad()
def reduce_logits(model: PreTrainedModel, batch: Batch, where: Where, reduce: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """[n, k] what `reduce` makes of logits [c, V] float32 and true next tokens [c], over all n positions that count, in
    row order."""
    out = Outputs(model, batch, where)
    y = batch.ids[:, 1:][out.where]
    if out.small:
        return reduce(out.at(slice(None))[out.where], y)
    return torch.cat([reduce(out.at(p), y[p]) for p in out.pieces])


def portions(model: PreTrainedModel, rows: Rows, size: int = 256) -> Iterator[Batch]:
    """All rows in order, `size` at a time, or so many that a hidden state has at most `STATES` numbers."""
    tokens = STATES // width(model)
    return rows.everything(min(size, max(tokens // rows.ids.shape[1], 1)))


@contextmanager
def without_logits(model: PreTrainedModel) -> Iterator[None]:
    """Passes inside compute no logits, as far as the model's output layer can be left out."""
    head = _plain_head(model)
    if head is None:
        yield
        return
    own = head.forward
    with _instead(head, lambda states: own(states[:, :1])):
        yield


@contextmanager
def packed(model: Any, wanted: bool, routed: bool = False) -> Iterator[None]:
    """Inside, trained rows of `model` lie behind one another, each seeing itself alone, instead of beside padding.

    Where the model cannot take that (two short rows have other losses than alone), or where `routed` and rows have
    labels, one line says so and rows stay as they are.
    """
    why, training = "rows have labels, which are told apart by their place" if routed else "", model.training
    if wanted and not routed:
        ids = torch.arange(1, 11, device=device()).view(2, 5)
        batch = Batch(ids, ids != 5, ids[:, 1:] != 5, ids[:, 0])
        model.eval()
        try:
            alone = token_losses(model, batch, "real").detach()
            _PACKS.add(model)
            gap = float((token_losses(model, batch, "real").detach() - alone).abs().max())
            if gap > (1e-4 if model.dtype == torch.float32 else 0.05):
                why = f"in this model a row's loss depends on its neighbours, by {gap:.2g} nats"
        except (TypeError, ValueError, RuntimeError) as error:
            why = f"the model does not take them ({type(error).__name__})"
        model.train(training)
    if wanted and why:
        LOG.warning("rows are not packed: %s", why)
        _PACKS.discard(model)
    try:
        yield
    finally:
        _PACKS.discard(model)


def _packs(model: nn.Module) -> bool:
    return model in _PACKS and torch.is_grad_enabled()


def _pack(batch: Batch, where: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What the model is called with, and where the counted positions are among all of its positions, with rows behind
    one another in lines of at most `PACKED` tokens. Given positions and no mask, attention sees back to position 0."""
    lengths = batch.attention.sum(1).tolist()
    most = max(PACKED, *lengths)
    starts, line, used, longest = [], 0, 0, 0
    for length in lengths:
        if used + length > most:
            line, used = line + 1, 0
        starts.append((line, used))
        used += length
        longest = max(longest, used)
    to = batch.ids.device
    base = torch.tensor([line * longest + first for line, first in starts], device=to)[:, None]
    steps = torch.arange(batch.ids.shape[1], device=to)
    target = (base + steps)[batch.attention]
    # What is left at the end of a line is a row of its own, of padding, that nothing reads.
    ids = batch.ids.new_zeros((line + 1) * longest)
    positions = torch.zeros_like(ids)
    ids[target] = batch.ids[batch.attention]
    positions[target] = steps.expand_as(batch.ids)[batch.attention]
    inputs = {"input_ids": ids.view(line + 1, longest), "position_ids": positions.view(line + 1, longest)}
    return inputs, (base + steps)[:, :-1][where]


def _plain_head(model: Any) -> nn.Module | None:
    """The output layer, where nothing but the model's own forward reads what goes in or comes out; else None."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    compiled = hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None
    if not isinstance(head, nn.Module) or model in _WHOLE or compiled:
        return None
    watched = [head] if hasattr(model, "unshard") else [head, model]  # FSDP2 hooks the model itself
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in watched):
        return None
    replaced = any("forward" in vars(m) and not hasattr(m, "_hf_hook") for m in (head, model))  # accelerate's may stay
    return None if replaced else head


@contextmanager
def _instead(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    before = vars(head).get("forward")
    head.forward = forward
    try:
        yield
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before


def _afterwards(model: PreTrainedModel, marks: Tensor, found: Tensor) -> Callable[[Tensor], Tensor] | None:
    """What turned `marks` into `found`: nothing, a factor or soft cap that the configuration names; None if unknown."""
    z, found = marks.double().cpu(), found.detach().flatten().double().cpu()
    loose = 1e-5 if marks.dtype == torch.float32 else 1e-2
    numbers = [c for c in vars(model.config.get_text_config()).values() if isinstance(c, int | float) and c]
    shapes: list[Callable[[float], Callable[[Tensor], Tensor]]] = [
        lambda c: lambda z: z * c,
        lambda c: lambda z: z / c,
        lambda c: lambda z: torch.tanh(z / c) * c,
    ]
    forms: list[Callable[[Tensor], Tensor]] = [lambda z: z, *(shape(c) for c in numbers for shape in shapes)]
    return next((form for form in forms if found.shape == z.shape and torch.allclose(found, form(z), rtol=loose, atol=1e-5)), None)
