"""The training loop, one for all verbs.

`fit` takes an objective and a function from a step to its batches, and returns what the training cost. All
randomness is a function of the seed and the step, so a run that was killed and resumed ends with
the same weights, bitwise on a CPU.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from sluicegate.deprecated import renamed
from sluicegate.engine import losses
from sluicegate.engine.encoding import Batch
from sluicegate.engine.forward import Meter
from sluicegate.engine.sampling import seed_of
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.runs.ranks import Ranks
from sluicegate.values.edits import match_parameters
from sluicegate.values.schedule import Schedule

Batches = Mapping[str, Any]
"""A step's batches by name: `encoding.Batch`, or for other models anything with `.split(parts)`."""
Log = dict[str, float]


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
    with run.ranks.spread(model):
        trained, meter = only_train(model, params), meter or Meter(model)  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(
            trained.values(), lr=schedule.lr, betas=(0.9, schedule.beta2), weight_decay=schedule.weight_decay, fused=True
        )
        if guard is not None:
            guard(optimizer)
        fitted = Fitted.nothing()
        # Go on from a checkpoint of this part, where there is one: weights, AdamW's moments, FLOPs and what was
        # measured.
        state = run.load_checkpoint_all_ranks(name)
        if state is not None:
            _restore(state.tensors, trained, optimizer, run.ranks)
            fitted = Fitted(state.values["steps"], Ledger(**state.values["ledger"]), state.values["records"], state.values["stopped"])
            if state.finished:
                return fitted

        def broken(what: str) -> Diverged:
            last = replace(fitted, steps=max(fitted.steps - 1, 0))  # nothing is kept of the step that broke them
            where = f"after step {fitted.steps} of part {name!r} in stage {run.title}"
            return Diverged(f"{where}, {what}", last)

        def sound() -> None:
            own = [(p.to_local() if hasattr(p, "to_local") else p).detach() for p in trained.values()]
            bad = run.ranks.total([float(not tensor.isfinite().all()) for tensor in own])
            for tensor, is_bad in zip(trained, bad, strict=True):
                if is_bad:
                    raise broken(f"the weights are no longer finite: {tensor} holds NaN or infinity. Try a lower --lr.")

        def keep(finished: bool = False) -> None:
            sound()
            ledger = {"student": fitted.ledger.student, "teacher": fitted.ledger.teacher, "evaluation": fitted.ledger.evaluation}
            values = {"steps": fitted.steps, "ledger": ledger, "records": fitted.records, "stopped": fitted.stopped}
            tensors = _tensors(trained, optimizer, run.ranks, moments=not finished) if keep_weights or not finished else {}
            run.save_checkpoint(name, values, tensors, finished=finished)

        def look() -> None:
            if evaluation is None or not evaluation.at(fitted.steps) or any(r["step"] == fitted.steps for r in fitted.records):
                return
            sound()
            try:
                measured = evaluation.measure(model, fitted.ledger)
            except NotFinite as error:
                raise broken(str(error)) from None
            record = run.ranks.first({"step": fitted.steps, **measured})
            fitted.records.append(record)
            run.log({"part": name, "kind": "evaluation", **record})
            fitted.stopped = fitted.steps < schedule.steps and evaluation.stop(record)

        with _own_randomness(), losses.packed(model, schedule.pack, routed=guard is not None):
            look()
            while fitted.steps < schedule.steps and not fitted.stopped:
                torch.manual_seed(seed_of(seed, fitted.steps, *run.ranks.own_seed))  # dropout, if the model has any
                step_log = _step(
                    model, objective, batches(fitted.steps), schedule, optimizer, trained, fitted, run, name, keep, meter, around
                )
                fitted.steps += 1
                run.log({"part": name, "step": fitted.steps, **step_log})
                look()
                run.progress(name, fitted.steps, schedule.steps, {**step_log, **(fitted.records[-1] if fitted.records else {})})
                if run.ranks.first(run.checkpoint_due()):
                    keep()
        keep(finished=True)
        return fitted


def _step(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    trained: Mapping[str, nn.Parameter],
    fitted: Fitted,
    run: RunContext,
    name: str,
    keep: Callable[[], None],
    meter: Callable[[Any], float],
    around: Callable[[Batches], AbstractContextManager[None]],
) -> Log:
    if not model.training:
        model.train()
    ranks = run.ranks
    log: Log = {"loss": 0.0}
    teacher = 0.0
    # 1. Gradients, over the parts of this process. Each part's loss is divided by the whole step's count, so that they
    # add up.
    for batch in ranks.pieces(batches, schedule.accumulate):
        with around(batch):
            loss = objective(model, batch)
            extra = [float(number.detach()) for number in loss.log.values()]
            value, cost, *numbers = ranks.total([float(loss.value.detach()), loss.teacher_flops, *extra])
            log["loss"] += value
            for key, number in zip(loss.log, numbers, strict=True):
                log[key] = log.get(key, 0.0) + number
            if not math.isfinite(value):
                _diverged("loss", value, fitted, run, name, keep, optimizer)
            if loss.value.requires_grad:  # where nothing that is trained bears on the loss, the check below says so
                ranks.scaled(loss.value).backward()
        teacher += cost
    # 2. The same sum in all processes; then one norm, clipped, over the whole model.
    ranks.add_gradients(trained.values())
    gradients = [p for p in trained.values() if p.grad is not None]
    if fitted.steps == 0 and not ranks.moved(p.grad for p in gradients if p.grad is not None):
        raise UserError(
            f"stage {run.title}, part {name}: none of the {len(trained)} trainable parameters received any gradient, so nothing "
            "would be learnt. Check that the trained parameters (--params) lie before what the objective reads."
        )
    norm = float(ranks.whole(nn.utils.clip_grad_norm_(gradients, schedule.clip or math.inf)))
    if not math.isfinite(norm):
        _diverged("gradient norm", norm, fitted, run, name, keep, optimizer)
    # 3. The update. Up to here the weights are untouched, so a step that diverged leaves the last finite ones.
    for group in optimizer.param_groups:
        group["lr"] = schedule.rate(fitted.steps)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    # Charged last: a step that diverges is tried again on resume, and must not be paid for twice.
    fitted.ledger.teacher += teacher
    fitted.ledger.student += sum(3 * meter(batch) for batch in batches.values())
    return log


def _diverged(
    what: str, value: float, fitted: Fitted, run: RunContext, name: str, keep: Callable[[], None], optimizer: torch.optim.Optimizer
) -> None:
    """Save a checkpoint of the weights, which this step has not changed yet, and raise `Diverged`."""
    optimizer.zero_grad(set_to_none=True)
    keep()
    raise Diverged(
        f"the {what} became {value} at step {fitted.steps + 1} of part {name!r} in stage {run.title}. The weights from before that "
        f"step are kept in {run.path / 'state'}. Try a lower learning rate (--lr), more --warmup, or a smaller --clip.",
        fitted,
    )


def only_train(model: nn.Module, params: str) -> dict[str, nn.Parameter]:
    """Let the parameters that match `params` require a gradient, and no others; return them by name."""
    chosen = match_parameters(model, params)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
        parameter.grad = None
    return chosen


def _tensors(trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, ranks: Ranks, *, moments: bool) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by a flat name: the trained weights and, while training goes on, AdamW's moments."""
    flat = {f"weight/{name}": ranks.whole(p.detach()) for name, p in trained.items()}
    for name, parameter in trained.items() if moments else ():
        for key, value in optimizer.state.get(parameter, {}).items():
            flat[f"adamw/{key}/{name}"] = ranks.whole(value)
    return flat


@torch.no_grad()
def _restore(flat: Mapping[str, Tensor], trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
    for path, tensor in flat.items():
        kind, _, rest = path.partition("/")
        if kind == "weight":
            trained[rest].copy_(ranks.place(tensor, trained[rest]))
        else:
            key, _, name = rest.partition("/")
            optimizer.state[trained[name]][key] = ranks.place(tensor, trained[name])


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
