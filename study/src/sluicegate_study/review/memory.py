"""What a learner remembers: the state of every item, replayed from the log through FSRS-6 (the `fsrs` package)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fsrs import Card as State
from fsrs import Rating, Scheduler
from fsrs.scheduler import DEFAULT_PARAMETERS

from sluicegate_study.deck.log import Event, Log, append, read_log
from sluicegate_study.errors import UserError, program

KNOWN = 0.8
"""A card counts as known while its recall is at least this, after one success."""


def make_scheduler(weights: Sequence[float] = DEFAULT_PARAMETERS, retention: float = 0.9) -> Scheduler:
    """FSRS-6 without fuzz, so that a replay always gives the same state.

    Raises `UserError` for weights out of their bounds, or a wanted retention that is not between .7 and .99."""
    if not 0.7 <= retention <= 0.99:
        raise UserError(f"retention is {retention}: expected a share from 0.7 to 0.99, the recall at which a card comes up again.")
    try:
        return Scheduler(parameters=tuple(weights), desired_retention=retention, enable_fuzzing=False)
    except ValueError as error:
        raise UserError(f"the weights cannot be used: {error}. Expected FSRS-6's 21 numbers.") from None


def locate_weights(log: Path) -> Path:
    """Where the weights that were fitted to a log's reviews are: beside it. One line a fit; a learner's last one
    counts."""
    return log.parent / f"{log.stem}.weights.jsonl"


def save_weights(log: Path, learner: str, weights: Sequence[float] | None, now: datetime, **more: object) -> None:
    """Note fitted weights beside a log; None: from now on the published ones again. What was noted before stays in the
    file."""
    content = None if weights is None else list(make_scheduler(weights).parameters)
    append(locate_weights(log), [Event(now, learner, "", "weights", {"weights": content, **more})])


def read_weights(log: Path, learner: str) -> tuple[float, ...]:
    """A learner's weights: those fitted last, or the published ones. Raises `UserError` where the last ones cannot be
    used."""
    file = locate_weights(log)
    fits = [event for event in read_log(file).events if event.kind == "weights" and event.learner == learner]
    noted = fits[-1].more.get("weights") if fits else None
    if noted is None:
        return tuple(DEFAULT_PARAMETERS)
    try:
        return tuple(make_scheduler([float(weight) for weight in noted]).parameters)
    except (TypeError, ValueError, AttributeError) as error:
        said = f"the last weights of {learner} in {str(file)!r} cannot be used ({str(error).rstrip('.')})"
        raise UserError(f"{said}. To go back to the published ones: {program()} deck refit DECK --reset") from None


def use_fitted_weights(log: Path, learner: str, by: Scheduler | None = None) -> Scheduler:
    """What schedules a learner's reviews: `by`, or the usual one, with the weights fitted to the learner.

    One that has weights of its own stays as it is."""
    by = by or make_scheduler()
    if by.parameters != tuple(DEFAULT_PARAMETERS):
        return by
    return make_scheduler(read_weights(log, learner), by.desired_retention)


@dataclass
class Memory:
    """The states of one learner's items, from the events so far. `links` says under which key an old one goes on."""

    learner: str
    scheduler: Scheduler = field(default_factory=make_scheduler)
    states: dict[str, State] = field(default_factory=dict)
    successes: dict[str, int] = field(default_factory=dict)
    first: dict[str, datetime] = field(default_factory=dict)
    suspended: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)

    @classmethod
    def replay(cls, log: Log, learner: str, by: Scheduler | None = None) -> "Memory":
        """Compute everything from the log; events of other learners change nothing but the links between keys."""
        made = cls(learner, by or make_scheduler(), links=replay_links(log.events))
        for event in log.timeline:
            if event.learner == learner:
                made.add(event)
        return made

    def add(self, event: Event) -> None:
        """Take one more event into account; it must not be older than the last one of its item."""
        key = resolve_link(self.links, event.item)
        if event.kind == "card":
            state = self.states.get(key) or State(card_id=1, due=event.t.astimezone(UTC))
            # Two clocks may differ: a review that says it was before the last one counts as at the same time.
            when = event.t.astimezone(UTC)
            at = max(when, state.last_review) if state.last_review else when
            self.states[key], _ = self.scheduler.review_card(state, Rating(event.grade), at)
            self.successes[key] = self.successes.get(key, 0) + (event.grade > 1)
            self.first.setdefault(key, event.t)
        elif event.kind == "suspend":
            self.suspended.add(key)
        elif event.kind == "resume":
            self.suspended.discard(key)

    def recall(self, key: str, now: datetime) -> float:
        """The chance that the item is recalled now (FSRS's retrievability); 0 where it was never reviewed."""
        state = self.states.get(key)
        return float(self.scheduler.get_card_retrievability(state, now.astimezone(UTC))) if state else 0.0

    def due(self, key: str) -> datetime | None:
        """When the item comes up again; None where it was never reviewed."""
        return self.states[key].due if key in self.states else None

    def known(self, key: str, now: datetime) -> bool:
        """Whether cards that need this one may be introduced: one success, and a recall of .8 or more. What was
        suspended counts."""
        return key in self.suspended or (self.successes.get(key, 0) > 0 and self.recall(key, now) >= KNOWN)


def replay_links(events: Iterable[Event]) -> dict[str, str]:
    """The links between keys that hold after all events: old key to new key."""
    links: dict[str, str] = {}
    for event in events:
        target = str(event.more.get("to", ""))
        if event.kind == "relink" and event.item != target:
            links[event.item] = target
            links.pop(target, None)  # a link back would go round in a ring
        elif event.kind == "unlink" and links.get(event.item) == target:
            del links[event.item]
    return links


def resolve_link(links: Mapping[str, str], key: str) -> str:
    """The key under which an item is known now."""
    seen = {key}
    while (after := links.get(key)) is not None and after not in seen:
        seen.add(after)
        key = after
    return key
