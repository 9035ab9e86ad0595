"""How a number is written: shares, multiples, FLOPs, intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from sluicegate.values.statistics import Estimate

MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"


def plain(value: float, digits: int = 2) -> str:
    """A number with a true minus sign and no minus before zero."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def share(value: float) -> str:
    """A share as a percentage: whole, with one digit where whole would round to all or nothing."""
    near_end = 0 < value < 0.0095 or 0.9905 < value < 1
    text = plain(100 * value, 1 if near_end else 0)
    return "100" if text == "100.0" else "0" if text == "0.0" else text


def percent(value: float) -> str:
    return f"{share(value)}{THIN}%"


def has_interval(found: Estimate) -> bool:
    return not (math.isnan(found.low) or math.isnan(found.high))


def times(value: float) -> str:
    """A multiple: three digits at most."""
    return f"{plain(value, 2 if value < 10 else 1 if value < 100 else 0)}×"


def flops(value: float) -> str:
    """FLOPs with a prefix: 159 G."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.{0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2}f}{THIN}{prefix}"
    return f"{value:.0f}"


BOUNDS = {"": "", "at least": "≥" + THIN, "at most": "≤" + THIN, "about": "≈" + THIN}


@dataclass(frozen=True)
class Written:
    """A number as a table cell shows it."""

    value: str
    interval: str = ""
    """Empty for one seed, and where it is narrower than the digits that are shown."""

    def __bool__(self) -> bool:
        return bool(self.value)

    def __str__(self) -> str:
        return f"{self.value} [{self.interval}]" if self.interval else self.value


NOTHING = Written("")


def count(value: float) -> str:
    return f"{value:.0f}"


_WRITERS: dict[str, Callable[[float], str]] = {"share": share, "plain": plain, "times": times, "flops": flops, "count": count}


def measure(size: float) -> Callable[[float], str]:
    """Writes numbers about as large as `size` with three digits that count: 0.0312, 4.28, 123."""
    if size and not 1e-4 <= abs(size) < 1e6:
        return lambda value: f"{value:.2e}".replace("-", MINUS)
    digits = 2 - math.floor(math.log10(abs(size))) if size else 2
    return partial(plain, digits=min(max(digits, 0), 6))


def written(found: Estimate | None, kind: Literal["share", "plain", "times", "flops", "count", "measure"] = "plain") -> Written:
    """Write an estimate in the way its kind is written; nothing for None."""
    if found is None or not math.isfinite(found.mean):
        return NOTHING
    one = measure(found.mean) if kind == "measure" else _WRITERS[kind]
    value = BOUNDS[found.bound] + (percent(found.mean) if kind == "share" else one(found.mean))
    low, high = (one(found.low), one(found.high)) if has_interval(found) else ("", "")
    return Written(value, f"{low.rstrip('×')} to {high}" if low != high else "")


def short(values: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(values[:-1]), values[-1]))) if values else ""
