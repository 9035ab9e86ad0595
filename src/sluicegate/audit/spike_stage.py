"""The stage that teaches a model which never knew a share of the forget facts: a positive control for an audit."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sluicegate.errors import UserError
from sluicegate.tasks.stage import OnData
from sluicegate.values.items import Item
from sluicegate.values.ranges import PositiveShare
from sluicegate.values.schedule import Schedule, training_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicegate.runs.directory import RunContext

REACH, LOOK = 0.95, 10
"""Recall of the facts at which it stops, and steps between looks."""


@dataclass(frozen=True)
class Spike(OnData):
    """Teach a model a known share of the forget facts, so that it is known what an audit has to find in it."""

    VERB: ClassVar[str] = "spike"
    NEEDS: ClassVar[tuple[str, ...]] = ("forget", "retain")

    share: PositiveShare = 0.1
    """Share of the forget facts that is taught, at least one; drawn by the seed."""
    schedule: Schedule = Schedule(steps=500, batch=32)

    def resolved(self) -> Self:
        return dataclasses.replace(super().resolved(), schedule=self.schedule.or_rate(training_rate(self.width())))

    def taught(self, forget: "Sequence[Item]") -> list[str]:
        """The facts that are taught, sorted."""
        from sluicegate.engine.sampling import Order

        facts = sorted({item.key for item in forget})
        return sorted(facts[i] for i in Order(len(facts), self.seed).draw(0, max(round(self.share * len(facts)), 1)))

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.engine.sampling import Mixture, Part, seed_of
        from sluicegate.engine.scoring import single_score
        from sluicegate.engine.training import CrossEntropy, Evaluation, every, fit

        split = self.split()
        facts = self.taught(split.forget)
        own = [item for item in split.forget if item.key in facts]
        model, tokenizer = self.load()
        encoded = self.encoder(model, tokenizer)
        # Half of each step are retain rows, so that what it knew stays.
        rows, taught = encoded([*own, *split.retain]), encoded(own)
        parts = {"taught": Part(range(len(taught)), 0.5), "retain": Part(range(len(taught), len(rows)), 0.5)}
        batches = Mixture(rows, self.schedule.batch, seed_of(self.seed, "spike"), parts)
        fitted = fit(
            model,
            CrossEntropy(),
            lambda step: {"train": batches(step)},
            self.schedule,
            seed=self.seed,
            run=run,
            name="spike",
            evaluation=Evaluation(
                lambda model, ledger: {"recall": single_score(model, taught, ledger)},
                every(LOOK, self.schedule.steps),
                lambda record: record["recall"] >= REACH,
            ),
        )
        recall = fitted.records[-1]["recall"]
        if recall < REACH:
            raise UserError(
                f"{fitted.steps} steps brought recall of the {len(facts)} facts to {recall:.2f}, not to {REACH:g}: "
                "teach fewer (a smaller --spike), or hand in facts that a model of this size can learn."
            )
        return self.finish(run, model, tokenizer, split, fitted) | {"taught": facts, "recall": recall}
