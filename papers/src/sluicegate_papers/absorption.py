"""Absorption: how much of what nobody labelled ended up where it can be cut out.

The kit behind every claim about removal: how low relearning brings the loss back once it has run its
course (`relearn_to_minimum`), how much undiscovered data a loss amounts to (`leakage`), which part of
a network each part of the data moves (`moves`), and what a bias over the vocabulary could have
reached as well (`calibrate`). `leakage` needs numpy only.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sluicegate.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sluicegate.engine.encoding import Rows
    from sluicegate.engine.training import Batches, Ledger, Objective
    from sluicegate.routing.router import Router
    from sluicegate.runs.directory import RunContext

Bound = Literal["exactly", "at least", "at most"]


# ------------------------------------------------------------------------------- relearning


@dataclass(frozen=True)
class Track:
    """Relearning under one learning rate."""

    rate: float
    steps: tuple[int, ...]
    """When the loss was measured; the first is 0, before any relearning."""
    losses: tuple[float, ...]
    passed: bool
    """Whether the minimum lies clearly behind: that many measurements came after it and none was lower."""
    diverged: bool = False
    """Whether the loss or the gradient stopped being finite."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """What else was measured of the model with the lowest loss."""

    @property
    def minimum(self) -> float:
        return min(self.losses)

    @property
    def step(self) -> int:
        """Where the minimum was reached."""
        return self.steps[self.losses.index(self.minimum)]


@dataclass(frozen=True)
class Relearning:
    """What fine-tuning brought a loss back to."""

    tracks: tuple[Track, ...]
    """One a learning rate."""
    flops: float

    @property
    def best(self) -> Track:
        """The learning rate whose minimum is lowest."""
        return min(self.tracks, key=lambda track: track.minimum)

    @property
    def minimum(self) -> float:
        """The lowest loss over steps and learning rates."""
        return self.best.minimum

    @property
    def passed(self) -> bool:
        """Whether the minimum was passed under every rate; if not, a longer budget may find a lower one."""
        return all(track.passed for track in self.tracks)

    def curve(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Steps, and the lowest loss that some rate has at each: what an attacker who picks the rate gets.

        A rate that was stopped counts with its last loss.
        """
        steps = sorted({step for track in self.tracks for step in track.steps})
        lowest = []
        for step in steps:
            at = [track.losses[max(i for i, own in enumerate(track.steps) if own <= step)] for track in self.tracks]
            lowest.append(min(at))
        return tuple(steps), tuple(lowest)


def relearn_to_minimum(
    model: Any,
    rows: "Rows | Callable[[int], Batches]",
    evaluate: Callable[[Any], float],
    *,
    lrs: Sequence[float],
    beside: Callable[[Any], Mapping[str, float]] | None = None,
    batch: int = 16,
    every: int = 5,
    patience: int = 6,
    max_steps: int = 200,
    objective: "Objective | None" = None,
    seed: int = 0,
    run: "RunContext | None" = None,
    name: str = "relearn",
) -> Relearning:
    """Fine-tune a copy of `model` on a few rows until the loss has turned, under every learning rate of `lrs`.

    `rows` are the attacker's, drawn `batch` at a time and each once an epoch (or a call that gives a
    step's batches); `evaluate(model)` is the held-out loss, measured before the first step and every
    `every` steps after; `beside(model)`, where given, is what else to note of the model whenever that loss
    is lower than before, and decides nothing. A rate is left when `patience` measurements in a row brought no new
    minimum, and at the latest after `max_steps`. `Relearning.passed` says whether that sufficed. AdamW without
    weight decay, a constant rate, the objective next-token cross-entropy unless another is given.

    The paper's measure of robust unlearning is the lowest forget loss within 40 steps on 64 rows (Cloud et
    al. 2024, arXiv 2410.04332, s4.2). A fixed budget favours whatever relearns slowly: at 30 steps routing
    seems to beat filtering where at the minimum it does not. That is why the end is found here, not set.
    """
    import torch

    from sluicegate.engine.sampling import Mixture, seed_of
    from sluicegate.engine.training import CrossEntropy, Diverged, Evaluation, fit
    from sluicegate.runs.directory import RunContext
    from sluicegate.values.schedule import Schedule

    _check_budget(lrs, every, patience, max_steps)
    run = run or RunContext()
    if callable(rows):
        batches = rows
    else:
        draw = Mixture(rows, min(batch, len(rows)), seed_of(seed, name))

        def batches(step: int) -> "Batches":
            return {"train": draw(step)}

    # One copy is trained under every rate in turn, and takes the model's own weights back before each.
    original = {key: p.detach().clone() for key, p in model.named_parameters()}
    victim = copy.deepcopy(model)
    tracks, flops = [], 0.0
    for rate in lrs:
        with torch.no_grad():
            for key, parameter in victim.named_parameters():
                parameter.copy_(original[key])
        part = f"{name} {rate:g}"
        # What was seen before an interruption counts when it is judged whether the loss has turned.
        kept = run.load_checkpoint(part)
        seen = [float(record["loss"]) for record in kept.values["records"]] if kept else []

        def measure(model: Any, spent: "Ledger", seen: list[float] = seen) -> dict[str, float]:
            seen.append(float(evaluate(model)))
            # What else is measured is only wanted at the minimum, and may be dear.
            lowest = all(seen[-1] < earlier for earlier in seen[:-1])
            return {"loss": seen[-1], **(beside(model) if beside is not None and lowest else {})}

        broke = False
        try:
            fitted = fit(
                victim,
                objective or CrossEntropy(),
                batches,
                Schedule(steps=max_steps, lr=rate, batch=batch),
                seed=seed,
                run=run,
                name=part,
                evaluation=Evaluation(
                    measure,
                    lambda step: step % every == 0 or step == max_steps,
                    lambda record, seen=seen: turned(seen, patience),  # type: ignore[misc]
                ),
                keep_weights=False,
            )
        except Diverged as error:  # this rate recovers nothing more, and the others still count
            fitted, broke = error.fitted, True
        # The minimum is the lowest loss seen, not the last: by then the loss has risen `patience` times.
        flops += fitted.ledger.student
        losses = tuple(record["loss"] for record in fitted.records)
        steps = tuple(int(record["step"]) for record in fitted.records)
        at_minimum = fitted.records[losses.index(min(losses))]
        noted = {key: value for key, value in at_minimum.items() if key not in ("step", "loss")}
        tracks.append(Track(rate, steps, losses, broke or turned(losses, patience), broke, noted))
    return Relearning(tuple(tracks), flops)


def _check_budget(lrs: Sequence[float], every: int, patience: int, max_steps: int) -> None:
    if not lrs:
        raise UserError("relearning needs at least one learning rate in lrs, for example (5e-4, 2e-3).")
    for what, value in (("every", every), ("patience", patience), ("max_steps", max_steps)):
        if value < 1:
            raise UserError(f"{what} is {value}; it must be at least 1.")


def turned(losses: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` losses are all no lower than one before them."""
    return len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])


# ------------------------------------------------------------------------------- leakage


@dataclass(frozen=True)
class Leakage:
    """How much forget data a loss amounts to."""

    tokens: float
    """Forget tokens that give standard training the same forget loss."""
    share: float
    """The same as a share of the undiscovered forget tokens; 1: as if they had all been learnt openly."""
    bound: Bound
    """At an end of the exposure curve the number is a bound: "at least" where the loss is as low as the last point's or
    lower, "at most" where it is as high as that of training without any forget data, or higher."""

    def __str__(self) -> str:
        return f"{self.share:.3g}" if self.bound == "exactly" else f"{self.bound} {self.share:.3g}"


def leakage(loss: float, exposure: tuple[Sequence[float], Sequence[float]], undiscovered: float) -> Leakage:
    """The exposure that a forget loss amounts to, over the tokens that nobody had labelled.

    `exposure` is (forget tokens, forget loss) of standard training on that much forget data, the first
    point at 0 tokens; `undiscovered` is the number of forget tokens in training that were not
    labelled. The curve is made falling (least squares, isotonic) and read backwards: linear in the
    logarithm of the tokens, between 0 and the first exposure linear in the tokens themselves. Where it
    is level, the fewest tokens count. Filtering has leakage 1 by construction.

    Source: SGTM (arXiv 2512.05648), the leakage of fig. 3. Different here: monotone, with bounds at the ends.
    A raw loss is not to be trusted alone: an objective that merely pushes the loss up, as gradient
    difference does, has low leakage. Compare losses after relearning, against a curve of relearned losses.

    Raises `UserError` for a curve of fewer than two points or without the point at 0, for losses that
    are not finite, and where nothing was undiscovered.
    """
    tokens, losses = (np.asarray(values, dtype=float) for values in exposure)
    if tokens.shape != losses.shape or tokens.ndim != 1 or len(tokens) < 2:
        raise UserError(
            f"an exposure curve needs two points or more, each with a loss; got {tokens.shape} tokens and {losses.shape} losses."
        )
    if not (np.isfinite(tokens).all() and np.isfinite(losses).all() and np.isfinite(loss)):
        raise UserError("an exposure curve and the loss to be found on it must be finite numbers.")
    order = np.argsort(tokens, kind="stable")
    tokens, fitted = tokens[order], falling(losses[order])
    if tokens[0] != 0 or (np.diff(tokens) <= 0).any():
        raise UserError(f"an exposure curve starts at 0 tokens and has each exposure once; got {tokens.tolist()}.")
    if undiscovered <= 0:
        raise UserError(f"{undiscovered:g} forget tokens were undiscovered: where all are labelled, there is no leakage to speak of.")
    if loss >= fitted[0]:
        return Leakage(0.0, 0.0, "at most")
    if loss <= fitted[-1]:
        first = float(tokens[int(np.argmax(fitted <= fitted[-1]))])
        return Leakage(first, first / undiscovered, "exactly" if loss == fitted[-1] else "at least")
    after = int(np.argmax(fitted <= loss))
    low, high = tokens[after - 1], tokens[after]
    along = (fitted[after - 1] - loss) / (fitted[after - 1] - fitted[after])
    found = float(along * high if low == 0 else low * (high / low) ** along)
    return Leakage(found, found / undiscovered, "exactly")


def falling(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The nearest sequence, in least squares, that never rises (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in np.asarray(values, dtype=float):
        mean, size = float(value), 1
        while pools and pools[-1][0] < mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    return np.repeat([mean for mean, _ in pools], [size for _, size in pools])


# ------------------------------------------------------------------------------- gradients


def moves(
    router: "Router", parts: Mapping[str, tuple[Any, str]], loss: "Callable[[nn.Module, Any], Tensor] | None" = None
) -> dict[tuple[str, str], float]:
    """(block, data part) -> gradient norm over weight norm, each part's own rows under their own label.

    `parts` maps the name of a data part to its batch and the name of its label, for example
    ``{"undiscovered": (batch, "unlabelled")}``. Where unlabelled forget rows move the forget block more
    than the rest, and unlabelled retain rows do not, there is absorption (SGTM, arXiv 2512.05648, fig. 5).
    Compare with the same blocks of a model that was never routed. `batch` and `loss` as in `Router.report`.
    """
    found = {}
    for part, (batch, label) in parts.items():
        if label not in router.labels:
            raise UserError(f"data part {part!r} has the label {label!r}; the labels are {', '.join(router.labels)}.")
        for (block, under), value in router.report(batch, loss).relative().items():
            if under == label:
                found[block, part] = value
    return found


# ------------------------------------------------------------------------------- calibration


@dataclass(frozen=True)
class Calibrated:
    """Losses with the best bias over the vocabulary in front of the softmax."""

    forget: float
    retain: float


def calibrate(model: Any, forget: "Rows", retain: "Rows", *, retain_weight: float = 100.0, steps: int = 100) -> Calibrated:
    """Fit one bias a vocabulary entry on ``l_forget + retain_weight * l_retain`` and give both losses with it.

    Answers whether a high forget loss is only a shifted output: a bias is the cheapest of repairs. The
    bias is fitted on the even rows and the losses are those of the odd ones. Tokens of the rows'
    answers count, in nats. Source: SGTM (arXiv 2512.05648), which reports all its losses so.
    """
    import torch
    import torch.nn.functional as F

    from sluicegate.engine.forward import logits

    def outputs(rows: "Rows") -> "tuple[Tensor, Tensor]":
        found = [(logits(model, batch)[batch.answer], batch.ids[:, 1:][batch.answer]) for batch in rows.everything(64)]
        return torch.cat([scores for scores, _ in found]), torch.cat([targets for _, targets in found])

    model.eval()
    fits, tests = [], []
    with torch.no_grad():
        for rows in (forget, retain):
            if len(rows) < 2:
                raise UserError("calibration needs at least two forget rows and two retain rows: one to fit on, one to measure on.")
            fits.append(outputs(rows.select(range(0, len(rows), 2))))
            tests.append(outputs(rows.select(range(1, len(rows), 2))))
    bias = torch.zeros(fits[0][0].shape[-1], device=fits[0][0].device, requires_grad=True)
    solver = torch.optim.LBFGS([bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> float:
        solver.zero_grad()
        away, kept = (F.cross_entropy(scores + bias, targets) for scores, targets in fits)
        value = (away + retain_weight * kept) / (1 + retain_weight)
        value.backward()
        return float(value.detach())

    solver.step(closure)
    with torch.no_grad():
        away, kept = (float(F.cross_entropy(scores + bias, targets)) for scores, targets in tests)
    return Calibrated(away, kept)
