"""A language model's forward pass over a batch: its logits, and what it costs in FLOPs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sluicegate.engine.encoding import Batch
from sluicegate.errors import UserError


def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """[b, s-1, V] next-token logits for every position that has a next token."""
    out: Tensor = forward(model, batch).logits
    return out[:, :-1]


def forward(model: PreTrainedModel, batch: Batch, **asked: Any) -> Any:
    """The model's own answer to a batch."""
    return model(input_ids=batch.ids, attention_mask=batch.attention.long(), use_cache=False, **asked)


def matrices(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, str, Tensor]]:
    """The weights that activations are multiplied by, as (module's name, module, weight's name, weight): those of
    linear layers and of experts' routers [out, in], and stacks of experts [e, ., .]."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        router = "router" in type(module).__name__.lower() and isinstance(weight, Tensor) and weight.dim() == 2
        if isinstance(weight, Tensor) and (router or isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"):
            yield name, module, "weight", weight
        elif not isinstance(module, torch.nn.modules.conv._ConvNd):
            stacks = [(key, p) for key, p in module.named_parameters(recurse=False) if p.dim() == 3 and p.shape[1] > 1]
            yield from ((name, module, key, p) for key, p in stacks)


class Meter:
    """The FLOPs of one forward pass over a batch; made once for a model whose shape stays.

    For b rows of s tokens, ``b s (2 W + 6 S + 2 s L H (D + E))``: W weights in linear layers, L layers of H attention
    heads with queries of size D and values of size E. A multiply-add counts as two FLOPs. Attention is counted over all
    s x s pairs, since a padding mask has them all computed. Of fused experts those count that a token is sent to, all
    where the configuration does not say how many. S numbers are the state of state-space layers (Mamba): each decays,
    takes in and is read out once a token. Norms, activations, short convolutions and look-ups are left out.
    A backward pass counts as two forward passes, which is for the caller to add.
    Raises `UserError` for a model without attention heads or such a state: what it computes is not known here.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        # Only matrix products count. Embeddings are looked up; an output layer that shares their weights is a linear
        # layer. Of e experts a token sees some.
        chosen = getattr(config, "num_experts_per_tok", None) or getattr(config, "moe_topk", None)
        weights = 0
        packed: list[Any] = [m for m in model.modules() if hasattr(m, "qweight")]  # GPTQ, AWQ
        for _, module, _, weight in matrices(model):
            experts = len(weight) if weight.dim() == 3 else 1
            used = min(chosen, experts) if isinstance(chosen, int) else experts
            if weight.is_floating_point():
                weights += weight.numel() // experts * used
            else:
                packed.append(module)  # bitsandbytes
        weights += sum(m.in_features * m.out_features for m in packed)
        mixers = [m for m in model.modules() if isinstance(getattr(m, "ssm_state_size", None), int)]
        state = sum(int(m.intermediate_size) * int(m.ssm_state_size) for m in mixers)  # type: ignore[arg-type, misc]
        self._per_token = 2 * weights + 6 * state
        heads = getattr(config, "num_attention_heads", None) or 0
        if not heads and not mixers:
            raise UserError(f"the FLOPs of a model of type {config.model_type!r} are not known: no attention heads and no state size.")
        # A hybrid model names its layers' kinds; those without attention have no pairs of tokens.
        kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ()
        layers = len([kind for kind in kinds if "attention" in kind and "linear" not in kind]) if kinds else config.num_hidden_layers
        size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
        queries = getattr(config, "qk_head_dim", None) or size  # latent attention (DeepSeek) has values of another size
        values = getattr(config, "v_head_dim", None) or size
        # Queries with keys, and the weights with values: two products for a pair of tokens and a layer.
        self._per_pair = 2 * heads * (queries + values) * layers

    def __call__(self, batch: Batch) -> float:
        """FLOPs of one forward pass over `batch`, its padding included, since that is computed too."""
        rows, width = batch.ids.shape
        return float(rows * width * (self._per_token + width * self._per_pair))


def hidden_of(output: Any) -> Tensor:
    """The hidden states in what a layer gives out: itself, or the first of a tuple."""
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first


def with_hidden(output: Any, new: Tensor) -> Any:
    """What a layer gives out, with other hidden states in it."""
    return (new, *output[1:]) if isinstance(output, tuple) else new


@contextmanager
def hooked(module: torch.nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """A forward hook for the length of a block."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
