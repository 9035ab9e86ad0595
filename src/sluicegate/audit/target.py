"""What an attacker is given: a model, facts it owns, facts it is measured on, and how recall is read."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from sluicegate.values.items import Item, halves

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
