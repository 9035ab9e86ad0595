"""Measure a benchmark: read its rows, put them to a model, and set what comes out beside a reference's."""

import math
from collections.abc import Mapping
from typing import Any

from sluicegate.tasks.benchmarks import Rows, check
from sluicegate.tasks.metrics import muse, tofu
from sluicegate.tasks.metrics.subject import Array, Subject

_READ = {"tofu": tofu.needed, "muse": muse.muse_rows, "wmdp": muse.wmdp_rows, "rwku": muse.rwku_rows}
_MEASURE = {"tofu": tofu.measure, "muse": muse.muse, "wmdp": muse.wmdp, "rwku": muse.rwku}
COMPARED = {"tofu": "forget_quality", "muse": "privleak"}
"""The number of each benchmark that needs a reference."""
_COMPARE = {"tofu": tofu.forget_quality, "muse": muse.privleak}
_FEW = {"tofu": f"forget_quality: a KS test on fewer than {tofu.FEW} rows can hardly tell two models apart, whatever its p"}


def needed(benchmark: str, data_dir: str = "", most: int = 0) -> dict[str, Rows]:
    """The rows of a benchmark by group, the first `most` of each where that is not 0; raises `UserError` for what is
    not there."""
    name, configuration = check(benchmark)
    return {group: found[: most or None] for group, found in _READ[name](configuration, data_dir).items()}


def measure(benchmark: str, subject: Subject, groups: Mapping[str, Rows]) -> tuple[dict[str, float], Array]:
    """The numbers of one model by name, and what `against` sets beside another model's."""
    return _MEASURE[check(benchmark)[0]](subject, groups)


def against(benchmark: str, own: Array, reference: Array) -> tuple[dict[str, float], list[str]]:
    """The number that needs a reference, where there is one, and a warning where it says little."""
    name = check(benchmark)[0]
    if name not in COMPARED:
        return {}, []
    return {COMPARED[name]: _COMPARE[name](own, reference)}, [_FEW[name]] if name in _FEW and len(own) < tofu.FEW else []


def told(benchmark: str, numbers: Mapping[str, float], reference: Mapping[str, float], subject: Subject) -> dict[str, Any]:
    """What a result holds under "benchmark": JSON has no NaN, so what is not finite is None."""
    tables = {"numbers": numbers, "reference": reference}
    plain = {table: {name: v if math.isfinite(v) else None for name, v in those.items()} for table, those in tables.items()}
    return {"name": benchmark, **plain, "intervals": subject.intervals}
