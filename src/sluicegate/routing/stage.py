"""Stages that place knowledge and take it out again: route, ablate."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.errors import UserError, nearest
from sluicegate.runs.stage import setting, source
from sluicegate.tasks.stage import OnData, compared
from sluicegate.values.items import Item, Split
from sluicegate.values.ranges import Number, PositiveShare, Share, Whole
from sluicegate.values.schedule import Schedule, training_rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sluicegate.engine.encoding import Rows
    from sluicegate.routing.router import Router
    from sluicegate.runs.directory import RunContext


@dataclass(frozen=True)
class Route(OnData):
    """Train a model so that each label's rows are learnt in a block of their own, which can be cut out afterwards.

    Rows of the forget set train the block "forget" alone, unlabelled rows train everything, and a share of
    the retain rows is computed without the blocks. The model is saved whole; `sluicegate ablate` cuts.
    """

    VERB: ClassVar[str] = "route"
    GROUP: ClassVar[str] = "route"
    TOGETHER: ClassVar[bool] = True
    NEEDS: ClassVar[tuple[str, ...]] = ("forget", "retain")

    unlabelled: str = source("data")
    """Rows that nobody has labelled, in the same formats: they train everything."""
    modules: str = setting("mlp_hidden", was="places")
    """Where the blocks lie: globs over full module names, whose * crosses dots (model.layers.*.mlp), or mlp_hidden,
    heads, resid, lora_rank; joined by commas."""
    units: Whole = 0
    """Units of each block at each module; 0: an eighth of what is there."""
    expand: bool = False
    """Add the blocks' units to the model, which computes the same until it is trained, instead of taking its last
    ones."""
    blocks: tuple[str, ...] = ("forget",)
    """Names of the blocks. With several, each row of the forget set names its own in its label (JSONL: "label")."""
    form: Literal["gate", "protect"] = "gate"
    """gate: gradients of activations are scaled at these modules. protect: rows stay out of the gradient of every
    weight that they may not train, in the whole model but for --joint-params."""
    rest_weight: Number = 0.0
    """By what the gradient of a block's rows on the rest of its module is multiplied; negative ones push away."""
    confident: Share = 0.5
    """Share of the retain rows that is computed without the blocks, so that the rest learns to do without them; the
    others count as unlabelled, so that the model works with them too."""
    joint_params: str = setting("", was="joint")
    """With protect, parameters that learn from every row all the same: globs over parameter names, joined by commas."""
    tokens: str = ""
    """Only these target tokens of a forget row belong to its block, joined by blanks; empty: the whole row."""
    labelled: PositiveShare = 1.0
    """Share of the forget rows that is labelled; the others count as unlabelled, to see what is absorbed."""
    schedule: Schedule = Schedule(steps=700, batch=64, warmup=50, decay="cosine")

    @property
    def method(self) -> str:
        return self.form

    def resolved(self) -> Self:
        stage = super().resolved()
        if not self.blocks:
            raise UserError("there is no block. Give at least one name, for example --blocks forget.")
        return dataclasses.replace(stage, schedule=self.schedule.or_rate(training_rate(self.width())))

    def named(self, split: Split) -> list[Item]:
        """All rows, each labelled with its block, retain or unlabelled."""
        from sluicegate.routing.noise import noisy

        true = ["forget"] * len(split.forget) + ["retain"] * len(split.retain) + ["unlabelled"] * len(split.unlabelled)
        known = noisy(true, recall=self.labelled, confident=self.confident, seed=self.seed).labels
        rows = (*split.forget, *split.retain, *split.unlabelled)
        own = [self._block(item) if name == "forget" else name for item, name in zip(rows, known, strict=True)]
        return [dataclasses.replace(item, label=label) for item, label in zip(rows, own, strict=True)]

    def _block(self, item: Item) -> str:
        if len(self.blocks) == 1:
            return self.blocks[0]
        if item.label not in self.blocks:
            raise UserError(
                f"the forget row {item.text[:60]!r} has the label {item.label!r}, which is no block. Nearest: "
                f'{nearest(item.label, list(self.blocks))}. With several blocks, each row names its own in "label".'
            )
        return item.label

    def router(self, model: "PreTrainedModel") -> "Router":
        """The router on `model`, whose blocks are its last units, or new ones."""
        from sluicegate.routing.router import Router
        from sluicegate.routing.sites import find
        from sluicegate.routing.surgery import expand

        sites: dict[str, Any] = {}
        for pattern in (p.strip() for p in self.modules.split(",") if p.strip()):
            for site in find(model, pattern):
                count = self.units or max((site.units or 8 * len(self.blocks)) // 8, 1)
                sites[site.name] = dict.fromkeys(self.blocks, count)
        if self.expand:
            sites = dict(expand(model, sites, seed=self.seed))
        weights = dict.fromkeys(self.blocks, self.rest_weight) if self.rest_weight else {}
        return Router(model, sites, form=self.form, weights=weights, ablate={"retain": list(self.blocks)}, joint_params=self.joint_params)

    def labels(self, router: "Router", tokenizer: "PreTrainedTokenizerBase", rows: "Rows") -> "Callable[[Any], Tensor]":
        """What gives each batch its labels: a row its item's, or, of a block's rows, only the listed tokens."""
        from sluicegate.routing.rules import Rule, bind
        from sluicegate.routing.rules.column import Column
        from sluicegate.routing.rules.tokens import Tokens
        from sluicegate.routing.rules.within import Within

        rule: Rule = Column("label", rows=rows)
        for block in self.blocks if self.tokens else ():
            rule = Within(rule, Tokens({block: self.tokens.split()}, tokenizer, otherwise="unlabelled"), block)
        return bind(rule, router)

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.engine.encoding import encode, fitting
        from sluicegate.engine.models import save
        from sluicegate.routing.placement import placement, save_placement
        from sluicegate.routing.train import train_routed

        split = self.split()
        model, tokenizer = self.load()
        rows = encode(tokenizer, self.named(split), max_length=fitting(model, self.max_length), template=self.template)
        router = self.router(model)
        labels = self.labels(router, tokenizer, rows) if self.tokens else [item.label for item in rows.items]
        fitted = train_routed(model, rows, labels, router, self.schedule, seed=self.seed, run=run)
        router.remove()
        with router.ablate()(model):
            cut = self.score(model, tokenizer, split)
        scores = self.score(model, tokenizer, split) | {f"{group} without blocks": scores for group, scores in cut.items()}
        if run.ranks.leads:
            save(model.eval(), tokenizer, run.path / "model")
            save_placement(run.path / "model", placement(router))
        return {"verb": self.VERB, "method": self.method, "steps": fitted.steps, "scores": scores, "flops": fitted.ledger.as_dict()}


@dataclass(frozen=True)
class Ablate(OnData):
    """Cut blocks out of a routed model for good: an ordinary model, smaller where its architecture allows."""

    VERB: ClassVar[str] = "ablate"
    GROUP: ClassVar[str] = "route"

    ADVICE: ClassVar[str] = "a block that was cut held some of it."
    blocks: tuple[str, ...] = ()
    """Names of the blocks to cut; none: all of them."""

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.engine.models import locate, save
        from sluicegate.engine.training import Ledger
        from sluicegate.routing.placement import cut, load_placement, save_placement

        placed = load_placement(Path(locate(self.model)))
        model, tokenizer = self.load()
        split = self.split()
        known = self.score(model, tokenizer, Split(retain=split.retain))
        before = sum(p.numel() for p in model.parameters())
        left, kept = cut(model, placed, self.blocks)
        found = compared(self.score(model, tokenizer, split), known, split, self.ADVICE)
        left_over = [f"the units at {site} were left in the model as zeros: {why}." for site, why in kept.items()]
        save(model.eval(), tokenizer, run.path / "model")
        if left:
            save_placement(run.path / "model", left)
        after = sum(p.numel() for p in model.parameters())
        measures = {"parameters before": before, "parameters after": after}
        return {
            "verb": self.VERB,
            "method": "",
            "steps": 0,
            "scores": found["scores"],
            "measures": measures,
            "warnings": found.get("warnings", []) + left_over,
            "flops": Ledger().as_dict(),
        }
