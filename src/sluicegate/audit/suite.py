"""What a suite of attackers says of one model: each fact's evidence against models that never knew, and one verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sluicegate.audit.target import Attacked
from sluicegate.values.statistics import Estimate

Found = Mapping[str, Sequence[Attacked]]
"""What attackers found in one model: by the attacker's name, one for each seed."""


@dataclass(frozen=True)
class Finding:
    """What one attacker found in the model beyond the reference."""

    attacker: str
    z: float
    """Standard deviations of never-knew models, above their mean."""
    excess: Estimate
    """Held-out recall above the reference's, at the effort where the model's is highest, paired by seed."""
    effort: float
    """That effort."""
    unit: str
    capacity: int
    flops: float


@dataclass(frozen=True)
class SuiteVerdict:
    """What the suite as a whole says."""

    z: float
    """The suite's statistic: NaN where there is no reference."""
    threshold: float
    """What it must pass to be called found: one never-knew model in a hundred does."""
    found: bool
    findings: tuple[Finding, ...]
    """Of every attacker, the strongest first."""
    facts: Mapping[str, float]
    """How much likelier than to a model that never knew each fact is, over all attackers; in standard deviations."""
    power: Mapping[float, float]
    """The chance that so large a share of the facts, had it been left, would have been found: {.1: .8, .25: .99}."""
    sentences: tuple[str, ...]


def judge_suite(model: Found, references: Sequence[Found], facts: int) -> SuiteVerdict:
    """Compare what the attackers found in a model with what they found in models that never knew, fact by fact."""
    raise NotImplementedError
