"""Steering: fit a vector; what this stage and the next two (`steering_search`, `steering_score`) have in common."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.errors import UserError
from sluicegate.runs.stage import setting, source
from sluicegate.runs.trial import Trial, outcome
from sluicegate.steering.prompts import BEHAVIOURS, TRAINING, Rule, rule_of
from sluicegate.steering.reading import read_pairs, read_prompts
from sluicegate.values.ranges import Count, Dtype, Positive, Weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sluicegate.runs.directory import RunContext
    from sluicegate.steering.vector import SteeringSet, SteeringVector

DEFAULT = "smollm2-135m"
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class OnModel(Trial):
    """What the three have in common: a model, and prompts as its user's turn."""

    model: str = source("model")
    """Folder, run folder, fetched model or hub id; default: the one the vector was made on, else smollm2-135m."""
    prompts: str = ""
    """File of prompts, one a line, or JSONL with `prompt`; without it, packaged ones."""
    prompts_content: str = ""
    """sha256 of that file; it fills itself in."""
    plain: bool = False
    """Prompts as they are, without the tokenizer's chat template."""
    dtype: Dtype = setting("auto", added=True)
    """Type of the model's numbers; auto: float32 on a CPU, on an accelerator what its weights are saved in."""

    def resolved(self) -> Self:
        from sluicegate.engine.models import settled_dtype

        model = self.model or DEFAULT
        return dataclasses.replace(self, model=model, prompts_content=sha(self.prompts), dtype=settled_dtype(model, self.dtype))

    def is_wide(self) -> bool:
        from sluicegate.engine.models import config_width

        return config_width(self.model) >= 256

    @property
    def template(self) -> bool | None:
        return False if self.plain else None

    def texts(self, packaged: tuple[str, ...]) -> tuple[str, ...]:
        """The user's prompts, or the packaged ones."""
        return read_prompts(self.prompts) if self.prompts else packaged

    def load(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        from sluicegate.engine.models import load

        model, tokenizer = load(self.model, dtype=self.dtype)
        model.eval().requires_grad_(False)
        return model, tokenizer


@dataclass(frozen=True)
class SteerFit(OnModel):
    """Find a steering vector: from prompts that show a behaviour and prompts that do not, or without any (MELBO)."""

    VERB: ClassVar[str] = "steer-fit"
    MEASURES: ClassVar[dict[str, str]] = {
        "norm": "norm of the vector",
        "norm_share": "its norm as a share of the mean norm of the activations it is added to, at the last prompt token",
        "kl": "KL(steered || unsteered) over 12 tokens, nats a token, mean over the prompts",
        "rate": "share of the answers to the prompts that show the behaviour",
        "unsteered_rate": "the same without the vector",
    }

    variant: Literal["meandiff", "pca", "melbo", "random"] = setting("meandiff", was="arm")
    """How: mean difference, first principal component of pairs, MELBO, or a random vector of its norm (control)."""
    behaviour: str = "code"
    """A packaged behaviour (code, list, json, html, french, verse, story, first-person); or for prompts of yours a
    rule: a rule's name, regex:PATTERN, or words:a,b,c."""
    positive: str = ""
    """File of prompts that call for the behaviour."""
    negative: str = ""
    """File of prompts that do not."""
    pairs: str = ""
    """JSONL with `positive` and `negative` in each row, in place of the two."""
    pairs_content: str = ""
    """sha256 of these files; it fills itself in."""
    module: str = ""
    """Module whose output is steered, such as model.layers.10; default: the layer at two fifths of the depth."""
    target: str = ""
    """For MELBO, the module to change; default: one a sixth of the depth further."""
    read: str = "last"
    """Tokens that the vector is read from: last, not_first, all, or positions a:b."""
    tokens: str = "not_first"
    """Tokens that are steered: not_first, all, last, prompt, generated, or positions a:b."""
    scale: Positive = 3.0
    """The vector is this many times the difference."""
    kl: Weight = 0.0
    """Scale it instead to this KL from the unsteered model, in nats a token; 0: not."""
    radius: Positive = 0.2
    """For MELBO: the vectors' norm, as a share of the activations' mean norm."""
    count: Count = 24
    """For MELBO: vectors to find; the one whose answers show the behaviour most often is taken."""
    climbed: Count = 4
    """For MELBO: prompts that the vectors are climbed on, the first ones (the source: one)."""
    steps: Count = 25
    """For MELBO: steps of ascent."""
    new_tokens: Count = 40
    """Tokens an answer."""

    def resolved(self) -> Self:
        stage = super().resolved()
        rule_of_behaviour(self.behaviour)
        if self.pairs and (self.positive or self.negative):
            raise UserError("--pairs stands for --positive and --negative; give one or the other.")
        if bool(self.positive) != bool(self.negative):
            raise UserError("--positive and --negative go together: the vector is the difference of the two.")
        if self.variant != "melbo" and self.behaviour not in BEHAVIOURS and not (self.pairs or self.positive):
            known = ", ".join(BEHAVIOURS)
            raise UserError(f"{self.behaviour!r} is a rule without prompts. Give --positive and --negative, or --pairs; packaged: {known}.")
        content = sha(self.pairs, self.positive, self.negative)
        module, target = places(stage.model, self.module, self.target)
        return dataclasses.replace(stage, pairs_content=content, module=module, target=target if self.variant == "melbo" else self.target)

    def contrast(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The positive and the negative prompts."""
        if self.pairs:
            return read_pairs(self.pairs)
        if self.positive:
            return read_prompts(self.positive), read_prompts(self.negative)
        own = BEHAVIOURS.get(self.behaviour, BEHAVIOURS["code"])
        return own.positive, own.negative

    def run(self, run: "RunContext") -> dict[str, Any]:
        import torch

        from sluicegate.steering.dose import calibrate, curve
        from sluicegate.steering.io import SET, VECTOR, save
        from sluicegate.steering.score import behaviour_rate, generate
        from sluicegate.steering.vector import SteeringSet

        model, tokenizer = self.load()
        rule, prompts = rule_of_behaviour(self.behaviour), self.texts(TRAINING)
        vector, several = self.fitted(model, tokenizer, self.contrast(), run)
        if self.kl:
            vector = calibrate(vector, model, tokenizer, prompts, kl=self.kl, template=self.template)
        vector = self._signed(vector)
        kls = [float(v) for v in curve(vector, model, tokenizer, prompts, DOSES, template=self.template)]
        dosed = SteeringSet(torch.stack([dose * vector.values for dose in DOSES]), vector.module, vector.tokens)
        texts = generate(model, tokenizer, dosed, prompts, new_tokens=self.new_tokens, template=self.template, run=run)
        rates = list(map(float, behaviour_rate(texts, rule)))
        if run.path != Path():
            save(vector, run.path / VECTOR)
            if several is not None:
                save(dataclasses.replace(several, made_from=self._signed(several[0]).made_from), run.path / SET)
        one, none = DOSES.index(1.0), DOSES.index(0.0)
        measures = {
            "norm": vector.norm,
            "norm_share": vector.norm / self.size(model, tokenizer, run),
            "kl": kls[one],
            "rate": rates[one],
            "unsteered_rate": rates[none],
        }
        warnings = []
        if rates[one] < 0.5:
            best = max(range(len(DOSES)), key=rates.__getitem__)
            seen = f"most often at dose {DOSES[best]:g} ({rates[best]:.0%})" if rates[best] else "at none of the doses"
            warnings.append(f"at dose 1 the vector shows the behaviour in {rates[one]:.0%} of the answers; it shows it {seen}")
        found = outcome(self, measures, flops=0.0, curves={"kl by dose": (DOSES, kls), "rate by dose": (DOSES, rates)})
        answers = {"unsteered": texts[none], "steered": texts[one]}
        return found | {"prompts": list(prompts), "answers": answers, "rule": rule.says, "module": self.module, "warnings": warnings}

    def fitted(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", contrast: tuple[tuple[str, ...], ...], run: "RunContext"
    ) -> "tuple[SteeringVector, SteeringSet | None]":
        """The vector, from these positive and negative prompts; with MELBO, all that it found, too."""
        import torch

        from sluicegate.engine.sampling import seed_of
        from sluicegate.steering.meandiff import MeanDiff
        from sluicegate.steering.pca import PCA

        if self.variant == "melbo":
            return self._searched(model, tokenizer, run)
        method = (PCA if self.variant == "pca" else MeanDiff)(self.module, self.read, self.tokens, self.scale)
        vector = method.fit(model, tokenizer, *contrast, template=self.template, run=run)
        if self.variant == "random":
            draw = torch.Generator().manual_seed(seed_of(self.seed, "random base"))
            values = torch.randn(len(vector.values), generator=draw, dtype=torch.float64)
            values = (values / values.norm() * vector.norm).float()
            made = {"method": "random", "model_type": vector.made_from.get("model_type", "")}
            return dataclasses.replace(vector, values=values, made_from=made), None
        return vector, None

    def _searched(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", run: "RunContext"
    ) -> "tuple[SteeringVector, SteeringSet]":
        """MELBO's vectors, and of them the one whose answers to the prompts show the behaviour most often."""
        from sluicegate.steering.melbo import MELBO
        from sluicegate.steering.score import behaviour_rate, generate

        how: dict[str, Any] = {"template": self.template, "run": run}
        prompts = self.texts(TRAINING)
        search = MELBO(
            source=self.module, target=self.target, count=self.count, norm=self.radius * self.size(model, tokenizer, run),
            steps=self.steps, tokens=self.tokens, seed=self.seed,
        )  # fmt: skip
        several = search.fit(model, tokenizer, prompts[: self.climbed], **how)
        texts = generate(model, tokenizer, several, prompts, new_tokens=self.new_tokens, **how)
        rates = behaviour_rate(texts, rule_of_behaviour(self.behaviour))
        best = int(rates.argmax())
        made = {**several[best].made_from, "rates": [float(r) for r in rates], "chosen": best}
        return dataclasses.replace(several[best], made_from=made), several

    def size(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", run: "RunContext") -> float:
        """Mean norm of the module's output at the last token of the prompts."""
        from sluicegate.steering.meandiff import activations

        found = activations(model, tokenizer, self.texts(TRAINING), self.module, "last", template=self.template, run=run)
        return float(found.norm(dim=1).mean())

    def _signed(self, vector: "SteeringVector") -> "SteeringVector":
        """The vector with what a later stage wants to know of it."""
        own = {"model": self.model, "behaviour": self.behaviour, "seed": self.seed, "plain": self.plain}
        return dataclasses.replace(vector, made_from={**vector.made_from, **own})


def rule_of_behaviour(text: str) -> Rule:
    """The rule of a packaged behaviour, or the rule that `text` is (see `prompts.rule_of`)."""
    return BEHAVIOURS[text].rule if text in BEHAVIOURS else rule_of(text)


def places(model: str, module: str, target: str) -> tuple[str, str]:
    """The modules that are steered and changed: as given, else at two fifths of the depth, and a sixth further.

    In SmolLM2-135M these are layers 12 and 17 of 30: of the layers tried there (10 to 17, on training and validation
    prompts), 12 is where three times the code vector shows code and twins of it come most easily.
    """
    if module and target:
        return module, target
    from sluicegate.engine.models import read_config
    from sluicegate.steering.io import STEMS

    config = read_config(model).get_text_config()
    depth, stem = int(config.num_hidden_layers), STEMS.get(str(config.model_type), "model.layers")
    layer = max(min(2 * depth // 5, depth - 2), 0)
    return module or f"{stem}.{layer}", target or f"{stem}.{min(layer + max(depth // 6, 1), depth - 1)}"


def as_file(name: str, value: str, file: str) -> dict[str, Any]:
    """A vector that is no run is a file, known by its content."""
    if value and not (Path(value) / "parents.json").is_file():
        from sluicegate.steering.io import find

        value, file = "", str(find(value))
    return {name: value, f"{name}_file": file, f"{name}_content": sha(file)}


def sha(*files: str) -> str:
    """sha256 of the files that are given, by their content; empty without any. `UserError` where one is missing."""
    named = [Path(name).expanduser() for name in files if name]
    for path in named:
        if not path.is_file():
            raise UserError(f"no file {str(path)!r}.")
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in named)).hexdigest() if named else ""
