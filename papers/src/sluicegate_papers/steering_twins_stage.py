"""Orthogonal twins of a steering vector: how many there are, and the questions that the post on them left open."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.errors import UserError
from sluicegate.runs.stage import setting, source
from sluicegate.runs.trial import Trial, outcome
from sluicegate.steering.fit_stage import SteerFit, rule_of_behaviour
from sluicegate.steering.prompts import BEHAVIOURS, HELD_OUT, TRAINING
from sluicegate.steering.score_stage import MEASURES, SIZES
from sluicegate.steering.twins_stage import JOINT, SEQUENTIAL, SteerTwins
from sluicegate.values.ranges import Count, Positive, Share, Weight, Whole

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sluicegate.runs.directory import RunContext
    from sluicegate.steering.vector import SteeringSet, SteeringVector


@dataclass(frozen=True)
class SteeringTwins(Trial):
    """A base vector, its orthogonal twins, and what both do on held-out prompts.

    After Goldman-Wetzler 2024, "I found >800 orthogonal 'write code' steering vectors". Different here: the base is
    found from contrastive prompts (or by MELBO), twins are no longer than the base, and all of them are found at once.
    A seed draws the pairs that the base is read from, the prompts that are searched on, the search's start, and the
    random controls.
    """

    VERB: ClassVar[str] = "steering-twins"
    MEASURES: ClassVar[dict[str, str]] = MEASURES | {
        "kl_train": "KL(base || twin) on the prompts searched on, nats a token: median over twins; in-sample",
        "relative_loss": "distance of the twins' target activations from those aimed at, as a share of the unsteered model's: median",
    }

    variant: Literal["meandiff", "pca", "melbo", "random", "random_target"] = setting("meandiff", was="arm")
    """Where the base comes from. random: a random vector of the mean difference's norm. random_target: the twins aim at
    random target activations, as far from the unsteered ones as the mean difference takes them."""
    model: str = source("model", "smollm2-135m")
    """Folder, run folder, fetched model or hub id."""
    behaviour: str = "code"
    """A packaged behaviour: code, list, json, html, french, verse, story, first-person."""
    module: str = ""
    """Module that is steered; default: the layer at two fifths of the depth."""
    target: str = ""
    """Module whose output MELBO changes and the objective "activation" compares; default: one a sixth of the depth
    further."""
    scale: Positive = 3.0
    """The base is this many times the mean difference."""
    pairs: Share = 0.8
    """Share of the packaged contrastive pairs that the base is read from; which, the seed draws."""
    searched: Count = 16
    """Training prompts that are searched on, drawn from the packaged ones."""
    k: Count = 64
    """Twins to find."""
    max_norm: Weight = 1.0
    """No twin is longer than this many times the base; 0: no limit."""
    objective: Literal["kl", "activation"] = "kl"
    """What twins share with the base: next-token distributions along its answer, or the target's output."""
    mode: Literal["joint", "sequential"] = "joint"
    """All at once, or one after the other, as in the post."""
    steps: Whole = 0
    """Steps of the search; 0: as `steer twins` has it."""
    along: Count = 12
    """Tokens of the base's answer along which the KL is taken."""
    first: Positive = 4.0
    """Weight of the answer's first token in that KL; each later one has 1."""
    new_tokens: Whole = 40
    """Tokens of an answer; greedy. 0: no answers are written, and only KLs are measured."""
    held_out: Count = 8
    """Held-out prompts that are scored."""
    randoms: Whole = 8
    """Random vectors of the base's norm: the control."""
    means: bool = setting(True, added=True)
    """Whether the means of the first 2, 4, 8 ... twins are measured, each with its controls."""
    bound: Weight = 0.5
    """A twin counts up to this KL to the base on held-out prompts, in nats a token."""
    share: Share = 0.6
    """A twin counts that shows the behaviour on this share of the held-out prompts, or more."""

    def resolved(self) -> Self:
        if self.behaviour not in BEHAVIOURS:
            raise UserError(f"behaviour is {self.behaviour!r}; packaged are {', '.join(BEHAVIOURS)}.")
        if not 0 < self.pairs <= 1:
            raise UserError(f"pairs is {self.pairs:g}; it is a share, more than 0 and up to 1.")
        most = {"searched": len(TRAINING), "held_out": len(HELD_OUT)}
        for name, top in most.items():
            if not 1 <= getattr(self, name) <= top:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 to {top}.")
        if self.variant == "random_target" and self.objective != "activation":
            raise UserError('the arm random_target aims at activations: set objective = "activation".')
        from sluicegate.steering.fit_stage import places

        module, target = places(self.model, self.module, self.target)
        steps = self.steps or (JOINT if self.mode == "joint" else SEQUENTIAL)
        return dataclasses.replace(self, module=module, target=target, steps=steps)

    def is_wide(self) -> bool:
        from sluicegate.engine.models import config_width

        return config_width(self.model) >= 256

    def run(self, run: "RunContext") -> dict[str, Any]:
        import numpy as np

        from sluicegate.engine.models import load
        from sluicegate.steering.io import BASE, SET, save
        from sluicegate.steering.measured import Measured, counted, curves
        from sluicegate.steering.score import kl

        model, tokenizer = load(self.model, dtype="float32")
        model.eval().requires_grad_(False)
        prompts = self.drawn("searched", TRAINING, self.searched)
        base = self._base(model, tokenizer, run)
        if self.k >= len(base.values):
            raise UserError(f"k is {self.k}; beside the base there is room for 1 to {len(base.values) - 1} twins.")
        twins = self._twins(model, tokenizer, base, prompts, run)
        if run.path != Path():
            save(base, run.path / BASE)
            save(twins, run.path / SET)
        measured = Measured(
            model, tokenizer, base, twins, HELD_OUT[: self.held_out], rule_of_behaviour(self.behaviour),
            new_tokens=self.new_tokens, kl_tokens=self.along, template=None, seed=self.seed, run=run,
        )  # fmt: skip
        rows = measured.rows(randoms=self.randoms, means=SIZES if self.means else ())
        measures = counted(rows, bound=self.bound, share=self.share) | {"max_cos": twins.max_cos(base)}
        trained = kl(model, tokenizer, base, twins.values, prompts, tokens=self.along, run=run).several
        measures["kl_train"] = float(np.median(np.median(trained, axis=1)))
        if losses := twins.made_from.get("relative_loss"):
            measures["relative_loss"] = float(np.median(losses))
        if self.variant in ("random", "random_target"):  # there is no behaviour to show
            for name in ("twins", "rate", "base_rate", "unsteered_rate", "random_rate"):
                measures.pop(name, None)
        return outcome(self, measures, flops=0.0, curves=curves(rows, self.share)) | {"rows": rows}

    def drawn(self, what: str, among: tuple[str, ...], count: int) -> list[str]:
        """`count` of the prompts, drawn from the seed, in their order."""
        import numpy as np

        from sluicegate.engine.sampling import seed_of

        chosen = np.random.default_rng(seed_of(self.seed, what)).choice(len(among), count, replace=False)
        return [among[i] for i in sorted(chosen)]

    def _base(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", run: "RunContext") -> "SteeringVector":
        from sluicegate.steering.vector import SteeringVector

        how: Any = "meandiff" if self.variant == "random_target" else self.variant
        fit = SteerFit(
            variant=how,
            seed=self.seed,
            model=self.model,
            behaviour=self.behaviour,
            module=self.module,
            target=self.target,
            scale=self.scale,
        )
        own = BEHAVIOURS[self.behaviour]
        pairs = dict(zip(own.positive, own.negative, strict=True))
        positive = self.drawn("pairs", own.positive, max(1, round(self.pairs * len(own.positive))))
        kept = run.load_checkpoint("base")
        if kept is not None and kept.finished:
            return SteeringVector(kept.tensors["values"], self.module, fit.tokens, kept.values["made_from"])
        found, _ = fit.fitted(model, tokenizer, (tuple(positive), tuple(pairs[p] for p in positive)), run)
        run.save_checkpoint("base", {"made_from": dict(found.made_from)}, {"values": found.values}, finished=True)
        return found

    def _twins(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", base: "SteeringVector", prompts: list[str], run: "RunContext"
    ) -> "SteeringSet":
        from sluicegate.steering.vector import SteeringSet

        kept = run.load_checkpoint("found")
        if kept is not None and kept.finished:
            return SteeringSet(kept.tensors["values"], base.module, base.tokens, kept.values["made_from"])
        search = SteerTwins(
            variant=self.mode, seed=self.seed, k=self.k, max_norm=self.max_norm, objective=self.objective,
            target=self.target if self.objective == "activation" else "", steps=self.steps, along=self.along, first=self.first,
        ).search()  # fmt: skip
        goal = self._goals(model, tokenizer, base, prompts) if self.variant == "random_target" else None
        found: SteeringSet = search.fit(model, tokenizer, base, prompts, run=run, goal=goal)
        run.save_checkpoint("found", {"made_from": dict(found.made_from)}, {"values": found.values}, finished=True)
        return found

    def _goals(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", base: "SteeringVector", prompts: list[str]
    ) -> "list[Tensor]":
        """For each prompt [d'], mean activations in a random direction, as far from the unsteered ones as the base
        takes them."""
        import torch

        from sluicegate.engine.sampling import seed_of
        from sluicegate.steering.parts import Slice
        from sluicegate.steering.prompts import prompt_ids

        draw, goals = torch.Generator().manual_seed(seed_of(self.seed, "goal")), []
        for prompt in prompts:
            part = Slice(model, prompt_ids(tokenizer, prompt), source=base.module, target=self.target, tokens=base.tokens)
            with torch.no_grad():
                output = part.target(torch.stack([torch.zeros_like(base.values), base.values]))
            plain, moved = output[:, part.where].mean(1)
            away = torch.randn(plain.shape, generator=draw).to(plain)
            goals.append(plain + away * ((moved - plain).norm() / away.norm()))
        return goals
