"""The adapter of an attacker who trains few weights: LoRA on every linear layer, by PEFT."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sluicegate.engine.forward import matrices
from sluicegate.errors import UserError


class _LowRank(nn.Module):
    """``W + 2 B A`` in place of a weight W [out, in], also where a model reads the weight and never calls the layer."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.lora_B = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as PEFT does

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (2 * self.lora_B @ self.lora_A).to(weight.dtype)


def add_adapter(model: PreTrainedModel, rank: int, seed: int) -> None:
    """Put a LoRA adapter of `rank`, drawn from `seed`, on every linear layer of `model` and every fused expert, in
    place; its outputs stay what they were.

    Its scaling, alpha / rank, is 2, and its numbers are float32. Source: Hu et al. 2021 (arXiv 2106.09685). The names
    of its parameters hold ``lora_``. Raises `UserError` where the package peft is missing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("an attack with an adapter needs the package peft. Install it with: pip install 'sluicegate[lora]'") from None
    head = model.get_output_embeddings()
    # A state-space mixer hands its layers' weights to a kernel, and PEFT's wrapper of a layer would never be called.
    mixers = tuple(f"{name}." for name, module in model.named_modules() if hasattr(module, "ssm_state_size"))
    linear = [name for name, module in model.named_modules() if hasattr(module, "qweight")]  # GPTQ, AWQ
    stacks, read = [], []
    for name, module, key, weight in matrices(model):
        if weight.dim() == 3:
            stacks.append(f"{name}.{key}")
        elif not (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") or (mixers and name.startswith(mixers)):
            read.append(module)
        elif module is not head:
            linear.append(name)
    # PEFT asks a quantised model itself how it is packed. Any other goes in a holder without `config`: of a mixture of
    # experts PEFT would take the targets for names of an earlier layout, and with them lose the dense layers that are
    # called the same (DeepSeek-V3).
    holder, prefix = (model, "") if getattr(model, "is_quantized", False) else (nn.ModuleDict({"model": model}), "model.")
    targets: Any = {
        "target_modules": [f"{prefix}{name}" for name in linear],
        "target_parameters": [f"{prefix}{name}" for name in stacks] or None,
    }
    conv = any(type(module).__name__ == "Conv1D" for module in model.modules())
    config = LoraConfig(r=rank, lora_alpha=2 * rank, fan_in_fan_out=conv, **targets)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.requires_grad_(False)
        if linear or stacks:
            inject_adapter_in_model(config, holder)
        for module in read:
            weight = module.get_parameter("weight")
            nn.utils.parametrize.register_parametrization(module, "weight", _LowRank(weight, rank))
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # whatever the model's own: it is small, and learns by small steps
            parameter.data = parameter.data.float()
