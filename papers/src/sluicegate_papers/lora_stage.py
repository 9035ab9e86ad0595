"""Routing after pretraining: a LoRA adapter with ranks of its own for what is to be lost again.

A pretrained model is fine-tuned on rows that it is to learn and rows that it is not, of which only a
share is labelled. Labelled rows train the quarantined ranks alone; cut, these leave an ordinary
adapter of lower rank. "Gradient routing beyond pretraining" of Cloud and Goldman-Wetzler 2025,
"Selective modularity: a research agenda", with the parameter masks and the three data parts of SGTM
(arXiv 2512.05648, s3), which trains whole models from nothing.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.errors import UserError
from sluicegate.runs.stage import setting, source
from sluicegate.runs.trial import Trial, outcome
from sluicegate.values.ranges import Count, Number, Positive, Share, Weight, Whole
from sluicegate.values.schedule import Schedule, training_rate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sluicegate.engine.encoding import Batch, Rows
    from sluicegate.routing.router import Router
    from sluicegate.runs.directory import RunContext

ARMS = ("routed", "plain", "cut", "filter")


@dataclass(frozen=True)
class Lora(Trial):
    """Fine-tune a pretrained model with an adapter, some of whose ranks take what is to be lost, and cut them."""

    VERB: ClassVar[str] = "lora"
    MEASURES: ClassVar[Mapping[str, str]] = {
        "wanted_before": "share of the wanted rows that are answered exactly, before the cut",
        "unwanted_before": "the same of the unwanted rows, of the facts that relearning does not use",
        "wanted_cut": "share of the wanted rows that are answered exactly, after the cut and its repair",
        "unwanted_cut": "the same of the unwanted rows",
        "wanted_loss_before": "loss on the wanted rows' answers before the cut, nats a token",
        "unwanted_loss_before": "the same on the unwanted rows'",
        "wanted_loss_cut": "loss on the wanted rows' answers after the cut and its repair, nats a token",
        "unwanted_loss_cut": "the same on the unwanted rows'",
        "unwanted_loss_raw": "loss on the unwanted rows' answers after the cut, before its repair, nats a token",
        "wanted_loss_raw": "the same on the wanted rows'",
        "unwanted_relearned": "lowest loss on these unwanted rows while the others are relearned, over steps and rates, nats a token",
        "relearn_steps": "steps of relearning at which that was reached",
        "passed": "1 where relearning went on until the minimum lay behind under every rate, 0 where the budget ended before",
        "absorption": "relative gradient norm of the quarantined ranks over the others', on unlabelled unwanted rows",
        "absorption_wanted": "the same on unlabelled wanted rows",
        "parameters": "weights of the adapter before the cut",
        "parameters_cut": "weights of the adapter after it",
    }

    variant: Literal["", "routed", "plain", "cut", "filter"] = setting("", was="arm")
    """routed; plain (an ordinary adapter, kept whole); cut (an ordinary adapter, as many ranks cut); filter (plain,
    without the labelled unwanted rows)."""
    share: Share = 1.0
    """Share of the unwanted rows that is labelled; routing takes the others for unlabelled rows, everything else for
    wanted ones."""
    by: Literal["row", "fact"] = setting("row", added=True)
    """What the share is of: of rows, so that most facts have some labelled phrasing, or of facts with all their
    phrasings."""
    base: str = source("run")
    """A finished run whose model is fine-tuned, where no model is given."""
    model: str = source("model")
    """The pretrained model: a folder, a fetched model or a hub id; it comes before `base`."""
    forget: str = source("data")
    """What is not to be learnt: JSONL, text, Parquet, hub:NAME or task:NAME/GROUP; several joined by commas."""
    retain: str = source("data")
    """What is to be learnt, in the same formats."""
    max_length: Count = 256
    """Longest row, in tokens."""
    rank: Count = 16
    """Ranks that stay."""
    forget_rank: Whole = 8
    """Ranks that are quarantined, and cut."""
    scaling: Number = 2.0
    """By what the adapter's output is multiplied (alpha / r of LoRA)."""
    targets: str = "all-linear"
    """Layers that get an adapter, by the end of their names, joined by commas; all-linear: all but the output layer."""
    confident: Share = 0.25
    """Share of the wanted rows that is computed without the quarantined ranks, so that the others learn to do without
    them."""
    repair_steps: Whole = 100
    """Steps of training on wanted rows after the cut. 0: none."""
    repair_lr: Weight = 0.0
    """Learning rate of that repair; 0: a fifth of training's."""
    relearn_lrs: tuple[Positive, ...] = ()
    """Learning rates of relearning; none: a sixteenth of training's, a quarter, and all of it."""
    relearn_steps: Count = 400
    """Most steps of relearning."""
    relearn_every: Count = 2
    """Steps between two measurements while relearning."""
    patience: Count = 12
    """Measurements without a new minimum after which relearning ends."""
    schedule: Schedule = Schedule(steps=800, batch=32, warmup=40, decay="cosine")

    @property
    def method(self) -> str:
        if self.variant not in ("routed", "filter"):
            return self.variant
        return f"{self.variant}-{self.share:g}" + ("-facts" if self.by == "fact" else "")

    def resolved(self) -> Self:
        if not self.variant:
            raise UserError(f"which variant? Give one of {', '.join(ARMS)}.")
        if not (self.model or self.base):
            raise UserError("lora fine-tunes a pretrained model: give its folder in --model, or a finished run in --base.")
        missing = [f"--{name}" for name in ("forget", "retain") if not getattr(self, name)]
        if missing:
            raise UserError(f"lora needs {' and '.join(missing)}: rows that are not to be learnt, and rows that are.")
        if not 0 < self.share <= 1:
            raise UserError(f"share is {self.share:g}; it is a share of the unwanted rows, above 0 and at most 1.")
        if not 0 <= self.confident <= 1:
            raise UserError(f"confident is {self.confident:g}; it is a share of the wanted rows, 0 to 1.")
        for name in ("rank", "forget_rank"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; an adapter needs at least 1 rank that stays and 1 that goes.")
        schedule = self.schedule.or_rate(training_rate(self._width()))
        return dataclasses.replace(
            self,
            base="" if self.model else self.base,
            schedule=schedule,
            repair_lr=self.repair_lr or schedule.lr / 5,
            relearn_lrs=self.relearn_lrs or (schedule.lr / 16, schedule.lr / 4, schedule.lr),
        )

    def _width(self) -> int:
        from sluicegate.engine.models import config_width

        return config_width(self.model or self.base)

    def is_wide(self) -> bool:
        return self._width() >= 256

    # --------------------------------------------------------------------------- what is trained, on what

    def adapted(self) -> "tuple[Any, PreTrainedTokenizerBase]":
        """The pretrained model with a new adapter around its layers, and its tokenizer."""
        import torch

        from sluicegate.engine.models import load

        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise UserError("lora needs the package peft. Install it with: pip install 'sluicegate[lora]'") from None
        model, tokenizer = load(self.model or self.base, seed=self.seed, dtype="float32")
        rank = self.rank + self.forget_rank
        targets = self.targets if self.targets == "all-linear" else [part.strip() for part in self.targets.split(",")]
        conv = any(type(module).__name__ == "Conv1D" for module in model.modules())
        config = LoraConfig(r=rank, lora_alpha=self.scaling * rank, target_modules=targets, fan_in_fan_out=conv)  # type: ignore[arg-type]
        with torch.random.fork_rng(), warnings.catch_warnings():
            torch.manual_seed(self.seed)
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT asks transformers by its old name
            try:
                return get_peft_model(model, config), tokenizer
            except ValueError as error:
                raise UserError(f"targets is {self.targets!r}: {error}") from None

    def material(self, tokenizer: "PreTrainedTokenizerBase", longest: int) -> "_Material":
        """The rows, encoded: to train on with their labels, to score, and the attacker's."""
        from sluicegate.engine.encoding import encode
        from sluicegate.routing.noise import noisy
        from sluicegate.tasks import read
        from sluicegate.values.items import Split, halves

        split = Split(forget=read(self.forget, "forget"), retain=read(self.retain, "retain"))
        true = ["forget"] * len(split.forget) + ["retain"] * len(split.retain)
        known = noisy(true, recall=self.share, confident=self.confident, seed=self.seed).labels
        if self.by == "fact":
            facts = sorted({item.key for item in split.forget})
            found = dict(zip(facts, noisy(["forget"] * len(facts), recall=self.share, seed=self.seed).labels, strict=True))
            known = (*(found[item.key] for item in split.forget), *known[len(split.forget) :])
        items = (*split.forget, *split.retain)
        if self.variant == "filter":
            kept = [i for i, label in enumerate(known) if label != "forget"]
            items, known = tuple(items[i] for i in kept), tuple(known[i] for i in kept)
        # A text longer than a row gives several rows: each carries its item's label.
        labelled = [dataclasses.replace(item, label=label) for item, label in zip(items, known, strict=True)]
        owned, held_out = halves(split.forget, self.seed)
        rows = {
            name: encode(tokenizer, own, max_length=longest)
            for name, own in (("train", labelled), ("wanted", split.retain), ("unwanted", held_out), ("owned", owned))
        }
        return _Material(**rows)

    # --------------------------------------------------------------------------- the run

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.engine.encoding import fitting
        from sluicegate.engine.training import CrossEntropy
        from sluicegate.routing.router import Router
        from sluicegate_papers.absorption import relearn_to_minimum

        model, tokenizer = self.adapted()
        data = self.material(tokenizer, fitting(model, self.max_length))
        router = Router(model, {"lora_rank": {"forget": self.forget_rank}}, form="protect")
        flops = self.train(model, data, router, run)
        measures = {"parameters": _adapter_size(model), **self._absorbed(router, data), **_measured(model, data, "before")}
        cut = router.ablate("forget")
        router.remove()
        if self.variant in ("routed", "cut"):
            if not (done := cut.bake(model)):
                raise UserError(f"the quarantined ranks could not be taken out: {done}")
            measures |= {k: v for k, v in _measured(model, data, "raw").items() if "loss" in k}
            flops += self.repair(model, data, run)
        measures |= {"parameters_cut": _adapter_size(model), **_measured(model, data, "cut")}
        ordinary = model.merge_and_unload()
        again = relearn_to_minimum(
            ordinary,
            data.owned,
            lambda model: _scores(model, data.unwanted)["loss"],
            lrs=self.relearn_lrs,
            batch=self.schedule.batch,
            every=self.relearn_every,
            patience=self.patience,
            max_steps=self.relearn_steps,
            objective=CrossEntropy("answer"),
            seed=self.seed,
            run=run,
        )
        measures |= {"unwanted_relearned": again.minimum, "relearn_steps": again.best.step, "passed": again.passed}
        return outcome(self, measures, flops=flops, curves={"relearning": again.curve()})

    def train(self, model: Any, data: "_Material", router: "Router", run: "RunContext") -> float:
        """Fine-tune the adapter; return the FLOPs. All arms take the same number of steps."""
        from sluicegate.engine.sampling import Mixture, seed_of
        from sluicegate.engine.training import CrossEntropy, fit
        from sluicegate.routing.train import train_routed

        objective = CrossEntropy("answer")
        if self.variant == "routed":
            labels = [item.label for item in data.train.items]
            fitted = train_routed(
                model, data.train, labels, router, self.schedule, objective=objective, seed=self.seed, params="*lora_*", run=run
            )
        else:
            draw = Mixture(data.train, self.schedule.batch, seed_of(self.seed, "train"))
            fitted = fit(
                model,
                objective,
                lambda step: {"train": draw(step)},
                self.schedule,
                seed=self.seed,
                run=run,
                name="train",
                params="*lora_*",
            )
        return fitted.ledger.student

    def repair(self, model: Any, data: "_Material", run: "RunContext") -> float:
        """Train what is left of the adapter on wanted rows for a few steps; return the FLOPs."""
        from sluicegate.engine.sampling import Mixture, seed_of
        from sluicegate.engine.training import CrossEntropy, fit

        if not self.repair_steps:
            return 0.0
        draw = Mixture(data.wanted, self.schedule.batch, seed_of(self.seed, "repair"))
        fitted = fit(
            model,
            CrossEntropy("answer"),
            lambda step: {"train": draw(step)},
            Schedule(steps=self.repair_steps, lr=self.repair_lr, batch=self.schedule.batch),
            seed=self.seed,
            run=run,
            name="repair",
            params="*lora_*",
        )
        return fitted.ledger.student

    def _absorbed(self, router: "Router", data: "_Material") -> dict[str, float]:
        """How much more than the others the quarantined ranks are moved by rows that nobody has labelled."""
        from sluicegate.engine.training import CrossEntropy
        from sluicegate_papers.absorption import moves

        found: dict[tuple[str, str], float] = {}
        for name, rows in (("absorption", data.unwanted), ("absorption_wanted", data.wanted)):
            batch = rows.batch(range(min(len(rows), 128)))

            def loss(model: Any, ids: Any, batch: "Batch" = batch) -> Any:
                return CrossEntropy("answer")(model, {"train": batch}).value

            found |= moves(router, {name: (batch.ids, "unlabelled")}, loss)
        return {name: found["forget", name] / found["rest", name] for name in ("absorption", "absorption_wanted")}


@dataclass(frozen=True, eq=False)
class _Material:
    train: "Rows"
    """All rows of fine-tuning, each with its label for the router."""
    wanted: "Rows"
    unwanted: "Rows"
    """Unwanted rows of the facts that the attacker does not have."""
    owned: "Rows"
    """Unwanted rows that relearning uses."""


def _scores(model: Any, rows: "Rows") -> dict[str, float]:
    from sluicegate.engine.scoring import score

    return score(model, rows).mean()


def _measured(model: Any, data: _Material, when: str) -> dict[str, float]:
    """Exact answers and losses on wanted and unwanted rows, as measures."""
    found: dict[str, float] = {}
    for name in ("wanted", "unwanted"):
        scores = _scores(model, getattr(data, name))
        found |= {f"{name}_{when}": scores["exact"], f"{name}_loss_{when}": scores["loss"]}
    return found


def _adapter_size(model: Any) -> float:
    return float(sum(p.numel() for name, p in model.named_parameters() if "lora_" in name))
