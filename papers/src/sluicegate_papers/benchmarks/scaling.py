"""What audit and UNDO cost at 1B, 8B and 70B parameters, or for a model of yours; the tables of docs/scaling.md.

The estimate takes a second or two and makes no weights. ``sluicegate bench scaling --measure`` trains three models of
.5 to 8 M parameters for two steps each, counts FLOPs with torch.utils.flop_counter and bytes with torch's profiler, and
sets both beside what is predicted. For the memory of two processes with --shard:
``torchrun --nproc-per-node 2 -m sluicegate_papers.benchmarks.scaling``.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

import sluicegate as sg
from sluicegate.audit.attack import Attack
from sluicegate.engine.encoding import Rows
from sluicegate.engine.memory import Plan, Shape, estimate, shape
from sluicegate.engine.models import fresh, load, load_tokenizer, save
from sluicegate.engine.training import CrossEntropy, Ledger, fit
from sluicegate.runs.directory import RunContext
from sluicegate.runs.ranks import Ranks, join
from sluicegate.unlearning.distill import Matching
from sluicegate.values.items import Item
from sluicegate_papers.benchmarks.cost import DAY, Work, audit, device_hours, paper, spent

SIZES = ("1B", "8B", "70B")
PART = 2048
"""Tokens of a row in the tables of memory, and rows of a step's batch on a device: one, as --accumulate cuts it."""


def scenarios(model: Shape) -> Mapping[str, tuple[Work, ...]]:
    """Pretraining on the paper's 2 B tokens, and on 20 tokens a parameter (Hoffmann et al. 2022, arXiv 2203.15556)."""
    return {"2 B tokens": paper(2e9), "20 tokens a parameter": paper(20 * model.parameters)}


def rows_of(lines: list[list[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| " + " | ".join(lines[0]) + " |"
    yield "|" + "---|" * len(lines[0])
    for line in lines[1:]:
        yield "| " + " | ".join(line) + " |"


def flops_table(models: Mapping[str, Shape], throughput: float) -> Iterator[str]:
    """FLOPs, PFLOP/s-days and device-hours of every stage."""
    for scenario in scenarios(next(iter(models.values()))):
        lines = [["stage", *(f"{name}: {what}" for name in models for what in ("FLOPs", "PFLOP/s-days", "device-hours"))]]
        works = {name: scenarios(model)[scenario] for name, model in models.items()}
        for number, work in enumerate(next(iter(works.values()))):
            line = [work.name]
            for name, model in models.items():
                line += cost_cells(spent(model, works[name][number]), throughput)
            lines.append(line)
        yield f"**Pretraining on {scenario}** ({throughput:.3g} FLOP/s sustained a device):"
        yield ""
        yield from rows_of(lines)
        yield ""
    lines = [["an audit as it comes", "FLOPs", "of which scoring", "PFLOP/s-days", "device-hours"]]
    for name, model in models.items():
        ledger = spent(model, audit())
        total, days, hours = cost_cells(ledger, throughput, scoring=True)
        lines.append([name, total, f"{ledger.evaluation / (ledger.total + ledger.evaluation):.0%}", days, hours])
    yield from rows_of(lines)


def cost_cells(ledger: Ledger, throughput: float, *, scoring: bool = False) -> list[str]:
    """FLOPs, PFLOP/s-days and device-hours in words; scoring is left out, as the ledger's total does, unless asked
    for."""
    total = ledger.total + (ledger.evaluation if scoring else 0.0)
    return [f"{total:.1e}".replace("e+", "e"), plain(total / DAY), plain(device_hours(total, throughput))]


def plain(value: float) -> str:
    """Two digits, without an exponent: 0.016, 3.2, 850,000."""
    return f"{float(f'{value:.2g}'):,.10g}"


PLAIN: dict[str, Any] = {}
LEAN: dict[str, Any] = {"dtype": "bfloat16", "optimizer": "adamw-bf16", "checkpointing": True}
LEANEST: dict[str, Any] = {"dtype": "bfloat16", "optimizer": "adafactor", "checkpointing": True, "step_in_backward": True}
ADAPTER: dict[str, Any] = {"dtype": "bfloat16", "checkpointing": True, "lora_rank": 16}


def memory_table(models: Mapping[str, Shape], devices: int, limit: float) -> Iterator[str]:
    """GB a device of every stage: as it comes, lean, and divided among devices."""
    yield f"GB a device, with a row of {PART} tokens at a time (suppression: one of either set); in **bold** what exceeds {limit:g} GB:"
    yield ""
    parts = ("weights", "others", "gradients", "moments", "activations", "logits", "gathered", "most")
    lines = [["model", "stage", "settings", *(part.replace("others", "other models") for part in parts)]]
    for name, model in models.items():
        for kind in ("score", "train", "unlearn", "distill, undo", "relearn, audit"):
            ways = {"as it comes": PLAIN, "lean": LEAN, "leanest": LEANEST}
            ways[f"lean, {devices} with --shard"] = LEAN | {"devices": devices, "shard": True}
            if kind == "score":
                ways = {"float32": PLAIN, "bfloat16": {"dtype": "bfloat16"}}
            if kind == "relearn, audit":
                ways |= {"adapter": ADAPTER}
            for way, settings in ways.items():
                found = estimate(model, kind.split(", ")[-1], rows=settings.get("devices", 1), length=PART, **settings)
                cells = [gigabytes(getattr(found, part)) for part in parts]
                cells[-1] = f"**{cells[-1]}**" if found.most > limit * 1e9 else cells[-1]
                lines.append([name, kind, way, *cells])
    yield from rows_of(lines)


def aims_table() -> Iterator[str]:
    """What was aimed at for 8B, the settings that reach it, and what they hold by formula."""
    aims = (
        ("score, above the weights", 0.6, "--dtype bfloat16", Plan("score", "bfloat16")),
        ("audit with an adapter", 30, "--dtype bfloat16 --lora-rank 16 --checkpointing", Plan("audit", **ADAPTER)),
        ("audit on all weights", 78, "--dtype bfloat16 --optimizer adamw-bf16 --checkpointing --step-in-backward",
         Plan("audit", **LEAN, step_in_backward=True)),
        ("audit on all weights, leanest", 78, "the same with --optimizer adafactor", Plan("audit", **LEANEST)),
        ("distill, undo on two", 78, "--dtype bfloat16 --optimizer adamw-bf16 --checkpointing --procs 2 --shard",
         Plan("undo", **LEAN, devices=2, shard=True)),
        ("distill, undo on one", 78, "the same with --optimizer adafactor --step-in-backward --clip 0", Plan("undo", **LEANEST)),
    )  # fmt: skip
    model = shape("8B")
    lines = [["8B, 32 rows of 256 tokens a step", "aim, GB", "by formula, GB", "settings"]]
    for name, aim, words, plan in aims:
        found = estimate(model, plan)
        held = found.most - found.weights * (plan.kind == "score")
        lines.append([name, f"{aim:g}", f"{held / 1e9:.3g}", f"`{words}`"])
    yield from rows_of(lines)


def gigabytes(value: float) -> str:
    return f"{value / 1e9:.0f}" if value >= 9.5e9 else f"{value / 1e9:.2g}" if value >= 5e6 else "0"


# ------------------------------------------------------------------------------------- measured


def small(width: int, layers: int, vocabulary: int, length: int) -> LlamaConfig:
    """A Llama-like model with heads of 32; half as many keys as queries."""
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        head_dim=32,
        vocab_size=vocabulary,
        max_position_embeddings=length,
        tie_word_embeddings=False,
        use_cache=False,
    )


WIDTHS = ((128, 2, 130, 32, 16), (256, 4, 512, 64, 16), (384, 4, 1024, 64, 16))
"""Width, layers, vocabulary, tokens a row, rows."""


def some_rows(vocabulary: int, count: int, length: int) -> Rows:
    """Rows of one length, of random tokens."""
    ids = torch.randint(0, vocabulary, (count, length), generator=torch.Generator().manual_seed(0))
    return Rows(ids, torch.full((count,), length), torch.ones(count, dtype=torch.long), tuple(Item("", "x") for _ in range(count)))


def most_held(job: Callable[[], object], files: Sequence[int] = ()) -> float:
    """The most bytes that were allocated at once during `job`, by torch's profiler: kernels' own scratch included.

    A file that is mapped into memory counts there as an allocation of its size; those of the sizes `files` do not here.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        job()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]" and abs(e.nbytes()) not in files]
    now = most = 0.0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def measured() -> Iterator[str]:
    """Predicted over measured, at three widths: FLOPs of a training step, and bytes of training and distilling where
    activations are most of it; then of whole stages, where weights are."""
    lines = [["width", "parameters", "FLOPs, train", "FLOPs, distil", "bytes, train", "bytes, distil"]]
    for width, layers, vocabulary, length, count in WIDTHS:
        config = small(width, layers, vocabulary, length)
        found, rows, schedule = shape(config), some_rows(vocabulary, count, length), sg.Schedule(steps=2, lr=1e-3, batch=count)
        one = sg.Schedule(steps=1, lr=1e-3, batch=count)
        batch = rows.batch(range(count))

        def train(of: sg.Schedule) -> None:
            fit(fresh(config, 0), CrossEntropy(), lambda step: {"train": batch}, of, seed=0, run=RunContext())  # noqa: B023

        def distil(of: sg.Schedule) -> None:
            objective = Matching(fresh(config, 1), rows, Ledger(), cached=False)  # noqa: B023
            fit(fresh(config, 0), objective, lambda step: {"pool": batch}, of, seed=0, run=RunContext())  # noqa: B023

        line = [f"{width}", f"{found.parameters / 1e6:.2f} M"]
        for job, frozen in ((train, 0), (distil, 1)):
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:  # the CPU's fused attention is not counted
                job(one)
            line.append(f"{spent(found, Work('x', 1, count, length, frozen=frozen)).total / counted.get_total_flops():.3f}")
        for kind, job in (("train", train), ("distill", distil)):
            predicted = estimate(found, kind, rows=count, length=length).most
            line.append(f"{predicted / most_held(lambda: job(schedule)):.3f}")  # noqa: B023
        lines.append(line)
    yield from rows_of(lines)
    yield ""
    lines = [["stage", "vocabulary", "width", "weights, MB", "most, MB", "most / weights", "without activations", "by formula / measured"]]
    for case in CASES:
        for width in (256, 512, 768):
            lines.append(measured_stage(*case, width))
    yield from rows_of(lines)


CASES: tuple[tuple[str, str, int, Mapping[str, Any]], ...] = (
    ("score", "score", 8192, {}),
    ("score", "score", 131072, {}),
    ("relearn, adapter of rank 4", "relearn", 512, {"lora_rank": 4}),
    ("relearn, float32", "relearn", 512, {}),
    ("relearn, adamw-bf16 in the backward pass", "relearn", 512, LEAN | {"checkpointing": False, "step_in_backward": True}),
    ("relearn, adafactor in the backward pass", "relearn", 512, LEANEST | {"checkpointing": False}),
    ("undo, float32", "undo", 512, {}),
)
"""Whole stages, scoring included: name, kind, vocabulary, settings."""


def measured_stage(name: str, kind: str, vocabulary: int, settings: Mapping[str, Any], width: int) -> list[str]:
    """One stage on a loaded model of 4 layers: bytes by torch's profiler, the weights added, and by formula."""
    how = dict(settings)
    dtype, config, length = how.pop("dtype", "float32"), small(width, 4, vocabulary, 64), 32
    kept: dict[str, Any] = {"dtype": dtype}
    tokenizer = load_tokenizer("arithmetic-tiny")
    words = [word for word in tokenizer.get_vocab() if word.isdigit()]
    texts = [" ".join(words[(n + k * k) % len(words)] for k in range(length - 2)) for n in range(64 if kind == "score" else 8)]
    items = [Item("", f"{text} {words[0]}") if kind == "score" else Item(text, f" {words[n]}", f"{n}") for n, text in enumerate(texts)]
    with TemporaryDirectory() as folder:
        save(fresh(config, 0).to(getattr(torch, dtype)), tokenizer, Path(folder) / "model")

        model, _ = load(f"{folder}/model", **kept)

        def job() -> None:
            if kind == "score":
                sg.score(model, sg.encode(tokenizer, items))
            elif kind == "relearn":
                attack = Attack(lrs=(1e-4, 2e-4), steps=2, checkpoints=(0, 2), batch=4, **how)
                sg.relearn(model, tokenizer, items, attack=attack)
            else:
                sg.undo(model, tokenizer, items, sg.Schedule(steps=2, batch=4, lr=1e-4, **how), alpha=0.5)

        most = sum(p.nbytes for p in model.parameters()) + most_held(job, [f.stat().st_size for f in Path(folder).rglob("*.safetensors")])
    found = estimate(shape(config), kind, dtype=dtype, rows=len(items) if kind == "score" else 4, length=length, **how)
    apart = most - found.most + found.weights + found.others + found.moments + found.gradients
    cells = [f"{found.weights / 1e6:.0f}", f"{most / 1e6:.0f}", f"{most / found.weights:.2f}", f"{apart / found.weights:.2f}"]
    return [name, f"{vocabulary}", f"{width}", *cells, f"{found.most / most:.3f}"]


def measured_divided(ranks: Ranks) -> Iterator[str]:
    """Predicted over measured bytes of training with --shard, on this process of several."""
    lines = [["width", "parameters", f"bytes, train with --shard on {ranks.world}"]]
    for width, layers, vocabulary, length, count in WIDTHS:
        config = small(width, layers, vocabulary, length)
        batch, run = some_rows(vocabulary, count, length).batch(range(count)), RunContext()
        run.ranks = ranks
        found, schedule = shape(config), sg.Schedule(steps=2, lr=1e-3, batch=count)

        def train() -> None:
            fit(fresh(config, 0), CrossEntropy(), lambda step: {"train": batch}, schedule, seed=0, run=run)  # noqa: B023

        predicted = estimate(found, "train", rows=count, length=length, devices=ranks.world, shard=True).most
        lines.append([f"{width}", f"{found.parameters / 1e6:.2f} M", f"{predicted / most_held(train):.3f}"])
    yield from rows_of(lines)


def tables(models: Mapping[str, Shape], throughput: float, devices: int, limit: float) -> str:
    """What the command prints, and docs/scaling.md holds."""
    shapes = [["model", "parameters", "layers", "width", "forward pass, FLOPs a token"]]
    for name, m in models.items():
        shapes.append([name, f"{m.parameters / 1e9:.3g} B", f"{m.layers}", f"{m.width}", f"{m.forward(1, 2048) / 2048:.3g}"])
    memory = [*memory_table(models, devices, limit), "", *aims_table()]
    return "\n".join([*rows_of(shapes), "", *flops_table(models, throughput), "", *memory])


def main() -> None:
    """Print what is predicted over what is measured; under a launcher of several processes, memory with --shard."""
    torch.set_num_threads(1)
    ranks = join(shard=True)
    lines = measured() if ranks.world == 1 else measured_divided(ranks)
    text = "\n".join(lines)
    if ranks.leads:
        print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
