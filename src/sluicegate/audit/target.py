"""One attack on one model: what an attacker is given, and what is kept of what it found."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.audit.attack import Attack, CannotAttack, Metric
from sluicegate.audit.original import Original, left_as_it_was
from sluicegate.engine.choices import Encode, score_any
from sluicegate.engine.encoding import Rows, encode, fitting
from sluicegate.engine.sampling import seed_of
from sluicegate.engine.scoring import Scores
from sluicegate.engine.training import Ledger
from sluicegate.runs.directory import RunContext
from sluicegate.values.curves import Curve
from sluicegate.values.items import Item, digest, halves

RETAIN = 64
"""Retain rows that are scored along the way, at most."""
Reading = dict[str, Any]
"""What a model recalls at one moment: recall by group, "facts" (evidence of each held-out fact) and "owned facts"."""


@dataclass
class Trace:
    """Recall under one of an attacker's settings, at each effort."""

    label: str
    """The setting: "lr 0.03", "layer 2"."""
    effort: list[float] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    def add(self, effort: float, reading: Reading) -> None:
        self.effort.append(effort)
        self.readings.append(reading)


@dataclass
class Target:
    """A model under attack: the facts that the attacker owns, those it never sees, and how recall is read."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    owned: Rows
    held_out: Rows
    retain: Rows | None
    encoded: Encode
    metric: Metric
    seed: int
    run: RunContext
    original: Callable[[], PreTrainedModel] | None = None
    """Loads the model from before unlearning."""
    ledger: Ledger = field(default_factory=Ledger)
    notes: list[str] = field(default_factory=list)
    kept: list[Original] = field(default_factory=list)

    def keep(self, names: Sequence[str]) -> Original:
        """Note parameters that will be written over: they are put back at the end, and by the `Original` before."""
        self.kept.append(Original(self.model, names))
        return self.kept[-1]

    def read(self, owned: Rows | None = None, held_out: Rows | None = None, ledger: Ledger | None = None) -> Reading:
        """What the model, as it is now, recalls of the facts; of these rows where an attacker asks them otherwise."""
        groups = {"owned": owned or self.owned, "held_out": held_out or self.held_out}
        if self.retain is not None:
            groups["retain"] = self.retain
        found = {name: score_any(self.model, rows, self.encoded, ledger or self.ledger) for name, rows in groups.items()}
        return self.reading(found, groups)

    def reading(self, found: dict[str, Scores], groups: dict[str, Rows]) -> Reading:
        """The same from scores that are known."""
        recall = {name: scores.mean()[self.metric] for name, scores in found.items()}
        told: Reading = {name: math.exp(-value) if self.metric == "loss" else value for name, value in recall.items()}
        for name, key in (("held_out", "facts"), ("owned", "owned facts")):
            told[key] = self.by_fact(groups[name], (-found[name].loss).tolist())
        told["exact"] = self.by_fact(groups["held_out"], found["held_out"].exact.tolist())
        return told

    def by_fact(self, rows: Rows, values: Sequence[float]) -> list[float]:
        """Means over the rows of each fact, in the order of `facts`: of log-probabilities in nats a token, at least
        that of a guess among all words. How far below a guess a fact was pushed does not say whether it is known."""
        floor = -math.log(self.model.config.get_text_config().vocab_size)
        sums: dict[str, list[float]] = {}
        for item, value in zip(rows.items, values, strict=True):
            sums.setdefault(item.key, []).append(max(value, floor))
        return [sum(own) / len(own) for _, own in sorted(sums.items())]

    @property
    def between(self) -> str:
        """What separates rows in one prompt: a new line, or a blank where the tokenizer has none."""
        unknown, ids = self.tokenizer.unk_token_id, self.tokenizer("\n", add_special_tokens=False)["input_ids"]
        return "\n" if ids and unknown not in ids else " "

    @property
    def facts(self) -> list[str]:
        """The held-out facts, sorted."""
        return sorted({item.key for item in self.held_out.items})

    def progress(self, done: int, total: int) -> None:
        self.run.progress("", done, total, {})


@dataclass(frozen=True)
class Attacked:
    """What one attacker found in one model, for one seed."""

    attacker: str
    owned: Curve
    """Recall of the facts that the attacker holds, at each effort under the setting that counts there."""
    held_out: Curve
    """Recall of the facts it never sees."""
    retain: tuple[float, ...]
    """Retain score left, where there are retain rows."""
    settings: tuple[str, ...]
    """The setting that counts at each effort: the one under which the facts are likeliest (see `Attacker.BY`)."""
    facts: tuple[str, ...]
    """The held-out facts."""
    evidence: tuple[tuple[float, ...], ...]
    """[efforts, facts] how likely the model finds each held-out fact: nats a token, or the attacker's own measure; the
    mean over its settings, which a single one's accidents do not move."""
    owned_facts: tuple[str, ...]
    owned_evidence: tuple[tuple[float, ...], ...]
    """The same of the facts that it owns. What was once known is learnt again sooner, fact by fact."""
    capacity: int
    flops: dict[str, float]
    measure: str = "exact"
    measured: str = ""
    notes: tuple[str, ...] = ()
    exact: tuple[tuple[float, ...], ...] = ()
    """[efforts, facts] the share of each fact's questions that are answered exactly; empty where it does not say."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"warnings": []}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Attacked":
        plain = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        plain |= {name: Curve.from_json(record[name]) for name in ("owned", "held_out")}
        plain |= {name: tuple(record[name]) for name in ("retain", "settings", "facts", "owned_facts", "notes")}
        return cls(**plain | {name: tuple(map(tuple, record.get(name, ()))) for name in ("evidence", "owned_evidence", "exact")})


def attack(
    attacker: Any,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    forget: Sequence[Item],
    retain: Sequence[Item] = (),
    *,
    original: Callable[[], PreTrainedModel] | None = None,
    seed: int = 0,
    max_length: int = 256,
    template: bool = False,
    run: RunContext | None = None,
) -> Attacked:
    """Let one attacker loose on a model: recall of the facts it never sees against its effort, each fact's evidence.

    `attacker` is an `attackers.Attacker`, `seed` chooses which half of the facts it owns and all that is random in it.
    The model is left bit for bit as it was. Raises `UserError` for a forget set too small to split, or where the
    attacker lacks what it needs; `CannotAttack` for a model that it has no hold on.
    """
    with target_of(
        model, tokenizer, forget, retain, original=original, seed=seed, max_length=max_length, template=template, run=run
    ) as target:
        for what in attacker.NEEDS:
            if getattr(target, what) is None:
                raise CannotAttack(f"the attacker {attacker.NAME!r} needs --{what}.")
        traces = list(attacker.traces(target))
        capacity = attacker.capacity(model)
    settings = {"attacker": attacker.NAME, **asdict(attacker), **attacker.contents(), "forget": digest(forget)}
    identity = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    effort = traces[0].effort
    key = "facts" if attacker.BY == "held_out" else "owned facts"
    by = [max(traces, key=lambda trace, i=i: sum(trace.readings[i][key])) for i in range(len(effort))]  # type: ignore[misc]
    at = [trace.readings[i] for i, trace in enumerate(by)]
    curves = {
        name: Curve(tuple(effort), (tuple(reading[name] for reading in at),), (seed,), attacker.UNIT, identity)
        for name in ("owned", "held_out")
    }
    return Attacked(
        attacker=attacker.NAME,
        **curves,
        retain=tuple(reading["retain"] for reading in at if "retain" in reading),
        settings=tuple(trace.label for trace in by),
        facts=tuple(target.facts),
        evidence=_mean_evidence(traces, "facts"),
        owned_facts=tuple(sorted({item.key for item in target.owned.items})),
        owned_evidence=_mean_evidence(traces, "owned facts"),
        capacity=capacity,
        flops=target.ledger.as_dict(),
        measure=target.metric,
        measured=Attack().measured(forget),
        notes=tuple(target.notes),
        exact=tuple(tuple(reading["exact"]) for reading in at) if all("exact" in reading for reading in at) else (),
    )


def _mean_evidence(traces: Sequence[Trace], key: str) -> tuple[tuple[float, ...], ...]:
    at_each = zip(*(trace.readings for trace in traces), strict=True)
    return tuple(tuple(sum(own) / len(own) for own in zip(*(r[key] for r in readings), strict=True)) for readings in at_each)


@contextmanager
def target_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    forget: Sequence[Item],
    retain: Sequence[Item] = (),
    *,
    original: Callable[[], PreTrainedModel] | None = None,
    seed: int = 0,
    max_length: int = 256,
    template: bool = False,
    run: RunContext | None = None,
) -> Iterator[Target]:
    """A model to attack for the length of a block, after which it is what it was."""
    encoded: Encode = partial(encode, tokenizer, max_length=fitting(model, max_length), template=template)
    mine, theirs = halves(forget, seed)
    kept = encoded(tuple(retain)) if retain else None
    if kept is not None and len(kept) > RETAIN:
        some = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed_of(seed, "retain")))[:RETAIN]
        kept = kept.select(sorted(some.tolist()))
    with left_as_it_was(model) as originals:
        model.eval().requires_grad_(False)
        target = Target(
            model, tokenizer, encoded(mine), encoded(theirs), kept, encoded, Attack().metric(forget), seed, run or RunContext(), original
        )
        target.kept = originals
        yield target


def layers(model: nn.Module) -> list[nn.Module]:
    """The decoder's layers: those of the first list of modules that is as long as the configuration says.

    Raises `CannotAttack` where there is none.
    """
    number = model.config.get_text_config().num_hidden_layers  # type: ignore[operator, union-attr]
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return list(module)
    raise CannotAttack(f"no list of {number} layers was found in a {type(model).__name__}.")


def hidden_of(output: Any) -> torch.Tensor:
    """The hidden states in what a layer gives out: itself, or the first of a tuple."""
    first: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return first


def with_hidden(output: Any, new: torch.Tensor) -> Any:
    """What a layer gives out, with other hidden states in it."""
    return (new, *output[1:]) if isinstance(output, tuple) else new


@contextmanager
def hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """A forward hook for the length of a block."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
