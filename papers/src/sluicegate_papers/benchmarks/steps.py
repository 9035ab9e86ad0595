"""A step at the size of SmolLM2-135M on rows of TOFU's lengths, against what others run for the same loss.

Gradient difference and NPO stand against the Hugging Face Trainer with a loss of its own, as unlearning suites use it
(NPO asks a frozen reference model at every step); `fit` against the shortest loop there is. Weights are drawn, rows
are random words. Each side is a process of its own on one thread; both take turns of a few steps, CPU time is counted,
and the ratio is the median over the turns. Memory is a side's largest resident set over what it held once its model was
made, in units of the model's weights: gradients, moments, activations, and a reference where there is one.
"""

import copy
import multiprocessing
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

import sluicegate as sg
from sluicegate.engine.encoding import Rows
from sluicegate.engine.models import fresh
from sluicegate.engine.training import CrossEntropy, Ledger, fit
from sluicegate.runs.directory import Progress, RunContext
from sluicegate.unlearning.objectives import method
from sluicegate.values.items import Item

METHODS = ("graddiff", "npo", "train")
BATCH = 4
"""Rows of either set a step."""
LENGTHS: Sequence[tuple[int, int]] = (
    (11, 16), (13, 5), (15, 19), (18, 40), (19, 19), (19, 27), (19, 42), (19, 53), (20, 16), (20, 27), (20, 34), (20, 39),
    (21, 20), (21, 21), (21, 23), (21, 38), (21, 38), (21, 40), (22, 23), (22, 31), (22, 50), (23, 32), (23, 40), (24, 42),
    (24, 43), (24, 46), (24, 51), (26, 27), (27, 47), (32, 38), (33, 50), (33, 54),
)  # fmt: skip
"""Tokens of question and answer: a random 32 of TOFU's retain90 under SmolLM2's tokenizer (means there: 21 and 34)."""
SHAPE = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "max_position_embeddings": 8192, "rope_theta": 100000, "tie_word_embeddings": True,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
LR = 1e-5


@dataclass(frozen=True)
class Measured:
    """What came of it."""

    ratios: Mapping[str, Sequence[float]]
    """Method -> CPU time of a step over the other side's, one number a turn, in order of size."""
    peaks: Mapping[str, tuple[float, float]]
    """Method -> largest memory over the loaded model, in units of its weights: ours, the other side's."""


def rows(seed: int, shape: Mapping[str, Any]) -> Rows:
    """Random words, in rows of TOFU's lengths, in a random order."""
    order = random.Random(seed).sample(range(len(LENGTHS)), len(LENGTHS))
    chosen = torch.tensor([LENGTHS[i] for i in order])
    lengths = chosen.sum(1)
    ids = torch.randint(3, shape["vocab_size"], (len(chosen), int(lengths.max())), generator=torch.Generator().manual_seed(seed))
    ids *= torch.arange(ids.shape[1]) < lengths[:, None]
    return Rows(ids, lengths, chosen[:, 0], tuple(Item("question", " answer") for _ in order))


def drawn(shape: Mapping[str, Any]) -> PreTrainedModel:
    return fresh(AutoConfig.for_model("llama", **shape), 0)


def places(step: int) -> range:
    """Which rows a step sees, in both sides alike."""
    first = step * BATCH % len(LENGTHS)
    return range(first, first + BATCH)


# --------------------------------------------------------------------------- the sides: each calls `tick` at every step


def ours(what: str, model: PreTrainedModel, forget: Rows, retain: Rows, steps: int, tick: Callable[[], None]) -> None:
    """`fit` with the method's objective; rows packed, but for `train`, which is compared with a loop that does not."""
    groups = {"train": forget} if what == "train" else {"forget": forget, "retain": retain}
    settings = {"on": "answer"} if what == "graddiff" else {}
    objective = CrossEntropy("answer") if what == "train" else method(what)(**settings).prepare(model, forget, retain, Ledger())

    def batches(step: int) -> dict[str, Any]:
        tick()
        return {name: group.batch(places(step)) for name, group in groups.items()}

    fit(model, objective, batches, sg.Schedule(steps=steps, lr=LR, batch=BATCH, pack=what != "train"), seed=0, run=RunContext())
    tick()


def shortest(model: PreTrainedModel, forget: Rows, steps: int, tick: Callable[[], None]) -> None:
    """The shortest loop: forward, cross-entropy of the answers, backward, clipping, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    model.train()
    for step in range(steps):
        tick()
        batch = forget.batch(places(step))
        out = model(input_ids=batch.ids, attention_mask=batch.attention.long(), use_cache=False).logits[:, :-1]
        F.cross_entropy(out[batch.answer], batch.ids[:, 1:][batch.answer]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    tick()


def trainer(what: str, model: PreTrainedModel, forget: Rows, retain: Rows, steps: int, tick: Callable[[], None]) -> None:
    """The Hugging Face Trainer with a loss on a batch of either set."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    reference = copy.deepcopy(model).eval() if what == "npo" else None

    def table(group: Rows) -> list[dict[str, Tensor]]:
        batch = group.batch(range(len(group)))
        labels = F.pad(batch.ids[:, 1:].masked_fill(~batch.answer, -100), (1, 0), value=-100)
        return [{"input_ids": batch.ids[i, :n], "labels": labels[i, :n]} for i, n in enumerate(group.lengths.tolist())]

    def padded(found: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        ids, labels = (
            torch.nn.utils.rnn.pad_sequence([row[key] for row in found], batch_first=True, padding_value=value)
            for key, value in (("input_ids", 2), ("labels", -100))
        )
        lengths = torch.tensor([len(row["input_ids"]) for row in found])
        return {"input_ids": ids, "labels": labels, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}

    def answers(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        out = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
        return F.cross_entropy(out.transpose(1, 2), inputs["labels"][:, 1:], ignore_index=-100, reduction="none").sum(1)

    class Unlearning(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            if what == "npo":
                with torch.no_grad():
                    before = answers(reference, inputs["forget"])
                gone = -(2 / 0.1) * F.logsigmoid(0.1 * (answers(model, inputs["forget"]) - before)).mean()
            else:
                gone = -model(**inputs["forget"]).loss
            return gone + 10.0 * model(**inputs["retain"]).loss

    class Ticks(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            tick()

    pairs = [{"forget": a, "retain": b} for a, b in zip(table(forget), table(retain), strict=True)]
    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(
            place, per_device_train_batch_size=BATCH, max_steps=steps, learning_rate=LR, lr_scheduler_type="constant", use_cpu=True,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        collate = lambda found: {key: padded([pair[key] for pair in found]) for key in ("forget", "retain")}  # noqa: E731
        Unlearning(model, arguments, train_dataset=pairs, data_collator=collate, callbacks=[Ticks()]).train()
    tick()


# --------------------------------------------------------------------------- turns


def most_resident() -> int:
    """Bytes of the largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def side(pipe: Connection, what: str, own: bool, shape: Mapping[str, Any], turns: int, steps: int) -> None:
    """A process: `turns` turns of `steps` steps, each when told to; sends seconds a turn, and last its memory."""
    torch.set_num_threads(1)
    model = drawn(shape)
    forget, retain = rows(1, shape), rows(2, shape)
    held, done, begun = psutil.Process().memory_info().rss, 0, 0.0

    def tick() -> None:
        nonlocal done, begun
        if done % steps == 0:
            if done:
                pipe.send(time.process_time() - begun)
            if done < turns * steps:
                pipe.recv()
            begun = time.process_time()
        done += 1

    if own:
        ours(what, model, forget, retain, turns * steps, tick)
    elif what == "train":
        shortest(model, forget, turns * steps, tick)
    else:
        trainer(what, model, forget, retain, turns * steps, tick)
    pipe.send((most_resident() - held) / sum(p.numel() * p.element_size() for p in model.parameters()))


def taking_turns(what: str, shape: Mapping[str, Any], turns: int, steps: int) -> Iterator[tuple[float, float]]:
    """(ours, the other's): seconds of each turn, and at the end the memory."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for own in (True, False):
        here, there = context.Pipe()
        workers.append(context.Process(target=side, args=(there, what, own, shape, turns, steps), daemon=True))
        workers[-1].start()
        there.close()
        pipes.append(here)
    for turn in range(turns + 1):
        found = []
        for pipe in pipes[:: 1 if turn % 2 else -1]:  # who begins changes from turn to turn
            if turn < turns:
                pipe.send("go")
            found.append(pipe.recv())
        first, second = found if turn % 2 else found[::-1]
        yield first, second
    for worker in workers:
        worker.join()


def run(*, quick: bool = False, progress: Progress | None = None, shape: Mapping[str, Any] = SHAPE) -> Measured:
    """Measure: seven turns of four steps, or when `quick` two of two, after one that warms up."""
    turns, steps = (2, 2) if quick else (7, 4)
    ratios, peaks = {}, {}
    for number, what in enumerate(METHODS):
        found = []
        for pair in taking_turns(what, shape, turns + 1, steps):
            found.append(pair)
            if progress is not None:
                progress(what, number * (turns + 2) + len(found), len(METHODS) * (turns + 2), {})
        ratios[what] = sorted(a / b for a, b in found[1:-1])
        peaks[what] = found[-1]
    return Measured(ratios, peaks)


def summary(found: Measured) -> dict[str, dict[str, float]]:
    """Method -> median ratio, and memory over the loaded model in units of its weights: ours, and the other side's."""
    return {
        what: {"ratio": statistics.median(each), "peak_over_weights": found.peaks[what][0], "their_peak_over_weights": found.peaks[what][1]}
        for what, each in found.ratios.items()
    }


def markdown(found: Measured) -> str:
    """The figures as a Markdown table."""
    lines = [f"A step of SmolLM2-135M's shape on {BATCH} + {BATCH} rows of TOFU's lengths (train: {BATCH}), CPU time, one thread.", ""]
    lines += ["| method | against | time / theirs | range | memory over weights | theirs |", "|---|---|---|---|---|---|"]
    for what, each in found.ratios.items():
        against = "the shortest loop" if what == "train" else "Hugging Face Trainer"
        mine, theirs = found.peaks[what]
        middle = statistics.median(each)
        lines.append(f"| {what} | {against} | {middle:.2f} | {each[0]:.2f} to {each[-1]:.2f} | {mine:.2f} | {theirs:.2f} |")
    return "\n".join(lines)
