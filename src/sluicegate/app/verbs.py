"""The table of verbs: what the capabilities and plug-ins bring, and every stage that is a verb of its own."""

from functools import partial

from sluicegate import registry
from sluicegate.cli.command import Verb, summary_of
from sluicegate.execution.runner import run_stage
from sluicegate.runs.stage import Stage, stages

GROUPS = ("start here", "audit and attack", "unlearn and distil", "route", "steer", "see", "study", "runs and recipes")
"""The headings of the overview, in order; others follow."""


def verbs() -> dict[str, registry.Verb]:
    """Every verb by name, in the order of its group."""
    found: dict[str, registry.Verb] = {verb: _of_stage(cls) for verb, cls in stages().items() if cls.GROUP}
    found |= registry.verbs()
    order = {group: n for n, group in enumerate(GROUPS)}
    return dict(sorted(found.items(), key=lambda pair: order.get(pair[1].group, len(order))))


def _of_stage(cls: type[Stage]) -> Verb:
    return Verb(cls.VERB, summary_of(cls), cls.GROUP, partial(run_stage, cls))
