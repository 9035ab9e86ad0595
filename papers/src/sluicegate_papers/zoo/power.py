"""What the suite finds in the zoo: calibrated on one half, reported on the other."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sluicegate.audit.attacked import Attacked
from sluicegate.audit.suite import SEVERAL, Found, cells, standardise, statistics_of, table_of
from sluicegate.values.curves import Curve
from sluicegate.values.statistics import Array, auroc
from sluicegate_papers.zoo.specimens import REFERENCES

CALIBRATED = {"task": ("arithmetic", "biographies"), "seed": (0, 2), "method": ("none", "maxent", "graddiff", "simnpo", "distill")}
"""What the calibration half is made of; all else is held out: other seeds, four methods, and a task."""
REMOVED = ("distill", "undo")
"""Methods after which what was taught may really be gone: found or not, neither is an error."""
Record = Mapping[str, Any]
Row = dict[str, Any]


def load(folder: Path) -> list[Record]:
    """Every specimen that was made."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def found_of(record: Record) -> dict[str, list[Attacked]]:
    """What the attackers found in a specimen, as an audit has it."""
    found: dict[str, list[Attacked]] = {}
    for key, one in record["attacks"].items():
        name, _, seed = key.rpartition(" ")
        if "facts" in name or "left_out" in one:
            continue
        effort = tuple(one["effort"])
        held, owned = (Curve(effort, (tuple(one[side]),), (int(seed),), "", name) for side in ("held_out", "owned"))
        found.setdefault(name, []).append(
            Attacked(
                attacker=name, owned=owned, held_out=held, retain=tuple(one["retain"]), settings=tuple(one["settings"]),
                facts=tuple(record["attacks"][f"facts {seed}"]), evidence=tuple(map(tuple, one["evidence"])),
                owned_facts=tuple(record["attacks"][f"owned facts {seed}"]), owned_evidence=tuple(map(tuple, one["owned evidence"])),
                capacity=0, flops={"evaluation": one["flops"]},
            )
        )  # fmt: skip
    return found


def is_calibration(record: Record) -> bool:
    return all(record[name] in values for name, values in CALIBRATED.items())


def hides(record: Record) -> bool:
    """Whether what was taught is still there for sure."""
    return record["method"] not in REMOVED


class Zoo:
    """The specimens, their references (the first `most` of each task), and their cells."""

    def __init__(self, records: Sequence[Record], most: int = len(REFERENCES)) -> None:
        self.several = most >= SEVERAL
        self.specimens = [r for r in records if r["seed"] not in REFERENCES]
        chosen = REFERENCES[:most]
        self.references: dict[str, list[Found]] = {}
        for record in records:
            if record["seed"] in chosen:
                self.references.setdefault(record["task"], []).append(found_of(record))
        self.cells = [cells(found_of(r), self.references[r["task"]]) for r in self.specimens]

    def calibrate(self) -> dict[str, Any]:
        """Weights, what models that never knew give, and the threshold; from the calibration half alone."""
        half = [i for i, r in enumerate(self.specimens) if is_calibration(r)]
        names = sorted({name for i in half for name in self.cells[i]})
        known = [i for i in half if 0 < self.specimens[i]["residue"] < 1 and hides(self.specimens[i])]
        weights = dict(zip(names, weigh([self._labelled(i, names) for i in known]).tolist(), strict=True))
        weights = {name: round(value, 4) for name, value in weights.items() if value > 1e-3}
        never = [i for i in half if not self.specimens[i]["residue"]]
        null: dict[str, Any] = {"weights": weights, "several": self.several, "nulls": len(never)}
        told = [statistics_of(self.cells[i], weights, self.several) for i in never]
        null |= _moments([t[2] for t in told])
        null["fact"] = float(np.std(np.concatenate([t[1] for t in told])))
        null["threshold"] = _limit([standardise(t[2], null) for t in told])
        null["attackers"] = {}
        for name in sorted({cell.partition(" ")[0] for cell in names}):
            own = [{c: v for c, v in self.cells[i].items() if c.partition(" ")[0] == name} for i in never]
            told_own = [statistics_of(o, dict.fromkeys(o, 1.0), self.several)[2] for o in own if o]
            if len(told_own) > 2:
                null["attackers"][name] = _moments(told_own)
        return null

    def _labelled(self, i: int, names: Sequence[str]) -> tuple[Any, Any]:
        full = {name: self.cells[i].get(name, {}) for name in names}
        facts, _, table = table_of(full)
        return table, np.isin(facts, self.specimens[i]["taught"])

    def judge(self, null: Mapping[str, Any]) -> list[Row]:
        """Every specimen's z, by attacker and by suite; the chance that a taught fact stands above an untaught one."""
        rows = []
        for record, found in zip(self.specimens, self.cells, strict=True):
            facts, each, told = statistics_of(found, null["weights"], self.several)
            z, own = standardise(told, null), {}
            for name, moments in null["attackers"].items():
                if mine := {c: v for c, v in found.items() if c.partition(" ")[0] == name}:
                    own[name] = round(standardise(statistics_of(mine, dict.fromkeys(mine, 1.0), self.several)[2], moments), 2)
            known = np.isin(facts, record["taught"])
            row: Row = {name: record[name] for name in ("task", "residue", "method", "seed")}
            row |= {"calibration": is_calibration(record), "z": round(z, 2), "found": z > null["threshold"], "attackers": own}
            rows.append(row | {"facts": round(auroc(each[known], each[~known]), 3) if 0 < known.sum() < len(known) else None})
        return rows


def _moments(told: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [float(np.mean(v)), max(float(np.std(v, ddof=1)), 0.01)] for name in ("tail", "shift") for v in [[t[name] for t in told]]}


def _limit(values: Sequence[float]) -> float:
    """What one new value in a hundred passes, where they are normal: mean + t * s * sqrt(1 + 1/n)."""
    from scipy.special import stdtrit

    n = len(values)
    return float(np.mean(values) + stdtrit(n - 1, 0.99) * np.std(values, ddof=1) * math.sqrt(1 + 1 / n))


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """AUC by residue, false alarms, power and each attacker's AUC, of the rows handed in. Positives are models in which
    what was taught is still there for sure; those that were distilled or noised are told apart."""
    nulls = [row for row in rows if not row["residue"]]
    hidden = [row for row in rows if row["residue"] and row["method"] not in REMOVED]
    gone = [row for row in rows if row["residue"] and row["method"] in REMOVED]
    shares = sorted({row["residue"] for row in hidden})

    def area(positive: Sequence[Row], score: Callable[[Row], float]) -> float | None:
        up, down = (np.array([score(row) for row in side]) for side in (positive, nulls))
        return round(auroc(up, down), 3) if len(up) and len(down) else None

    names = sorted({name for row in rows for name in row["attackers"]})

    def found(group: Sequence[Row]) -> list[int]:
        return [sum(row["found"] for row in group), len(group)]

    return {
        "auc": {str(share): area([row for row in hidden if row["residue"] == share], lambda row: row["z"]) for share in shares},
        "auc of all methods": {
            str(share): area([row for row in hidden + gone if row["residue"] == share], lambda row: row["z"]) for share in shares
        },
        "false_alarms": found(nulls),
        "false_alarms of suppressed": found([row for row in nulls if row["method"] != "none"]),
        "power": {str(share): found([row for row in hidden if row["residue"] == share]) for share in shares},
        "found after distilling or noise": {str(share): found([row for row in gone if row["residue"] == share]) for share in shares},
        "attackers": {
            name: area([row for row in hidden if row["residue"] in (0.1, 0.25)], lambda row, name=name: row["attackers"].get(name, 0.0))  # type: ignore[misc]
            for name in names
        },
        "models": len(rows),
    }


def weigh(tables: Iterable[tuple[Array, Array]], penalty: float = 0.03) -> Array:
    """Weights [cells], none below 0, of a logistic regression from facts' centred evidence [facts, cells] to whether
    each was taught [facts]; taught and untaught facts count alike."""
    from scipy.optimize import minimize

    pairs = list(tables)
    x = np.concatenate([evidence - np.median(evidence, axis=0) for evidence, _ in pairs])
    y = np.concatenate([taught for _, taught in pairs])
    share, sign = np.where(y, 0.5 / y.mean(), 0.5 / (1 - y.mean())), np.where(y, 1.0, -1.0)

    def loss(b: Array) -> tuple[float, Array]:
        margin = sign * (x @ b[1:] + b[0])
        slope = -(share * sign / (1 + np.exp(np.clip(margin, -50, 50))))
        value = float((share * np.logaddexp(0, -margin)).mean() + penalty * (b[1:] ** 2).sum())
        return value, np.concatenate([[slope.mean()], x.T @ slope / len(y) + 2 * penalty * b[1:]])

    bounds = [(None, None)] + [(0, None)] * x.shape[1]
    return np.asarray(minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", bounds=bounds).x[1:])
