"""Steering vectors without supervision: what changes a later layer most.

Source: Mack & Turner 2024, "Mechanistically Eliciting Latent Behaviors in Language Models": maximise over ||theta|| = R

    sum over prompts, ( sum over tokens ||z_t(theta) - z_t(0)||^p )^(q/p)

with z the target's output; each new vector may be kept orthogonal to those before. Different here: all vectors of a
batch are climbed at once, one a row, and kept orthogonal by a symmetric (Löwdin) step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.steering.frames import basis, lowdin, unit, without
from sluicegate.steering.parts import Slice
from sluicegate.steering.prompts import prompt_ids
from sluicegate.steering.vector import SteeringSet, check_tokens


@dataclass(frozen=True)
class MELBO:
    """Vectors of norm R at `source` that change `target` most, climbed in batches."""

    source: str
    """Path of the module that is steered."""
    target: str
    """Path of the module whose output shall change."""
    count: int = 16
    """How many vectors."""
    norm: float = 1.0
    """R, in the activations' own units; see `MeanDiff` for a vector to take it from."""
    steps: int = 50
    """Steps of ascent a batch."""
    rate: float = 0.3
    """Length of a step, as a share of R."""
    power: float = 2.0
    """p of the source's formula; q is 1."""
    orthogonal: bool = True
    """Whether the vectors are orthogonal to each other."""
    batch: int = 16
    """How many are climbed at once."""
    tokens: str = "not_first"
    """Which tokens are steered, and over which the change is summed."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_tokens(self.tokens)
        for name in ("count", "steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.norm > 0:
            raise UserError(f"norm is {self.norm:g}; a vector without length changes nothing.")

    def fit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        *,
        template: bool | None = None,
        run: RunContext | None = None,
    ) -> SteeringSet:
        """The vectors, in the order in which they were found; batches that are finished are kept in `run`."""
        run = run or RunContext()
        if not prompts:
            raise UserError("MELBO needs at least one prompt.")
        ids = [prompt_ids(tokenizer, prompt, template) for prompt in prompts]
        parts = [Slice(model, own, source=self.source, target=self.target, tokens=self.tokens) for own in ids]
        width = parts[0].width
        if self.orthogonal and self.count > width:
            raise UserError(f"{self.count} orthogonal vectors of {width} numbers: there are at most {width}.")
        with torch.no_grad():
            plain = [part.target(torch.zeros(1, width)) for part in parts]
        kept = run.load_checkpoint("vectors")
        found = kept.tensors["found"] if kept else torch.zeros(0, width, dtype=torch.float64)
        changes: list[float] = list(kept.values["changes"]) if kept else []
        while len(found) < self.count:
            rows, reached = self._climb(parts, plain, found, min(self.batch, self.count - len(found)), run)
            found, changes = torch.cat([found, rows]), changes + reached
            run.save_checkpoint("vectors", {"steps": len(found), "changes": changes}, {"found": found}, finished=False)
        made_from = {
            "method": "MELBO", "target": self.target, "steps": self.steps, "norm": self.norm, "power": self.power, "seed": self.seed,
            "orthogonal": self.orthogonal, "prompts": list(prompts), "changes": changes, "model_type": str(model.config.model_type),
        }  # fmt: skip
        return SteeringSet(found, self.source, self.tokens, made_from)

    def _climb(self, parts: list[Slice], plain: list[Tensor], found: Tensor, count: int, run: RunContext) -> tuple[Tensor, list[float]]:
        """`count` new vectors [b, d], and how far each moved the target."""
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + len(found))
        spared = basis(found)

        def back(rows: Tensor) -> Tensor:
            """The nearest allowed set: orthonormal and orthogonal to those before, or only of length 1."""
            return lowdin(without(rows, spared)) if self.orthogonal else unit(rows)

        rows = back(torch.randn(count, parts[0].width, generator=draw, dtype=torch.float64))
        speed = torch.zeros_like(rows)
        reached = torch.zeros(count, dtype=torch.float64)
        for step in range(self.steps + 1):
            values = (self.norm * rows).float().requires_grad_()
            changes = torch.zeros(count, device=values.device)
            slopes = torch.zeros_like(values)
            for part, still in zip(parts, plain, strict=True):  # one prompt's graph at a time
                moved = (part.target(values) - still)[:, part.where].norm(dim=-1).pow(self.power).sum(1).pow(1 / self.power)
                slopes += torch.autograd.grad(moved.sum(), values)[0] if step < self.steps else 0.0
                changes = changes + moved.detach()
            reached = changes.double() / len(parts)
            run.progress("vectors", len(found) * self.steps + step, self.count * self.steps, {"change": float(reached.mean())})
            if step == self.steps:
                break
            turning = slopes.double() - (slopes.double() * rows).sum(1, keepdim=True) * rows
            speed = 0.7 * speed + unit(turning)
            rows = back(rows + self.rate * (1 - step / self.steps) * unit(speed))
        return self.norm * rows, reached.tolist()
