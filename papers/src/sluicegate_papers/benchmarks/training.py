"""What the loop costs: steps of `fit` against a plain loop over the same model, rows and optimiser.

Both run in turn in one process on one thread, and the ratio is the median over the turns. The plain loop is the floor:
forward, cross-entropy, backward, clipping, AdamW, nothing else, on batches that were cut beforehand. `kept` writes a
run folder with metrics and a resume point; `distil` adds a teacher's forward pass. Steps of unlearning at the size of
SmolLM2-135M are in `steps`, and measured with these.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

import sluicegate as sg
from sluicegate.engine.encoding import Rows, encode
from sluicegate.engine.sampling import Mixture
from sluicegate.engine.training import CrossEntropy, Ledger, fit
from sluicegate.runs.directory import Progress, RunContext, open_run
from sluicegate.unlearning.distill import Matching
from sluicegate_papers.benchmarks import steps

VARIANTS = ("fit", "kept", "distil")
BATCH = 64
"""Rows a step."""


@dataclass(frozen=True)
class Measured:
    """What came of it."""

    plain_ms: float
    """Milliseconds of a step of the plain loop, median over turns."""
    ratios: Mapping[str, Sequence[float]]
    """Variant -> time over the plain loop's, one number a turn, in order of size."""
    large: steps.Measured | None = None
    """The same at the size of SmolLM2-135M, by method."""


def plain(model: torch.nn.Module, rows: Rows, steps: int) -> float:
    """Seconds for `steps` of the shortest loop there is."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    starts = [step * BATCH % (len(rows) - BATCH) for step in range(steps)]
    cut = [rows.batch(range(start, start + BATCH)) for start in starts]
    model.train()
    begin = time.perf_counter()
    for piece in cut:
        out = model(input_ids=piece.ids, attention_mask=piece.attention.long(), use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(out.transpose(1, 2), piece.ids[:, 1:], reduction="none")
        ((losses * piece.real).sum() / piece.real.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - begin


def ours(model: "PreTrainedModel", rows: Rows, steps: int, run: RunContext, teacher: "PreTrainedModel | None" = None) -> float:
    """Seconds for the same steps with `fit`; with a teacher, of distillation."""
    draw = Mixture(rows, BATCH, seed=0)
    objective = Matching(teacher, rows, Ledger(), cached=False) if teacher is not None else CrossEntropy()
    group = "pool" if teacher is not None else "train"
    begin = time.perf_counter()
    fit(model, objective, lambda step: {group: draw(step)}, sg.Schedule(steps=steps, lr=1e-3, batch=BATCH), seed=0, run=run)
    return time.perf_counter() - begin


def run(*, quick: bool = False, progress: Progress | None = None) -> Measured:
    """Measure: nine turns of 60 steps each, or when `quick` three of 20; then the steps of a larger model."""
    repeats, count = (3, 20) if quick else (9, 60)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, tokenizer = sg.load("arithmetic-tiny")
    rows = encode(tokenizer, sg.tasks.arithmetic().split().unlabelled)
    times: dict[str, list[float]] = {name: [] for name in ("plain", *VARIANTS)}
    for turn in range(repeats + 1):
        took = {"plain": plain(copy.deepcopy(model), rows, count)}
        took["fit"] = ours(copy.deepcopy(model), rows, count, RunContext())
        with tempfile.TemporaryDirectory() as place:
            opened = open_run(Path(place) / "run", digest="x", config={"verb": "x"}, parents={}, environment={}, title="x")
            with opened as folder:
                took["kept"] = ours(copy.deepcopy(model), rows, count, folder)
        took["distil"] = ours(copy.deepcopy(model), rows, count, RunContext(), copy.deepcopy(model))
        if turn:  # the first turn warms up
            for name, seconds in took.items():
                times[name].append(seconds)
        if progress is not None:
            progress("turns", turn, repeats, {})
    torch.set_num_threads(threads)
    ratios = {name: sorted(a / b for a, b in zip(times[name], times["plain"], strict=True)) for name in VARIANTS}
    return Measured(statistics.median(times["plain"]) / count * 1e3, ratios, steps.run(quick=quick, progress=progress))


def summary(found: Measured) -> dict[str, Any]:
    """The figures, by name: medians; of the larger model, by method."""
    small = {name: statistics.median(each) for name, each in found.ratios.items()}
    return {"plain_ms": found.plain_ms, **small, **(steps.summary(found.large) if found.large else {})}


def markdown(found: Measured) -> str:
    """The figures as a Markdown table."""
    lines = [f"Plain loop: {found.plain_ms:.2f} ms a step (arithmetic-tiny, {BATCH} rows, one thread).", ""]
    lines += ["| variant | time / plain loop | range |", "|---|---|---|"]
    for name, each in found.ratios.items():
        lines.append(f"| {name} | {statistics.median(each):.2f} | {each[0]:.2f} to {each[-1]:.2f} |")
    return "\n".join([*lines, *(["", steps.markdown(found.large)] if found.large else [])])
