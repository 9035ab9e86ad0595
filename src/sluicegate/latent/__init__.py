"""An autoencoder whose latent space can be read: every class owns a block, an amount and a few styles.

The label decides only where gradients go (`objective.Objective.around`); no loss sees it. After Goldman-Wetzler,
"Creating Interpretable Latent Spaces with Gradient Routing" (2024), with blocks in place of single dimensions.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
