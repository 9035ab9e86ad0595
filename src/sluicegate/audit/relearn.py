"""The relearning attack: how much training brings the knowledge back?

The attacker owns a random half of the forget facts and fine-tunes on them, or on harmless data.
Recall is measured on the half it owns (relearning) and on the half it never sees (recovery of
what the weights still hold). A model that never knew shows what learning from nothing looks like.
"""

import copy
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.audit.adapter import add_adapter
from sluicegate.audit.attack import Attack, Metric
from sluicegate.deprecated import renamed
from sluicegate.engine.choices import score_any
from sluicegate.engine.encoding import Rows, encode, fitting
from sluicegate.engine.generation import compare, generate
from sluicegate.engine.models import width
from sluicegate.engine.sampling import Mixture, Part, seed_of
from sluicegate.engine.training import CrossEntropy, Diverged, Evaluation, Fitted, Ledger, at_steps, fit
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.values.curves import Curve
from sluicegate.values.edits import Rounded
from sluicegate.values.items import Item, digest, halves
from sluicegate.values.schedule import Schedule


@dataclass(frozen=True)
class Relearned:
    """What one attack on one model found, for one seed."""

    owned: Curve
    """Worst case over the learning rates on the facts that the attacker holds."""
    held_out: Curve
    """Worst case over the learning rates on the facts it never sees."""
    retain: tuple[float, ...]
    """Retain score left at each checkpoint, under the learning rate that is worst on the owned facts."""
    by_rate: dict[str, dict[str, tuple[float, ...]]]
    """For every learning rate, recall at each checkpoint: owned, held_out, retain."""
    best_rate: dict[str, tuple[float, ...]]
    """Learning rate that was worst at each checkpoint, for owned and held_out."""
    diverged: dict[str, int]
    """Learning rates under which the model broke, and the step at which it did; recall counts as 0 from there."""
    ledger: Ledger
    teaches: bool = True
    """Whether the attacker trains on the facts it owns (and not on harmless rows only)."""
    measure: Metric = "exact"
    """What recall is: see `attack.MEASURED`."""
    measured: str = ""
    """The same in a sentence: what it is, why, and what it does not show."""

    def savings(self, reference: "Relearned", s: float = 0.5) -> Any:
        """Share of the reference's effort saved on the way to recall `s` of the owned facts."""
        return self.owned.savings(reference.owned, s)

    def warnings(self) -> list[str]:
        """What makes the attack weaker than it could be: a rate at the grid's edge, an end too early."""
        found = [f"the learning rate {rate} broke the model at step {step}." for rate, step in self.diverged.items()]
        before, best_owned = self.owned.recall[0][0], max(self.owned.recall[0])
        little = 1.1 * before if self.measure == "loss" else before + 0.1  # a tenth of a nat
        if self.teaches and best_owned < min(little, 0.9):
            found.append("the attack hardly taught the facts that it owns, so it is too weak to judge by; try more steps or other rates.")
        rates = sorted(float(rate) for rate in self.by_rate)
        for name, curve in (("owned", self.owned), ("held-out", self.held_out)):
            best = self.best_rate["owned" if name == "owned" else "held_out"]
            peak = max(range(len(best)), key=lambda i: curve.recall[0][i])
            rises = curve.recall[0][peak] > curve.recall[0][0] + 0.05  # where nothing comes back, no rate was the best
            if rises and len(rates) > 1 and best[peak] in (rates[0], rates[-1]):
                edge = "lowest" if best[peak] == rates[0] else "highest"
                found.append(
                    f"{name} facts: the best learning rate {best[peak]:g} is the {edge} of the grid; a wider one may recover more."
                )
            if not curve.past_peak()[0]:
                found.append(f"{name} facts: recall was still rising at the last of {curve.budget:g} steps.")
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "owned": self.owned.to_json(),
            "held_out": self.held_out.to_json(),
            "retain": self.retain,
            "by_rate": self.by_rate,
            "best_rate": self.best_rate,
            "flops": self.ledger.as_dict(),
            "measure": self.measure,
            "measured": self.measured,
            "warnings": self.warnings(),
        }


@renamed(room="run")
def relearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    forget: Sequence[Item],
    retain: Sequence[Item] = (),
    attack: Attack | None = None,
    *,
    seed: int = 0,
    max_length: int = 256,
    template: bool = False,
    run: RunContext | None = None,
) -> Relearned:
    """Attack `model` (a copy: it is left as it was) and return recall against attack steps.

    `seed` chooses which half of the facts the attacker owns and the order of its rows. Recall is
    the share of exact answers; on running text, the share of tokens that are the first choice; where answers are
    sentences, exp(-loss); or what `attack.measure` says.
    Source: Lee et al. 2025 (arXiv 2506.06278), the relearning attack; the held-out half is ours.
    Raises `UserError` for a forget set too small to split, a retain attack without retain rows, or an
    adapter without the package peft.
    """
    attack, run = attack or Attack(), run or RunContext()
    if attack.kind != "forget" and not retain:
        raise UserError(f"an attack of kind {attack.kind!r} fine-tunes on retain rows; hand them in with --retain.")
    if attack.keep_retain and not retain:
        raise UserError("an attacker that must keep the retain score needs retain rows; hand them in with --retain.")
    mine, theirs = halves(forget, seed)
    encoded = partial(encode, tokenizer, max_length=fitting(model, max_length), template=template)
    rows = {name: encoded(items) for name, items in (("owned", mine), ("held_out", theirs), ("retain", tuple(retain))) if items}
    metric: Metric = attack.metric(forget)
    probes = {name: _sample(group, attack.probe, seed_of(seed, name)) for name, group in rows.items()}
    draw = _attacker_batches(rows, attack, seed)
    checkpoints = attack.checkpoints_within()
    ledger = Ledger()

    def measure(model: PreTrainedModel, spent: Ledger) -> dict[str, float]:
        if metric in ("rouge", "match"):
            how: dict[str, Any] = {"template": template, "max_length": max_length, "ledger": spent}
            texts = {name: generate(model, tokenizer, group.items, **how) for name, group in probes.items()}
            return {name: compare(found, probes[name].items, [metric])[metric] for name, found in texts.items()}
        found = {name: score_any(model, group, encoded, spent).mean()[metric] for name, group in probes.items()}
        return {name: math.exp(-loss) for name, loss in found.items()} if metric == "loss" else found

    victim = copy.deepcopy(model)
    if attack.round_bits:
        Rounded(attack.round_bits).bake(victim)
    params = "*"
    if attack.lora_rank:
        add_adapter(victim, attack.lora_rank, seed_of(seed, "adapter"))
        params = "*lora_*"
    by_rate: dict[str, dict[str, tuple[float, ...]]] = {}
    diverged: dict[str, int] = {}
    schedules = {f"{rate:g}": Schedule(steps=attack.steps, lr=rate, batch=attack.batch) for rate in attack.rates(width(model))}
    for rate, fitted in _train_each(victim, draw, schedules, attack, seed, run, measure, params).items():
        done = fitted.fitted if isinstance(fitted, Diverged) else fitted
        if isinstance(fitted, Diverged):  # this rate breaks the model: it recovers nothing more, and the others still count
            diverged[rate] = done.steps + 1
        ledger.add(done.ledger)
        missing = (0.0,) * (len(checkpoints) - len(done.records))
        by_rate[rate] = {name: tuple(r[name] for r in done.records) + missing for name in probes}
    settings = attack.identity(width(model)) | {"forget": digest(forget)}
    if attack.keep_retain:
        settings["retain"] = digest(retain)
    return replace(_worst_case(by_rate, diverged, checkpoints, settings, seed, ledger), measure=metric, measured=attack.measured(forget))


def _train_each(
    victim: PreTrainedModel,
    draw: Mixture,
    schedules: Mapping[str, Schedule],
    attack: Attack,
    seed: int,
    run: RunContext,
    measure: Callable[[Any, Ledger], dict[str, float]],
    params: str,
) -> dict[str, Fitted | Diverged]:
    """Train the victim under each schedule in turn, every time from the weights that it has now; a rate may diverge."""
    original = {name: p.detach().clone() for name, p in victim.named_parameters()}
    found: dict[str, Fitted | Diverged] = {}
    for rate, schedule in schedules.items():
        with torch.no_grad():
            for name, parameter in victim.named_parameters():
                parameter.copy_(original[name])
        try:
            found[rate] = fit(
                victim,
                CrossEntropy(attack.on),
                lambda step: {"train": draw(step)},
                schedule,
                seed=seed,
                run=run,
                name=f"lr {rate}",
                params=params,
                evaluation=Evaluation(measure, at_steps(attack.checkpoints_within())),
                keep_weights=False,
            )
        except Diverged as error:
            found[rate] = error
    return found


def _attacker_batches(rows: dict[str, Rows], attack: Attack, seed: int) -> Mixture:
    if attack.kind == "mixed":
        both = _joined(rows["owned"], rows["retain"])
        n = len(rows["owned"])
        parts = {"owned": Part(range(n), 0.5), "retain": Part(range(n, len(both)), 0.5)}
        return Mixture(both, attack.batch, seed_of(seed, "attack"), parts)
    return Mixture(rows["owned" if attack.kind == "forget" else "retain"], attack.batch, seed_of(seed, "attack"))


def _joined(first: Rows, second: Rows) -> Rows:
    width = max(first.ids.shape[1], second.ids.shape[1])
    ids = [torch.nn.functional.pad(r.ids, (0, width - r.ids.shape[1])) for r in (first, second)]
    return Rows(
        torch.cat(ids), torch.cat([first.lengths, second.lengths]), torch.cat([first.starts, second.starts]), first.items + second.items
    )


def _sample(rows: Rows, most: int, seed: int) -> Rows:
    """At most `most` rows to measure on, the same for every model; 0: all."""
    if not most or len(rows) <= most:
        return rows
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most]
    return rows.select(sorted(chosen.tolist()))


def _handed_in(by_rate: Mapping[str, Mapping[str, Sequence[float]]], name: str, now: int, share: float) -> tuple[str, int]:
    """Rate and checkpoint of the model that the attacker hands in after checkpoint `now`: the one that recalls most.

    One that must keep its retain score hands in the best of those so far that do; the model before any step always
    does.
    """
    if not share:
        return max(by_rate, key=lambda rate: by_rate[rate][name][now]), now
    kept = [(rate, i) for rate, found in by_rate.items() for i in range(now + 1) if found["retain"][i] >= share * found["retain"][0]]
    return max(kept, key=lambda place: by_rate[place[0]][name][place[1]])


def _worst_case(
    by_rate: dict[str, dict[str, tuple[float, ...]]],
    diverged: dict[str, int],
    checkpoints: tuple[int, ...],
    settings: dict[str, Any],
    seed: int,
    ledger: Ledger,
) -> Relearned:
    identity = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    share = settings.get("keep_retain", 0.0)
    curves, best = {}, {}
    left: tuple[float, ...] = ()
    for name in ("owned", "held_out"):
        worst = [_handed_in(by_rate, name, i, share) for i in range(len(checkpoints))]
        best[name] = tuple(float(rate) for rate, _ in worst)
        recall = tuple(by_rate[rate][name][i] for rate, i in worst)
        curves[name] = Curve(tuple(map(float, checkpoints)), (recall,), (seed,), "attack steps", identity)
        if name == "owned" and "retain" in next(iter(by_rate.values())):
            left = tuple(by_rate[rate]["retain"][i] for rate, i in worst)
    return Relearned(curves["owned"], curves["held_out"], left, by_rate, best, diverged, ledger, teaches=settings["kind"] != "retain")
