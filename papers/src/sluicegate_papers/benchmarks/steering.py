"""How fast orthogonal twins come, all at once against one after the other, to the same KL on held-out prompts; and
MELBO in batches.

All searches run in this process on one thread, from the same base and the same training prompts, and are timed in CPU
seconds (`time.process_time`). While a search runs, the clock is stopped at every look at the held-out prompts. It has
arrived when the held-out KL(base || twin), over several tokens of the base's answer, median over prompts, is low
enough:

- joint: the median over the twins is; its time is divided by the number of twins. Two are timed: of few twins, which is
  what the sequential search is compared with, since it is stopped after few as well and its first twins are its
  easiest; and of all.
- sequential, the post's algorithm (activations of a later layer on one prompt, no limit to the norm): each twin on its
  own; the mean of the twins' times. One that does not arrive counts with all its time, so that the speed-up is then a
  lower bound, which is said.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sluicegate.runs.directory import Progress, RunContext
from sluicegate.steering.prompts import BEHAVIOURS, HELD_OUT, TRAINING, Rule

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sluicegate.steering.orthogonal import Orthogonal
    from sluicegate.steering.vector import SteeringSet, SteeringVector

KL = 0.5
"""The held-out KL that the speed-up is given for, in nats a token."""
LEVELS = (1.0, 0.8, 0.7, 0.65, 0.6, 0.55, KL)
"""The KLs that all searches are timed to."""
SHARE = 0.6
"""Taken alone, a twin counts that shows the behaviour on so many of the held-out prompts, and keeps within `KL`."""


@dataclass(frozen=True)
class Size:
    """How much is run."""

    k: int = 225
    """Twins of the joint search: 39 % of SmolLM2-135M's 576 dimensions."""
    steps: int = 60
    few: int = 32
    """Twins of the joint search that the sequential one is compared with."""
    few_steps: int = 20
    together: int = 8
    """Of these, so many at least meet the same prompt in a step."""
    one_by_one: int = 3
    """Twins of the sequential search."""
    sequential_steps: int = 1000
    """The post's number."""
    looked_at: int = 16
    """Twins, evenly spread, that a look at the held-out prompts judges the joint search by."""
    looked_on: int = 4
    """Held-out prompts of a look; at the end all are used."""
    every: int = 25
    """Steps of the sequential search between two looks."""
    along: int = 12
    new_tokens: int = 40
    melbo: int = 16
    """Vectors of MELBO in a batch."""
    melbo_steps: int = 10


QUICK = Size(
    k=16, steps=10, few=8, few_steps=10, together=4, one_by_one=1, sequential_steps=300, looked_at=8, looked_on=2, every=50, melbo_steps=3
)


Way = tuple[tuple[float, float], ...]
"""(CPU seconds a twin so far, held-out KL) at every look."""


@dataclass(frozen=True)
class Timed:
    """A search and its looks at the held-out prompts."""

    ways: tuple[Way, ...]
    """One of a joint search, one of every twin of the sequential search."""
    ends: tuple[float, ...]
    """CPU seconds a twin in all, of each way."""

    def to(self, kl: float = KL) -> tuple[float, int]:
        """CPU seconds a twin until the held-out KL was first so low, or in all where it never was; and how many of the
        ways were."""
        found = [next((seconds for seconds, seen in way if seen <= kl), None) for way in self.ways]
        times = [end if seconds is None else seconds for seconds, end in zip(found, self.ends, strict=True)]
        return float(np.mean(times)), sum(seconds is not None for seconds in found)

    @property
    def best(self) -> float:
        """The lowest held-out KL at any look: the median over the ways."""
        return float(np.median([min((kl for _, kl in way), default=math.nan) for way in self.ways]))


@dataclass(frozen=True)
class Measured:
    """What a run of the benchmark found."""

    model: str
    size: Size
    joint: Timed
    """Of `size.k` twins."""
    few: Timed
    """Of `size.few` twins."""
    sequential: Timed
    base_norm: float
    base_rate: float
    unsteered_kl: float
    twins: int
    """How many were found, all together; the median KL and the rate are theirs."""
    each: int
    """How many of them keep within `KL` and show the behaviour on `SHARE` of the prompts, each taken alone."""
    max_cos: float
    held_out_kl_median: float
    behaviour_rate: float
    max_norm_ratio: float
    melbo_batched: float
    """Vectors a minute."""
    melbo_single: float

    def speedup(self, kl: float = KL, *, few: bool = True) -> float:
        """How many times more CPU time a twin takes in the sequential search; NaN where the joint one did not
        arrive."""
        seconds, arrived = (self.few if few else self.joint).to(kl)
        return self.sequential.to(kl)[0] / seconds if arrived else math.nan

    def bounded(self, kl: float = KL) -> bool:
        """Whether a speed-up is only a lower bound: not every twin of the sequential search has arrived."""
        return self.sequential.to(kl)[1] < len(self.sequential.ways)


def summary(found: Measured) -> dict[str, Any]:
    """The figures, by name; what is not finite is None."""
    figures = {name: getattr(found, name) for name in ("twins", "max_cos", "held_out_kl_median", "behaviour_rate", "max_norm_ratio")}
    more = {
        "speedup": found.speedup(),
        "speedup_is_bound": found.bounded(),
        "speedup_all": found.speedup(few=False),
        "to_kl": KL,
        "twins_few": found.size.few,
        "twins_each": found.each,
        "seconds_few": found.few.to()[0],
        "seconds_joint": found.joint.to()[0],
        "seconds_sequential": found.sequential.to()[0],
        "best_few": found.few.best,
        "best_joint": found.joint.best,
        "best_sequential": found.sequential.best,
        "base_rate": found.base_rate,
        "unsteered_kl": found.unsteered_kl,
        "melbo_batched": found.melbo_batched,
        "melbo_single": found.melbo_single,
    }
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in (figures | more).items()}


def markdown(found: Measured) -> str:
    """The figures as two tables: what was found, and the time a twin took to each KL."""
    size, searches = found.size, (found.few, found.joint, found.sequential)
    rows = [
        ("twins", f"{found.twins}"),
        (f"of these, each alone within {KL:g} nats and showing the behaviour on {SHARE:.0%} of the prompts", f"{found.each}"),
        ("largest cosine between any two, and with the base", f"{found.max_cos:.1e}"),
        ("held-out KL, median (unsteered)", f"{found.held_out_kl_median:.3f} ({found.unsteered_kl:.3f}) nats a token"),
        ("held-out answers that show the behaviour (base)", f"{found.behaviour_rate:.0%} ({found.base_rate:.0%})"),
        ("largest norm, in norms of the base", f"{found.max_norm_ratio:.3f}"),
        ("MELBO, vectors a minute, in batches / one at a time", f"{found.melbo_batched:.2f} / {found.melbo_single:.2f}"),
    ]
    names = [f"{size.few} at once", f"{size.k} at once", f"one after the other ({size.one_by_one})"]
    heads = ["CPU seconds a twin to a held-out KL of", *names, *(f"speed-up, {name}" for name in names[:2])]
    table = [heads, ["---"] * len(heads)]
    for kl in LEVELS:
        bound = "at least " if found.bounded(kl) else ""
        ratios = [found.speedup(kl, few=few) for few in (True, False)]
        says = ["not known" if math.isnan(ratio) else f"{bound}{ratio:.1f}" for ratio in ratios]
        table.append([f"{kl:g}", *(_said(search, kl) for search in searches), *says])
    table.append(["lowest on the way", *(f"{search.best:.3f} nats" for search in searches), "", ""])
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), "", *(f"| {' | '.join(row)} |" for row in table)]
    )


def _said(search: Timed, kl: float) -> str:
    seconds, arrived = search.to(kl)
    of = len(search.ways)
    return f"{seconds:.2f}" + ("" if arrived == of else f" ({arrived} of {of} arrived)")


def run(*, quick: bool = False, model: str = "smollm2-135m", progress: Progress | None = None) -> Measured:
    """Measure on a fetched model: tens of minutes on one core, a few with `quick`, which finds too few twins to say
    much."""
    from sluicegate.engine.models import load
    from sluicegate.steering.fit_stage import places

    net, tokenizer = load(model)
    net.eval().requires_grad_(False)
    module, target = places(model, "", "")
    return measure(model, net, tokenizer, module, target, QUICK if quick else Size(), progress=progress)


def measure(
    name: str,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    module: str,
    target: str,
    size: Size,
    *,
    base: "SteeringVector | None" = None,
    rule: Rule | None = None,
    progress: Progress | None = None,
) -> Measured:
    """The same on a model at hand; `base` is by default the vector of the packaged behaviour "code"."""
    from sluicegate.steering.fit_stage import SteerFit
    from sluicegate.steering.orthogonal import Orthogonal
    from sluicegate.steering.score import behaviour_rate, generate, kl

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        code, run = BEHAVIOURS["code"], RunContext("", progress)
        if base is None:
            base, _ = SteerFit(module=module).fitted(model, tokenizer, (code.positive, code.negative), run)
        rule = rule or code.rule
        looks = _Looks(model, tokenizer, base, size)
        fewer = Orthogonal(k=size.few, steps=size.few_steps, tokens=size.along, together=size.together)
        few, _ = _joint(fewer, model, tokenizer, base, size, looks, run)
        everything = Orthogonal(k=size.k, steps=size.steps, tokens=size.along)
        joint, twins = _joint(everything, model, tokenizer, base, size, looks, run)
        sequential = _sequential(model, tokenizer, base, target, size, looks, run)
        values = torch.cat([torch.zeros(1, len(base.values)), twins.values])
        several = np.median(kl(model, tokenizer, base, values, HELD_OUT, tokens=size.along, run=run).several, axis=1)
        everyone = dataclasses.replace(twins, values=torch.cat([base.values[None], twins.values]))
        rates = behaviour_rate(generate(model, tokenizer, everyone, HELD_OUT, new_tokens=size.new_tokens, run=run), rule)
        batched, single = (_melbo(model, tokenizer, base, target, count, size, run) for count in (size.melbo, 1))
    finally:
        torch.set_num_threads(before)
    return Measured(
        model=name,
        size=size,
        joint=joint,
        few=few,
        sequential=sequential,
        base_norm=base.norm,
        base_rate=float(rates[0]),
        unsteered_kl=float(several[0]),
        twins=len(twins),
        each=int(((several[1:] <= KL) & (rates[1:] >= SHARE)).sum()),
        max_cos=twins.max_cos(base),
        held_out_kl_median=float(np.median(several[1:])),
        behaviour_rate=float(rates[1:].mean()),
        max_norm_ratio=float(twins.norms().max()) / base.norm,
        melbo_batched=batched,
        melbo_single=single,
    )


class _Looks:
    """Held-out prompts with the base's answers to them, made before any clock runs."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", base: "SteeringVector", size: Size) -> None:
        from sluicegate.steering.prompts import prompt_ids
        from sluicegate.steering.score import continued

        prompts = [prompt_ids(tokenizer, prompt) for prompt in HELD_OUT[: size.looked_on]]
        self.some = list(continued(model, prompts, base, tokens=size.along))

    def __call__(self, values: Tensor) -> float:
        """The median over the vectors [k, d] of the median over the prompts."""
        from sluicegate.steering.score import kl_of

        return float(np.median(np.median(kl_of(self.some, values.float()).several, axis=1)))


class _Clock:
    """CPU seconds since it was made, less those spent looking."""

    def __init__(self) -> None:
        self._begun, self._away = time.process_time(), 0.0

    def __call__(self) -> float:
        return time.process_time() - self._begun - self._away

    def look(self, see: Callable[[], float]) -> float:
        """What `see` gives; its time does not count."""
        begun = time.process_time()
        found = see()
        self._away += time.process_time() - begun
        return found


def _joint(
    search: "Orthogonal",
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    base: "SteeringVector",
    size: Size,
    looks: _Looks,
    run: RunContext,
) -> "tuple[Timed, SteeringSet]":
    k = search.k
    seen: list[tuple[float, float]] = []
    chosen = torch.linspace(0, k - 1, min(size.looked_at, k)).long()
    clock = _Clock()

    def each(step: int, values: Tensor, *_: float) -> None:
        now = clock()
        seen.append((now / k, clock.look(lambda: looks(values[chosen]))))

    twins = search.fit(model, tokenizer, base, TRAINING, run=run, each=each)
    return Timed((tuple(seen),), (clock() / k,)), twins


def _sequential(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    base: "SteeringVector",
    target: str,
    size: Size,
    looks: _Looks,
    run: RunContext,
) -> Timed:
    """The post's algorithm: the target's activations on one prompt, no limit to the norm, twin after twin."""
    from sluicegate.steering.orthogonal import Orthogonal

    seen: dict[int, list[tuple[float, float]]] = {}
    ends: dict[int, float] = {}
    clock, steps = _Clock(), 0

    def each(step: int, values: Tensor, *_: float) -> None:
        nonlocal steps
        steps += 1
        now, twin = clock(), len(values) - 1
        ends[twin] = now
        if steps % size.every == 0:
            seen.setdefault(twin, []).append((now, clock.look(lambda: looks(values[-1:]))))

    search = Orthogonal(
        k=size.one_by_one,
        objective="activation",
        mode="sequential",
        target=target,
        max_norm=0.0,
        steps=size.sequential_steps,
        tokens=size.along,
    )
    search.fit(model, tokenizer, base, TRAINING[:1], run=run, each=each)
    starts = {twin: ends.get(twin - 1, 0.0) for twin in ends}
    ways = (tuple((t - starts[twin], kl) for t, kl in seen.get(twin, [])) for twin in ends)
    return Timed(tuple(ways), tuple(ends[twin] - starts[twin] for twin in ends))


def _melbo(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    base: "SteeringVector",
    target: str,
    count: int,
    size: Size,
    run: RunContext,
) -> float:
    """Vectors a minute of CPU time, `count` in a batch."""
    from sluicegate.steering.melbo import MELBO

    begun = time.process_time()
    search = MELBO(source=base.module, target=target, count=count, norm=base.norm, steps=size.melbo_steps, batch=count)
    found = search.fit(model, tokenizer, TRAINING[:2], run=run)
    return 60 * len(found) / (time.process_time() - begun)
