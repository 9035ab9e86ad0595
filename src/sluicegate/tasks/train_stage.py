"""The stage that trains a model on rows."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.runs.stage import setting, source
from sluicegate.tasks.stage import OnData
from sluicegate.values.items import GROUPS
from sluicegate.values.ranges import Whole
from sluicegate.values.schedule import Schedule, training_rate


@dataclass(frozen=True)
class Train(OnData):
    """Train a model on rows by next-token prediction: the base model, or one that never knew."""

    VERB: ClassVar[str] = "train"
    GROUP: ClassVar[str] = "unlearn and distil"
    TOGETHER: ClassVar[bool] = True

    unlabelled: str = source("data")
    """Rows that nobody has labelled, in the same formats."""
    learn: tuple[str, ...] = ("forget", "retain", "unlabelled")
    """Which of the groups are trained on; the others are only scored."""
    on: Literal["real", "answer"] = "real"
    """Which tokens count: all of them, or the answers' alone."""
    params: str = setting("*", was="sites")
    """Which parameters are trained: globs over their full names, joined by commas; a star crosses dots."""
    check_every: Whole = setting(0, added=True)
    """Steps between looks at the retain score: what less training would have cost is then known; 0: none."""
    schedule: Schedule = Schedule(steps=700, batch=64, warmup=50, decay="cosine")

    def resolved(self) -> Self:
        return dataclasses.replace(super().resolved(), schedule=self.schedule.or_rate(training_rate(self.width())))

    def run(self, run: RunContext) -> dict[str, Any]:
        from sluicegate.engine.train import train
        from sluicegate.engine.training import CrossEntropy

        split = self.split()
        for name in self.learn:
            if name not in GROUPS:
                raise UserError(f"cannot learn {name!r}; the groups are {', '.join(GROUPS)}.")
        rows = [item for name in self.learn for item in split.group(name)]
        if not rows:
            raise UserError(f"there is nothing to train on: none of {', '.join(self.learn)} was handed in.")
        if self.check_every and not split.retain:
            raise UserError(f"check_every is {self.check_every}; it is a number of steps between looks at the --retain rows, or 0.")
        model, tokenizer = self.load()
        fitted = train(
            model,
            tokenizer,
            rows,
            self.schedule,
            objective=CrossEntropy(self.on),
            seed=self.seed,
            params=self.params,
            max_length=self.max_length,
            template=self.template,
            run=run,
            look=(split.retain, self.check_every) if self.check_every else None,
        )
        result = self.finish(run, model, tokenizer, split, fitted)
        course = [[record["step"], record["retain"]] for record in fitted.records]
        return result | ({"course": course} if self.check_every else {})
