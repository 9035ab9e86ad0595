"""One attack on one model, and what is kept of what it found."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.audit.attack import Attack, CannotAttack
from sluicegate.audit.target import Trace, target_of
from sluicegate.runs.directory import RunContext
from sluicegate.values.curves import Curve
from sluicegate.values.items import Item, digest


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
