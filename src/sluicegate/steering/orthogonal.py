"""Orthogonal twins: vectors that do what a base vector does, orthogonal to it and to each other.

Whether they exist is the question of Goldman-Wetzler 2024 ("I found >800 orthogonal 'write code' steering vectors").
`sequential.py` is his algorithm; the joint search (`joint.py`) is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.errors import UserError, check_choices
from sluicegate.runs.directory import RunContext
from sluicegate.steering.joint import Descent, Each, Loss, descend
from sluicegate.steering.prompts import prompt_ids
from sluicegate.steering.score import Continued, continued
from sluicegate.steering.sequential import one_by_one
from sluicegate.steering.vector import SteeringSet, SteeringVector

LEAST_EFFECT = 0.02
"""Nats a token between base and plain model, below which a base has no effect worth a twin."""


@dataclass(frozen=True)
class Orthogonal:
    """Twins of a base vector: as many as asked for, mutually orthogonal and orthogonal to the base."""

    k: int
    """How many; at most one less than the model's width."""
    objective: Literal["kl", "activation"] = "kl"
    """What is made equal to the base's: next-token distributions along its answers, or the target's output."""
    mode: Literal["joint", "sequential"] = "joint"
    """All at once, or one after the other as in the post."""
    target: str = ""
    """Path of the target module; needed for the objective "activation"."""
    max_norm: float = 1.0
    """No twin is longer than this many times the base; 0: no limit (the joint search starts at its length)."""
    steps: int = 60
    """Steps of the joint search, or of every vector in the sequential one (the post: 1000)."""
    tokens: int = 12
    """Length of the base's answer along which the KL is taken, in tokens."""
    first: float = 4.0
    """Weight in that KL of the answer's first token, which decides its kind; each later one has 1."""
    batch: int = 16
    """Vectors in a pass."""
    together: int = 1
    """Joint: so many twins at least meet one prompt in a step: cheaper passes, but fewer prompts a step."""
    rate: float = 0.0
    """Length of the first step as a share of the vector's; sequential: see `sequential.RATE`. 0: the default."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(Orthogonal, {"objective": self.objective, "mode": self.mode})
        for name in ("k", "steps", "tokens", "batch", "together"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.max_norm >= 0 or not self.rate >= 0:
            raise UserError(f"max_norm is {self.max_norm:g} and rate {self.rate:g}; both must be 0 or more.")
        if not self.first > 0:
            raise UserError(f"first is {self.first:g}; the weight of the answer's first token must be more than 0.")
        if self.objective == "activation" and not self.target:
            raise UserError("the objective 'activation' compares a module's output; give target, such as 'model.layers.15'.")

    def fit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        base: SteeringVector,
        prompts: Sequence[str],
        *,
        template: bool | None = None,
        run: RunContext | None = None,
        each: Each | None = None,
        goal: Sequence[Tensor] | None = None,
        start: SteeringSet | None = None,
    ) -> SteeringSet:
        """Find the twins on these prompts; deterministic in the seed.

        `start`: twins to go on from, k of them, for the joint search.

        `goal`, for the objective "activation" only: [d'] for every prompt, what the target's output, averaged over the
        steered positions, shall be instead of the base's (a control: can any activation be reached?). With that
        objective ``made_from["relative_loss"]`` has every twin's distance from the goal, as a share of the plain
        model's, averaged over prompts.
        """
        run = run or RunContext()
        width = len(base.values)
        if self.k > width - 1:
            raise UserError(f"{self.k} twins of a vector with {width} numbers: at most {width - 1} can be orthogonal to it and each other.")
        if not prompts:
            raise UserError("twins are trained on prompts; give at least one.")
        some = self._continued(model, tokenizer, base, prompts, template, run)
        effect = sum(float(one.unsteered.mean()) for one in some) / len(some)
        if effect < LEAST_EFFECT:
            raise UserError(
                f"the base changes the model by {effect:.2g} nats a token on these prompts, so any vector near 0 is its twin. "
                "Give a larger dose of it (see sluicegate.steering.dose.calibrate), or another base."
            )
        if goal is not None and (self.objective != "activation" or len(goal) != len(prompts)):
            raise UserError(f"a goal is for the objective 'activation', one a prompt; got {len(goal)} for {len(prompts)} prompts.")
        loss = self.loss(some, base, goal)
        if start is not None and (self.mode != "joint" or start.values.shape != (self.k, width)):
            raise UserError(
                f"start is {list(start.values.shape)}; the joint search goes on from [{self.k}, {width}], the sequential one from nothing."
            )
        cap = self.max_norm * base.norm
        if self.mode == "sequential":
            rows = one_by_one(loss, len(some), base.values, self.k, steps=self.steps, rate=self.rate, cap=cap, run=run, each=each)
        else:
            how = Descent(self.steps, self.rate or 0.3, cap, cap or base.norm, self.batch, self.seed, self.together)
            begin = None if start is None else start.values
            rows = descend(loss, len(some), base.values.double(), self.k, how, run=run, each=each, start=begin)
        made_from: dict[str, Any] = {
            "method": "Orthogonal", "objective": self.objective, "mode": self.mode, "target": self.target, "max_norm": self.max_norm,
            "steps": self.steps, "tokens": self.tokens, "first": self.first, "together": self.together, "seed": self.seed,
            "prompts": list(prompts), "base_norm": base.norm, "base_effect": effect, "base": dict(base.made_from),
        }  # fmt: skip
        short = _float32(rows, cap)
        if self.objective == "activation":
            made_from["relative_loss"] = self._relative(loss, short, len(some))
        return SteeringSet(short, base.module, base.tokens, made_from)

    @torch.no_grad()
    def _relative(self, loss: Loss, rows: Tensor, prompts: int) -> list[float]:
        zero = torch.zeros(1, rows.shape[1])
        shares = [torch.cat([loss(p, part) for part in rows.split(self.batch)]).cpu() / loss(p, zero).cpu() for p in range(prompts)]
        return [float(share) for share in torch.stack(shares).mean(0)]

    def _continued(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        base: SteeringVector,
        prompts: Sequence[str],
        template: bool | None,
        run: RunContext,
    ) -> list[Continued]:
        ids, some = [prompt_ids(tokenizer, prompt, template) for prompt in prompts], list[Continued]()
        for one in continued(model, ids, base, tokens=self.tokens if self.objective == "kl" else 1, target=self.target):
            some.append(one)
            run.progress("prompts", len(some), len(prompts), {"effect": float(one.unsteered.mean())})
        return some

    def loss(self, some: Sequence[Continued], base: SteeringVector, goal: Sequence[Tensor] | None = None) -> Loss:
        """The objective, as a function of the prompt's number and vectors [b, d]; `goal` as for `fit`."""
        if self.objective == "kl":
            weights = torch.ones(some[0].tokens, device=some[0].wanted.device)
            weights[0] = self.first
            weights /= weights.sum()
            return lambda prompt, values: some[prompt].kl(values) @ weights
        with torch.no_grad():
            wanted = list(goal) if goal is not None else [_mean(one, one.part.target(base.values[None])) for one in some]
        # The square would have the same minimum, but Adam's steps would differ from the post's at the end.
        return lambda prompt, values: (_mean(some[prompt], some[prompt].part.target(values)) - wanted[prompt]).norm(dim=1)


def _mean(one: Continued, output: Tensor) -> Tensor:
    """[b, d] the output [b, s, d] averaged over the steered positions."""
    return output[:, one.part.where].mean(1)


def _float32(rows: Tensor, cap: float) -> Tensor:
    """Rounded to float32, and no longer than the cap after it."""
    short = rows.float()
    if cap:
        over = short.double().norm(dim=1) > cap
        short[over] = (rows[over] * (1 - 1e-7)).float()
    return short
