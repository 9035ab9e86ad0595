"""What the loop costs: steps of `fit` against a plain loop over the same model, rows and optimiser.

    python benchmarks/training.py [--repeats 9] [--steps 60]

Both are run in turn in one process on one thread, and the ratio is the median over the turns. The
plain loop is the floor: forward, cross-entropy, backward, clipping, AdamW, nothing else, on
batches that were cut beforehand. `kept` writes a run folder with metrics and a resume point.
Prints one line a variant and, last, a JSON object.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import sluicegate as sg
from sluicegate.engine.encoding import Rows, encode
from sluicegate.engine.sampling import Mixture
from sluicegate.engine.training import CrossEntropy, Ledger, fit
from sluicegate.runs.directory import RunContext, open_run
from sluicegate.unlearning.distill import Matching


def plain(model: torch.nn.Module, rows: Rows, steps: int, batch: int) -> float:
    """Seconds for `steps` of the shortest loop there is."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    cut = [rows.batch(range(step * batch % (len(rows) - batch), step * batch % (len(rows) - batch) + batch)) for step in range(steps)]
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


def ours(model: torch.nn.Module, rows: Rows, steps: int, batch: int, run: RunContext, teacher: torch.nn.Module | None = None) -> float:
    """Seconds for the same steps with `fit`; with a teacher, of distillation."""
    draw = Mixture(rows, batch, seed=0)
    objective = Matching(teacher, rows, Ledger(), cached=False) if teacher is not None else CrossEntropy()
    group = "pool" if teacher is not None else "train"
    begin = time.perf_counter()
    fit(model, objective, lambda step: {group: draw(step)}, sg.Schedule(steps=steps, lr=1e-3, batch=batch), seed=0, run=run)
    return time.perf_counter() - begin


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=9, help="turns; the median over them counts")
    options.add_argument("--steps", type=int, default=60, help="optimiser steps a turn")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = sg.load("arithmetic-tiny")
    rows = encode(tokenizer, sg.tasks.arithmetic().split().unlabelled)
    times: dict[str, list[float]] = {name: [] for name in ("plain", "fit", "kept", "distil")}
    for turn in range(chosen.repeats + 1):
        took = {"plain": plain(copy.deepcopy(model), rows, chosen.steps, 64)}
        took["fit"] = ours(copy.deepcopy(model), rows, chosen.steps, 64, RunContext())
        with tempfile.TemporaryDirectory() as place:
            opened = open_run(Path(place) / "run", digest="x", config={"verb": "x"}, parents={}, environment={}, title="x")
            with opened as run:
                took["kept"] = ours(copy.deepcopy(model), rows, chosen.steps, 64, run)
        took["distil"] = ours(copy.deepcopy(model), rows, chosen.steps, 64, RunContext(), copy.deepcopy(model))
        if turn:  # the first turn warms up
            for name, seconds in took.items():
                times[name].append(seconds)
    floor = statistics.median(times["plain"]) / chosen.steps
    print(f"plain loop: {floor * 1e3:.2f} ms a step (arithmetic-tiny, 64 rows, one thread)")
    ratios = {}
    for name in ("fit", "kept", "distil"):
        each = sorted(a / b for a, b in zip(times[name], times["plain"], strict=True))
        ratios[name] = statistics.median(each)
        print(f"{name:>8}: {ratios[name]:.3f} of plain (range {each[0]:.3f} to {each[-1]:.3f})")
    print(json.dumps({"plain_ms": floor * 1e3, **ratios}))


if __name__ == "__main__":
    main()
