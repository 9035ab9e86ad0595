"""Steering: score a vector and its twins on prompts that neither has seen."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sluicegate.errors import UserError
from sluicegate.runs.stage import source
from sluicegate.runs.trial import outcome
from sluicegate.steering.fit_stage import DEFAULT, DOSES, OnModel, as_file, rule_of_behaviour, sha
from sluicegate.steering.prompts import HELD_OUT
from sluicegate.values.ranges import Count, Number, Share, Weight, Whole

if TYPE_CHECKING:
    from sluicegate.runs.directory import RunContext
    from sluicegate.steering.vector import SteeringSet, SteeringVector

SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
"""The mean of the first so many twins is scored."""
MEASURES = {
    "twins": "twins within --bound nats a token of the base that show the behaviour on --share of the held-out prompts or more",
    "near": "twins within --bound nats a token of the base, whatever they show",
    "near_third": "twins whose KL to the base is at most a third of the unsteered model's",
    "rate": "share of the twins' held-out answers that show the behaviour",
    "kl_median": "KL(base || twin) over several tokens, nats a token: median over twins of the median over held-out prompts",
    "kl_last_median": "the same at the last token of the prompt",
    "kl_share": "kl_median as a share of the unsteered model's KL",
    "max_norm_ratio": "largest norm of a twin, in norms of the base",
    "max_cos": "largest |cosine| between any two of the base and its twins",
    "base_norm": "norm of the base vector",
    "base_rate": "share of the base's held-out answers that show the behaviour",
    "unsteered_rate": "share of the unsteered model's held-out answers that show it",
    "unsteered_kl": "KL(base || unsteered) over several tokens, nats a token",
    "random_rate": "share of the answers that show it, of random vectors of the base's norm",
    "random_kl": "KL(base || random vector) over several tokens, nats a token",
    **{
        f"{name}_{k}_{what}": said.format(k)
        for k in SIZES
        for name, what, said in (
            ("mean", "rate", "share of the held-out answers that show it, of the mean of the first {} twins"),
            ("mean", "kl", "KL(base || mean of the first {} twins), nats a token"),
            ("raised", "rate", "share that shows it, of the mean of {} brought to the base's norm"),
            ("scaled", "rate", "share that shows it, of the base brought to the norm of the mean of {}"),
        )
    },
}
"""What `measured.counted` may give, and `max_cos`."""


@dataclass(frozen=True)
class SteerScore(OnModel):
    """Score a vector and its twins on held-out prompts: KL, norms, and every answer, with controls."""

    VERB: ClassVar[str] = "steer-score"
    MEASURES: ClassVar[dict[str, str]] = MEASURES

    vectors: str = source("run")
    """Folder of `steer twins` or of `steer fit`, or a .safetensors or .gguf file."""
    vectors_file: str = ""
    """The vectors' file, where they are no run; it fills itself in."""
    vectors_content: str = ""
    """sha256 of that file; it fills itself in."""
    base: str = ""
    """File of the vector whose twins they are; default: the run's own. A single vector is its own base."""
    base_content: str = ""
    """sha256 of that file; it fills itself in."""
    behaviour: str = ""
    """What answers are judged by: a name, regex:PATTERN, or words:a,b,c; default: the vector's own, else code."""
    new_tokens: Count = 40
    """Tokens an answer; greedy."""
    along: Count = 12
    """Tokens of the base's answer along which the KL is taken."""
    randoms: Whole = 8
    """Random vectors of the base's norm: the control."""
    means: tuple[Count, ...] = SIZES
    """The mean of the first so many twins is scored, too."""
    doses: tuple[Number, ...] = DOSES
    """Multiples of the base for the dose-response curve."""
    bound: Weight = 0.5
    """A twin counts up to this KL to the base, in nats a token: median over the prompts."""
    share: Share = 0.6
    """A twin counts that shows the behaviour on this share of the prompts, or more."""

    def resolved(self) -> Self:
        stage = super().resolved()
        stage = dataclasses.replace(stage, **as_file("vectors", self.vectors, self.vectors_file), base_content=sha(self.base))
        made = stage.pair()[0].made_from
        behaviour = self.behaviour or str(made.get("behaviour") or "code")
        rule_of_behaviour(behaviour)
        if unknown := [k for k in self.means if k not in SIZES]:
            raise UserError(f"--means has {unknown[0]}; there are 2, 4, 8, 16, 32, 64, 128 and 256.")
        model = self.model or str(made.get("model") or DEFAULT)
        return dataclasses.replace(stage, model=model, behaviour=behaviour, plain=self.plain or bool(made.get("plain")))

    def pair(self) -> "tuple[SteeringVector, SteeringSet | None]":
        """The base, and its twins where there are any."""
        from sluicegate.steering.io import BASE, SET, load_set, load_vector

        place = self.vectors or self.vectors_file
        if not place:
            raise UserError("steer score needs --vectors: the folder of `sluicegate steer twins` or `steer fit`, or a vector's file.")
        run = Path(place)
        if run.is_dir() and not (run / BASE).is_file():  # of `steer fit`
            return load_vector(place), None
        base = self.base or (str(run / BASE) if run.is_dir() else "")
        if not base:
            found = load_set(place)
            if len(found) == 1:
                return found[0], None
            raise UserError(f"{place!r} holds {len(found)} vectors. Give --base, the vector whose twins they are.")
        return load_vector(base), load_set(run / SET if run.is_dir() else place)

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.steering.measured import Measured, counted, curves, preview

        model, tokenizer = self.load()
        base, twins = self.pair()
        prompts, rule = self.texts(HELD_OUT), rule_of_behaviour(self.behaviour)
        measured = Measured(
            model, tokenizer, base, twins, prompts, rule,
            new_tokens=self.new_tokens, kl_tokens=self.along, template=self.template, seed=self.seed, run=run,
        )  # fmt: skip
        rows = measured.rows(randoms=self.randoms, means=self.means)
        dose = measured.dose(self.doses) if self.doses else None
        measures = counted(rows, bound=self.bound, share=self.share)
        most = twins.max_cos(base) if twins is not None else None
        if most is not None:
            measures["max_cos"] = most
        found = outcome(self, measures, flops=0.0, curves=curves(rows, self.share))
        return found | {
            "model": self.model,
            "module": base.module,
            "width": len(base.values),
            "base_norm": base.norm,
            "new_tokens": self.new_tokens,
            "kl_tokens": self.along,
            "kl_name": "KL(base || twin)",
            "bound": self.bound,
            "share": self.share,
            "max_cos": most,
            "rule": {"name": rule.name, "says": rule.says},
            "prompts": list(prompts),
            "rows": rows,
            "dose": dose,
            "preview": preview(tokenizer, base, prompts, self.template),
            "made_from": {name: v for name, v in base.made_from.items() if isinstance(v, (str, int, float))},
        }
