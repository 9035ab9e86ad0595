import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.errors import UserError, check_choices
from sluicegate.routing.views import Of, aligned, number, probabilities, shares, view

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Probe:
    """Labels by a classifier's scores: ``Probe(fit_probe(model, rows, is_forget, "model.layers.2"))``.

    `scores` is anything that gives probabilities for a batch: (b,) for rows or (b, t) for tokens. Where they
    are `threshold` or more the label is `label`; with `soft` they are its share. `probing.fit_probe` makes
    a logistic probe from a model's own activations, so that data can be routed by what it means.

    Indexed: a row's score labels the row. Of tokens, with `of` "input" (default) the score that was computed at
    a position labels it; with "target" the next position's score does, and the last position gets `otherwise`.
    Padding gets `otherwise`.
    """

    NAME: ClassVar[str] = "probe"

    scores: Callable[[Any], Any]
    """From a batch to probabilities (b,) or (b, t)."""
    label: str = "forget"
    """The label that high scores stand for."""
    otherwise: str = "retain"
    """The label of what scores low."""
    threshold: float = 0.5
    """The lowest score that gets the label, between 0 and 1."""
    soft: bool = False
    """Give shares in place of a decision; the threshold is then not used."""
    of: Of = "input"
    """Whether a position goes by the score computed at it (input) or by that of the token to be predicted there
    (target)."""

    def __post_init__(self) -> None:
        check_choices(type(self), {"of": self.of})
        if not callable(self.scores):
            raise UserError(f"scores is {self.scores!r}; give something that can be called with a batch.")
        if not (math.isfinite(self.threshold) and 0 <= self.threshold <= 1):
            raise UserError(f"threshold is {self.threshold:g}; it is compared with probabilities, so it must lie between 0 and 1.")

    def __call__(self, batch: Any, labels: Sequence[str]) -> "Tensor":
        import torch

        seen = view(batch)
        found = self.scores(seen.raw)
        if not isinstance(found, torch.Tensor):
            raise UserError(
                f"the scores of the rule 'probe' are a {type(found).__name__}; they must be a tensor (batch,) or (batch, tokens)."
            )
        if (
            found.shape[:1] != (seen.rows,)
            or found.dim() > 2
            or (seen.ids is not None and found.dim() == 2 and found.shape != seen.ids.shape)
        ):
            tokens = tuple(seen.ids.shape) if seen.ids is not None else "one a token"
            raise UserError(
                f"the scores of the rule 'probe' have shape {tuple(found.shape)}; expected ({seen.rows},) for rows or {tokens} for tokens."
            )
        found = found.detach().float()
        if seen.attention is not None and found.dim() == 2:
            found = found.masked_fill(~seen.attention.to(found.device), 0.0)  # whatever a classifier says of padding
        found = probabilities(found, self.NAME)
        first, second = number(self.label, labels), number(self.otherwise, labels)
        if self.soft:
            p = aligned(found, self.of, 0.0) if found.dim() == 2 else found
            return shares(p, self.label, self.otherwise, labels)
        high = found >= self.threshold
        if found.dim() == 2 and seen.attention is not None:
            high = high & seen.attention.to(found.device)  # at threshold 0 too
        chosen = torch.where(high, first, second)
        return aligned(chosen, self.of, second) if chosen.dim() == 2 else chosen
