"""Divide a model's weights among processes for the length of training (FSDP2), and join them again in place."""

from collections.abc import Callable

import torch
from torch import nn
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from sluicegate.values.edits import note_structure


def shard(model: nn.Module, world: int) -> Callable[[], None]:
    """Divide the weights of `model` among `world` processes; return a function that puts them together again.

    In a pass, layers (the entries of module lists) are gathered one at a time, and all that is left in one piece.
    Afterwards the model has its own parameter objects, modules and hooks again, so that a router on it stays valid.
    """
    kind = next(model.parameters()).device.type
    mesh = init_device_mesh(kind, (world,))
    # FSDP2 changes a module's class, its parameters and its hooks: all of it lies in the module's attributes.
    modules, put_back = list(model.modules()), note_structure(model)
    whole = dict(model.named_parameters())
    # A layer at a time is gathered in a pass, so that no process ever holds the whole model's weights and gradients.
    # Inner modules first: what a layer has taken, the call for the whole model leaves alone.
    for layers in [m for m in model.modules() if isinstance(m, nn.ModuleList)]:
        for layer in layers:
            if any(True for _ in layer.parameters()):
                fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for parameter in whole.values():
        parameter.data = parameter.data.new_empty(0)  # or every process would hold the whole model beside its part

    def join() -> None:
        # Give back what the last pass had gathered, so that every parameter is a divided one.
        model.reshard() if hasattr(model, "reshard") else None  # type: ignore[operator]
        divided = dict(model.named_parameters())
        # Collect the trained values into the same parameter objects as before: an optimiser or a router may hold them.
        with torch.no_grad():
            for name, parameter in whole.items():
                value = divided[name]
                parameter.data = value.full_tensor().detach() if isinstance(value, DTensor) else value.detach()
                parameter.requires_grad_(value.requires_grad)
                parameter.grad = None
        # Take off FSDP2's classes and hooks, and its entry in torch's table of module states, or the model could not be
        # divided again.
        put_back(training=False)
        for module in modules:
            _module_state_mapping.pop(module, None)

    return join
