"""What the oversight runs found, gathered: an arm's figures by share and seed, and differences paired by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluicegate.report.formatting import short
from sluicegate.runs.directory import result_of
from sluicegate.values.statistics import Estimate, estimate
from sluicegate_papers.oversight.arms import trained_as, values_of

Key = tuple[float, str, int]
"""(share, arm that was trained, seed)."""
FIGURES = ("return", "diamond", "ghost", "timeout", "near", "far")
BEST = "routed"
"""The arm that the others are compared with, where it is there."""


@dataclass(frozen=True)
class Found:
    """Finished runs: every reported arm at every share over the seeds."""

    names: tuple[str, ...]
    """Reported arms, in order; some are another arm's run, stopped by a rule."""
    shares: tuple[float, ...]
    seeds: tuple[int, ...]
    results: Mapping[Key, Mapping[str, Any]]
    """result.json of every run."""
    folders: Mapping[Key, Path]

    @property
    def size(self) -> int:
        return int(self._any["size"])

    @property
    def _any(self) -> Mapping[str, Any]:
        return next(iter(self.results.values()))

    @property
    def references(self) -> Mapping[str, Mapping[str, float]]:
        """Figures of "optimal", "random", "nearest" and "ceiling" (a shortest path to the Diamond that ignores the
        Ghost); empty for a board too large to be judged exactly."""
        told: Mapping[str, Mapping[str, float]] = self._any["references"]
        return told

    def reference(self, name: str, figure: str = "return") -> float:
        """One of them; NaN where there is none."""
        return float(self.references.get(name, {}).get(figure, math.nan))

    def run(self, share: float, name: str, seed: int) -> Mapping[str, Any]:
        """The result of what an arm was trained as."""
        return self.results[share, trained_as(name)[0], seed]

    def values(self, share: float, name: str, figure: str = "return", rule: str = "") -> list[float]:
        """An arm's figure, one a seed; with `rule`, of the look that this rule takes."""
        return [float(values_of(name, dict(self.run(share, name, seed)), rule)[figure]) for seed in self.seeds]

    def estimate(self, share: float, name: str, figure: str = "return", rule: str = "") -> Estimate:
        """The same as a mean with its interval."""
        signed = figure in ("return", "near", "far")
        return estimate(self.values(share, name, figure, rule), at_least=-math.inf if signed else 0.0, at_most=1.0)

    def last(self, share: float, name: str, figure: str) -> Estimate | None:
        """A figure of the last look (overseen, ghost_flagged, mixture, ghost_expert, gate_accuracy); None where there
        is none."""
        found = [self.run(share, name, seed)["looks"][-1].get(figure) for seed in self.seeds]
        known = [float(value) for value in found if value is not None and math.isfinite(value)]
        return estimate(known) if known else None

    def ahead(self, share: float, other: str, rule: str = "", first: str = BEST) -> Estimate:
        """How far the first arm's return lies above another's, paired by seed; `rule` is the other's."""
        mine, theirs = self.values(share, first), self.values(share, other, rule=rule)
        return estimate([a - b for a, b in zip(mine, theirs, strict=True)])

    def curve(self, share: float, name: str, figure: str) -> list[tuple[list[float], list[float]]]:
        """[(updates, figure)] of each seed, without looks that have none."""
        found = []
        for seed in self.seeds:
            looks = self.run(share, name, seed)["looks"]
            told = [(float(k["step"]), float(k[figure])) for k in looks if k.get(figure) is not None and math.isfinite(k[figure])]
            if told:
                found.append(([x for x, _ in told], [y for _, y in told]))
        return found

    def unlabelled(self, share: float, name: str) -> str:
        """A note where no labelled episode came in training, on some seeds or all; empty otherwise, and for the oracle:
        it needs none."""
        if name == "oracle":
            return ""
        runs = [[look["labelled"] for look in self.run(share, name, seed)["looks"] if "labelled" in look] for seed in self.seeds]
        without = sum(bool(counts) and not any(counts) for counts in runs)
        return "" if not without else "no labels" if without == len(runs) else f"no labels on {without} of {len(runs)} seeds"

    def warnings(self) -> list[str]:
        """What the runs themselves noticed, each said once with where it holds: arms that share their share and seeds
        together."""
        where: dict[str, dict[tuple[float, str], list[int]]] = {}
        for (share, arm, seed), result in self.results.items():
            for text in result.get("warnings", ()):
                where.setdefault(str(text).rstrip("."), {}).setdefault((share, arm), []).append(seed)
        found = []
        for text, runs in where.items():
            groups: dict[tuple[float, str], list[str]] = {}
            for (share, arm), seeds in runs.items():
                which = "all seeds" if len(seeds) == len(self.seeds) > 1 else f"seed {', '.join(map(str, seeds))}"
                groups.setdefault((share, which), []).append(arm)
            found.append(f"{text}: {'; '.join(f'{short(arms)} at {percent(p)} ({which})' for (p, which), arms in groups.items())}.")
        return found

    def as_json(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """{share: {arm: {"return", "diamond", "ghost"}}}, one figure a seed."""
        shown = ("return", "diamond", "ghost")
        return {f"{p:g}": {name: {figure: self.values(p, name, figure) for figure in shown} for name in self.names} for p in self.shares}


def gather(names: Sequence[str], shares: Sequence[float], seeds: Sequence[int], folders: Mapping[Key, Path]) -> Found:
    """Read finished run folders, which are named by (share, arm that was trained, seed)."""
    return Found(tuple(names), tuple(shares), tuple(seeds), {key: result_of(path) for key, path in folders.items()}, dict(folders))


def percent(share: float) -> str:
    """A share in words: 1 %, 0.5 %."""
    return f"{100 * share:g} %"


def apart(found: Estimate) -> int:
    """1 or -1 where the interval of a difference lies on one side of 0, else 0; 0 for one seed, which has no
    interval."""
    if math.isnan(found.low):
        return 0
    return 1 if found.low > 0 else -1 if found.high < 0 else 0
