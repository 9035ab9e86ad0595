"""Access control: several capabilities from one training run, each in a module of its own that can be left out."""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.errors import UserError, nearest
from sluicegate.runs.stage import setting, source
from sluicegate.runs.trial import Trial, outcome
from sluicegate.values.items import Item
from sluicegate.values.ranges import Count, Positive, Share, Whole, Width
from sluicegate.values.schedule import Schedule, training_rate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sluicegate.engine.encoding import Batch, Rows
    from sluicegate.routing.router import Router
    from sluicegate.runs.directory import RunContext

GENERAL = "general"
MOST = 5
"""Capabilities at most: 2 to this power models are scored."""


@dataclass(frozen=True)
class AccessControl(Trial):
    """Train one model in which each capability has a named block, and score it with every choice of blocks.

    Rows of a capability train its block alone (MLP units and attention heads of every layer), general rows the rest.
    Every batch is computed without some of the blocks, drawn anew for each, so that all choices are trained for;
    a capability's rows always have its own. K blocks give 2^K models. The score is the share of answer tokens that are
    the model's first choice.

    The idea is of the research agenda "Selective modularity" (Cloud and Goldman-Wetzler 2025), which names access
    control and shows no experiment; the parameter masks are those of SGTM (arXiv 2512.05648).
    """

    VERB: ClassVar[str] = "access-control"
    MEASURES: ClassVar[dict[str, str]] = {
        "with_mean": "score of a capability whose module is there, mean over capabilities and choices of the other modules",
        "with_worst": "the lowest of these",
        "without_mean": "score of a capability whose module is cut, mean over capabilities and choices of the other modules",
        "without_best": "the highest of these",
        "without_excess": "how far the highest lies above always giving the capability's commonest answer token",
        "full": "score of the capabilities with all modules, mean",
        "loss_with": "loss of a capability whose module is there, mean (nats a token)",
        "loss_without": "loss of a capability whose module is cut, mean (nats a token)",
        "loss_without_least": "the lowest of these",
        "general_full": "score of the general rows with all modules",
        "general_worst": "the lowest score of the general rows over all choices of modules",
        "relearn_before": "held-out loss of the dropped capability with its module cut (nats a token)",
        "relearn_loss": "lowest held-out loss while half of the dropped capability's facts are relearned (nats a token)",
        "relearn_steps": "steps to that loss",
        "relearn_passed": "1 where the lowest loss lies clearly behind under every learning rate",
        "parameters": "parameters of the whole model",
        "parameters_without": "parameters of the model from which the dropped capability's module is cut for good",
    }

    variant: Literal["routed", "control", "without"] = setting("routed", was="arm")
    """routed: one run, a module a capability. control: plain training on the same rows, and the same units cut.
    without: plain training on all rows but those of `drop`, in a model that never had its module."""
    data: str = source("data")
    """Your rows (JSONL, Parquet, hub:NAME), each with the name of its capability in "label", or the label general;
    empty: arithmetic, where subtract, multiply and divide are the capabilities, and adding and running text are
    general."""
    model: str = source("model")
    """With your rows, a model: a folder with weights is trained on, one without starts fresh. It brings the
    tokenizer."""
    drop: str = ""
    """The capability that is relearned after its module is cut, and that `without` never sees; empty: the first by
    name."""
    heads: Whole = 0
    """Attention heads of each module in every layer; 0: none."""
    units: Whole = 192
    """MLP units of each module in every layer."""
    joint: str = "embeddings"
    """Parameters that learn from every row: globs over names, joined by commas, or embeddings, for those at both ends;
    empty: none."""
    problems: Whole = 0
    """Word problems per fact of the arithmetic, beside its bare form."""
    width: Width = 64
    """Hidden size of the built-in model."""
    depth: Count = 1
    """Layers of the built-in model."""
    held_out: Share = 0.1
    """Share of your rows that is kept for scoring; 0: score on the rows that were learnt (knowledge, not skill)."""
    max_length: Count = 128
    """Longest row, in tokens."""
    relearn_lrs: tuple[Positive, ...] = (1e-3, 4e-3)
    """Learning rates of the relearning; the lowest loss counts."""
    relearn_steps: Count = 200
    """Steps of the relearning at most; it ends sooner where the loss has turned."""
    schedule: Schedule = Schedule(steps=1000, lr=4e-3, batch=96, warmup=50, decay="cosine")

    def resolved(self) -> Self:
        if bool(self.data) != bool(self.model):
            given, missing = ("data", "model") if self.data else ("model", "data")
            raise UserError(
                f"{self.VERB}: {given} is given without {missing}. Rows of yours take a model and its tokenizer, and the reverse."
            )
        if not 0 <= self.held_out < 1:
            raise UserError(f"{self.VERB}: held_out is {self.held_out:g}; it is a share of the rows, from 0 up to, not including, 1.")
        return dataclasses.replace(self, schedule=self.schedule.or_rate(training_rate(self._width())))

    def _width(self) -> int:
        if not self.model:
            return self.width
        from sluicegate.engine.models import config_width

        return config_width(self.model)

    def is_wide(self) -> bool:
        return self._width() >= 256

    # --------------------------------------------------------------------------- what is learnt

    def material(self) -> tuple[dict[str, list[Item]], dict[str, list[Item]]]:
        """Rows to learn and rows to score, each by capability, the general ones under "general"."""
        if self.data:
            from sluicegate.tasks import read

            return _divided(read(self.data), self.held_out, self.data)
        from sluicegate.tasks import arithmetic

        learnt: dict[str, list[Item]] = {GENERAL: [], "divide": [], "multiply": [], "subtract": []}
        scored: dict[str, list[Item]] = {name: [] for name in learnt}
        for found, seed in ((learnt, self.seed), (scored, self.seed + 1_000_003)):  # the same facts in other words
            task = arithmetic(problems=self.problems, pool=0)
            split = task.split(seed)
            for item in (*split.forget, *split.retain, *task.text(seed)):
                found[item.label if item.label in found else GENERAL].append(item)
        return learnt, scored

    def _model(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        from sluicegate.engine.models import fresh, load

        if self.model:
            return load(self.model, seed=self.seed, dtype="float32")
        from transformers import LlamaConfig

        from sluicegate.tasks.arithmetic import tokenizer, vocabulary

        config = LlamaConfig(
            vocab_size=len(vocabulary()),
            hidden_size=self.width,
            num_hidden_layers=self.depth,
            num_attention_heads=8,
            num_key_value_heads=8,
            head_dim=16,
            intermediate_size=3 * self.units + 3 * self.width,
            max_position_embeddings=32,
            tie_word_embeddings=False,
            initializer_range=0.1,
        )
        return fresh(config, self.seed), tokenizer()

    def _router(self, model: "PreTrainedModel", capabilities: Sequence[str]) -> "Router":
        from sluicegate.routing.router import Router
        from sluicegate.routing.sites import find

        sites = {site.name: dict.fromkeys(capabilities, self.units) for site in find(model, "mlp_hidden")}
        if self.heads:
            sites |= {site.name: dict.fromkeys(capabilities, self.heads) for site in find(model, "heads")}
        joint: str | list[str] = self.joint
        if joint == "embeddings":
            ends = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None}
            joint = [name for name, p in model.named_parameters() if id(p) in ends]  # one name where they are tied
        # General rows are computed without blocks (retain) or with those that are not drawn (unlabelled), and leave
        # them alone.
        return Router(model, sites, form="protect", joint_params=joint, weights={"unlabelled": dict.fromkeys(capabilities, 0.0)})

    # --------------------------------------------------------------------------- the run

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.engine.encoding import encode, fitting
        from sluicegate.engine.training import Ledger

        learnt, scored = self.material()
        capabilities = [name for name in learnt if name != GENERAL]
        drop = self.drop or capabilities[0]
        if drop not in capabilities:
            raise UserError(f"{self.VERB}: drop is {drop!r}, which is no capability. Nearest: {nearest(drop, capabilities)}.")
        model, tokenizer = self._model()
        longest = fitting(model, self.max_length)
        router = self._router(model, capabilities)
        whole = sum(p.numel() for p in model.parameters())
        if self.variant == "without":
            cut = router.ablate(drop)
            router.remove()
            cut.bake(model)
            del learnt[drop]
        fitted = self._train(model, tokenizer, learnt, router, longest, run)
        rows = {name: encode(tokenizer, items, max_length=longest) for name, items in scored.items()}
        measures: dict[str, float] = {"parameters": whole}
        if self.variant != "without":
            router.remove()
            table = _table(model, router, rows, capabilities, Ledger())
            measures |= _summary(table, capabilities, {name: _commonest(rows[name]) for name in capabilities})
            of = {"kind": "subset"}
            run.log_once(
                "subsets",
                (
                    {**of, "modules": list(there), "rows": name, "score": share, "loss": loss}
                    for (there, name), (share, loss) in table.items()
                ),
            )
            if run.path != Path():  # a run folder, not a call that keeps nothing
                _draw(table, capabilities, run.path / "matrix.png")
            router.ablate(drop).bake(model)
        measures["parameters_without"] = sum(p.numel() for p in model.parameters())
        found = self._relearn(model, tokenizer, scored[drop], longest, run)
        curve = found.curve()
        measures |= {
            "relearn_before": found.best.losses[0],
            "relearn_loss": found.minimum,
            "relearn_steps": found.best.step,
            "relearn_passed": float(found.passed),
        }
        return outcome(self, measures, flops=fitted.ledger.total, curves={"relearning": curve})

    def _train(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        learnt: Mapping[str, list[Item]],
        router: "Router",
        longest: int,
        run: "RunContext",
    ) -> Any:
        from sluicegate.engine.encoding import encode
        from sluicegate.engine.sampling import Mixture, Part, seed_of
        from sluicegate.engine.training import CrossEntropy, fit
        from sluicegate.routing.train import train_routed

        groups = {"retain": learnt[GENERAL], "unlabelled": learnt[GENERAL], **{n: own for n, own in learnt.items() if n != GENERAL}}
        items: list[Item] = []
        labels: list[str] = []
        parts: dict[str, Part] = {}
        for name, own in groups.items():
            rows = encode(tokenizer, own, max_length=longest)
            share = 0.2 if name in ("retain", "unlabelled") else 0.6 / (len(groups) - 2)
            parts[name] = Part(range(len(labels), len(labels) + len(rows)), share)
            items += own
            labels += [name] * len(rows)
        together = encode(tokenizer, items, max_length=longest)
        if self.variant == "routed":

            def without(batch: "Batch") -> list[str]:
                rng = random.Random(f"{self.seed} {batch.index.tolist()}")  # of the batch alone, so that a resumed run draws the same
                return [name for name in router.blocks if rng.random() < 0.5]

            return train_routed(
                model, together, labels, router, self.schedule, parts=parts, seed=self.seed, run=run, name="train", without=without
            )
        draw = Mixture(together, self.schedule.batch, seed_of(self.seed, "train"), parts)
        return fit(model, CrossEntropy(), lambda step: {"train": draw(step)}, self.schedule, seed=self.seed, run=run, name="train")

    def _relearn(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", items: Sequence[Item], longest: int, run: "RunContext"
    ) -> Any:
        from sluicegate.engine.encoding import encode
        from sluicegate.engine.scoring import score
        from sluicegate.engine.training import CrossEntropy
        from sluicegate.values.items import halves
        from sluicegate_papers.absorption import relearn_to_minimum

        owned, held = (encode(tokenizer, half, max_length=longest) for half in halves(items, self.seed))
        return relearn_to_minimum(
            model,
            owned,
            lambda m: score(m, held).mean()["loss"],
            lrs=self.relearn_lrs,
            batch=32,
            max_steps=self.relearn_steps,
            objective=CrossEntropy("answer"),
            seed=self.seed,
            run=run,
        )


Table = dict[tuple[tuple[str, ...], str], tuple[float, float]]
"""(modules that are there, rows) -> score and loss."""


def _table(model: Any, router: Any, rows: "Mapping[str, Rows]", capabilities: Sequence[str], ledger: Any) -> Table:
    """Score all rows under every choice of modules."""
    from contextlib import nullcontext

    from sluicegate.engine.scoring import score

    found: Table = {}
    for there in subsets(capabilities):
        gone = [name for name in capabilities if name not in there]
        with router.ablate(*gone)(model) if gone else nullcontext():
            for name, own in rows.items():
                mean = score(model, own, ledger).mean()
                found[there, name] = mean["argmax"], mean["loss"]
    return found


def subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every choice of some of the names, none and all included."""
    for count in range(len(names) + 1):
        yield from itertools.combinations(names, count)


def _summary(table: Table, capabilities: Sequence[str], chance: Mapping[str, float]) -> dict[str, float]:
    from statistics import fmean

    there = [value for (modules, name), value in table.items() if name in modules]
    gone = [value for (modules, name), value in table.items() if name in capabilities and name not in modules]
    excess = [value[0] - chance[name] for (modules, name), value in table.items() if name in capabilities and name not in modules]
    everything = tuple(capabilities)
    general = [value[0] for (_, name), value in table.items() if name == GENERAL]
    return {
        "with_mean": fmean(score for score, _ in there),
        "with_worst": min(score for score, _ in there),
        "without_mean": fmean(score for score, _ in gone),
        "without_best": max(score for score, _ in gone),
        "without_excess": max(excess),
        "full": fmean(table[everything, name][0] for name in capabilities),
        "loss_with": fmean(loss for _, loss in there),
        "loss_without": fmean(loss for _, loss in gone),
        "loss_without_least": min(loss for _, loss in gone),
        "general_full": table[everything, GENERAL][0],
        "general_worst": min(general),
    }


def _draw(table: Table, capabilities: Sequence[str], path: Path) -> None:
    """A table of scores as a picture: a row for each group of rows, a column for each choice of modules."""
    from matplotlib.figure import Figure

    choices, names = list(subsets(capabilities)), [*capabilities, GENERAL]
    figure = Figure(figsize=(1.6 + 0.75 * len(choices), 1.5 + 0.42 * len(names)), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    scores = [[table[there, name][0] for there in choices] for name in names]
    axes.imshow(scores, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for y, row in enumerate(scores):
        for x, value in enumerate(row):
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=9, color="white" if value > 0.6 else "black")
    axes.set_xticks(range(len(choices)), ["\n".join(there) or "none" for there in choices], fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xlabel("modules that are there", fontsize=9)
    axes.tick_params(length=0)
    figure.savefig(path)


def _commonest(rows: "Rows") -> float:
    """Share of the commonest among the rows' answer tokens: what a constant answer scores."""
    import torch

    answers = [batch.ids[:, 1:][batch.answer].cpu() for batch in rows.everything()]
    counts = torch.bincount(torch.cat(answers))
    return float(counts.max() / counts.sum())


def _divided(items: Sequence[Item], held_out: float, name: str) -> tuple[dict[str, list[Item]], dict[str, list[Item]]]:
    """The user's rows by capability, a share of each kept for scoring."""
    groups: dict[str, list[Item]] = {GENERAL: [], **{label: [] for label in sorted({item.label for item in items} - {GENERAL, ""})}}
    for item in items:
        if item.label not in groups:
            raise UserError(f'{name}: the row {item.text[:60]!r} has no label. Give each row\'s capability, or {GENERAL!r}, in "label".')
        groups[item.label].append(item)
    if not groups[GENERAL] or not 1 <= len(groups) - 1 <= MOST:
        raise UserError(
            f"{name} has {len(groups[GENERAL])} general rows and {len(groups) - 1} capabilities ({', '.join(list(groups)[1:])}). Label "
            f"some rows {GENERAL!r} and the others with the name of 1 to {MOST} capabilities."
        )
    learnt: dict[str, list[Item]] = {}
    scored: dict[str, list[Item]] = {}
    every = round(1 / held_out) if held_out else 0
    for label, own in groups.items():
        scored[label] = [item for i, item in enumerate(own) if i % every == 0] if every else own
        learnt[label] = [item for i, item in enumerate(own) if i % every] if every else own
        if len({item.key for item in scored[label]}) < 4 or not learnt[label]:
            raise UserError(
                f"{name}: {len(own)} rows have the label {label!r}, of which {len(scored[label])} would be scored; at least 4 are needed. "
                "Give more rows, or a larger held_out (0 scores the rows that were learnt)."
            )
    return learnt, scored
