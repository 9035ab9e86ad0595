"""A language model's forward pass over a batch: its logits, and what it costs in FLOPs."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sluicegate.engine.encoding import Batch


def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """[b, s-1, V] next-token logits for every position that has a next token."""
    answer = model(input_ids=batch.ids, attention_mask=batch.attention.long(), use_cache=False)
    out: Tensor = answer.logits
    return out[:, :-1]


class Meter:
    """The FLOPs of one forward pass over a batch; made once for a model whose shape stays.

    For b rows of s tokens, ``b s (2 W + 4 s L H D)``: W weights in linear layers, L layers of H attention heads of size
    D. A multiply-add counts as two FLOPs. Attention is counted over all s x s pairs, since a padding mask has them all
    computed. Norms, activations and look-ups are left out, as is usual.
    A backward pass counts as two forward passes, which is for the caller to add.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        # Only matrix products count. Embeddings are looked up; an output layer that shares their weights is a linear
        # layer.
        weights = 0
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":
                weights += weight.numel() if weight is not None else 0
        config = model.config.get_text_config()
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._per_token = 2 * weights
        # Queries with keys, and the weights with values: two products of H x D multiply-adds for a pair of tokens and a
        # layer.
        self._per_pair = 4 * config.num_attention_heads * head_dim * config.num_hidden_layers

    def __call__(self, batch: Batch) -> float:
        """FLOPs of one forward pass over `batch`, its padding included, since that is computed too."""
        rows, width = batch.ids.shape
        return float(rows * width * (self._per_token + width * self._per_pair))
