"""Models of the zoo: trained on a known share of what is to be forgotten, then suppressed, distilled or noised.

A specimen is (task, residue, method, seed). Its base model was taught a random `residue` of the forget facts, with all
that is to be kept. The method then "unlearns" the whole forget set, taught or not: so a suppressed model of residue 0
knows nothing and must raise no alarm. Each is attacked on two seeds, and every held-out fact's evidence is kept.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.runs.directory import write_atomic
from sluicegate.values.items import Item, Split
from sluicegate.values.schedule import Schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sluicegate.audit.attackers import Attacker

METHODS = ("none", "maxent", "graddiff", "npo", "simnpo", "rmu", "repnoise", "distill", "undo")
RESIDUES = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
TASKS = ("arithmetic", "biographies", "relations")
REFERENCES = tuple(range(900, 905))
"""Seeds of never-knew models that serve as references, and as nothing else."""
ATTACKS = (0, 1)
"""Attack seeds: each draws another half of the facts."""


@dataclass(frozen=True)
class Place:
    """A task with what trains and unlearns on it."""

    split: Split
    text: tuple[Item, ...]
    draw: Callable[[int], "tuple[PreTrainedModel, PreTrainedTokenizerBase]"]
    training: Schedule
    unlearning: Mapping[str, tuple[Any, Schedule]]


def place(name: str) -> Place:
    """One of `TASKS`."""
    import sluicegate as sg
    from sluicegate.unlearning.objectives.repnoise import RepNoise
    from sluicegate_papers.tasks.biographies import biographies, people, tokenizer
    from sluicegate_papers.zoo import relations

    def rate(lr: float, steps: int) -> Schedule:
        return Schedule(steps=steps, lr=lr, batch=64)

    narrow = {
        "maxent": (sg.MaxEnt(), rate(2e-3, 100)),
        "graddiff": (sg.GradDiff(retain_weight=8.0, cap=10.0), rate(1e-3, 80)),
        "npo": (sg.NPO(retain_weight=1.0), rate(2e-3, 100)),
        "simnpo": (sg.SimNPO(), rate(2e-3, 100)),
        "rmu": (sg.RMU(), rate(1e-2, 100)),
        "repnoise": (RepNoise(retain_weight=1.0), rate(2e-3, 100)),
    }
    deeper = narrow | {"rmu": (sg.RMU(coefficient=20.0, retain_weight=10.0), rate(1e-2, 100))}
    training = Schedule(steps=600, batch=64, warmup=50, decay="cosine", lr=6e-3)
    if name == "arithmetic":
        task = sg.tasks.arithmetic()
        return Place(task.split(seed=0), tuple(task.text(0)), lambda seed: sg.load("arithmetic-tiny", seed=seed), training, narrow)
    if name == "relations":
        return Place(
            relations.split(), (), lambda seed: (relations.model(seed, len(relations.tokenizer())), relations.tokenizer()), training, deeper
        )
    # A fact is an attribute of a person, in two phrasings; the country follows from the city and is left out.
    lost = biographies(count=36).lost()
    sides: dict[str, list[Item]] = {"forget": [], "retain": []}
    for person in people():
        rows = [person.fact(attribute, angle) for attribute in ("job", "city", "year", "pet") for angle in "ab"]
        sides["forget" if person in lost else "retain"] += [replace(row, fact=f"{row.fact} {row.label}") for row in rows]
    of = {side: tuple(rows) for side, rows in sides.items()}
    words = tokenizer()
    return Place(Split(**of), biographies().text(0), lambda seed: (relations.model(seed, len(words)), words), training, deeper)


def taught(items: Sequence[Item], residue: float, seed: int) -> set[str]:
    """The facts of the forget set that a specimen's base model was shown."""
    facts = sorted({item.key for item in items})
    random.Random(f"residue {seed}").shuffle(facts)
    return set(facts[: round(residue * len(facts))])


def attackers() -> "dict[str, Attacker]":
    """All that are measured, with settings for small models."""
    from sluicegate.audit.attackers import chosen

    names = "sample,shots,lens,probe,direction,steer,round,prune,gains,latent,lora,full,mixed,benign"
    return chosen(names=names)


def specimens(
    task: str, residue: float, seed: int, methods: Sequence[str]
) -> "Iterator[tuple[str, PreTrainedModel, PreTrainedTokenizerBase, float]]":
    """The models of one base: method, model, tokenizer, and the base's recall of what it was taught."""
    import copy

    import sluicegate as sg
    from sluicegate.engine.encoding import encode
    from sluicegate.engine.scoring import score
    from sluicegate.unlearning.distill import StopRule

    there = place(task)
    known = taught(there.split.forget, residue, seed)
    shown = [item for item in there.split.forget if item.key in known]
    base, tokenizer = there.draw(seed)
    sg.train(base, tokenizer, [*shown, *there.split.retain, *there.text], there.training, seed=seed)
    recall = score(base, encode(tokenizer, shown)).mean()["exact"] if shown else float("nan")
    pool = (*there.split.forget, *there.split.retain, *there.text)
    suppressed: Any = None
    for method in methods:
        if method == "none":
            yield method, base, tokenizer, recall
        elif method in there.unlearning:
            objective, schedule = there.unlearning[method]
            model, _ = sg.unlearn(copy.deepcopy(base), tokenizer, there.split, objective, schedule, seed=seed)
            suppressed = model if method == "maxent" else suppressed
            yield method, model, tokenizer, recall
        else:  # of the model that MaxEnt suppressed
            if suppressed is None:
                objective, schedule = there.unlearning["maxent"]
                suppressed, _ = sg.unlearn(copy.deepcopy(base), tokenizer, there.split, objective, schedule, seed=seed)
            schedule = Schedule(steps=600, batch=64, warmup=25, decay="cosine", lr=there.training.lr / 2)
            stop = StopRule(there.split.retain, 0.95, 20)
            how: dict[str, Any] = {"stop": stop, "seed": seed, "cache_teacher": True}
            made = (
                sg.distill(suppressed, tokenizer, pool, schedule, **how)
                if method == "distill"
                else sg.undo(suppressed, tokenizer, pool, schedule, alpha=0.8, **how)
            )
            yield method, made.student, tokenizer, recall


def measure(task: str, residue: float, seed: int, methods: Sequence[str], out: Path) -> None:
    """Make the specimens of one base that are not there yet, attack them, and write a file for each."""
    import torch

    from sluicegate.audit.attacked import attack
    from sluicegate.audit.attackers import CannotAttack

    left = [method for method in methods if not (out / name_of(task, residue, method, seed)).exists()]
    if not left:
        return
    torch.set_num_threads(1)
    there = place(task)
    for method, model, tokenizer, recall in specimens(task, residue, seed, left):
        found: dict[str, Any] = {}
        for number in ATTACKS:
            for name, attacker in attackers().items():
                try:
                    one = attack(attacker, model, tokenizer, there.split.forget, there.split.retain, seed=number)
                except CannotAttack as error:
                    found[f"{name} {number}"] = {"left_out": str(error)}
                    continue
                found[f"{name} {number}"] = {
                    "effort": one.owned.effort,
                    "owned": _short(one.owned.recall[0]),
                    "held_out": _short(one.held_out.recall[0]),
                    "retain": _short(one.retain),
                    "settings": one.settings,
                    "evidence": [_short(row) for row in one.evidence],
                    "owned evidence": [_short(row) for row in one.owned_evidence],
                    "flops": sum(one.flops.values()) - one.flops["total"],
                }
                found |= {f"facts {number}": one.facts, f"owned facts {number}": one.owned_facts}
        record = {"task": task, "residue": residue, "method": method, "seed": seed, "recall of taught": recall, "attacks": found}
        record["taught"] = sorted(taught(there.split.forget, residue, seed))
        write_atomic(out / name_of(task, residue, method, seed), json.dumps(record))


def _short(values: Sequence[float]) -> list[float]:
    return [round(float(value), 3) for value in values]


def name_of(task: str, residue: float, method: str, seed: int) -> str:
    """The file of a specimen."""
    return f"{task}-{round(100 * residue):03d}-{method}-{seed}.json"


def plan(seeds: int = 4) -> list[tuple[str, float, int, tuple[str, ...]]]:
    """Task, residue, seed and methods of every base, the most telling first: references, then seed by seed."""
    found: list[tuple[str, float, int, tuple[str, ...]]] = [(task, 0.0, seed, ("none",)) for seed in REFERENCES for task in TASKS]
    bases = [(0.0, 0), (0.1, 0), (0.25, 0), (0.0, 1), (0.1, 1), (0.25, 1), (0.0, 2), (0.0, 3), (0.5, 0), (0.05, 0), (1.0, 0)]
    bases += [(residue, seed) for seed in range(1, seeds) for residue in RESIDUES if (residue, seed) not in bases]
    return found + [(task, residue, seed, METHODS) for residue, seed in bases for task in TASKS]


def run(out: Path, bases: Sequence[tuple[str, float, int, tuple[str, ...]]], workers: int = 2) -> None:
    """Make all specimens of these bases that are not there yet, so many bases side by side."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done, ended in enumerate(as_completed([pool.submit(measure, *base, out) for base in bases]), 1):
            ended.result()
            sys.stderr.write(f"bases: {done} of {len(bases)}\n")
