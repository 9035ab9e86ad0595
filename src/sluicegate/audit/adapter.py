"""The adapter of an attacker who trains few weights: LoRA on every linear layer, by PEFT."""

import torch
from transformers import PreTrainedModel

from sluicegate.errors import UserError


def add_adapter(model: PreTrainedModel, rank: int, seed: int) -> None:
    """Put a LoRA adapter of `rank`, drawn from `seed`, on every linear layer of `model`, in place; its outputs stay
    what they were.

    Its scaling, alpha / rank, is 2. Source: Hu et al. 2021 (arXiv 2106.09685). The names of its parameters hold
    ``lora_``. Raises `UserError` where the package peft is missing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("an attack with an adapter needs the package peft. Install it with: pip install 'sluicegate[lora]'") from None
    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D") and module is not head
    ]
    conv = any(type(module).__name__ == "Conv1D" for module in model.modules())
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear, fan_in_fan_out=conv)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
