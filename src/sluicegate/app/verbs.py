"""The table of verbs: what the capabilities and plug-ins bring, and every stage that is a verb of its own."""

from functools import partial

from sluicegate import registry
from sluicegate.cli.command import Verb, summary_of
from sluicegate.execution.runner import run_stage
from sluicegate.runs.stage import stages

GROUPS = {
    "start here": ("demo",),
    "audit and attack": ("audit", "attack", "attackers", "relearn", "score"),
    "unlearn and distil": ("train", "unlearn", "distill", "undo"),
    "route": ("route", "ablate"),
    "steer": ("steer",),
    "see": ("latent", "oversight"),
    "study": ("deck", "lecture", "buzz", "play", "team", "quiz"),
    "runs and recipes": ("run", "sweep", "report", "runs", "fetch", "doctor", "bench", "papers"),
}
"""The headings of the overview and what stands first under each, in order; other verbs and other headings follow."""


def verbs() -> dict[str, registry.Verb]:
    """Every verb by name, in the order of the overview."""
    own = {verb: cls for verb, cls in stages().items() if cls.GROUP}
    found: dict[str, registry.Verb] = {verb: Verb(verb, summary_of(cls), cls.GROUP, partial(run_stage, cls)) for verb, cls in own.items()}
    found |= registry.verbs()
    headings = {group: n for n, group in enumerate(GROUPS)}
    places = {name: n for n, name in enumerate(name for names in GROUPS.values() for name in names)}
    return dict(
        sorted(found.items(), key=lambda pair: (headings.get(pair[1].group, len(headings)), places.get(pair[0], len(places)), pair[0]))
    )
