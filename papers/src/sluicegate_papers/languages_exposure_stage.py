"""The exposure curve of the languages trial: the loss by how much forget data standard training saw, and leakage by
it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sluicegate.errors import UserError
from sluicegate.runs.stage import source
from sluicegate.runs.trial import Trial, outcome

if TYPE_CHECKING:
    from sluicegate.runs.directory import RunContext


@dataclass(frozen=True)
class Exposure(Trial):
    """The losses of standard training by how much forget data it saw, gathered from runs of base and filter."""

    VERB: ClassVar[str] = "languages-exposure"
    MEASURES: ClassVar[Mapping[str, str]] = {
        "points": "runs that the curve was gathered from",
        "most_tokens": "forget tokens of the run that saw most",
    }

    point_1: str = source("run")
    """A finished run of languages, arm base or filter; one has to have seen no forget data (share 1)."""
    point_2: str = source("run")
    """Another."""
    point_3: str = source("run")
    """Another."""
    point_4: str = source("run")
    """Another."""
    point_5: str = source("run")
    """Another."""
    point_6: str = source("run")
    """Another."""
    point_7: str = source("run")
    """Another."""
    point_8: str = source("run")
    """Another."""

    @property
    def method(self) -> str:
        return ""

    def is_wide(self) -> bool:
        return False

    def resolved(self) -> Self:
        if len(self.sources("run")) < 2:
            raise UserError(
                "an exposure curve needs two runs or more; name finished runs of the arms base and filter in --point-1, --point-2."
            )
        return self

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.runs.directory import result_of

        points = []
        for folder in self.sources("run").values():
            found = result_of(folder)
            if found.get("verb") != "languages" or found.get("method", "").split("-")[0] not in ("base", "filter"):
                raise UserError(f"{folder!r} is no run of the arm base or filter of languages.")
            points.append([found["measures"][name] for name in ("forget_tokens", "forget_cut", "forget_relearned")])
        tokens, raw, again = zip(*sorted(points), strict=True)
        curves = {"exposure": (tokens, raw), "exposure_relearned": (tokens, again)}
        return outcome(self, {"points": len(points), "most_tokens": tokens[-1]}, flops=0.0, curves=curves)


def leakages(folder: str, losses: Mapping[str, float], hidden: float) -> dict[str, float]:
    """Leakage and its bound, of a raw and of a relearned loss."""
    from sluicegate.runs.directory import result_of
    from sluicegate_papers.absorption import leakage

    curves = result_of(folder)["curves"]
    if "exposure" not in curves:
        raise UserError(f"{folder!r} holds no exposure curve: it is no run of languages-exposure.")
    found: dict[str, float] = {}
    for name, loss in losses.items():
        curve = curves["exposure_relearned" if name.endswith("relearned") else "exposure"]
        leaked = leakage(loss, (curve["x"], curve["y"]), hidden)
        found |= {name: leaked.share, f"{name}_bound": {"at most": -1.0, "exactly": 0.0, "at least": 1.0}[leaked.bound]}
    return found
