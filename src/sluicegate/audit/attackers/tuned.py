"""What attackers that train have in common: rates, steps, and the loop over them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sluicegate.audit.attackers import Attacker
from sluicegate.values.ranges import Count, Positive, Rows, Whole
from sluicegate.values.schedule import Schedule

if TYPE_CHECKING:
    import torch

    from sluicegate.audit.target import Target, Trace
    from sluicegate.engine import encoding


@dataclass(frozen=True)
class Tuned(Attacker):
    """An attacker that trains some numbers on the facts it owns, under several learning rates."""

    UNIT = "attack steps"

    lrs: tuple[Positive, ...] = ()
    """Learning rates tried, of which the worst case counts; none: the attacker's own, as 1 / the model's width."""
    steps: Count = 50
    """Optimiser steps under each learning rate."""
    checkpoints: tuple[Whole, ...] = (0, 3, 10, 25, 50)
    """Steps after which recall is measured."""
    batch: Rows = 64
    """Rows a step; fewer where there are not so many."""
    on: Literal["real", "answer"] = "answer"
    """Which tokens it trains on: all of them, or the answers' alone."""

    def at_width_64(self) -> tuple[float, ...]:
        """The learning rates at a hidden size of 64."""
        return (0.01, 0.03, 0.1)

    def rates(self, width: int) -> tuple[float, ...]:
        """The learning rates for a model of hidden size `width`."""
        return self.lrs or tuple(float(f"{rate * 64 / width:.2g}") for rate in self.at_width_64())

    def efforts(self) -> list[int]:
        """The checkpoints up to the last step, which is always one of them, as is 0."""
        return sorted({0, self.steps, *(c for c in self.checkpoints if c <= self.steps)})

    def passes(self, owned: int, held_out: int) -> float:
        return len(self.rates(64)) * (3.0 * self.steps * self.batch + len(self.efforts()) * (owned + held_out))

    def trained(self, target: "Target") -> "Iterator[tuple[str, dict[str, torch.Tensor], Target | None]]":
        """Ways to attack, each prepared when it is asked for: a label, what is trained by its name in the model, and
        the target where its rows are asked otherwise than they were handed in."""
        raise NotImplementedError

    def rows(self, target: "Target", owned: "encoding.Rows") -> "encoding.Rows":
        """The rows it trains on."""
        return owned

    def traces(self, target: "Target") -> "Iterator[Trace]":
        from sluicegate.audit.target import Trace
        from sluicegate.engine.models import width
        from sluicegate.engine.sampling import Mixture, seed_of
        from sluicegate.engine.training import CrossEntropy, Diverged, Evaluation, at_steps, fit

        rates, efforts = self.rates(width(target.model)), self.efforts()
        for label, parameters, asked in self.trained(target):
            start = target.keep(list(parameters))
            seen = asked or target
            shown = self.rows(target, seen.owned)
            batches = Mixture(shown, min(self.batch, len(shown)), seed_of(target.seed, "attack"))
            for rate in rates:
                start.put_back()
                name = f"{label} lr {rate:g}".strip()
                try:
                    fitted = fit(
                        target.model,
                        CrossEntropy(self.on),
                        lambda step, draw=batches: {"train": draw(step)},  # type: ignore[misc]
                        Schedule(steps=self.steps, batch=self.batch, lr=rate),
                        seed=target.seed,
                        run=target.run,
                        name=name,
                        params=",".join(parameters),
                        evaluation=Evaluation(lambda _, ledger, seen=seen: seen.read(ledger=ledger), at_steps(efforts)),  # type: ignore[misc]
                        keep_weights=False,
                    )
                except Diverged as error:
                    fitted = error.fitted
                    target.notes.append(f"{name}: the model broke at step {fitted.steps + 1}")
                target.ledger.add(fitted.ledger)
                records = [dict(record) for record in fitted.records] or [seen.read()]
                while len(records) < len(efforts):  # it broke: what it had brought back stays
                    records.append(records[-1])
                yield Trace(name, list(map(float, efforts)), records)
