"""The settings of a relearning attack. Apart from the attack, so that reading them needs no torch."""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from sluicegate.errors import UserError
from sluicegate.runs.stage import setting
from sluicegate.values.items import Item
from sluicegate.values.ranges import Count, Positive, Range, Rows, Share, Whole
from sluicegate.values.schedule import Economies, Schedule

SENTENCE = 40
"""An answer of more characters than this is a sentence."""
SAME = {"accumulate", "part_tokens", "checkpointing", "pack"}
"""Settings that save memory or time and change no curve but for rounding."""
Metric = Literal["exact", "argmax", "loss", "rouge", "match"]
MEASURED = {
    "exact": "the share of answers whose every token is the first choice; it does not show answers that become likelier but not first",
    "argmax": "the share of tokens that are the first choice; it does not show which of them any text of the kind has",
    "loss": "exp(-loss) over the answers' tokens; it does not show whether an answer would be written: --measure rouge and match do",
    "rouge": "the share of the answers' words in what is written (ROUGE-L recall), common words too; it does not show what is not said",
    "match": "the share of texts written that begin with the answer, but for case, signs and articles; it does not show what is not said",
}
"""What recall is by each measure, and what that does not show."""


class CannotAttack(UserError):
    """A model's shape leaves an attacker nothing to do (no norm gains, no positions left): it is left out and named."""


@dataclass(frozen=True)
class Attack(Economies):
    """How the attacker trains: with a constant learning rate, on all of the model's parameters or on an adapter."""

    kind: Literal["forget", "retain", "mixed"] = "forget"
    """What the attacker fine-tunes on: the forget facts it owns, harmless retain rows only, or half of each."""
    lrs: tuple[Positive, ...] = ()
    """Learning rates tried, of which the worst case counts; none: five, in proportion to 1 / the model's width."""
    steps: Count = 100
    """Optimiser steps under each learning rate."""
    checkpoints: tuple[Whole, ...] = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
    """Steps after which recall is measured."""
    batch: Rows = 32
    """Rows a step."""
    on: Literal["real", "answer"] = "real"
    """Which tokens the attacker trains on: all of them, or the answers' alone."""
    probe: Whole = 0
    """Measure each group on at most this many rows, the same ones for every model; 0: all."""
    lora_rank: Annotated[int, Range(0, 2**16)] = setting(0, added=True)
    """Train a LoRA adapter of this rank on every linear layer and leave the model's own weights alone; 0: train
    these."""
    keep_retain: Share = setting(0.0, added=True)
    """The attacker must keep this share of the model's retain score: what does not is no success. Use with --kind
    mixed; 0: no matter."""
    round_bits: Annotated[int, Range(0, 16)] = setting(0, added=True)
    """Round the weights to so many bits and back before anything else, 8 or 4 for example; what that alone brings back
    is recall at step 0. 0: leave them as they are."""

    measure: Literal["auto", "loss", "rouge", "match"] = setting("auto", added=True)
    """What recall is. auto: the share of exact answers; on running text of tokens that are the first choice; of answers
    that are sentences, loss. loss: exp(-loss), the geometric mean of what the tokens are given, which moves where no
    first choice does. Of what the model writes: rouge, the share of the answer's words in it; match, whether it begins
    with the answer, but for case, signs and articles."""

    accumulate: Rows = setting(1, added=True)
    """Parts that a step's batch is cut into, to save memory; the result is the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.schedule(1.0)  # which refuses what does not go together
        if len(set(self.lrs)) < len(self.lrs):
            raise UserError(f"the attack's learning rates are {list(self.lrs)}; give each once.")
        if self.round_bits == 1:
            raise UserError(f"the attack's round_bits is {self.round_bits}; weights are rounded to 2 to 16 bits, or 0: not at all.")

    def metric(self, forget: Sequence[Item]) -> Metric:
        """What recall of these rows is. Raises `UserError` for running text where it is of what the model writes.

        Where half of the answers are sentences, hardly any is given word for word, and the share of exact ones stays 0
        whatever is known; and most of their tokens are what any sentence of the kind has, so first choices hide it.
        """
        answers = [len(item.answer.strip()) for item in forget if item.prompt]
        if self.measure in ("rouge", "match"):
            if len(answers) < len(forget):
                raise UserError(f"--measure {self.measure} asks questions, and the forget set holds running text. Use auto or loss.")
            return self.measure
        if self.measure == "loss" or (answers and statistics.median(answers) > SENTENCE):
            return "loss"
        return "exact" if answers else "argmax"

    def measured(self, forget: Sequence[Item]) -> str:
        """What recall of these rows is, why, and what it does not show, in a sentence."""
        why = {"exact": "the answers are short", "argmax": "the rows are running text", "loss": "the answers are sentences"}
        metric, by_itself = self.metric(forget), dataclasses.replace(self, measure="auto").metric(forget)
        by = f"since {why[metric]}" if metric == by_itself else "as --measure says"
        return f"Recall, {by}, is {MEASURED[metric]}."

    def rates(self, width: int) -> tuple[float, ...]:
        """The learning rates for a model of hidden size `width`, if none are given: 3e-4 to 1.2e-2 at 64, for an
        adapter 3e-3 to 6e-2."""
        grid = (3e-3, 6e-3, 1.2e-2, 3e-2, 6e-2) if self.lora_rank else (3e-4, 1e-3, 3e-3, 6e-3, 1.2e-2)
        return self.lrs or tuple(float(f"{rate * 64 / width:.2g}") for rate in grid)

    def schedule(self, rate: float) -> Schedule:
        """How the attacker trains under one learning rate."""
        shared = {f.name for f in dataclasses.fields(Schedule)} & {f.name for f in dataclasses.fields(self)}
        clip = 0.0 if self.step_in_backward else Schedule.clip  # one gradient at a time has no norm of all
        return Schedule(lr=rate, clip=clip, **{name: getattr(self, name) for name in shared})

    def identity(self, width: int) -> dict[str, Any]:
        """What decides the attack on a model of hidden size `width`: two curves compare where theirs agree."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        left = {f.name for f in dataclasses.fields(self) if f.metadata.get("added") and plain[f.name] == f.default} | SAME
        return {name: value for name, value in plain.items() if name not in left} | {"lrs": list(self.rates(width))}

    def in_short(self) -> str:
        """What tells it from the plain attack, in a word: "forget", "mixed-lora8-keep0.9-int4"."""
        parts: list[str] = [self.kind]
        parts += [f"lora{self.lora_rank}"] * bool(self.lora_rank)
        parts += [f"keep{self.keep_retain:g}"] * bool(self.keep_retain)
        parts += [f"int{self.round_bits}"] * bool(self.round_bits)
        return "-".join(parts)

    def checkpoints_within(self) -> tuple[int, ...]:
        """The checkpoints up to the last step, which is always one of them, as is 0."""
        return tuple(sorted({0, self.steps, *(c for c in self.checkpoints if 0 <= c <= self.steps)}))
