from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluicegate.audit.attackers import Attacker
from sluicegate.values.ranges import Count, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from sluicegate.audit.target import Target, Trace
    from sluicegate.engine.encoding import Rows


@dataclass(frozen=True)
class Sample(Attacker):
    """Ask again and again: the chance that at least one of k sampled answers is right (leak@k).

    Exact and without sampling: with p the probability of the whole answer at a temperature T, ``1 - (1 - p)^k``.
    """

    NAME = "sample"
    UNIT = "samples"
    SUITE = "quick"
    SOURCE = "2511.04934"

    temperature: Positive = 1.0
    """T: logits are divided by it."""
    samples: tuple[Count, ...] = (1, 4, 16, 64, 128)
    """k: how many answers are sampled."""

    def traces(self, target: "Target") -> "Iterator[Trace]":
        import torch

        from sluicegate.audit.target import Trace
        from sluicegate.engine.losses import cross_entropy, portions, reduce_logits

        def chance(rows: "Rows") -> "Tensor":
            """[n] log-probability of each row's whole answer at the temperature."""
            found = []
            for batch in portions(target.model, rows):
                each = reduce_logits(target.model, batch, "answer", lambda z, t: -cross_entropy(z / self.temperature, t)[:, None])
                at = batch.answer.cpu()
                found.append(torch.zeros(at.shape, dtype=each.dtype).masked_scatter(at, each[:, 0].cpu()).sum(1))
            return torch.cat(found)

        plain, trace = target.read(), Trace(f"T {self.temperature:g}")
        with torch.no_grad():
            odds = {name: chance(getattr(target, name)).exp().double() for name in ("owned", "held_out")}
        for k in sorted(self.samples):
            leaked = {name: float((1 - (1 - p) ** k).mean()) for name, p in odds.items()}
            trace.add(float(k), plain | leaked)
        yield trace
