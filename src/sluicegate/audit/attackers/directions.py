"""What attackers by direction have in common: mean hidden states behind each layer, and hooks that use them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from sluicegate.engine.encoding import Rows


def mean_states(model: "PreTrainedModel", rows: "Rows") -> "Tensor":
    """[layers, d] mean hidden states behind each layer where the first token of each answer is predicted."""
    import torch

    from sluicegate.audit.target import layers
    from sluicegate.engine.forward import forward, hidden_of
    from sluicegate.engine.losses import portions

    found = layers(model)
    sums: list[Any] = [0.0] * len(found)
    with torch.no_grad():
        for batch in portions(model, rows):
            at = torch.nn.functional.pad(batch.answer, (0, 1)).int().argmax(1)  # the position that predicts the first

            def look(m: Any, args: Any, out: Any, i: int = 0, at: Any = at) -> None:
                sums[i] = sums[i] + hidden_of(out)[torch.arange(len(at)), at].double().sum(0).cpu()

            handles = [layer.register_forward_hook(lambda m, a, o, i=i, look=look: look(m, a, o, i)) for i, layer in enumerate(found)]
            try:
                forward(model, batch)
            finally:
                for handle in handles:
                    handle.remove()
    return torch.stack(sums) / len(rows)
