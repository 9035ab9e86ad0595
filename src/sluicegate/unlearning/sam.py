"""Sharpness-aware minimisation: follow the gradient at the worst point in a small ball around the weights."""

import torch
from transformers import PreTrainedModel

from sluicegate.engine.training import Batches, Loss, Objective
from sluicegate.errors import UserError


class Sharpness:
    """Any objective, with the gradient of the worst point within `rho` of the weights.

    ``g = dL/dw (w);  the step follows dL/dw (w + rho * g / ||g||)``

    Training then ends in a flat minimum, which a little fine-tuning does not lead out of.

    Source: Foret et al. 2021 (arXiv 2010.01412), eq. 2 and 3; as a defence against relearning in Fan
    et al. 2025 (arXiv 2502.05374). Different from the latter: the forget and the retain term are
    perturbed together, as in the baselines of Lee et al. 2025 (arXiv 2506.06278).

    A step costs two of the objective's. The norm is of the whole step's gradient, so batches that
    were cut into parts are refused: each part would take its own worst point.
    """

    def __init__(self, objective: Objective, rho: float) -> None:
        self.objective = objective
        self.rho = rho

    def __call__(self, model: PreTrainedModel, batches: Batches) -> Loss:
        if any(batch.totals for batch in batches.values()):
            raise UserError("a sharpness-aware step needs its whole batch at once. Leave --accumulate and --procs out, or --sam.")
        trained = [p for p in model.parameters() if p.requires_grad]
        here = self.objective(model, batches)
        if not here.value.requires_grad:  # nothing that is trained bears on it: `fit` says so
            return here
        # 1. The worst point, to first order, lies along the gradient at a distance of rho.
        up = self._gradient(here.value, trained)
        norm = torch.stack([g.norm() for g in up]).norm()
        scale = float(self.rho / norm) if float(norm) > 0 else 0.0
        kept = [p.detach().clone() for p in trained]
        with torch.no_grad():
            for p, g in zip(trained, up, strict=True):
                p.add_(g, alpha=scale)
        # 2. The gradient there; then the weights go back to where they were.
        there = self.objective(model, batches)
        down = self._gradient(there.value, trained)
        with torch.no_grad():
            for p, old in zip(trained, kept, strict=True):
                p.copy_(old)
        # 3. `fit` calls backward on what is returned: a number that equals the loss there, and is linear in the weights
        # here with that gradient.
        value = there.value.detach() + sum(((p - p.detach()) * g).sum() for p, g in zip(trained, down, strict=True))
        log = {**there.log, "sharpness": there.value.detach() - here.value.detach()}
        return Loss(value, log, teacher_flops=here.teacher_flops + there.teacher_flops)

    @staticmethod
    def _gradient(value: torch.Tensor, trained: list[torch.nn.Parameter]) -> list[torch.Tensor]:
        found = torch.autograd.grad(value, trained, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]
