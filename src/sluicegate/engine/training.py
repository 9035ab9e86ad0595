"""The training loop, one for all verbs.

`fit` takes an objective and a function from a step to its batches, and returns what the training cost. All
randomness is a function of the seed and the step, so a run that was killed and resumed ends with
the same weights, bitwise on a CPU.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from sluicegate.deprecated import renamed
from sluicegate.engine import losses
from sluicegate.engine.encoding import Batch
from sluicegate.engine.forward import Meter
from sluicegate.engine.oom import INSTEAD, clear, ran_out
from sluicegate.engine.optimizers import make_optimizer, stepping_in_backward
from sluicegate.engine.sampling import seed_of
from sluicegate.errors import UserError, first_line
from sluicegate.runs.directory import Checkpoint, RunContext
from sluicegate.runs.ranks import Ranks
from sluicegate.values.edits import match_parameters
from sluicegate.values.schedule import Schedule

Batches = Mapping[str, Any]
"""A step's batches by name: `encoding.Batch`, or for other models anything with `.split(parts)`."""
Log = dict[str, float]
T = TypeVar("T")


@dataclass
class Ledger:
    """FLOPs spent, by what they were spent on. Evaluation is kept apart: it is not training."""

    student: float = 0.0
    """Forward and backward passes of the model that is trained: three forwards a step."""
    teacher: float = 0.0
    """Forward passes of a teacher or of frozen weights."""
    evaluation: float = 0.0
    """Scoring, which none of the totals contain."""

    @property
    def total(self) -> float:
        return self.student + self.teacher

    def as_dict(self) -> dict[str, float]:
        return {"student": self.student, "teacher": self.teacher, "evaluation": self.evaluation, "total": self.total}

    def add(self, other: "Ledger") -> None:
        self.student += other.student
        self.teacher += other.teacher
        self.evaluation += other.evaluation


@dataclass
class Loss:
    """What an objective returns for one step's batches."""

    value: Tensor
    """Scalar, each term a mean over the whole step's tokens or rows."""
    log: Mapping[str, Tensor] = field(default_factory=dict)
    """What else to write into the metrics, in parts that add up like the loss."""
    teacher_flops: float = 0.0


class Objective(Protocol):
    """A loss on named batches."""

    def __call__(self, model: Any, batches: Batches) -> Loss: ...


@dataclass
class Fitted:
    """What a call of `fit` did."""

    steps: int
    """Optimiser steps made."""
    ledger: Ledger
    records: list[dict[str, float]]
    """What `evaluate` returned, with the step it was called at."""
    stopped: bool
    """Whether `evaluate` asked to stop before the last step."""
    notes: list[str] = field(default_factory=list)
    """What is to be known of it: that memory ran out, and what was done."""

    @classmethod
    def nothing(cls) -> "Fitted":
        return cls(0, Ledger(), [], False)


class Diverged(UserError):
    """The loss, the gradient, the weights or a score stopped being finite; `fitted` is what had been done before that
    step."""

    def __init__(self, message: str, fitted: Fitted) -> None:
        super().__init__(message)
        self.fitted = fitted

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.fitted)  # so that a worker process can hand it on


class NotFinite(UserError):
    """A model's outputs are no finite numbers, so that there is nothing to score."""


@dataclass(frozen=True)
class Evaluation:
    """At which steps to measure the model, what to measure, and whether to stop for it."""

    measure: Callable[[Any, Ledger], dict[str, float]]
    at: Callable[[int], bool]
    """Whether to measure after this many steps; 0 is before the first."""
    stop: Callable[[dict[str, float]], bool] = lambda record: False


def masked_mean(values: Tensor, batch: Batch, mask: Literal["real", "answer"]) -> Tensor:
    """Mean of `values` [b, s-1] over a mask, divided by the whole step's count."""
    chosen: Tensor = getattr(batch, mask)
    return (values * chosen).sum() / batch.total(mask)


def token_losses(scores: Tensor, batch: Batch) -> Tensor:
    """[b, s-1] cross-entropy of every next token, in nats, of logits [b, s-1, V]. See `losses.token_losses`."""
    return losses.cross_entropy(scores, batch.ids[:, 1:])


@dataclass(frozen=True)
class CrossEntropy:
    """Next-token cross-entropy, in nats a token, on the batch called "train"."""

    on: Literal["real", "answer"] = "real"
    """Which tokens count: all of them, or the answers' alone."""

    def __call__(self, model: Any, batches: Batches) -> Loss:
        batch = batches["train"]
        value = masked_mean(losses.token_losses(model, batch, self.on), batch, self.on)
        return Loss(value)


@renamed(room="run", sites="params")
def fit(
    model: nn.Module,
    objective: Objective,
    batches: Callable[[int], Batches],
    schedule: Schedule,
    *,
    seed: int,
    run: RunContext,
    name: str = "fit",
    params: str = "*",
    evaluation: Evaluation | None = None,
    keep_weights: bool = True,
    around: Callable[[Batches], AbstractContextManager[None]] = lambda batches: nullcontext(),
    guard: Callable[[torch.optim.Optimizer], object] | None = None,
    meter: Callable[[Any], float] | None = None,
) -> Fitted:
    """Train `model` in place and return what was done and what it cost.

    `batches(step)` gives the step's rows. `params` restricts which parameters are trained (globs, see `match_names`).
    `run` shows progress, logs metrics and keeps checkpoints: a part of this `name` that it has already finished is
    restored, not repeated (its weights only with `keep_weights`; an attack does not need them afterwards).

    `around(batches)` is a context in which the forward and backward pass of each batch (or part of one, when gradients
    are accumulated) are done, and `guard(optimizer)` is called once: gradient routing uses both. A model that is no
    language model brings its own batches (anything with `.split(parts)`) and `meter`: FLOPs of a forward pass over a
    batch.

    Where the run's `ranks` are several processes, each computes its share of every step, and all end with the
    same weights, those of one process up to rounding (with dropout: another draw).

    Raises `Diverged` when the loss or the gradient stops being finite (the last finite weights are kept in the
    checkpoint), or where the weights or a score are not at a look, at a checkpoint or at the end, and `UserError` when
    no trainable parameter receives any gradient.
    """
    if not schedule.lr:
        raise UserError("the learning rate is 0, so nothing would be learnt. Give one, or use Schedule.or_rate.")
    if schedule.step_in_backward and (run.ranks.world > 1 or guard is not None):
        other = "Several processes add their gradients up" if guard is None else "Gradient routing looks at all gradients"
        raise UserError(f"{other} before a step, so it cannot be in the backward pass. Leave --step-in-backward out.")
    if schedule.optimizer == "adafactor" and guard is not None:
        raise UserError("adafactor keeps one number for a row, which routing cannot leave alone in part. Set --optimizer adamw-bf16.")
    ranks = run.ranks
    with _recomputing(model, schedule.checkpointing), ranks.spread(model):
        trained, meter = only_train(model, params), meter or Meter(model)  # type: ignore[arg-type]
        # Where weights are divided each process rounds its own; else all must round alike.
        optimizer = make_optimizer(schedule, trained, (seed, *(ranks.own_seed if ranks.shard else ())))
        if guard is not None:
            guard(optimizer)
        fitted = Fitted.nothing()
        # Go on from a checkpoint of this part, where there is one: weights, the optimiser's memory, FLOPs and what
        # was measured.
        state = run.load_checkpoint_all_ranks(name)
        halved = 0  # how often the parts of a batch were halved because memory ran out
        if state is not None:
            _restore(state, trained, optimizer, ranks)
            halved = state.values.get("halved", 0)
            fitted = Fitted(state.values["steps"], Ledger(**state.values["ledger"]), state.values["records"], state.values["stopped"])
            fitted.notes += state.values.get("notes", [])
            if state.finished:
                return fitted
            state = None  # its tensors, which are in place

        def broken(what: str) -> Diverged:
            last = replace(fitted, steps=max(fitted.steps - 1, 0))  # nothing is kept of the step that broke them
            where = f"after step {fitted.steps} of part {name!r} in stage {run.title}"
            return Diverged(f"{where}, {what}", last)

        def sound() -> None:
            own = [(p.to_local() if hasattr(p, "to_local") else p).detach() for p in trained.values()]
            bad = ranks.total([float(not tensor.isfinite().all()) for tensor in own])
            for tensor, is_bad in zip(trained, bad, strict=True):
                if is_bad:
                    raise broken(f"the weights are no longer finite: {tensor} holds NaN or infinity. Try a lower --lr.")

        def keep(finished: bool = False) -> None:
            sound()
            values = {"steps": fitted.steps, "ledger": dict(vars(fitted.ledger)), "records": fitted.records, "stopped": fitted.stopped}
            values |= {"halved": halved, "notes": fitted.notes} if halved else {}
            tensors = _tensors(trained, optimizer, schedule.optimizer, moments=not finished) if keep_weights or not finished else {}
            run.save_checkpoint_all_ranks(name, values, tensors, finished=finished)

        def look() -> None:
            if evaluation is None or not evaluation.at(fitted.steps) or any(r["step"] == fitted.steps for r in fitted.records):
                return
            sound()
            try:
                measured = evaluation.measure(model, fitted.ledger)
            except NotFinite as error:
                raise broken(str(error)) from None
            record = ranks.first({"step": fitted.steps, **measured})
            fitted.records.append(record)
            run.log({"part": name, "kind": "evaluation", **record})
            fitted.stopped = fitted.steps < schedule.steps and evaluation.stop(record)

        def diverged(what: str, value: float, untouched: bool = True) -> Diverged:
            """Save a checkpoint of the weights, where this step has not touched them yet."""
            optimizer.zero_grad(set_to_none=True)
            if untouched:
                keep()
            kept = "The weights from before that step are" if untouched else "Some weights have taken that step; the resume point before is"
            return Diverged(
                f"the {what} became {value} at step {fitted.steps + 1} of part {name!r} in stage {run.title}. {kept} kept in "
                f"{run.path / 'state'}. Try a lower learning rate (--lr), more --warmup, or a smaller --clip.",
                fitted,
            )

        def step(whole: Batches, parts: int) -> Log:
            if not model.training:
                model.train()
            log: Log = {"loss": 0.0}
            teacher = 0.0
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(fitted.steps)
            inside = stepping_in_backward(optimizer) if schedule.step_in_backward else None
            # 1. Gradients, over the parts of this process. Each part's loss is divided by the whole step's count, so
            # that they add up.
            with inside or nullcontext([]) as norms:
                for batch in ranks.pieces(whole, parts):
                    with around(batch):
                        loss = _in_memory(ranks, partial(objective, model, batch))
                        extra = [float(number.detach()) for number in loss.log.values()]
                        value, cost, *numbers = ranks.total([float(loss.value.detach()), loss.teacher_flops, *extra])
                        log["loss"] += value
                        for key, number in zip(loss.log, numbers, strict=True):
                            log[key] = log.get(key, 0.0) + number
                        if not math.isfinite(value):
                            raise diverged("loss", value)
                        # Where nothing that is trained bears on the loss, the check below says so.
                        _in_memory(ranks, ranks.scaled(loss.value).backward if loss.value.requires_grad else lambda: None)
                    teacher += cost
            # 2. The same sum in all processes; then one norm, clipped, over the whole model.
            ranks.add_gradients(trained.values())
            gradients = [p for p in trained.values() if p.grad is not None]
            if fitted.steps == 0 and not (any(map(bool, norms)) or ranks.moved(p.grad for p in gradients if p.grad is not None)):
                raise UserError(
                    f"stage {run.title}, part {name}: none of the {len(trained)} trainable parameters received any gradient, so nothing "
                    "would be learnt. Check that the trained parameters (--params) lie before what the objective reads."
                )
            if fitted.steps == 0 and schedule.checkpointing and not inside and len(gradients) < len(trained):
                without = [key for key, p in trained.items() if p.grad is None]
                run.log({"part": name, "kind": "without gradient", "step": 1, "parameters": without})
            norm = math.hypot(float(ranks.whole(nn.utils.clip_grad_norm_(gradients, schedule.clip or math.inf))), *map(float, norms))
            if not math.isfinite(norm):
                raise diverged("gradient norm", norm, untouched=not inside)
            # 3. The update. Up to here weights are untouched (but for steps in the backward pass), so one that diverged
            # leaves the last finite ones.
            if not inside:
                _in_memory(ranks, optimizer.step, _UPDATE)
            optimizer.zero_grad(set_to_none=True)
            # Charged last: a step that diverges is tried again on resume, and must not be paid for twice.
            fitted.ledger.teacher += teacher
            fitted.ledger.student += sum(3 * meter(batch) for batch in whole.values())
            return log

        with _own_randomness(), losses.packed(model, schedule.pack, routed=guard is not None):
            look()
            while fitted.steps < schedule.steps and not fitted.stopped:
                whole = batches(fitted.steps)
                parts = _parts(whole, schedule, halved, ranks.world)
                torch.manual_seed(seed_of(seed, fitted.steps, *ranks.own_seed))  # dropout, if the model has any
                step_log, why = None, ""
                try:
                    step_log = step(whole, parts)
                except _RanOut as error:
                    why = str(error)
                if step_log is None:  # the error, which held the pass, is gone
                    now, told = _parts(whole, schedule, halved + 1, ranks.world), f"memory ran out at step {fitted.steps + 1}"
                    if now == parts or why.startswith(_UPDATE) or schedule.step_in_backward or ranks.shard:
                        raise UserError(f"stage {run.title}, part {name}: {told} ({why}). {INSTEAD}")
                    optimizer.zero_grad(set_to_none=True)
                    clear()
                    halved += 1
                    rows = max(len(batch.index) for batch in whole.values()) / ranks.world
                    told += f": rows a part {math.ceil(rows / parts)} -> {math.ceil(rows / now)}"
                    run.log({"part": name, "kind": "memory", "step": fitted.steps + 1, "told": told})
                    fitted.notes.append(f"{name}: {told}")
                    if ranks.leads:
                        sys.stderr.write(f"{run.title}, part {name}: {told}\n")
                    continue
                fitted.steps += 1
                run.log({"part": name, "step": fitted.steps, **step_log})
                look()
                shown = {**step_log, **(fitted.records[-1] if fitted.records else {})}
                run.progress(name, fitted.steps, schedule.steps, {key: n for key, n in shown.items() if isinstance(n, float)})
                if ranks.first(run.checkpoint_due()):
                    keep()
        keep(finished=True)
        return fitted


_UPDATE = "in the optimiser's update, which cannot be repeated: "


class _RanOut(Exception):
    """Memory ran out, in some process."""


def _in_memory(ranks: Ranks, run: Callable[[], T], what: str = "") -> T:
    """What `run` gives; where memory runs out in it, in some process, `_RanOut` in all of them."""
    found, out = cast(T, None), ""
    try:
        found = run()
    except Exception as error:
        if not ran_out(error):
            raise
        out = first_line(error)
    # With divided weights the others wait in the middle of a pass, and there is no talking to them.
    if out if ranks.shard else ranks.any(bool(out)):
        raise _RanOut(what + (out or "in another process"))
    return found


def _parts(batches: Batches, schedule: Schedule, halved: int, world: int) -> int:
    """Into how many parts each process cuts its share of a step's batches: at most so many that each has a row."""
    parts = schedule.accumulate
    shapes = [b.ids.shape for b in batches.values() if hasattr(b, "ids")] if schedule.part_tokens or halved else []
    if not shapes:
        return parts
    most = max(min(rows for rows, _ in shapes) // world, parts)
    small = lambda n: sum(math.ceil(rows / (n * world)) * width for rows, width in shapes) <= schedule.part_tokens  # noqa: E731
    parts = next(filter(small, range(parts, most)), most) if schedule.part_tokens else parts
    return int(min(parts << halved, most))


@contextmanager
def _recomputing(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Keep no layer's activations inside, if `wanted`, and compute them again in the backward pass."""
    if not wanted or any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        yield
        return
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UserError(f"a {type(model).__name__} cannot compute activations again in the backward pass. Leave --checkpointing out.")
    # Reentrant recomputation would lose the gradients of an adapter, whose inputs need none.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # as transformers called it
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    getattr(model, "disable_input_require_grads", lambda: None)()  # which reentrant recomputation alone would need
    try:
        yield
    finally:
        getattr(model, f"{name}_checkpointing_disable")()


def only_train(model: nn.Module, params: str) -> dict[str, nn.Parameter]:
    """Let the parameters that match `params` require a gradient, and no others; return them by name."""
    chosen = match_parameters(model, params)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
        parameter.grad = None
    return chosen


def _tensors(trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, kind: str, *, moments: bool) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by a flat name: the weights and, while training goes on, the optimiser's memory."""
    memory = {name: optimizer.state.get(p, {}) for name, p in trained.items()} if moments else {}
    own = {f"{kind}/{key}/{name}": value for name, state in memory.items() for key, value in state.items()}
    return {f"weight/{name}": p.detach() for name, p in trained.items()} | own


@torch.no_grad()
def _restore(state: Checkpoint, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
    for path, tensor in state.tensors.items():
        kind, _, rest = path.partition("/")
        if kind == "weight":
            trained[rest].copy_(ranks.place(tensor, trained[rest], own=state.own))
        else:
            key, _, name = rest.partition("/")
            optimizer.state[trained[name]][key] = ranks.place(tensor, trained[name], own=state.own)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Seed torch step by step inside, and leave the caller's generators as they were."""
    with torch.random.fork_rng():
        yield


def every(interval: int, last: int) -> Callable[[int], bool]:
    """An `Evaluation.at` that is true at every multiple of `interval` past 0, and at `last`."""
    return lambda step: step > 0 and (step % interval == 0 or step == last)


def at_steps(steps: Any) -> Callable[[int], bool]:
    """An `Evaluation.at` that is true at exactly these steps."""
    wanted = frozenset(steps)
    return lambda step: step in wanted
