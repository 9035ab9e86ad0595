"""Trainings that differ only in their learning rate, as one: k copies of a small model's weights, one batched product each.

On a CPU a step of a tiny model is mostly overhead: Python, the dispatch of a few hundred small operations, an optimiser over
a handful of short tensors. k trainings on the same rows share it. Every module that holds parameters is stood in for by one that
computes for k copies (`torch.bmm` in place of a product); everything between them (attention, activations) takes k times the
rows and does not notice. What pays and what does not is in docs/benchmarks.md.

`fit_together` does what `training.fit` does for each rate alone, up to the rounding of the products. It compares its first
gradient with the plain model's before it begins, and declines (None) where it does not know the model.
"""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from sluicegate.engine.models import Batch, Meter, logits
from sluicegate.engine.sampling import seed_of
from sluicegate.engine.training import CrossEntropy, Diverged, Fitted, Ledger, token_losses
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.values.schedule import Schedule

PART = "all rates"
"""Under this name a resume point holds all of them: they are at the same step, and one file says so."""
STEP_FLOPS = 3e8
"""Most FLOPs of one rate's step (three forward passes) for which stacking pays; measured on one core, see docs/benchmarks.md."""
WEIGHTS = 200_000
"""Most weights of one model for which it does: of larger ones a step is slow, however few its rows, since every copy's are read."""
Stacking = Literal["auto", "never", "always"]
Measure = Callable[[Any, Ledger], dict[str, float]]


def stacking() -> Stacking:
    """SLUICEGATE_STACK: `never`, `always` (whatever the size), or `auto`, the default: where a step is small enough to gain."""
    asked = os.environ.get("SLUICEGATE_STACK", "auto")
    if asked not in ("auto", "never", "always"):
        raise UserError(f"SLUICEGATE_STACK is {asked!r}; it must be auto, never or always.")
    return asked  # type: ignore[return-value]  # mypy does not narrow a string by `in`


def small(flops: float, weights: int) -> bool:
    """Whether one rate's step on one model is small enough that sharing its overhead is worth anything."""
    return flops <= STEP_FLOPS and weights <= WEIGHTS


def pays(model: PreTrainedModel, batch: Batch) -> bool:
    """Whether attacks on this model with such batches are better stacked: on a CPU, and `small`."""
    return batch.ids.device.type == "cpu" and small(3 * Meter(model)(batch), sum(p.numel() for p in model.parameters()))


def fit_together(
    model: PreTrainedModel,
    batches: Callable[[int], Batch],
    schedules: Mapping[str, Schedule],
    *,
    on: Literal["real", "answer"],
    seed: int,
    run: RunContext,
    measure: Measure,
    checkpoints: Sequence[int],
) -> dict[str, Fitted | Diverged] | None:
    """Train a copy of `model` under each of `schedules` (name -> schedule, alike but for the rate) on the same batches.

    What `fit` with `CrossEntropy(on)` returns or raises for each name. `measure` is called with `model` holding a copy's
    weights, which are put back. None where this cannot be done: a device or type of numbers other than float32 on a CPU,
    modules that are not known here, dropout, or a first gradient other than the plain model's.
    """
    first = next(iter(schedules.values()))
    ladder = _Ladder.of(model, schedules, on)
    if ladder is None or run.ranks.world > 1 or first.accumulate > 1:
        return None
    weights = {name: p.data for name, p in model.named_parameters()}
    with torch.random.fork_rng():
        try:
            if not ladder.stack.agrees(batches(0), on):
                return None
            if (state := run.load_checkpoint(PART)) is not None:
                ladder.restore(state.values, state.tensors)
            _train(ladder, batches, seed, run, measure, frozenset(checkpoints))
        finally:
            for name, parameter in model.named_parameters():
                parameter.data = weights[name]
    return ladder.done


class Stack:
    """k copies of a model's weights, each one row of numbers, and a forward pass through all of them."""

    def __init__(self, model: PreTrainedModel, k: int) -> None:
        self.k, self.model = k, model
        self.names = [name for name, _ in model.named_parameters()]
        plain = torch.cat([p.detach().flatten() for p in model.parameters()])
        self.rows = plain.expand(k, -1).clone()
        """[k, n] the weights of every copy."""
        self.grads = torch.zeros_like(self.rows)
        """[k, n] the gradient of each copy's loss."""
        self._leaves: dict[int, Tensor] = {}
        self._places: list[Tensor] = []
        start = 0
        for parameter in model.parameters():
            cut = slice(start, start := start + parameter.numel())
            leaf = self.rows[:, cut].view(k, *parameter.shape).detach().requires_grad_()
            self._leaves[id(parameter)] = leaf
            self._places.append(self.grads[:, cut].view(k, *parameter.shape))
        self._size = 0
        self._twin = copy.deepcopy(model).requires_grad_(False).train()
        for own, other in zip(model.modules(), self._twin.modules(), strict=True):
            if own._parameters:
                held = {name: self._leaves[id(p)] for name, p in own._parameters.items() if p is not None}
                other.forward = self._stand_in(own, held)

    @staticmethod
    def knows(model: nn.Module) -> bool:
        """Whether every module that holds parameters is one that can be stood in for."""
        return all(_kind(m) for m in model.modules() if any(p is not None for p in m._parameters.values()))

    def copy_into(self, model: nn.Module, number: int) -> None:
        """Let `model`'s parameters be those of copy `number`: the same memory, no copies."""
        start = 0
        for parameter in model.parameters():
            parameter.data = self.rows[number, start : (start := start + parameter.numel())].view(parameter.shape)

    def losses(self, batch: Batch, on: Literal["real", "answer"]) -> Tensor:
        """[k] the loss of every copy on the batch, `CrossEntropy(on)`'s."""
        k, self._size = self.k, len(batch.ids)
        wide = Batch(batch.ids.repeat(k, 1), batch.attention.repeat(k, 1), batch.answer.repeat(k, 1), batch.index.repeat(k))
        each = token_losses(logits(self._twin, wide), wide) * getattr(wide, on)
        sums: Tensor = each.view(k, -1).sum(1)
        return sums / batch.total(on)

    def backward(self, losses: Tensor) -> None:
        """Fill `grads`, each copy's row from its own loss."""
        found = torch.autograd.grad(losses.sum(), list(self._leaves.values()), materialize_grads=True)
        for place, gradient in zip(self._places, found, strict=True):
            place.copy_(gradient)

    def agrees(self, batch: Batch, on: Literal["real", "answer"]) -> bool:
        """Whether every copy's gradient is the plain model's, and no copy's is touched by another's loss.

        Copy i's loss is counted i + 1 times, so that a gradient that comes from another copy does not go unnoticed.
        """
        self.model.requires_grad_(True).train()
        plain = CrossEntropy(on)(self.model, {"train": batch}).value
        parts = torch.autograd.grad(plain, list(self.model.parameters()), materialize_grads=True)
        expected = torch.cat([gradient.flatten() for gradient in parts])
        times = torch.arange(1.0, self.k + 1)
        try:
            self.backward(self.losses(batch, on) * times)
        except (_Unforeseen, RuntimeError):  # shapes that a stand-in does not take: a model that is built in another way
            return False
        apart = (self.grads / times[:, None] - expected).norm(dim=1).max()
        return bool(expected.norm() > 0) and bool(apart <= 1e-3 * expected.norm())  # NaN compares as False

    def _stand_in(self, module: nn.Module, held: Mapping[str, Tensor]) -> Callable[..., Tensor]:
        k, kind = self.k, _kind(module)
        weight, bias = held.get("weight"), held.get("bias")

        def side_by_side(x: Tensor) -> Tensor:
            """[k b, ..., d] -> [k, b ..., d]"""
            if x.shape[0] != k * self._size:
                raise _Unforeseen
            return x.reshape(k, -1, x.shape[-1])

        def product(x: Tensor) -> Tensor:
            assert weight is not None
            matrix = weight.transpose(1, 2) if kind == "linear" else weight
            rows = side_by_side(x)
            out = torch.bmm(rows, matrix) if bias is None else torch.baddbmm(bias[:, None], rows, matrix)
            return out.view(*x.shape[:-1], out.shape[-1])

        def look_up(ids: Tensor) -> Tensor:
            assert weight is not None
            shift = weight.shape[1] * torch.arange(k)
            flat = weight.reshape(-1, weight.shape[-1])
            if ids.shape[0] == k * self._size:
                return F.embedding((ids.view(k, -1) + shift[:, None]).view(ids.shape), flat)
            if ids.shape[0] != 1:  # positions may come once for all rows
                raise _Unforeseen
            found = F.embedding(ids + shift.view(k, *[1] * (ids.dim() - 1)), flat)
            return found.repeat_interleave(self._size, 0)

        def norm(x: Tensor) -> Tensor:
            dims = (x.shape[-1],)
            eps: Any = module.eps if kind == "layer" else module.variance_epsilon
            scaled = side_by_side(F.layer_norm(x, dims, eps=eps) if kind == "layer" else F.rms_norm(x, dims, eps=eps))
            if weight is not None:
                scaled = scaled * weight[:, None] if bias is None else torch.addcmul(bias[:, None], scaled, weight[:, None])
            return scaled.view(x.shape)

        return {"linear": product, "conv": product, "embedding": look_up, "layer": norm, "rms": norm}[kind]


class _Unforeseen(Exception):
    """A shape that no stand-in is made for."""


def _kind(module: nn.Module) -> str:
    """What a module computes, if that can be done for k copies at once; else the empty string."""
    name = type(module).__name__
    plain = {nn.Linear: "linear", nn.LayerNorm: "layer"}
    if type(module) is nn.Embedding and module.max_norm is None and not module.sparse and not module.scale_grad_by_freq:
        # A padding row gets no gradient from the plain module; where one is read, the gradients differ and it is declined.
        return "embedding"
    if name == "Conv1D":
        return "conv"
    if name.endswith("RMSNorm") and hasattr(module, "variance_epsilon") and set(module._parameters) == {"weight"}:
        return "rms"
    return plain.get(type(module), "")


@dataclass
class _Ladder:
    """The rates that are still trained, copy by copy, and what became of all of them."""

    model: PreTrainedModel
    on: Literal["real", "answer"]
    schedules: Mapping[str, Schedule]
    stack: Stack
    names: list[str]
    """Of the copies, in the order of the stack's rows."""
    optimizer: torch.optim.AdamW
    done: dict[str, Fitted | Diverged] = field(default_factory=dict)

    @classmethod
    def of(cls, model: PreTrainedModel, schedules: Mapping[str, Schedule], on: Literal["real", "answer"]) -> "_Ladder | None":
        if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in model.parameters()) or not Stack.knows(model):
            return None
        names = list(schedules)
        stack = Stack(model, len(names))
        done: dict[str, Fitted | Diverged] = {name: Fitted.nothing() for name in names}
        return cls(model, on, schedules, stack, names, _adamw(stack, [schedules[n] for n in names]), done)

    @property
    def steps(self) -> int:
        return max(self.fitted(name).steps for name in self.schedules)

    def fitted(self, name: str) -> Fitted:
        found = self.done[name]
        return found.fitted if isinstance(found, Diverged) else found

    def keep_only(self, kept: Sequence[int]) -> None:
        """Drop the copies whose numbers are not in `kept`."""
        if len(kept) == len(self.names):
            return
        self.names = [self.names[i] for i in kept]
        if not kept:
            return
        old, memory = self.stack, self.optimizer.state_dict()["state"]
        self.stack = Stack(self.model, len(kept))
        self.stack.rows.copy_(old.rows[list(kept)])
        self.optimizer = _adamw(self.stack, [self.schedules[n] for n in self.names])
        for new, i in enumerate(kept):
            if i in memory:
                self.optimizer.state[_parameter(self.optimizer, new)] = memory[i]

    def broken(self, run: RunContext, numbers: Mapping[int, tuple[str, float]]) -> None:
        """Note which copies' loss or gradient stopped being finite, as `fit` would have raised it, and go on without them."""
        for i, (what, value) in numbers.items():
            name = self.names[i]
            fitted = self.fitted(name)
            self.done[name] = Diverged(
                f"the {what} became {value} at step {fitted.steps + 1} of part {name!r} in stage {run.title}. Try a lower learning rate.",
                fitted,
            )
        self.keep_only([i for i in range(len(self.names)) if i not in numbers])

    def keep(self, run: RunContext, *, finished: bool) -> None:
        values = {"rates": {name: _told(self.fitted(name), isinstance(self.done[name], Diverged)) for name in self.schedules}}
        tensors: dict[str, Tensor] = {}
        for i, name in enumerate(self.names if not finished else ()):
            tensors[f"weight/{name}"] = self.stack.rows[i]
            state = self.optimizer.state[_parameter(self.optimizer, i)]
            tensors |= {f"adamw/{key}/{name}": value for key, value in state.items()}
        run.save_checkpoint(PART, {"steps": self.steps, **values}, tensors, finished=finished)

    @torch.no_grad()
    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        for name, told in values["rates"].items():
            fitted = Fitted(told["steps"], Ledger(**told["ledger"]), told["records"], False)
            self.done[name] = Diverged(f"part {name!r} broke at step {fitted.steps + 1}", fitted) if told["broken"] else fitted
        self.keep_only([i for i, name in enumerate(self.names) if not values["rates"][name]["broken"]])
        for i, name in enumerate(self.names if tensors else ()):
            self.stack.rows[i].copy_(tensors[f"weight/{name}"])
            kept = {key.split("/")[1]: value for key, value in tensors.items() if key.startswith("adamw/") and key.endswith(f"/{name}")}
            self.optimizer.state[_parameter(self.optimizer, i)] = kept


def _told(fitted: Fitted, broken: bool) -> dict[str, Any]:
    ledger = {"student": fitted.ledger.student, "teacher": fitted.ledger.teacher, "evaluation": fitted.ledger.evaluation}
    return {"steps": fitted.steps, "ledger": ledger, "records": fitted.records, "broken": broken}


def _adamw(stack: Stack, schedules: Sequence[Schedule]) -> torch.optim.AdamW:
    """AdamW over whole copies, one a group: element by element it does not matter which tensor a weight lies in."""
    groups = []
    for i, schedule in enumerate(schedules):
        parameter = nn.Parameter(stack.rows[i])
        parameter.grad = stack.grads[i]
        groups.append({"params": [parameter], "lr": schedule.lr})
    first = schedules[0]
    return torch.optim.AdamW(groups, betas=(0.9, first.beta2), weight_decay=first.weight_decay, fused=True)


def _parameter(optimizer: torch.optim.Optimizer, number: int) -> nn.Parameter:
    found: nn.Parameter = optimizer.param_groups[number]["params"][0]
    return found


def _train(
    ladder: _Ladder, batches: Callable[[int], Batch], seed: int, run: RunContext, measure: Measure, checkpoints: frozenset[int]
) -> None:
    """The loop of `training.fit`, for all rates of the ladder."""
    meter, total = Meter(ladder.model), next(iter(ladder.schedules.values())).steps

    def look() -> None:
        for i, name in enumerate(ladder.names):
            fitted = ladder.fitted(name)
            if fitted.steps in checkpoints and not any(r["step"] == fitted.steps for r in fitted.records):
                ladder.stack.copy_into(ladder.model, i)
                record = {"step": fitted.steps, **measure(ladder.model, fitted.ledger)}
                fitted.records.append(record)
                run.log({"part": name, "kind": "evaluation", **record})

    look()
    while ladder.names and (step := ladder.fitted(ladder.names[0]).steps) < total:
        torch.manual_seed(seed_of(seed, step))
        batch = batches(step)
        values = _step(ladder, batch, run)
        cost = 3 * meter(batch)
        for name, value in zip(ladder.names, values, strict=True):
            fitted = ladder.fitted(name)
            fitted.steps += 1
            fitted.ledger.student += cost
            run.log({"part": name, "step": fitted.steps, "loss": value})
        look()
        for name, value in zip(ladder.names, values, strict=True):
            fitted = ladder.fitted(name)
            run.progress(name, fitted.steps, total, {"loss": value, **(fitted.records[-1] if fitted.records else {})})
        if run.checkpoint_due():
            ladder.keep(run, finished=False)
    ladder.keep(run, finished=True)


def _step(ladder: _Ladder, batch: Batch, run: RunContext) -> list[float]:
    """One optimiser step of every copy; the losses of those that are still there after it."""
    stack = ladder.stack
    losses = stack.losses(batch, ladder.on)
    values: list[float] = losses.tolist()
    if wild := {i: ("loss", value) for i, value in enumerate(values) if not _finite(value)}:
        ladder.broken(run, wild)  # nothing has been touched: the others take this step again without them
        return _step(ladder, batch, run) if ladder.names else []
    stack.backward(losses)
    norms = stack.grads.norm(dim=1)
    clip = ladder.schedules[ladder.names[0]].clip
    wild = {i: ("gradient norm", norm) for i, norm in enumerate(norms.tolist()) if not _finite(norm)}
    if wild:
        ladder.broken(run, wild)
        return _step(ladder, batch, run) if ladder.names else []
    if clip:
        stack.grads.mul_((clip / (norms + 1e-6)).clamp(max=1.0)[:, None])  # as nn.utils.clip_grad_norm_
    step = ladder.fitted(ladder.names[0]).steps
    for group, name in zip(ladder.optimizer.param_groups, ladder.names, strict=True):
        group["lr"] = ladder.schedules[name].rate(step)
    ladder.optimizer.step()
    return values


def _finite(value: float) -> bool:
    return value - value == 0
