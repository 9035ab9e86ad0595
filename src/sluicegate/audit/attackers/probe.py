from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluicegate.audit.attackers import Attacker
from sluicegate.values.ranges import Positive

if TYPE_CHECKING:
    from torch import Tensor

    from sluicegate.audit.target import Target, Trace


@dataclass(frozen=True)
class Probe(Attacker):
    """Read the answer off the hidden states by ridge regression, fitted on the facts that the attacker owns.

    At each layer, from the states [n, d] where an answer's tokens are predicted to the tokens, one column each. The
    penalty is the one with the least error on owned facts that are left out one at a time, which has a closed form.
    A fact's evidence is the right token's score minus that of the best other one; effort is the layer.
    """

    NAME = "probe"
    UNIT = "layer"
    SUITE = "quick"
    SOURCE = "2402.16835"
    BY = "owned"
    MEASURE = "the right token's score above the best other one's"

    penalties: tuple[Positive, ...] = (0.01, 0.1, 1.0, 10.0)
    """Ridge penalties tried, as shares of the states' mean squared length."""

    def traces(self, target: "Target") -> "Iterator[Trace]":
        import torch

        from sluicegate.audit.attackers.directions import states
        from sluicegate.audit.target import Trace

        plain = target.read()
        owned, held_out = states(target.model, target.owned), states(target.model, target.held_out)
        words = torch.unique(owned[1])
        wanted = (owned[1][:, None] == words).double()
        trace = Trace("")
        for layer, (x, y) in enumerate(zip(owned[0], held_out[0], strict=True)):
            mean, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
            x, y = (x - mean) / scale, (y - mean) / scale
            products, best = x @ x.T, (float("inf"), wanted, wanted)
            for penalty in self.penalties:
                inverse = torch.linalg.inv(products + penalty * products.diagonal().mean() * torch.eye(len(x), dtype=x.dtype))
                # What each row would be given by a fit without it (Allen 1974's PRESS).
                weights = inverse @ (wanted - wanted.mean(0))
                without = wanted - weights / inverse.diagonal()[:, None]
                error = float((wanted - without).square().mean())
                if error < best[0]:
                    best = (error, y @ x.T @ weights + wanted.mean(0), without)
            _, scores, without = best
            reading = dict(plain)
            for name, key, at, rows in (
                ("owned", "owned facts", (without, owned[1], owned[2]), target.owned),
                ("held_out", "facts", (scores, held_out[1], held_out[2]), target.held_out),
            ):
                margins, right = self._margins(*at, words, len(rows))
                reading[name], reading[key] = float(right.mean()), target.by_fact(rows, margins.tolist())
            trace.add(float(layer), reading | {"exact": target.by_fact(target.held_out, right.tolist())})
        yield trace

    def _margins(self, scores: "Tensor", tokens: "Tensor", index: "Tensor", words: "Tensor", rows: int) -> "tuple[Tensor, Tensor]":
        """For each row, its tokens' mean margin, and 1 where each token has the highest score."""
        import torch

        is_right = tokens[:, None] == words
        known = is_right.any(1)
        right = torch.where(is_right, scores, -torch.inf).amax(1)
        best = torch.where(is_right, -torch.inf, scores).amax(1)
        margin = torch.where(known, right - best, -torch.ones_like(best))  # a token that no owned answer has
        count = torch.zeros(rows).index_add(0, index, torch.ones(len(index)))
        mean = torch.zeros(rows, dtype=scores.dtype).index_add(0, index, margin) / count
        wrong = torch.zeros(rows).index_add(0, index, (margin <= 0).float())
        return mean, (wrong == 0).float()

    def capacity(self, model: Any) -> int:
        return int(model.config.get_text_config().hidden_size)
