"""Broken files and words, by kind: each must be refused in words, or be accepted for a reason that is checked."""

import os
import random
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from campaign.bounded import Ended, load
from campaign.bounded import run as run_command

SHARES = {
    "rows": 0.14,
    "decks": 0.14,
    "packages": 0.07,
    "recipes": 0.15,
    "configs": 0.1,
    "models": 0.1,
    "runfolders": 0.08,
    "vectors": 0.07,
    "images": 0.06,
    "words": 0.09,
}
"""The kinds, each a module of `campaign.kinds`, and what share of the inputs is of it."""


@dataclass(frozen=True)
class Case:
    """One input."""

    words: list[str]
    note: str
    """What is wrong with it."""
    why: Callable[[Ended], str]
    """The reason why it may be accepted, found without the code under test; empty where there is none."""
    call: Callable[[], int] | None = None


@dataclass(frozen=True)
class Found:
    """What became of one input."""

    kind: str
    number: int
    note: str
    words: list[str]
    ended: Ended
    reason: str

    @property
    def failed(self) -> bool:
        return self.ended.kind not in ("accepted", "clear") or (self.ended.kind == "accepted" and not self.reason)


def cases(kind: str, place: Path, seed: int) -> Iterator[Case]:
    """Inputs of one kind without end; each lies in `place` until the next is asked for."""
    module = import_module(f"campaign.kinds.{kind}")
    found: Iterator[Case] = module.cases(random.Random(seed * 1000 + zlib.crc32(kind.encode())), place)
    return found


def try_kind(kind: str, first: int, n: int, seed: int, keep: str = "") -> list[Found]:
    """Inputs number `first` to `first` + `n` of a kind."""
    os.environ.update(HF_HUB_OFFLINE="1", SLUICEGATE_KEEP_SECONDS="0", COLUMNS="100", OMP_NUM_THREADS="1")
    load()
    base = Path(tempfile.mkdtemp(prefix=f"campaign-{kind}-"))
    os.environ["SLUICEGATE_CACHE"] = str(base / "cache")
    place = base / "here"
    place.mkdir()
    results = []
    for number, case in enumerate(cases(kind, place, seed)):
        if number >= first + n:
            break
        if number < first:
            continue
        ended = run_command(case.words, place, call=case.call)
        reason = case.why(ended) if ended.kind == "accepted" else ""
        results.append(Found(kind, number, case.note, case.words, ended, reason))
        if keep and results[-1].failed:
            shutil.copytree(place, Path(keep) / f"{kind}-{number}", symlinks=True, ignore=_no_devices, dirs_exist_ok=True)
    shutil.rmtree(base, ignore_errors=True)
    return results


def _no_devices(folder: str, names: list[str]) -> list[str]:
    paths = [Path(folder) / name for name in names]
    return [p.name for p in paths if not p.is_symlink() and not p.is_dir() and (not p.is_file() or p.stat().st_size > 5_000_000)]


def run_all(n: int, seed: int, kinds: list[str] | None = None, workers: int = 2, keep: str = "") -> list[Found]:
    """Try `n` inputs, divided among the kinds by their shares."""
    shares = {kind: SHARES[kind] for kind in kinds or SHARES}
    whole = sum(shares.values())
    counts = {kind: max(round(n * share / whole), 1) for kind, share in shares.items()}
    counts[max(counts, key=lambda kind: counts[kind])] += n - sum(counts.values())
    jobs = [(kind, first, min(100, counts[kind] - first)) for kind in counts for first in range(0, counts[kind], 100)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = [pool.submit(try_kind, kind, first, count, seed, keep) for kind, first, count in jobs]
        return [found for future in waiting for found in future.result()]


def tally(found: list[Found]) -> dict[str, int]:
    """The counts: refused in words, accepted for a reason, and what must not happen."""
    ended = Counter(f.ended.kind for f in found)
    without = sum(f.ended.kind == "accepted" and not f.reason for f in found)
    return {
        "tried": len(found),
        "clear": ended["clear"],
        "accepted": ended["accepted"] - without,
        "broken": ended["broken"] + without,
        "tracebacks": ended["traceback"],
        "hangs": ended["hang"],
        "memory": ended["memory"],
    }


def run(n: int, seed: int, kinds: list[str] | None = None, workers: int = 2, keep: str = "") -> dict[str, Any]:
    """Try `n` inputs, print the reasons of what was accepted and what failed; return the counts, by kind too."""
    found = run_all(n, seed, kinds, workers, keep)
    print("Why inputs were accepted:")
    for (kind, reason), times in sorted(Counter((f.kind, f.reason) for f in found if f.reason).items()):
        print(f"  {kind:<12}{times:>6,}  {reason}")
    for f in found:
        if f.failed:
            last = (f.ended.text.strip().splitlines() or ["(nothing was said)"])[-1]
            print(f"\n{f.kind} {f.number}: {f.ended.kind}, {f.note}\n  sluicegate {' '.join(f.words)[:200]}\n  {last[:200]}")
    by_kind = {kind: tally([f for f in found if f.kind == kind]) for kind in dict.fromkeys(f.kind for f in found)}
    return {**tally(found), "kinds": by_kind}
