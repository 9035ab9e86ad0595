"""How much of a vector, in multiples of it: the dose of a given KL from the model, and what each dose does."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.errors import UserError
from sluicegate.steering.parts import Slice
from sluicegate.steering.prompts import prompt_ids
from sluicegate.steering.score import Floats, continuation
from sluicegate.steering.vector import SteeringVector


@torch.no_grad()
def kl_to_plain(model: PreTrainedModel, ids: Sequence[Tensor], v: SteeringVector, doses: Sequence[float], *, tokens: int = 12) -> Floats:
    """[doses, prompts] KL(dose * v || plain model), nats a token, over the plain greedy answer of `tokens`."""
    found = np.zeros((len(doses), len(ids)))
    for p, prompt in enumerate(ids):
        full = continuation(model, prompt, None, tokens - 1, stops=False)[0] if tokens > 1 else prompt
        part = Slice(model, full, source=v.module, tokens=v.tokens)
        some = torch.stack([v.values * dose for dose in doses] + [torch.zeros_like(v.values)])
        log = part.logits(some, tokens).log_softmax(-1)
        found[:, p] = (log[:-1].exp() * (log[:-1] - log[-1])).sum(-1).mean(-1).double().cpu().numpy()
    return found


def calibrate(
    v: SteeringVector,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    kl: float = 1.0,
    tokens: int = 12,
    most: float = 64.0,
    template: bool | None = None,
) -> SteeringVector:
    """The multiple of `v` whose mean `kl_to_plain` is `kl` nats a token within 2 %; `UserError` beyond `most`."""
    if not kl > 0:
        raise UserError(f"a KL budget is more than 0 nats; got {kl:g}.")
    ids = [prompt_ids(tokenizer, prompt, template) for prompt in prompts]

    def reached(dose: float) -> float:
        return float(kl_to_plain(model, ids, v, [dose], tokens=tokens).mean())

    low, high = 0.0, 1.0
    while reached(high) < kl:
        low, high = high, high * 2
        if high > most:
            raise UserError(f"{most:g} times this vector changes the model by less than {kl:g} nats a token: it has no such effect.")
    middle = high
    for _ in range(20):
        middle = (low + high) / 2
        found = reached(middle)
        if abs(found - kl) <= 0.02 * kl:
            break
        low, high = (middle, high) if found < kl else (low, middle)
    return v * middle


def curve(
    v: SteeringVector,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    doses: Sequence[float],
    *,
    tokens: int = 12,
    template: bool | None = None,
) -> Floats:
    """[doses] mean KL to the plain model at every dose (see `kl_to_plain`)."""
    ids = [prompt_ids(tokenizer, prompt, template) for prompt in prompts]
    return np.asarray(kl_to_plain(model, ids, v, doses, tokens=tokens).mean(1))
