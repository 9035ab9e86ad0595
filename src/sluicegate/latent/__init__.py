"""An autoencoder whose latent space can be read: every class owns a block, an amount and a few styles.

The label decides only where gradients go (`objective.Objective.around`); no loss sees it. After Goldman-Wetzler,
"Creating Interpretable Latent Spaces with Gradient Routing" (2024), with blocks in place of single dimensions.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sluicegate.latent.model import Autoencoder, load
    from sluicegate.latent.settings import Settings
    from sluicegate.latent.training import train

_HOMES = {"Autoencoder": "model", "load": "model", "Settings": "settings", "train": "training"}

__all__ = ["Autoencoder", "Settings", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
