"""Settings of one stage in a config.toml, and words that set one option to a wild value."""

import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from campaign.inputs import Case
from campaign.kinds.rows import GOOD, RETAIN
from campaign.mutate import VALUES

_DATA = {"model": "arithmetic-tiny", "forget": "rows.jsonl", "retain": "retain.jsonl"}
_SMALL = {"steps": 1, "batch": 4}
BASES: list[dict[str, Any]] = [
    {"verb": "train", **_SMALL, **_DATA},
    *({"verb": "unlearn", "method": method, **_SMALL, **_DATA} for method in ("npo", "rmu", "maxent")),
    {"verb": "undo", "unlabelled": "retain.jsonl", "alpha": 0.5, **_SMALL, **_DATA},
    {"verb": "distill", "unlabelled": "retain.jsonl", **_SMALL, **_DATA},
    {"verb": "relearn", "steps": 2, "batch": 4, "lrs": [1e-3], "checkpoints": [1, 2], **_DATA},
    {"verb": "route", "units": 4, **_SMALL, **_DATA},
    {"verb": "score", **_DATA},
    {"verb": "split", "arm": "routed", "data": "digits", "steps": 1, "code": 8},
    {"verb": "latent", "arm": "routed", "steps": 1, "hidden": [8]},
    {"verb": "oversight", "arm": "routed", "share": 0.1, "updates": 1, "episodes": 8},
]


def cases(rng: random.Random, place: Path) -> Iterator[Case]:
    import tomli_w

    from sluicegate.runs.stage import settings_of, stages

    (place / "rows.jsonl").write_text(GOOD)
    (place / "retain.jsonl").write_text(RETAIN)
    known = stages()
    while True:
        table = dict(rng.choice(BASES))
        cls = known[table["verb"]]
        names = settings_of(cls, cls.method_called(table["method"]) if "method" in table else None)
        for _ in range(rng.randint(1, 2)):
            name = rng.choice(names) if rng.random() < 0.85 else rng.choice(["zzz", "verb", "method", ""])
            table[name] = rng.choice([*VALUES, 0.5, "nothing.*", "last"])
        (place / "x.toml").write_bytes(tomli_w.dumps(table).encode())
        for old in ("o", "runs"):
            shutil.rmtree(place / old, ignore_errors=True)
        yield Case(["run", "x.toml", "--out", "o"], json.dumps(table, default=str)[:200], lambda ended: _why(place / "o"))


def _why(run: Path) -> str:
    """Whether what it measured is finite throughout."""
    if not (run / "DONE").is_file():
        return ""
    for file in ("result.json", "metrics.jsonl"):
        lines = (run / file).read_text().splitlines() if file.endswith("l") else [(run / file).read_text()]
        if not all(_finite(json.loads(line)) for line in lines):
            return ""
    return "it ran to the end, and every number in result.json and metrics.jsonl is finite"


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
