"""Distillation: train a student on the suppressed model's outputs, so that its weights are not inherited."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.deprecated import renamed
from sluicegate.engine.encoding import Batch, Rows, encode, fitting
from sluicegate.engine.forward import Meter, logits
from sluicegate.engine.losses import Outputs, portions
from sluicegate.engine.models import fresh, width
from sluicegate.engine.sampling import Mixture, seed_of
from sluicegate.engine.scoring import single_score
from sluicegate.engine.training import Batches, Evaluation, Fitted, Ledger, Loss, Objective, every, fit, masked_mean
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.unlearning.aim import choose_at_random, choose_by_importance, redraw_weights
from sluicegate.unlearning.hidden import HiddenMatching
from sluicegate.unlearning.teacher import TopWords, divergence_of_top, in_host_memory
from sluicegate.values.edits import Noise
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule, distilling_rate

CACHE_LIMIT = 4 * 2**30
"""Largest cache of teacher outputs, in bytes."""


@dataclass(frozen=True)
class StopRule:
    """Stop once the student's score on retain rows is a given share of its teacher's (see `single_score`)."""

    retain: Sequence[Item]
    """What it is scored on."""
    share: float = 0.95
    """Stop at this share of the teacher's score; 0: never, run every step."""
    interval: int = 20
    """Steps between checks."""


@dataclass(frozen=True)
class Distilled:
    """What a distillation did."""

    student: PreTrainedModel
    fitted: Fitted
    reached: bool
    """Whether the stop rule was met within the steps; True where there was none."""
    divergence: float
    """Mean KL from teacher to student over the pool's tokens at the end, in nats."""
    teacher_score: float
    """The teacher's score under the stop rule (NaN where there was none)."""
    held: float = 1.0
    """Share of the teacher's probability that its cached top words hold."""


class Matching:
    """Forward KL from a frozen teacher at temperature 1, in nats a token.

    ``L = sum_v p_T(v) * (log p_T(v) - log p_S(v))``, averaged over all real tokens.

    Source: Lee et al. 2025 (arXiv 2506.06278), after Hinton et al. 2015. With `cached`, the
    teacher's outputs on the whole pool are computed once, in order, and looked up; with `top` those of its likeliest
    words, the others' probability being summed (see `TopWords`).
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        rows: Rows,
        ledger: Ledger,
        *,
        cached: bool,
        top: int = 0,
        run: RunContext | None = None,
        name: str = "distill",
    ) -> None:
        self.teacher = teacher.eval()
        self._cache: Tensor | None = None
        self._meter = Meter(teacher)
        self.top: TopWords | None = None
        vocabulary = teacher.config.get_text_config().vocab_size
        if top >= vocabulary or (top and not cached):
            raise UserError(
                f"teacher_top is {top}; it is how many of the teacher's {vocabulary} words are cached, fewer than all, and needs "
                "--cache-teacher."
            )
        if top:
            self.top = TopWords(teacher, rows, top, ledger, run or RunContext(), name)
        elif cached:
            size = rows.ids.numel() * vocabulary * 4
            if size > CACHE_LIMIT:
                raise UserError(
                    f"caching the teacher's outputs would take {size / 2**30:.1f} GiB, and {CACHE_LIMIT / 2**30:.0f} GiB are allowed. "
                    "Keep its likeliest words only (--teacher-top 64), leave --cache-teacher out, or hand in fewer or shorter rows."
                )
            self._cache = torch.zeros(len(rows), rows.ids.shape[1] - 1, vocabulary)
            with torch.no_grad():
                for batch in portions(teacher, rows):
                    out = logits(teacher, batch).log_softmax(-1)
                    self._cache[batch.index.cpu(), : out.shape[1]] = out.cpu()
                    ledger.teacher += self._meter(batch)

    def __call__(self, model: PreTrainedModel, batches: Batches) -> Loss:
        batch = batches["pool"]
        if self.top is None:
            return Loss(masked_mean(self.gaps(model, batch), batch, "real"), teacher_flops=0.0 if self.cached else self._meter(batch))
        logs, words = self.top.of(batch)
        gaps = Outputs(model, batch, "real", small=False).values(lambda z, piece: divergence_of_top(z, logs[piece], words[piece]))
        return Loss(masked_mean(gaps, batch, "real"))

    @property
    def cached(self) -> bool:
        return self._cache is not None

    def gaps(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """[b, s-1] KL at every real token from the teacher, as cached or asked now, to `model`."""
        mine = Outputs(model, batch, "real")
        with torch.no_grad():
            theirs = Outputs(self.teacher, batch, "real", small=mine.small) if self._cache is None else None

        def target(piece: slice) -> Tensor:
            with torch.no_grad():
                if theirs is not None:
                    return theirs.at(piece).log_softmax(-1)
                assert self._cache is not None
                return mine.pick(self._cache[batch.index.cpu(), : batch.ids.shape[1] - 1].to(batch.ids.device), piece)

        def of(z: Tensor, piece: slice) -> Tensor:
            known = target(piece)
            return (known.exp() * (known - z.log_softmax(-1))).sum(-1)

        return mine.values(of)


@renamed(room="run")
def distill(
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    unlabelled: Sequence[Item],
    schedule: Schedule | None = None,
    *,
    student: PreTrainedModel | None = None,
    stop: StopRule | None = None,
    seed: int = 0,
    max_length: int = 256,
    template: bool = False,
    cache_teacher: bool = False,
    run: RunContext | None = None,
    name: str = "distill",
    retain: Sequence[Item] = (),
    match_hidden: float = 0.0,
    teacher_top: int = 0,
    teacher_on: Literal["device", "host"] = "device",
) -> Distilled:
    """Train a student on the teacher's outputs over the whole unlabelled mixture.

    `student` is trained in place; without one, a newly initialised model of the teacher's shape is
    drawn from `seed`. The teacher's forward passes are in the ledger. `name` tells it from another part of the same
    run folder. With `match_hidden`, a weight, the teacher's hidden states on the `retain` rows are matched too
    (see `HiddenMatching`), on as many of them a step as of the pool. With `cache_teacher`, `teacher_top` keeps that
    many words of the teacher's outputs; a teacher on the host lends the device one module at a time. Raises
    `UserError` for an empty pool, or where the two vocabularies differ.
    """
    if not unlabelled:
        raise UserError("distillation needs unlabelled rows, and there are none. Hand them in with --unlabelled.")
    run = run or RunContext()
    schedule = (schedule or Schedule()).or_rate(distilling_rate(width(teacher)))
    if student is None:
        student = fresh(copy.deepcopy(teacher.config), seed_of(seed, "student"))
    sizes = [m.config.get_text_config().vocab_size for m in (teacher, student)]
    if sizes[0] != sizes[1]:
        raise UserError(f"teacher and student have vocabularies of {sizes[0]} and {sizes[1]} tokens: their outputs cannot be matched.")
    max_length = min(fitting(teacher, max_length), fitting(student, max_length))
    rows = encode(tokenizer, unlabelled, max_length=max_length, template=template)
    batches = Mixture(rows, schedule.batch, seed_of(seed, "pool"))
    before = Ledger()
    matching = Matching(teacher, rows, before, cached=cache_teacher, top=teacher_top, run=run, name=name)
    objective: Objective = matching
    draw = {"pool": batches}
    if match_hidden:
        if not retain:
            raise UserError("hidden states are matched on retain rows, and there are none. Hand them in with --retain.")
        shown = encode(tokenizer, retain, max_length=max_length, template=template)
        objective = HiddenMatching(matching, teacher, student, shown, match_hidden, before)
        draw["retain"] = Mixture(shown, schedule.batch, seed_of(seed, "retain"))
    evaluation, target = None, math.nan
    if stop is not None and stop.share > 0:
        kept = encode(tokenizer, stop.retain, max_length=max_length, template=template)
        target = stop.share * single_score(teacher, kept, before)
        evaluation = Evaluation(
            lambda model, ledger: {"retain": single_score(model, kept, ledger)},
            every(stop.interval, schedule.steps),
            lambda record: record["retain"] >= target,
        )
    with in_host_memory(teacher, teacher_on == "host"):
        fitted = fit(
            student,
            objective,
            lambda step: {group: of(step) for group, of in draw.items()},
            schedule,
            seed=seed,
            run=run,
            name=name,
            evaluation=evaluation,
        )
    fitted.ledger.add(before)
    reached = evaluation is None or fitted.records[-1]["retain"] >= target
    divergence = _divergence(matching, student, rows)
    score_of_teacher = target / stop.share if stop is not None and stop.share > 0 else math.nan
    return Distilled(student, fitted, reached, divergence, score_of_teacher, matching.top.held if matching.top else 1.0)


@renamed(room="run", sites="params")
def undo(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    unlabelled: Sequence[Item],
    schedule: Schedule | None = None,
    *,
    alpha: float,
    beta: float = 0.1,
    params: str = "*",
    stop: StopRule | None = None,
    seed: int = 0,
    max_length: int = 256,
    template: bool = False,
    cache_teacher: bool = False,
    run: RunContext | None = None,
    retain: Sequence[Item] = (),
    match_hidden: float = 0.0,
    forget: Sequence[Item] = (),
    aim: Literal["all", "fisher", "gradient", "random"] = "all",
    teacher_top: int = 0,
    teacher_on: Literal["device", "host"] = "device",
) -> Distilled:
    """Unlearn, noise, distil (UNDO): noise a copy of the suppressed `model`, then distil `model` into it.

    `alpha` is the share of the weights replaced by noise of scale `beta`, at the parameters that
    match `params`. Source: Lee et al. 2025 (arXiv 2506.06278). With another `aim` than all, that share of single
    weights is drawn anew as a new model's are: those that count most for `forget` over `retain` (see
    `choose_by_importance`), or any.
    """
    before = Ledger()
    if aim == "all":
        student = copy.deepcopy(model).requires_grad_(True)
        Noise(alpha, beta, seed_of(seed, "noise"), params).bake(student)
    elif aim == "random":
        student = redraw_weights(model, choose_at_random(model, alpha, seed, params=params), seed)
    else:
        if not forget or not retain:
            raise UserError(f"aiming by {aim} compares the forget set with the retain set. Hand them in with --forget and --retain.")
        longest = fitting(model, max_length)
        lost, kept = (encode(tokenizer, items, max_length=longest, template=template) for items in (forget, retain))
        student = redraw_weights(model, choose_by_importance(model, lost, kept, alpha, aim, before, params=params), seed)
    done = distill(
        model,
        tokenizer,
        unlabelled,
        schedule,
        student=student,
        stop=stop,
        seed=seed,
        max_length=max_length,
        template=template,
        cache_teacher=cache_teacher,
        run=run,
        retain=retain,
        match_hidden=match_hidden,
        teacher_top=teacher_top,
        teacher_on=teacher_on,
    )
    done.fitted.ledger.add(before)
    return done


@torch.no_grad()
def _divergence(matching: Matching, student: PreTrainedModel, rows: Rows, most: int = 512) -> float:
    """Mean KL over the first `most` rows of the pool."""
    was_training = student.training
    student.eval()
    total = tokens = 0.0
    for batch in portions(student, rows.select(range(min(most, len(rows)))), 64):
        total += float(matching.gaps(student, batch).sum())
        tokens += float(batch.real.sum())
    student.train(was_training)
    return total / tokens
