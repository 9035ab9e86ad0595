import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.errors import UserError, check_choices
from sluicegate.routing.views import Of, aligned, corpus, shares, view

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Frequency:
    """Soft labels by how much more frequent a token is in forget text: ``Frequency().fit(forget, retain)``.

    A token t gets the share ``1 - w_t`` of `label` and ``w_t`` of `otherwise`, with

    ``w_t = 1 - sigmoid(slope * (r - 1/r) - shift)``, ``r = f_t / g_t``,
    ``f_t = (c_t + p) / (n + p V)``

    where f (g) is the token's smoothed frequency in forget (retain) text: c_t times among n tokens, p
    pseudo-counts for each of the V tokens of the vocabulary.

    Source: Cloud et al. 2024 (arXiv 2410.04332), TinyStories, where the rest of a site gets
    ``a_t = w_t - .75 (1 - w_t)`` and the block 1. That is a router with ``weights={"forget": -0.75}``,
    ``otherwise="unlabelled"`` (which trains everything by 1), and this rule on labelled forget rows only:
    ``Within(rows, Frequency().fit(forget, retain), "forget")``. On its own it labels tokens of any row.

    Indexed: with `of` "target" (default, the paper's) by the token to be predicted at a position; with
    "input", by the one that stands there. The last position, which has no target, and padding get
    `otherwise` whole.
    """

    NAME: ClassVar[str] = "frequency"

    label: str = "forget"
    """The label of tokens that are typical of the forget text."""
    otherwise: str = "unlabelled"
    """The label of the others."""
    of: Of = "target"
    """Whether a position counts as the token to be predicted there (target) or as the one that stands there (input)."""
    slope: float = 1.0
    """How steeply the share rises with r - 1/r."""
    shift: float = 4.0
    """Where it is one half: at r - 1/r = shift / slope, which is r = 4.24 by default."""
    pseudo_forget: float = 1.0
    """Pseudo-counts of every token in the forget text."""
    pseudo_retain: float = 20.0
    """Pseudo-counts of every token in the retain text; more of them let a word that is rare in both count as typical of
    none."""
    table: "Tensor | None" = field(default=None, repr=False)
    """[V + 1] w of every token, last of those beyond the vocabulary; made by `fit`."""

    def __post_init__(self) -> None:
        check_choices(type(self), {"of": self.of})
        if not (math.isfinite(self.slope) and math.isfinite(self.shift)):
            raise UserError(f"slope is {self.slope} and shift {self.shift}; both must be finite.")
        if not (0 < self.pseudo_forget < math.inf and 0 < self.pseudo_retain < math.inf):
            raise UserError(
                f"pseudo-counts are {self.pseudo_forget:g} and {self.pseudo_retain:g}; both must be above 0, or r has no bounds."
            )

    def fit(self, forget: Any, retain: Any, vocabulary: int | None = None) -> "Frequency":
        """Count tokens in two corpora (encoded rows, or any batch) and return the rule that knows them.

        `vocabulary` is V; without, one more than the largest id in either. Targets are counted where the rule
        goes by targets: a row's first token is none. Raises `UserError` for a corpus without tokens.
        """
        import torch

        counts = [_count(name, rows, self.of) for name, rows in (("forget", forget), ("retain", retain))]
        size = max(len(c) for c in counts)
        if vocabulary is not None:
            if vocabulary < size:
                raise UserError(f"vocabulary is {vocabulary}, but the token {size - 1} occurs.")
            size = vocabulary
        frequencies = []
        for count, pseudo in zip(counts, (self.pseudo_forget, self.pseudo_retain), strict=True):
            padded = torch.zeros(size + 1, dtype=torch.float64)
            padded[: len(count)] = count
            frequencies.append((padded + pseudo) / (padded.sum() + pseudo * size))
        r = frequencies[0] / frequencies[1]
        return replace(self, table=torch.sigmoid(self.shift - self.slope * (r - 1 / r)).float())

    def weight(self, ids: "Tensor") -> "Tensor":
        """w of token ids, of any shape."""
        if self.table is None:
            raise UserError("the rule 'frequency' has counted nothing yet. Use what its fit(forget_rows, retain_rows) returns.")
        return self.table.to(ids.device)[ids.long().clamp(max=len(self.table) - 1)]

    def __call__(self, batch: Any, labels: Sequence[str]) -> "Tensor":
        ids, real = view(batch).tokens(self.NAME)
        w = self.weight(ids).masked_fill(~real, 1.0)
        return shares(1 - aligned(w, self.of, 1.0), self.label, self.otherwise, labels)


def _count(name: str, rows: Any, of: Of) -> "Tensor":
    """[largest id + 1] how often each token occurs."""
    import torch

    ids, real = corpus(rows).tokens("frequency")
    if of == "target":
        ids, real = ids[:, 1:], real[:, 1:] & real[:, :-1]
    if not bool(real.any()):
        raise UserError(f"the {name} corpus of the rule 'frequency' holds no tokens to count. Give it rows of two tokens or more.")
    return torch.bincount(ids[real].cpu()).double()
