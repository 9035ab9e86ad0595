"""What audit and UNDO cost at 1B, 8B and 70B parameters, or for a model of yours; the tables of docs/scaling.md.

The estimate takes a second or two and makes no weights. ``sluicegate bench scaling --measure`` trains three models of
.5 to 8 M parameters for two steps each, counts FLOPs with torch.utils.flop_counter and bytes with torch's profiler, and
sets both beside what is predicted. For the memory of two processes with --shard:
``torchrun --nproc-per-node 2 -m sluicegate_papers.benchmarks.scaling``.
"""

import gc
from collections.abc import Callable, Iterator, Mapping

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

import sluicegate as sg
from sluicegate.engine.encoding import Rows
from sluicegate.engine.models import fresh
from sluicegate.engine.training import CrossEntropy, Ledger, fit
from sluicegate.runs.directory import RunContext
from sluicegate.runs.ranks import Ranks, join
from sluicegate.unlearning.distill import Matching
from sluicegate.values.items import Item
from sluicegate_papers.benchmarks.cost import DAY, Memory, Shape, Work, audit, device_hours, memory, paper, shape, spent

PART = 2048
"""Tokens that a device computes at once in the tables of memory: one row of the paper's."""


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


def memory_table(models: Mapping[str, Shape], devices: int, limit: float) -> Iterator[str]:
    """GB a device while training, distilling and attacking; with and without --shard."""
    kinds = {"train": (0, False, 1), "unlearn": (0, False, 2), "distill, undo": (1, True, 1), "relearn, audit": (2, False, 1)}
    parts = ("weights", "others", "gradients", "moments", "activations", "gathered")
    yield f"GB a device, a row of {PART} tokens on each at a time (suppression: one of either set); in **bold** what exceeds {limit:g} GB:"
    yield ""
    lines = [["model", "stage", "devices", *(p.replace("others", "other models") for p in parts), "most in a step", "resume point"]]
    for name, model in models.items():
        for kind, (others, distils, rows) in kinds.items():
            for shard in (False, True):
                found = memory(model, rows * PART * devices, others=others, distils=distils, devices=devices, shard=shard)
                own = kind.removesuffix(", audit") if shard else kind  # an audit runs each attack in one process
                head = [name, own, f"{devices} with --shard" if shard else f"1, or {devices} without"]
                lines.append([*head, *(gigabytes(getattr(found, p)) for p in parts), *checked(found, limit)])
    yield from rows_of(lines)


def checked(found: Memory, limit: float) -> list[str]:
    """The two sums, in bold where a device does not hold them."""
    return [f"**{gigabytes(v)}**" if v > limit * 1e9 else gigabytes(v) for v in (found.step, found.keeping)]


def gigabytes(value: float) -> str:
    return f"{value / 1e9:.0f}" if value >= 9.5e9 else f"{value / 1e9:.1f}" if value else "0"


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


def most_held(job: Callable[[], object]) -> float:
    """The most bytes that were allocated at once during `job`, by torch's profiler: kernels' own scratch included."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        job()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0.0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def measured() -> Iterator[str]:
    """Predicted over measured, at three widths: FLOPs of a training step, and bytes of training, distilling and
    attacking."""
    lines = [["width", "parameters", "FLOPs, train", "FLOPs, distil", "bytes, train", "bytes, distil", "bytes, attack"]]
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

        def attack() -> None:
            held = fresh(config, 0)  # noqa: B023  # as `relearn` does: the model, a victim, and what each rate starts from
            original = [p.detach().clone() for p in held.parameters()]
            train(schedule)  # noqa: B023
            del held, original

        line = [f"{width}", f"{found.parameters / 1e6:.2f} M"]
        for job, frozen in ((train, 0), (distil, 1)):
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:  # the CPU's fused attention is not counted
                job(one)
            line.append(f"{spent(found, Work('x', 1, count, length, frozen=frozen)).total / counted.get_total_flops():.3f}")
        for run, others, distils in ((lambda: train(schedule), 0, False), (lambda: distil(schedule), 1, True), (attack, 2, False)):  # noqa: B023
            predicted = memory(found, count * length, others=others, distils=distils).step
            line.append(f"{predicted / most_held(run):.3f}")
        lines.append(line)
    yield from rows_of(lines)


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

        predicted = memory(found, count * length, devices=ranks.world, shard=True).step
        lines.append([f"{width}", f"{found.parameters / 1e6:.2f} M", f"{predicted / most_held(train):.3f}"])
    yield from rows_of(lines)


def tables(models: Mapping[str, Shape], throughput: float, devices: int, limit: float) -> str:
    """What the command prints, and docs/scaling.md holds."""
    shapes = [["model", "parameters", "layers", "width", "forward pass, FLOPs a token"]]
    for name, m in models.items():
        shapes.append([name, f"{m.parameters / 1e9:.3g} B", f"{m.layers}", f"{m.width}", f"{m.forward(1, 2048) / 2048:.3g}"])
    return "\n".join([*rows_of(shapes), "", *flops_table(models, throughput), "", *memory_table(models, devices, limit)])


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
