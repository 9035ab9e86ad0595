"""Steering vectors from contrastive prompts: the mean difference of activations.

Source: Rimsky et al. 2023 (arXiv 2312.06681); here read from prompts alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.engine.forward import hidden_of, hooked
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.steering.prompts import prompt_ids
from sluicegate.steering.vector import SteeringVector, check_tokens, module_of, steered


@dataclass(frozen=True)
class Contrast:
    """What is common to vectors that are read from positive and negative prompts."""

    module: str
    """Path of the module whose output is read and steered, such as "model.layers.10"."""
    read: str = "last"
    """Which tokens of a prompt are read: last, not_first, all or positions "a:b"; their mean where they are several."""
    tokens: str = "not_first"
    """Which tokens the vector steers."""
    scale: float = 1.0
    """The vector is this many times what is found."""

    def __post_init__(self) -> None:
        check_tokens(self.read)
        check_tokens(self.tokens)

    def fit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        positive: Sequence[str],
        negative: Sequence[str],
        *,
        template: bool | None = None,
        run: RunContext | None = None,
    ) -> SteeringVector:
        """The vector. Raises `UserError` for what `check` refuses, and where the sides do not differ."""
        self.check(len(positive), len(negative))
        rows = activations(model, tokenizer, [*positive, *negative], self.module, self.read, template=template, run=run)
        made_from = {
            "method": type(self).__name__, "read": self.read, "scale": self.scale, "positive": list(positive), "negative": list(negative),
            "model_type": str(model.config.model_type),
        }  # fmt: skip
        found = self.direction(rows[: len(positive)], rows[len(positive) :])
        return SteeringVector(found * self.scale, self.module, self.tokens, made_from)

    def check(self, positive: int, negative: int) -> None:
        """Raise `UserError` for numbers of prompts from which there is no vector."""
        raise NotImplementedError

    def direction(self, positive: Tensor, negative: Tensor) -> Tensor:
        """[d] the vector before it is scaled, from activations [n, d] of either side."""
        raise NotImplementedError


@dataclass(frozen=True)
class MeanDiff(Contrast):
    """Mean activation over the positive prompts minus the mean over the negative ones, at a module's output."""

    def check(self, positive: int, negative: int) -> None:
        """Raise `UserError` where one side has no prompt."""
        if not positive or not negative:
            raise UserError(f"a mean difference needs prompts on both sides; got {positive} positive and {negative} negative.")

    def direction(self, positive: Tensor, negative: Tensor) -> Tensor:
        """[d] the difference of the means."""
        found = positive.mean(0) - negative.mean(0)
        check_apart(found)
        return found


def check_apart(found: Tensor) -> None:
    """Raise `UserError` where the difference of the two sides is 0."""
    if not bool(found.norm() > 0):
        raise UserError("the positive and the negative prompts give the same activations, so there is no direction between them.")


@torch.no_grad()
def activations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    module: str,
    read: str = "last",
    *,
    template: bool | None = None,
    run: RunContext | None = None,
) -> Tensor:
    """[n, d] the module's output for every prompt, at the token that is `read` or the mean over several."""
    run, place, rows = run or RunContext(), module_of(model, module), []
    kept: list[Tensor] = []

    with hooked(place, lambda _, __, output: kept.append(hidden_of(output))):
        for number, prompt in enumerate(prompts, start=1):
            ids = prompt_ids(tokenizer, prompt, template)[None].to(next(model.parameters()).device)
            kept.clear()
            model(input_ids=ids, use_cache=False)
            where = steered(read, torch.arange(ids.shape[1])[None], begun=False)[0]
            if not bool(where.any()):
                raise UserError(f"read={read!r} takes no token of the prompt {prompt!r}, which has {ids.shape[1]}.")
            rows.append(kept[0][0, where.to(kept[0].device)].float().mean(0).cpu())
            run.progress("activations", number, len(prompts), {})
    return torch.stack(rows)
