"""The settings of the languages trial, and what follows from them: its rows, its model, its router."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from sluicegate.errors import UserError
from sluicegate.runs.stage import setting, source
from sluicegate.runs.trial import Trial
from sluicegate.values.ranges import Count, Number, Positive, Rows, Share, Weight, Whole, Width

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.routing.router import Router
    from sluicegate.values.schedule import Schedule
    from sluicegate_papers.tasks.languages import Corpus

ARMS = ("base", "filter", "cut", "sgtm", "era", "demix", "graddiff", "rmu")
FROM_BASE = ("cut", "graddiff", "rmu")
SITES = ("mlp_hidden", "heads")


@dataclass(frozen=True)
class LanguagesSettings(Trial):
    """One way to keep a language and lose another, with a share of the second labelled."""

    variant: Literal["", "base", "filter", "cut", "sgtm", "era", "demix", "graddiff", "rmu"] = setting("", was="arm")
    """base (learns everything), filter (without the labelled forget rows), cut (base, units cut without routing), sgtm,
    era, demix, graddiff or rmu (both on base)."""
    share: Share = 1.0
    """Share of the forget rows that is labelled; every method takes the others for unlabelled or retain rows."""
    base: str = source("run")
    """The finished run of the arm base: where cut, graddiff and rmu start."""
    curve: str = source("run")
    """The finished run of languages-exposure, for leakage; without, there is none."""
    retain: str = source("data")
    """Your own text to keep (TXT or JSONL), in place of the first language."""
    forget: str = source("data")
    """Your own text to lose, in place of the second."""
    model: str = source("model")
    """A model to train on your texts with its own tokenizer; without, a new one that reads bytes."""
    rows: Count = 12000
    """Rows of training, of which a third are to be forgotten; with texts at most so many."""
    length: Count = 32
    """Tokens a row."""
    width: Width = 128
    """Hidden size of the model."""
    layers: Count = 2
    """Layers of the model."""
    heads: Count = 4
    """Attention heads of a layer."""
    hidden: Width = 512
    """MLP units of a layer."""
    forget_units: Whole = 96
    """How many of a layer's MLP units are the forget block's."""
    forget_heads: Whole = 1
    """How many of a layer's heads are the forget block's."""
    batch: Rows = 32
    """Rows a step."""
    lr: Weight = 3e-3
    """Peak learning rate of training."""
    confident: Share = 0.25
    """sgtm: share of the retain rows that is labelled so, and computed without the forget block."""
    rest_weight: Number = -0.5
    """era: by what the gradient of labelled forget rows on the rest is multiplied."""
    repair_lr: Weight = 5e-4
    """cut and era: learning rate of the repair on a few retain rows after the cut."""
    repair_steps: Whole = 40
    """cut and era: most steps of that repair; it ends where the retain loss is lowest."""
    unlearn_steps: Whole = 80
    """graddiff and rmu: steps of unlearning."""
    unlearn_lr: Weight = 1e-3
    """graddiff and rmu: learning rate of unlearning."""
    graddiff_weight: Weight = 1.0
    """graddiff: weight of the retain loss."""
    rmu_coefficient: Weight = 40.0
    """rmu: length of the vector that forget rows are steered to."""
    rmu_weight: Weight = 20.0
    """rmu: weight of keeping the retain rows' hidden states."""
    held_out: Count = 256
    """Rows of either language that losses are measured on."""
    relearn_rows: Count = 64
    """Forget rows that relearning uses; as many retain rows for the repair."""
    relearn_lrs: tuple[Positive, ...] = (5e-4, 2e-3)
    """Learning rates of relearning."""
    relearn_steps: Count = 300
    """Most steps of relearning."""
    relearn_every: Count = 5
    """Steps between two measurements while relearning."""
    patience: Count = 6
    """Measurements without a new minimum after which relearning ends."""

    @property
    def method(self) -> str:
        return f"{self.variant}-{self.share:g}" if self.variant not in ("base", "cut") else self.variant

    def is_wide(self) -> bool:
        return bool(self.model) or self.width >= 256

    def resolved(self) -> Self:
        if not self.variant:
            raise UserError(f"which variant? Give one of {', '.join(ARMS)}.")
        if self.variant in FROM_BASE and not self.base:
            raise UserError(f"the arm {self.variant} starts from a finished run of the arm base; name its folder in --base.")
        if not 0 < self.share <= 1:
            raise UserError(f"share is {self.share:g}; it is a share of the forget rows, above 0 and at most 1.")
        if bool(self.retain) != bool(self.forget):
            raise UserError("of your two texts only one is given; hand in both --retain and --forget, or neither.")
        if self.model and not self.retain:
            raise UserError("a model with its own tokenizer needs texts; hand in --retain and --forget with --model.")
        return self

    def corpus(self) -> "Corpus":
        """The rows of the two languages, or of the user's two texts."""
        from sluicegate.tasks import read
        from sluicegate_papers.tasks.languages import BYTES, byte_rows, two_languages, two_texts
        from sluicegate_papers.tasks.languages import Languages as Task

        if not self.retain:
            return two_languages(Task(length=self.length, seed=self.seed), self.rows, self.held_out, self.relearn_rows)
        items = {"retain": read(self.retain, "retain"), "forget": read(self.forget, "forget")}
        if self.model:
            from sluicegate.engine.encoding import encode
            from sluicegate.engine.models import load_tokenizer

            tokenizer = load_tokenizer(self.model)
            texts = {name: encode(tokenizer, own, max_length=self.length) for name, own in items.items()}
            return two_texts(texts, self.rows, self.held_out, self.relearn_rows, self.seed, len(tokenizer))
        texts = {name: byte_rows(own, self.length) for name, own in items.items()}
        return two_texts(texts, self.rows, self.held_out, self.relearn_rows, self.seed, BYTES)

    def start(self, corpus: "Corpus") -> "PreTrainedModel":
        """The model before any training: a new one, or the user's."""
        from sluicegate.engine.models import fresh, load

        if self.model:
            return load(self.model, seed=self.seed, dtype="float32")[0]
        from transformers import LlamaConfig

        return fresh(
            LlamaConfig(
                vocab_size=corpus.vocabulary,
                hidden_size=self.width,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                num_key_value_heads=self.heads,
                intermediate_size=self.hidden,
                max_position_embeddings=2 * self.length,
                bos_token_id=None,
                eos_token_id=None,
            ),
            self.seed,
        )

    def trained_base(self) -> "PreTrainedModel":
        """The finished base model."""
        from sluicegate.engine.models import load_model
        from sluicegate.runs.directory import result_of

        if result_of(self.base).get("method") != "base":
            raise UserError(f"{self.base!r} is no run of the arm base of languages. Run that arm first.")
        return load_model(self.base, dtype="float32")

    def router(self, model: "PreTrainedModel", form: Literal["gate", "protect"] = "protect") -> "Router":
        """The router whose block "forget" is the model's last units and heads."""
        from sluicegate.routing.router import Router

        sites = {"mlp_hidden": {"forget": self.forget_units}, "heads": {"forget": self.forget_heads}}
        if form == "gate":
            return Router(model, sites, form="gate", weights={"forget": self.rest_weight})
        return Router(model, sites, form="protect", joint_params=joint_of(model))

    def schedule(self, rows: int) -> "Schedule":
        """One pass over so many rows."""
        from sluicegate.values.schedule import Schedule

        steps = max(rows // self.batch, 1)
        return Schedule(steps=steps, lr=self.lr, batch=self.batch, warmup=min(50, steps // 5), decay="cosine")


def joint_of(model: "PreTrainedModel") -> list[str]:
    """Embeddings and norms learn from every row, as in the bilingual runs of SGTM."""
    from torch import nn

    found = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding) or "norm" in type(module).__name__.lower():
            found += [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
    return found
