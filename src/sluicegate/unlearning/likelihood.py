"""Quantities that several objectives are made of: an answer's log-probability, the retain loss, a layer's hidden
state."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sluicegate.engine.encoding import Batch
from sluicegate.engine.losses import token_losses, without_logits
from sluicegate.engine.training import masked_mean


def answer_log_probability(model: PreTrainedModel, batch: Batch) -> Tensor:
    """[b] log-probability of each row's answer given its prompt, in nats."""
    return -token_losses(model, batch, "answer").sum(1)


def retain_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Cross-entropy of the retain answers, in nats a token."""
    return masked_mean(token_losses(model, batch, "answer"), batch, "answer")


def hidden_state(model: PreTrainedModel, batch: Batch, layer: int, weights: Mapping[str, Tensor] | None = None) -> Tensor:
    """[b, s, d] output of one layer; with `weights`, as it would be with those in place of the model's own."""
    inputs = {
        "input_ids": batch.ids,
        "attention_mask": batch.attention.long(),
        "use_cache": False,
        "output_hidden_states": True,
    }
    with without_logits(model):
        answer = torch.func.functional_call(model, dict(weights), (), inputs) if weights else model(**inputs)
    state: Tensor = answer.hidden_states[layer + 1]
    return state
