"""Distillation that also matches the teacher's hidden states, on retain rows only."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sluicegate.engine.encoding import Batch, Rows
from sluicegate.engine.forward import Meter, forward
from sluicegate.engine.losses import without_logits
from sluicegate.engine.training import Batches, Ledger, Loss, Objective
from sluicegate.errors import UserError


class HiddenMatching:
    """The loss of another objective on the batch "pool", plus the distance of hidden states to the teacher's on the
    batch "retain".

    ``L = L_pool + w * mean_l ||h_l^S - h_l^T||^2 / s_l``, averaged over the retain rows' tokens, with s_l the mean
    ``||h_l^T||^2`` of the layer, so that w does not depend on the model's scale. All layers count. Hidden states on
    forget rows are not matched, since they may hold what is to be forgotten.

    After Romero et al. 2015 (FitNets, arXiv 1412.6550). Raises `UserError` where the two models' layers or widths
    differ.
    """

    def __init__(self, matching: Objective, teacher: PreTrainedModel, student: PreTrainedModel, rows: Rows, weight: float, ledger: Ledger):
        shapes = [(c.num_hidden_layers, c.hidden_size) for c in (m.config.get_text_config() for m in (teacher, student))]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"hidden states cannot be matched: the teacher has {shapes[0][0]} layers of width {shapes[0][1]}, the student "
                f"{shapes[1][0]} of {shapes[1][1]}. Leave --match-hidden out, or take a student of the teacher's shape."
            )
        self.matching, self.teacher, self.weight = matching, teacher.eval(), weight
        self._meter = Meter(teacher)
        # s_l, estimated once on at most 256 rows.
        with torch.no_grad():
            batch = rows.select(range(min(len(rows), 256))).batch(range(min(len(rows), 256)))
            ledger.teacher += self._meter(batch)
            self._scales = [self._mean(state.square().sum(-1), batch) for state in self._states(teacher, batch)]

    @staticmethod
    def _states(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
        with without_logits(model):
            answer = forward(model, batch, output_hidden_states=True)
        states: tuple[Tensor, ...] = answer.hidden_states[1:]
        return states

    @staticmethod
    def _mean(values: Tensor, batch: Batch) -> Tensor:
        return (values * batch.attention).sum() / batch.total("attention")

    def __call__(self, model: PreTrainedModel, batches: Batches) -> Loss:
        found = self.matching(model, {"pool": batches["pool"]})
        batch = batches["retain"]
        with torch.no_grad():
            theirs = self._states(self.teacher, batch)
        gaps = [
            self._mean((mine - other).square().sum(-1), batch) / scale
            for mine, other, scale in zip(self._states(model, batch), theirs, self._scales, strict=True)
        ]
        apart = torch.stack(gaps).mean()
        log = {**found.log, "kl": found.value.detach(), "hidden": apart}
        return Loss(found.value + self.weight * apart, log, found.teacher_flops + self._meter(batch))
