"""Stages on data: what they share, and the one that only scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.errors import UserError
from sluicegate.runs.stage import Stage, setting, source
from sluicegate.tasks import read
from sluicegate.tasks.benchmarks import digest, needed
from sluicegate.values.files import short
from sluicegate.values.items import GROUPS, Item, Split
from sluicegate.values.ranges import Count, Dtype, Seed, Weight, Whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sluicegate.engine.encoding import Rows
    from sluicegate.engine.training import Fitted
    from sluicegate.runs.directory import RunContext


@dataclass(frozen=True)
class OnData(Stage):
    """What the stages have in common: a model, groups of rows, and how they become tokens."""

    NEEDS: ClassVar[tuple[str, ...]] = ()
    """Sources without which the verb has nothing to do, beside the model."""
    ADVICE: ClassVar[str] = ""
    """What to do where the retain score fell by more than a tenth."""

    model: str = source("model")
    """Folder, run folder, packaged configuration (arithmetic-tiny), fetched model, or hub id."""
    forget: str = source("data")
    """Forget set: JSON, CSV, text, Parquet, hub:NAME:CONFIG:SPLIT, or task:NAME/GROUP; several joined by commas."""
    retain: str = source("data")
    """Retain set, in the same formats."""
    adjacent: str = source("data")
    """Rows near the forget set that are to be kept; they are only scored."""
    columns: str = setting("", added=True)
    """What is read from which column of files whose form is not known by itself: prompt=question,answer=answer."""
    max_length: Count = 256
    """Longest row, in tokens; longer running text is cut into windows."""
    template: bool = False
    """Render prompts with the tokenizer's chat template."""
    system: str = setting("", added=True)
    """With --template: what the system's turn says, before the prompt."""
    template_args: str = setting("", added=True)
    """With --template: what else the template is told: enable_thinking=false,key=value."""
    end_of_turn: bool = setting(False, added=True)
    """With --template: the token that ends the turn belongs to the answer."""
    dtype: Dtype = setting("auto", added=True)
    """Type of the model's numbers; auto: float32 on a CPU, on an accelerator what its weights are saved in."""
    base: str = source("model")
    """What an adapter's folder goes on, where that is not found by the name in the adapter."""
    seed: Seed = 0
    """Seed of everything random in this stage."""

    def split(self) -> Split:
        """The groups that were handed in."""
        groups = {name: value for name, value in self.sources("data").items() if name in GROUPS}
        return Split(**{name: read(value, name, self.columns) for name, value in groups.items()})

    def need(self, *names: str) -> None:
        """Raise `UserError` unless these sources were handed in."""
        missing = [f"--{name.replace('_', '-')}" for name in names if not getattr(self, name)]
        if missing:
            raise UserError(f"{self.VERB} needs {' and '.join(missing)}. See: sluicegate {self.VERB} --help")

    def resolved(self) -> Self:
        """Check that what the verb needs is there, and fill in what depends on the model: rates, type of numbers."""
        self.need("model", *self.NEEDS)
        if not self.template and (self.system or self.template_args or self.end_of_turn):
            raise UserError("--system, --template-args and --end-of-turn say how a chat template is filled: add --template.")
        from sluicegate.engine.models import is_quantised, settled_dtype

        attack: Any = getattr(self, "attack", None)  # with an adapter, and on weights as they are
        able = self.VERB == "score" or (attack and attack.lora_rank and not attack.round_bits)
        if not able and is_quantised(self.model, self.base):
            raise UserError(f"{self.VERB} needs float weights, {self.model!r} is quantised: score, or attack with --lora-rank, unrounded.")
        return replace(self, dtype=settled_dtype(self.model, self.dtype, self.base))

    def width(self) -> int:
        """The model's hidden size."""
        from sluicegate.engine.models import config_width

        return config_width(self.model, self.base)

    def is_wide(self) -> bool:
        """Whether one operation is work enough for several threads: in a narrow model they mostly wait for each other
        (a step of the arithmetic model took 25 times as long with two as with one, on cores that others used too)."""
        return self.width() >= 256

    def load(self, *, once: bool = False, **how: Any) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """The model and its tokenizer; with `once` those of this process's last stage, where they are the same."""
        from sluicegate.engine.models import load, load_once

        model, tokenizer = (load_once if once else load)(self.model, seed=self.seed, dtype=self.dtype, base=self.base, **how)
        return model, self.tell(tokenizer)

    def tell(self, tokenizer: Any) -> Any:
        """The tokenizer, told how its chat template is to be filled."""
        from sluicegate.engine.encoding import fill_template

        return fill_template(tokenizer, system=self.system, args=self.template_args, end_of_turn=self.end_of_turn)

    def finish(
        self, run: "RunContext", model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", split: Split, fitted: "Fitted"
    ) -> dict[str, Any]:
        """Score the groups, save the model, and return the stage's result."""
        from sluicegate.engine.models import save

        scores = self.score(model, tokenizer, split)
        if run.ranks.leads:
            save(model.eval(), tokenizer, run.path / "model")
        return {"verb": self.VERB, "method": self.method, "steps": fitted.steps, "scores": scores, "flops": fitted.ledger.as_dict()}

    def score(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", split: Split) -> dict[str, dict[str, float]]:
        """Mean scores of every group but the unlabelled one."""
        from sluicegate.engine.choices import score_any

        encoded = self.encoder(model, tokenizer)
        groups = {name: split.group(name) for name in ("forget", "retain", "adjacent") if split.group(name)}
        return {name: score_any(model, encoded(items), encoded).mean() for name, items in groups.items()}

    def encoder(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> "Callable[[Sequence[Item]], Rows]":
        """What turns items into rows as this stage's settings say."""
        from sluicegate.engine.encoding import encode, fitting

        return partial(encode, tokenizer, max_length=fitting(model, self.max_length), template=self.template)


def compared(scores: dict[str, dict[str, float]], before: Mapping[str, dict[str, float]], split: Split, advice: str) -> dict[str, Any]:
    """Scores with the retain set's `before`, where there are any; a warning where it fell by over a tenth."""
    from sluicegate.engine.scoring import in_one

    if "retain" not in before:
        return {"scores": scores}
    was, now = (in_one(group["retain"], split.retain) for group in (before, scores))
    said = [f"the retain score fell by more than a tenth: {advice}"] if now < 0.9 * was - 1e-6 else []  # 36 of 40 is a tenth
    return {"scores": scores | {"retain before": before["retain"]}, "warnings": said}


@dataclass(frozen=True)
class Score(OnData):
    """Score a model as it is: how much of each group does it know?"""

    VERB: ClassVar[str] = "score"
    GROUP: ClassVar[str] = "audit and attack"

    device_map: Literal["", "auto", "balanced", "sequential", "cpu"] = setting("", added=True, hashed=False)
    """Where the model lies that one device does not hold: auto spreads it over all devices, memory and disk."""

    generate: Whole = setting(0, added=True)
    """Let the model write answers to so many rows of each group, evenly spaced, and measure these; 0: none."""
    temperature: Weight = setting(0.0, added=True)
    """At which it samples what it writes; 0: its first choice, token by token."""
    new_tokens: Whole = setting(0, added=True)
    """Most tokens that it writes; 0: one and a half times the longest answer and 8 more."""
    benchmark: str = setting("", added=True)
    """tofu:forget01|05|10, muse:news|books, wmdp:bio|chem|cyber, or rwku[:TARGET]: the metrics of a benchmark."""
    reference: str = source("model")
    """A model that never saw the forget set: the benchmark's numbers for it too, and what needs it (forget quality)."""
    data_dir: str = setting("", added=True)
    """Folder of the benchmark's files (forget10_perturbed.jsonl); default: $SLUICEGATE_DATA_DIR, else the hub."""
    benchmark_rows: Whole = setting(0, added=True)
    """Measure on the first so many rows of each file; 0: on all."""
    lm_eval: str = setting("", added=True)
    """Tasks of lm-evaluation-harness, joined by commas, on the same weights; a task may be a YAML file of yours."""

    def resolved(self) -> Self:
        if not self.benchmark and (self.reference or self.data_dir or self.benchmark_rows):
            raise UserError("--reference, --data-dir and --benchmark-rows say how a benchmark is measured: name it with --benchmark.")
        return super().resolved()

    def contents(self) -> dict[str, str]:
        return {"data_dir": digest(needed(self.benchmark, self.data_dir, self.benchmark_rows))} if self.benchmark else {}

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.engine.training import Ledger

        split = self.split()
        if not (split.forget or split.retain or split.adjacent or self.benchmark or self.lm_eval):
            raise UserError("there is nothing to score: hand in --forget, --retain or --adjacent, or name a --benchmark.")
        model, tokenizer = self.load(device_map=self.device_map)
        found: dict[str, Any] = {"verb": self.VERB, "method": "", "steps": 0, "scores": self.score(model, tokenizer, split)}
        found["flops"] = Ledger().as_dict()
        found |= self.beside(model, tokenizer, split, run)
        if self.lm_eval:
            from sluicegate.tasks.metrics.harness import harness

            found["measures"] = found.get("measures", {}) | harness(model, tokenizer, self.lm_eval)
        if self.benchmark:
            more = self.measured(model, tokenizer, run)
            found |= more | {"notes": [*found.get("notes", ()), *more["notes"]]}
        return found

    def measured(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", run: "RunContext") -> dict[str, Any]:
        """The benchmark's numbers, the reference's beside them, and where they cannot mean what they should."""
        from sluicegate.tasks.metrics.measure import COMPARED, compare, measure
        from sluicegate.tasks.metrics.subject import Subject

        groups = needed(self.benchmark, self.data_dir, self.benchmark_rows)
        subject, theirs, notes = Subject(model, tokenizer, self.template, run.progress), dict[str, float](), list[str]()
        numbers, own = measure(self.benchmark, subject, groups)
        if self.reference:
            other = Subject(*replace(self, model=self.reference, base="").load(device_map=self.device_map), self.template, run.progress)
            theirs, reference = measure(self.benchmark, other, groups)
            numbers |= compare(self.benchmark, subject, own, reference)
            subject.warnings.extend(f"reference: {text}" for text in other.warnings if text not in subject.warnings)
        elif missing := COMPARED.get(self.benchmark.partition(":")[0]):
            notes = [f"{missing} needs --reference, a model that never saw the forget set"]
        found = {"name": self.benchmark, "numbers": numbers, "reference": theirs, "intervals": subject.intervals}
        return {"benchmark": found, "warnings": subject.warnings, "notes": notes}

    def beside(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", split: Split, run: "RunContext") -> dict[str, Any]:
        """Measures by multiple choice, where rows have choices; with `generate` also of what it writes, the texts
        by group ([prompt, answer, text] a row), and some of these as notes."""
        from sluicegate.engine.choices import choose
        from sluicegate.engine.generation import compare, generate

        found: dict[str, Any] = {"measures": {}, "written": {}, "notes": []}
        how: dict[str, Any] = {"max_new_tokens": self.new_tokens, "template": self.template, "max_length": self.max_length}
        for name in (name for name in ("forget", "retain", "adjacent") if split.group(name)):
            items = split.group(name)
            measured = choose(model, items, self.encoder(model, tokenizer))
            if some := [items[n] for n in sorted({n * len(items) // self.generate for n in range(self.generate)})]:
                texts = generate(model, tokenizer, some, **how, temperature=self.temperature, seed=self.seed, progress=run.progress)
                measured |= compare(texts, some)
                found["written"][name] = [[item.prompt, item.answer, text] for item, text in zip(some, texts, strict=True)]
                shown = [[short(text.strip(), 90) for text in row] for row in found["written"][name][:3]]
                found["notes"] += [f"{name}: asked {asked} it writes {text}; the answer: {answer}" for asked, answer, text in shown]
            found["measures"] |= {f"{name} {measure}": value for measure, value in measured.items()}
        return {name: value for name, value in found.items() if value}
