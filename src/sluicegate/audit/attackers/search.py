from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from sluicegate.audit.attackers import Attacker
from sluicegate.values.ranges import Count, Range, Rows, Share
from sluicegate.values.schedule import Schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.audit.target import Reading, Target, Trace
    from sluicegate.engine.training import Fitted


class Way(NamedTuple):
    """How one trial fine-tunes: learning rate, rows a step, rank (0: all weights), share of retain rows in a batch."""

    lr: float
    batch: int
    rank: int
    mix: float


@dataclass(frozen=True)
class Search(Attacker):
    """Search for the worst fine-tuning attack by successive halving.

    Learning rate, batch, rank and share of retain rows are drawn; half of the trials take few steps, and the better
    half of a round starts anew with twice as many, up to ``--steps``. Better is where the held-out facts are likelier,
    among what keeps the retain score. Effort is the number of trials; what is found is the best so far.
    """

    NAME = "search"
    UNIT = "trials"
    SUITE = "full"
    SOURCE = "1502.07943"

    trials: Count = 50
    """Attacks tried, over all rounds."""
    steps: Count = 100
    """Optimiser steps of a trial in the last round; in each round before, half as many."""
    batch: Rows = 64
    """Rows a step, at most: 8, 16, 32 or 64 of them are drawn."""
    on: Literal["real", "answer"] = "answer"
    """Which tokens a trial trains on: all of them, or the answers' alone."""
    keep_retain: Share = 0.9
    """A trial must keep this share of the model's retain score, or it is no success; no matter without retain rows."""
    ranks: tuple[Annotated[int, Range(0, 2**16)], ...] = (0, 0, 4, 32)
    """Ranks of adapters to draw from; 0: all weights."""
    mixes: tuple[Share, ...] = (0.0, 0.25, 0.5)
    """Shares of retain rows to draw from."""

    def rounds(self) -> list[int]:
        """Trials in each round: each has half of those in the one before, and they add up to `trials`."""
        first = next(n for n in range(self.trials, 0, -1) if sum(n >> i for i in range(n.bit_length())) <= self.trials)
        sizes = [first >> i for i in range(first.bit_length())]
        return [sizes[0] + self.trials - sum(sizes), *sizes[1:]]

    def drawn(self, target: "Target") -> list[Way]:
        """The ways of the first round. Learning rates are drawn evenly on a logarithmic scale: 1e-4 to 1e-2 at width
        64, eight times as high for an adapter."""
        import random

        from sluicegate.engine.models import width

        draw, scale = random.Random(f"{target.seed} search"), 64 / width(target.model)
        mixes = self.mixes if target.retain is not None else (0.0,)
        batches = [b for b in (8, 16, 32, 64) if b <= self.batch] or [self.batch]
        found = []
        for _ in range(self.rounds()[0]):
            rank, rate = draw.choice(self.ranks), 10 ** draw.uniform(-4, -2) * scale
            found.append(Way(float(f"{rate * (8 if rank else 1):.2g}"), draw.choice(batches), rank, draw.choice(mixes)))
        return found

    def traces(self, target: "Target") -> "Iterator[Trace]":
        from sluicegate.audit.target import Trace

        trace, plain = Trace(""), target.read()
        trace.add(0.0, plain)
        sizes, ways, number, best = self.rounds(), self.drawn(target), 0, plain
        start = target.keep([name for name, _ in target.model.named_parameters()])
        for level, size in enumerate(sizes):
            steps, ranked = max(self.steps >> (len(sizes) - 1 - level), 1), []
            for way in ways[:size]:
                number += 1
                target.progress(number, self.trials)
                reading = self._tried(target, way, steps, f"trial {number}")
                start.put_back()
                kept = "retain" not in reading or reading["retain"] >= self.keep_retain * plain["retain"]
                ranked.append((kept, sum(reading["facts"]), way))
                if kept and sum(reading["facts"]) > sum(best["facts"]):
                    best = reading
                    target.notes.append(f"trial {number} is the best so far: {steps} steps, {way}")
                trace.add(float(number), best)
            ways = [way for *_, way in sorted(ranked, key=lambda one: one[:2], reverse=True)]
        yield trace

    def _tried(self, target: "Target", way: Way, steps: int, name: str) -> "Reading":
        """What the model recalls after this attack, which stays in it but for its adapter."""
        from sluicegate.audit.adapter import add_adapter
        from sluicegate.engine.sampling import Mixture, Part, seed_of
        from sluicegate.engine.training import CrossEntropy, Diverged, Evaluation, at_steps, fit
        from sluicegate.values.edits import note_structure

        count = len(target.owned)
        rows = target.encoded([*target.owned.items, *(target.retain.items if target.retain is not None and way.mix else ())])
        shares = {"owned": Part(range(count), 1 - way.mix), "retain": Part(range(count, len(rows)), way.mix)}
        draw = Mixture(rows, way.batch, seed_of(target.seed, name), shares)
        take_off = note_structure(target.model)
        try:
            if way.rank:
                add_adapter(target.model, way.rank, seed_of(target.seed, "adapter"))
            fitted: Fitted = fit(
                target.model,
                CrossEntropy(self.on),
                lambda step: {"train": draw(step)},
                Schedule(steps=steps, batch=way.batch, lr=way.lr),
                seed=target.seed,
                run=target.run,
                name=name,
                params="*lora_*" if way.rank else "*",
                evaluation=Evaluation(lambda _, ledger: target.read(ledger=ledger), at_steps([steps])),
                keep_weights=False,
            )
        except Diverged as error:
            fitted = error.fitted
        finally:
            take_off()
        target.ledger.add(fitted.ledger)
        return dict(fitted.records[-1]) if fitted.records else {"facts": [float("-inf")], "retain": -1.0}

    def capacity(self, model: "PreTrainedModel") -> int:
        return sum(p.numel() for p in model.parameters())

    def passes(self, owned: int, held_out: int) -> float:
        sizes = self.rounds()
        steps = sum(size * (self.steps >> (len(sizes) - 1 - level)) for level, size in enumerate(sizes))
        return 3.0 * steps * self.batch / 2 + (1 + self.trials) * (owned + held_out)
