"""What attackers that look inside have in common: the hidden states behind each layer where answers are predicted."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from sluicegate.engine.encoding import Rows


def states(model: "PreTrainedModel", rows: "Rows", *, first: bool = False) -> "tuple[list[Tensor], Tensor, Tensor]":
    """Hidden states [n, d] behind each layer where an answer's token is predicted, the tokens [n], their rows [n]; of
    the first token of each answer only, if `first`."""
    import torch

    from sluicegate.audit.target import layers
    from sluicegate.engine.forward import forward, hidden_of
    from sluicegate.engine.losses import portions

    found: list[list[Tensor]] = [[] for _ in layers(model)]
    tokens, index = [], []
    with torch.no_grad():
        for batch in portions(model, rows):
            here = batch.answer & (batch.answer.cumsum(1) == 1) if first else batch.answer
            at = torch.nn.functional.pad(here, (0, 1))
            handles = [
                layer.register_forward_hook(lambda m, a, out, own=own, at=at: own.append(hidden_of(out)[at].double().cpu()))
                for layer, own in zip(layers(model), found, strict=True)
            ]
            try:
                forward(model, batch)
            finally:
                for handle in handles:
                    handle.remove()
            tokens.append(batch.ids[:, 1:][here].cpu())
            index.append(batch.index[:, None].expand_as(here)[here].cpu())
    return [torch.cat(own) for own in found], torch.cat(tokens), torch.cat(index)


def mean_states(model: "PreTrainedModel", rows: "Rows") -> "Tensor":
    """[layers, d] mean hidden states behind each layer where the first token of each answer is predicted."""
    import torch

    return torch.stack([own.mean(0) for own in states(model, rows, first=True)[0]])
