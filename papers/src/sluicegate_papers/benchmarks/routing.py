"""What routing costs: one forward and backward pass of a routed model against the same pass without a router.

Every repetition runs plain training and all variants in an order drawn anew, on one thread, each twice in
a row: as in training, the pass before the one that is timed was the same. The figure is the median over
repetitions of variant / plain within one repetition. Times are CPU seconds of this process
(`time.process_time`), which other processes on the machine disturb less than the clock on the wall. No
optimiser: it costs the same in each. Freed memory is kept by the process: whether the heap's end is given
back after a pass and faulted in anew depends on what else lies there, and took up to 4 % of the time of
some passes and none of others'. Memory is what a forward pass keeps for its backward pass, each storage
counted once, parameters not.

Variants, on batches of which the first quarter (or any, `Case.mixed`) are forget rows and the others unlabelled:

- gate: activation gates at the sites (`Router(form="gate")`).
- protect: the parameter form (`Router(form="protect")`), which leaves out weight gradients that nobody may use.
- mixture: ``m * x + (1 - m) * x.detach()`` at the same sites, as it is commonly written, m as large as x.
- two_pass: a pass for each label's rows, and what they may not train set to zero in between (SGTM, arXiv 2512.05648).
"""

import ctypes
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sluicegate.routing.router import Router
from sluicegate.runs.directory import Progress

FORGET, UNLABELLED = 1, -1
VARIANTS = ("gate", "protect", "mixture", "two_pass")
Pass = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """A model, a batch for it, and where it is routed."""

    what: str
    site: str
    """Pattern of the routed modules."""
    tap: str
    """Last part of the names of the modules whose input the usual mixture masks; "" for the outputs of the sites."""
    units: int
    """Routed units of a site."""
    forget: int
    """How many of them are the forget block's."""
    make: Callable[[], nn.Module]
    batch: Callable[[], Tensor]
    mixed: bool = False
    """Whether forget rows lie anywhere in the batch, and not together in front."""


@dataclass(frozen=True)
class Ratio:
    """Time of a variant, as a multiple of plain training's."""

    median: float
    low: float
    high: float
    """95 % interval of the median over repetitions, by order statistics."""
    extra: int
    """Bytes kept for the backward pass beyond those of plain training."""


@dataclass(frozen=True)
class Measured:
    """One case's figures."""

    what: str
    plain: float
    """CPU seconds of a plain pass."""
    kept: int
    """Bytes that a plain pass keeps."""
    repetitions: int
    ratios: Mapping[str, Ratio]


def cases() -> dict[str, Case]:
    """Shapes: two Llama blocks 256 and 512 wide, and a stack of six linear layers."""
    return {
        "block_256": blocks(256, 8, 64),
        "block_512": blocks(512, 8, 32),
        "linear_6": Case(
            "6 x Linear(512), 512 rows", "*", "", 512, 96, lambda: nn.Sequential(*(nn.Linear(512, 512) for _ in range(6))), _rows(512, 512)
        ),
    }


def blocks(width: int, batch: int, tokens: int) -> Case:
    """Two Llama blocks of some width, on so many rows of so many tokens."""
    units = -(-8 * width // 3 // 64) * 64
    return Case(
        f"2 Llama blocks, width {width}, {batch} x {tokens} tokens", "layers.*.mlp", "down_proj", units, units // 5 // 16 * 16,
        lambda: _Decoder(width, units), _rows(batch, tokens, width),
    )  # fmt: skip


class _Decoder(nn.Module):
    """Two Llama blocks, from vectors to vectors: no vocabulary, whose size would decide the figures."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaModel

        config = LlamaConfig(
            vocab_size=3, hidden_size=width, intermediate_size=units, num_hidden_layers=2, num_attention_heads=width // 64, use_cache=False
        )
        model = LlamaModel(config)
        self.layers, self.norm, self.rotary = model.layers, model.norm, model.rotary_emb

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1])[None]
        angles = self.rotary(x, positions)
        for layer in self.layers:
            x = layer(x, position_embeddings=angles, attention_mask=None, position_ids=positions)
        return self.norm(x)  # type: ignore[no-any-return]


def _rows(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape)


def run(*, quick: bool = False, progress: Progress | None = None, wanted: Mapping[str, Case] | None = None) -> dict[str, Measured]:
    """Measure every case, or those `wanted`: 48 seconds each, or 4 when `quick`."""
    found = {}
    _keep_freed_memory()
    with _one_thread():
        for name, case in (wanted or cases()).items():
            found[name] = measure(name, case, seconds=4.0 if quick else 48.0, progress=progress)
    return found


def measure(name: str, case: Case, *, seconds: float, progress: Progress | None = None) -> Measured:
    """Repeat until `seconds` of wall time are over, at least three times."""
    passes = _passes(case)
    times: dict[str, list[float]] = {variant: [] for variant in passes}
    for one in passes.values():  # memory is got and kernels are chosen in the first pass
        one()
    kept = {variant: _kept(one) for variant, one in passes.items()}
    draw, end = random.Random(0), time.monotonic() + seconds
    while time.monotonic() < end or len(times["plain"]) < 3:
        for variant in draw.sample(list(passes), len(passes)):
            passes[variant]()
            begin = time.process_time()
            passes[variant]()
            times[variant].append(time.process_time() - begin)
        if progress is not None:
            progress(name, round(seconds - max(end - time.monotonic(), 0.0)), round(seconds), {})
    ratios = {
        variant: Ratio(*_median([a / b for a, b in zip(times[variant], times["plain"], strict=True)]), kept[variant] - kept["plain"])
        for variant in VARIANTS
    }
    return Measured(case.what, statistics.median(times["plain"]), kept["plain"], len(times["plain"]), ratios)


def summary(found: Mapping[str, Measured]) -> dict[str, dict[str, float]]:
    """Case -> variant -> ratio to plain training."""
    return {name: {variant: round(ratio.median, 4) for variant, ratio in one.ratios.items()} for name, one in found.items()}


def markdown(found: Mapping[str, Measured]) -> str:
    """The figures as a Markdown table: time / plain with its interval, and the memory beyond plain."""
    lines = ["| | plain pass | " + " | ".join(VARIANTS) + " |", "|---" * (len(VARIANTS) + 2) + "|"]
    for name, one in found.items():
        cells = [f"{r.median:.3f} [{r.low:.3f}, {r.high:.3f}], {r.extra / 2**20:+.2f} MiB" for r in one.ratios.values()]
        plain = f"{1e3 * one.plain:.1f} ms, {one.kept / 2**20:.1f} MiB, {one.repetitions} times"
        lines.append(f"| {name}: {one.what} | {plain} | " + " | ".join(cells) + " |")
    note = (
        "CPU time of a forward and backward pass as a multiple of plain training's: median over repetitions [95 % interval]; "
        "memory kept for the backward pass beyond plain training's."
    )
    return "\n".join([*lines, "", note])


# ------------------------------------------------------------------------------------- the variants


def _passes(case: Case) -> dict[str, Pass]:
    """One callable a variant, each with a model of its own of the same weights."""
    torch.manual_seed(0)
    x = case.batch()
    count = len(x) // 4
    labels = torch.tensor([FORGET] * count + [UNLABELLED] * (len(x) - count))
    if case.mixed:
        labels = labels[torch.randperm(len(x))]
    state = case.make().state_dict()

    def model() -> nn.Module:
        made = case.make()
        made.load_state_dict(state)
        return made

    def plain(own: nn.Module) -> Pass:
        def once() -> None:
            _clear(own)
            own(x).square().mean().backward()

        return once

    def routed(form: str) -> Pass:
        own = model()
        router = Router(own, {case.site: {"forget": case.forget}}, form=form)  # type: ignore[arg-type]

        def once() -> None:
            _clear(own)
            with router(labels):
                own(x).square().mean().backward()

        return once

    mixed = model()
    _mix(mixed, case, labels)
    return {
        "plain": plain(model()),
        "gate": routed("gate"),
        "protect": routed("protect"),
        "mixture": plain(mixed),
        "two_pass": _two_passes(model(), case, x[labels == FORGET], x[labels != FORGET]),
    }


def _clear(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def _mix(model: nn.Module, case: Case, labels: Tensor) -> None:
    """The usual form: a mask as large as the activation, looked up by label, mixed with the detached activation."""
    table = torch.ones(2, case.units)
    table[1, : case.units - case.forget] = 0.0

    def mixed(x: Tensor) -> Tensor:
        each = (labels == FORGET).long().view(-1, *(1,) * (x.dim() - 2)).expand(x.shape[:-1])
        m = table[each]
        return m * x + (1 - m) * x.detach()

    for name, module in model.named_modules():
        if case.tap and name.endswith(case.tap):
            module.register_forward_pre_hook(lambda _, args: (mixed(args[0]), *args[1:]))
        elif not case.tap and isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, args, y: mixed(y))


def _two_passes(model: nn.Module, case: Case, forget: Tensor, others: Tensor) -> Pass:
    """Backward for the forget rows, their gradients set to zero outside the forget block, backward for the others."""
    pieces = Router(model, {case.site: {"forget": case.forget}}, form="protect")
    held = [(p, pieces.pieces().get(name, ())) for name, p in model.named_parameters()]
    pieces.remove()
    whole = forget.numel() + others.numel()

    def once() -> None:
        _clear(model)
        (model(forget).square().sum() / whole).backward()
        for parameter, own in held:
            assert parameter.grad is not None
            for piece in own:
                if piece.column == 0:
                    for start, stop in piece.runs or ((0, parameter.shape[piece.dim]),):
                        parameter.grad.narrow(piece.dim, start, stop - start).zero_()
        (model(others).square().sum() / whole).backward()

    return once


# ------------------------------------------------------------------------------------- measuring


def _median(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval: the order statistics that enclose it whatever the distribution."""
    ordered, n = sorted(values), len(values)
    away = 0.98 * n**0.5  # 1.96 standard deviations of the number of values below the median
    low, high = max(0, round(n / 2 - away) - 1), min(n - 1, round(n / 2 + away))
    return statistics.median(ordered), ordered[low], ordered[high]


def _kept(once: Pass) -> int:
    """Most bytes kept for a backward pass at one time; parameters are there anyway."""
    storages: dict[int, int] = {}
    most = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal most
        if not isinstance(tensor, nn.Parameter) and not isinstance(tensor._base, nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            most = max(most, sum(storages.values()))
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        storages.clear()  # a backward pass has begun
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        once()
    return most


def _keep_freed_memory() -> None:
    """Let the allocator hold on to what is freed, for the rest of the process; where it is not glibc's, nothing
    happens."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_threshold, gibibyte = -1, -3, 1 << 30
    set_option(trim_threshold, gibibyte)
    set_option(mmap_threshold, gibibyte)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
