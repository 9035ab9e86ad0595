"""Steering: find the orthogonal twins of a vector."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.errors import UserError
from sluicegate.runs.stage import setting, source
from sluicegate.runs.trial import outcome
from sluicegate.steering.fit_stage import DEFAULT, OnModel, as_file, places
from sluicegate.steering.prompts import TRAINING
from sluicegate.values.ranges import Count, Place, Positive, Weight, Whole

if TYPE_CHECKING:
    from sluicegate.runs.directory import RunContext
    from sluicegate.steering.vector import SteeringVector


JOINT, SEQUENTIAL = 60, 400
"""Steps of the search, where none are given."""


@dataclass(frozen=True)
class SteerTwins(OnModel):
    """Find orthogonal twins of a vector: others that do the same, orthogonal to it and to each other."""

    VERB: ClassVar[str] = "steer-twins"
    MEASURES: ClassVar[dict[str, str]] = {
        "found": "twins found",
        "max_norm_ratio": "largest norm of a twin, in norms of the base",
        "max_cos": "largest |cosine| between any two of the base and its twins",
        "kl_train": "KL(base || twin) on the prompts searched on, nats a token: median over twins of the median over prompts; in-sample",
        "kl_train_worst": "the same of the worst twin",
        "unsteered_kl": "KL(base || unsteered) on these prompts, nats a token",
    }

    variant: Literal["joint", "sequential"] = setting("joint", was="arm")
    """All at once; or one after the other, as in the post."""
    vector: str = source("run")
    """The base: folder of `steer fit`, or a .safetensors or .gguf file."""
    vector_file: str = ""
    """The base's file, where it is no run; it fills itself in."""
    vector_content: str = ""
    """sha256 of that file; it fills itself in."""
    index: Place = -1
    """Which vector of a set; -1: the folder's own choice, or the only one."""
    k: Count = 64
    """How many twins."""
    max_norm: Weight = 1.0
    """No twin is longer than this many times the base; 0: no limit."""
    objective: Literal["kl", "activation"] = "kl"
    """What twins share with the base: next-token distributions along its answer, or the target's output."""
    target: str = ""
    """The target module of the objective "activation"; default: a sixth of the depth behind the base's."""
    steps: Whole = 0
    """Steps of the search; 0: 60 together, 400 one after the other."""
    along: Count = 12
    """Tokens of the base's answer along which the KL is taken."""
    first: Positive = 4.0
    """Weight of the answer's first token in that KL; each later one has 1."""
    searched: Count = 16
    """How many of the prompts are searched on; each twin meets one of them a step."""
    together: Count = setting(1, added=True)
    """So many twins at least meet the same prompt in a step: with 8, a step of few twins is about a sixth cheaper."""

    def resolved(self) -> Self:
        stage = super().resolved()
        stage = dataclasses.replace(stage, **as_file("vector", self.vector, self.vector_file))
        base = stage.base()
        steps = self.steps or (JOINT if self.variant == "joint" else SEQUENTIAL)
        model = self.model or str(base.made_from.get("model") or DEFAULT)
        target = places(model, base.module, self.target)[1] if self.objective == "activation" else ""
        if not 1 <= self.k < len(base.values):
            raise UserError(
                f"--k is {self.k}; in {len(base.values)} dimensions there are 1 to {len(base.values) - 1} twins beside the base."
            )
        return dataclasses.replace(stage, model=model, target=target, steps=steps, plain=self.plain or bool(base.made_from.get("plain")))

    def base(self) -> "SteeringVector":
        from sluicegate.steering.io import load_vector

        if not (self.vector or self.vector_file):
            raise UserError("steer twins needs --vector: the folder of `sluicegate steer fit`, or a vector's file.")
        return load_vector(self.vector or self.vector_file, None if self.index < 0 else self.index)

    def search(self) -> "Any":
        """The search, as `steering.orthogonal` knows it."""
        from sluicegate.steering.orthogonal import Orthogonal

        return Orthogonal(
            k=self.k, objective=self.objective, mode=self.variant, target=self.target, max_norm=self.max_norm, steps=self.steps,
            tokens=self.along, first=self.first, together=self.together, seed=self.seed,
        )  # fmt: skip

    def run(self, run: "RunContext") -> dict[str, Any]:
        import numpy as np
        import torch

        from sluicegate.steering.io import BASE, SET, save
        from sluicegate.steering.score import kl

        model, tokenizer = self.load()
        base, prompts = self.base(), self.texts(TRAINING)[: self.searched]
        twins = self.search().fit(model, tokenizer, base, prompts, template=self.template, run=run)
        made = {**twins.made_from, "base": dict(base.made_from), "model": self.model}
        twins = dataclasses.replace(twins, made_from=made | {"behaviour": base.made_from.get("behaviour", ""), "seed": self.seed})
        if run.path != Path():
            save(base, run.path / BASE)
            save(twins, run.path / SET)
        values = torch.cat([twins.values, torch.zeros(1, len(base.values))])
        several = np.median(kl(model, tokenizer, base, values, prompts, tokens=self.along, template=self.template, run=run).several, axis=1)
        measures = {
            "found": float(len(twins)),
            "max_norm_ratio": float(twins.norms().max()) / base.norm,
            "max_cos": twins.max_cos(base),
            "kl_train": float(np.median(several[:-1])),
            "kl_train_worst": float(several[:-1].max()),
            "unsteered_kl": float(several[-1]),
        }
        index = [float(i) for i in range(len(twins))]
        drawn = {"kl": (index, [float(v) for v in several[:-1]]), "norm": (index, [float(v) for v in twins.norms()])}
        return outcome(self, measures, flops=0.0, curves=drawn)
