"""FSDP2 for the length of a training loop: a model is divided among the processes, and put together again in place."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def shard(model: nn.Module, world: int) -> Callable[[], None]:
    """Divide the weights of `model` among `world` processes; what it returns puts them together again.

    Layers (the entries of module lists) are gathered one at a time, and all that is left together. Afterwards the
    model has the parameters, modules and hooks that it had, so that a router on it lives on, and the weights as
    they were trained. FSDP2 knows no way back: what it put on a module is taken off by restoring the module's own
    attributes.
    """
    # What a module was, before FSDP2 changes its class, its parameters and its hooks.
    kind = next(model.parameters()).device.type
    mesh = init_device_mesh(kind, (world,))
    before = [(module, module.__class__, _attributes(module)) for module in model.modules()]
    whole = dict(model.named_parameters())
    # A layer at a time is gathered in a pass, so that no process ever holds the whole model's weights and gradients.
    for layers in [m for m in model.modules() if isinstance(m, nn.ModuleList)]:
        for layer in layers:
            if any(True for _ in layer.parameters()):
                fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for parameter in whole.values():
        parameter.data = parameter.data.new_empty(0)  # or every process would hold all of it, too

    def join() -> None:
        model.reshard() if hasattr(model, "reshard") else None  # type: ignore[operator]
        divided = dict(model.named_parameters())
        # The same parameters as before, by identity: an optimiser or a router of the caller's may hold them.
        with torch.no_grad():
            for name, parameter in whole.items():
                value = divided[name]
                parameter.data = value.full_tensor().detach() if isinstance(value, DTensor) else value.detach()
                parameter.requires_grad_(value.requires_grad)
                parameter.grad = None
        # Then the modules themselves, and the entry by which FSDP2 would know them again.
        for module, cls, attributes in before:
            _restore(module, cls, attributes)
            _module_state_mapping.pop(module, None)

    return join


def _attributes(module: nn.Module) -> dict[str, tuple[Any, dict[Any, Any] | None]]:
    """Every attribute of a module, and of those that are dictionaries (parameters, hooks) the content, too."""
    return {name: (value, dict(value) if isinstance(value, dict) else None) for name, value in vars(module).items()}


def _restore(module: nn.Module, cls: type[nn.Module], attributes: dict[str, tuple[Any, dict[Any, Any] | None]]) -> None:
    """Put them back, dictionaries in place: others hold on to them."""
    training = module.training
    module.__class__ = cls
    own = vars(module)
    own.clear()
    for name, (value, content) in attributes.items():
        own[name] = value
        if content is not None:
            value.clear()
            value.update(content)
    own["training"] = training
