"""The zoo's results: made, written down, and read again."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from sluicegate.audit import suite
from sluicegate.runs.directory import write_atomic
from sluicegate_papers.zoo.power import Zoo, load, summarise
from sluicegate_papers.zoo.specimens import METHODS, REFERENCES, RESIDUES, TASKS, plan, run

RESULTS = "zoo.json"
MODES = {"one": 1, "several": len(REFERENCES)}
"""How many references a model is compared with."""
NEW = 1000
"""Seeds of models that are made anew begin here."""


def make(out: Path, seeds: int, workers: int) -> None:
    """Make the zoo; calibrate on its one half and judge all; write what the audit reads and what is reported."""
    run(out, plan(seeds), workers)
    write(out)


def write(out: Path) -> None:
    """Calibrate and judge what lies in `out`, as far as it goes."""
    records, null, told = load(out), {}, {}
    for mode, most in MODES.items():
        zoo = Zoo(records, most)
        null[mode] = zoo.calibrate()
        told[mode] = zoo.judge(null[mode])
        held = summarise([row for row in told[mode] if not row["calibration"]])
        null[mode]["power"] = {share: round(found / of, 2) for share, (found, of) in held["power"].items()}
    write_atomic(Path(suite.__file__).parent / "nulls.json", json.dumps(_short(null), indent=1) + "\n")
    write_atomic(Path(str(files(__package__))) / RESULTS, json.dumps({"specimens": told}) + "\n")


def recorded() -> dict[str, Any]:
    """What is reported of the recorded specimens: the held-out half against several references, and beside it against
    one."""
    told = json.loads((files(__package__) / RESULTS).read_text())["specimens"]
    held = {mode: [row for row in rows if not row["calibration"]] for mode, rows in told.items()}
    return summarise(held["several"]) | {"made": len(told["several"]), "one reference": summarise(held["one"])}


def again(out: Path, count: int, workers: int) -> dict[str, Any]:
    """The same of `count` models that are made now, on new seeds, with new references, by the recorded calibration."""
    chosen = _drawn(count)
    run(out, [(task, 0.0, seed, ("none",)) for task in sorted({one[0] for one in chosen}) for seed in REFERENCES], workers)
    run(out, chosen, workers)
    wanted = {(task, residue, seed, method) for task, residue, seed, methods in chosen for method in methods}
    records = [r for r in load(out) if r["seed"] in REFERENCES or (r["task"], r["residue"], r["seed"], r["method"]) in wanted]
    return summarise(Zoo(records).judge(suite.nulls()["several"]))


def _drawn(count: int) -> list[tuple[str, float, int, tuple[str, ...]]]:
    """Bases of as many new models: every second never knew; tasks, methods and residues in turn."""
    shares = [residue for residue in RESIDUES if residue]
    return [
        (TASKS[i % len(TASKS)], 0.0 if i % 2 else shares[i // 2 % len(shares)], NEW + i, (METHODS[i // 2 % len(METHODS)],))
        for i in range(count)
    ]


def told(found: Mapping[str, Any]) -> str:
    """The figures as a person reads them."""
    alarms, of = found["false_alarms"]
    lines = [f"{found['models']} models; false alarms: {alarms} of {of} that never knew"]
    for share, area in found["auc"].items():
        hits, there = found["power"][share]
        ahead = "" if area is None else f"AUC {area:.3f}, "
        lines.append(f"{float(share):4.0%} left: {ahead}found {hits} of {there}")
    alone = [one for one in found["attackers"].items() if one[1] is not None]
    lines.append("alone: " + ", ".join(f"{name} {area:.2f}" for name, area in sorted(alone, key=lambda one: -one[1])))
    return "\n".join(lines)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {name: _short(own) for name, own in value.items()}
    return [_short(own) for own in value] if isinstance(value, list) else value
