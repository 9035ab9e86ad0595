"""What a stage takes up of a machine while it runs on a cluster."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sluicegate.errors import UserError, nearest

NAMES = ("cpus", "gpus")


@dataclass(frozen=True)
class Need:
    """Cores and GPUs of one stage; a part of a GPU where several stages share one. One core, as in the local pool,
    unless told else."""

    cpus: float = 1.0
    gpus: float = 0.0

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@dataclass(frozen=True)
class Resources:
    """What each kind of stage takes up."""

    every: Need = Need()
    by_verb: Mapping[str, Need] = field(default_factory=dict)

    def of(self, verb: str) -> Need:
        return self.by_verb.get(verb, self.every)


def read_resources(words: Sequence[str]) -> Resources:
    """Read ``cpus=2``, ``gpus=0.5`` and, for one kind of stage, ``relearn.gpus=1``, in any order.

    Raises `UserError` for another name, a verb that there is not, and an amount that Ray cannot give: below 0, or more
    than 1 and not whole.
    """
    from sluicegate.runs.stage import stages

    amounts: dict[str, dict[str, float]] = {}
    for word in words:
        place, equals, value = word.partition("=")
        verb, _, name = place.rpartition(".")
        if not equals or name not in NAMES:
            raise UserError(f"--resources has {word!r}; expected cpus=N, gpus=N, or of one kind of stage, for example relearn.gpus=0.5")
        if verb and verb not in stages():
            raise UserError(f"--resources speaks of the verb {verb!r}, which there is not. Nearest: {nearest(verb, sorted(stages()))}.")
        amounts.setdefault(verb, {})[name] = _amount(word, value)
    every = replace(Need(), **amounts.pop("", {}))
    return Resources(every, {verb: replace(every, **own) for verb, own in amounts.items()})


def _amount(word: str, value: str) -> float:
    try:
        amount = float(value)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf or (amount > 1 and amount != int(amount)):
        raise UserError(f"--resources has {word!r}; an amount is 0 or more, and whole where it is more than 1.")
    return amount
