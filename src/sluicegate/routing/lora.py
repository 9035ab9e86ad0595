"""LoRA layers whose rank has changed: PEFT's records of it, in the layer and in the adapter's configuration."""

import math
from collections import Counter
from typing import Any

from torch import nn

from sluicegate.routing.sites import lora_of


def set_rank(model: nn.Module, module: nn.Module, rank: int) -> None:
    """Record a LoRA layer's new rank, with alpha such that its scaling stays what it was.

    In the adapter's configuration, layers of one rank are one number, and the rest are its patterns,
    so that PEFT saves and loads the adapter either way.
    """
    name: str = lora_of(module)  # type: ignore[assignment]
    layer: Any = module
    rooted = bool(getattr(layer, "use_rslora", {}).get(name))
    layer.r[name] = rank
    layer.lora_alpha[name] = _whole(layer.scaling[name] * (math.sqrt(rank) if rooted else rank))
    holder = next(((n, m) for n, m in model.named_modules() if name in (getattr(m, "peft_config", None) or {})), None)
    if holder is None:
        return
    prefix, config = holder[0], holder[1].peft_config[name]
    layers = {n: m for n, m in model.named_modules() if lora_of(m) is not None and name in m.r}
    sizes = {_inner(n, prefix, holder[1]): (m.r[name], m.lora_alpha[name]) for n, m in layers.items()}
    config.r, config.lora_alpha = Counter(sizes.values()).most_common(1)[0][0]
    config.rank_pattern = {n: r for n, (r, _) in sizes.items() if r != config.r}
    config.alpha_pattern = {n: alpha for n, (_, alpha) in sizes.items() if alpha != config.lora_alpha}


def _whole(alpha: float) -> float:
    return int(alpha) if float(alpha).is_integer() else alpha


def _inner(name: str, prefix: str, holder: nn.Module) -> str:
    """A layer's name within the model that the adapter was put around."""
    inner = name.removeprefix(f"{prefix}." if prefix else "")
    if inner.startswith("base_model.model."):  # a PeftModel holds a tuner, which holds the model
        return inner.removeprefix("base_model.model.")
    return inner.removeprefix("model.") if hasattr(holder, "targeted_module_names") else inner
