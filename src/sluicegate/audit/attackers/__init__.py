"""Attackers: ways to bring back what a model was made to forget, one file each, found by the registry.

An attacker is a frozen dataclass in a file of this folder, or in a module that another package names under the
entry-point group ``sluicegate.plugins``. Its ``NAME`` is what the command line calls it. All live under one law: it is
fitted on the facts it owns, what comes back is read on facts it was never shown, and a model that never knew is
attacked alike. Files here import torch inside their functions only, so that reading a command line stays fast.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from sluicegate.audit.attack import CannotAttack as CannotAttack  # where attackers look for it
from sluicegate.errors import UserError, nearest
from sluicegate.registry import classes
from sluicegate.values.ranges import Checked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sluicegate.audit.target import Target, Trace

Suite = Literal["quick", "standard", "full"]
SUITES: tuple[Suite, ...] = get_args(Suite)


@dataclass(frozen=True)
class Attacker(Checked):
    """The settings of an attacker, and how it attacks."""

    NAME: ClassVar[str] = ""
    UNIT: ClassVar[str] = ""
    """What its effort is counted in."""
    SUITE: ClassVar[Suite] = "full"
    """The smallest suite that it is in."""
    SOURCE: ClassVar[str] = ""
    MEASURE: ClassVar[str] = "nats a token"
    """What a fact's evidence is in. In nats a token it is a mean log-probability; another measure is an
    attacker's own."""
    NEEDS: ClassVar[tuple[str, ...]] = ()
    """Beside model and forget set: original, retain."""
    BY: ClassVar[Literal["owned", "held_out"]] = "held_out"
    """Whose likelihood says which of its traces counts at an effort. held_out: the worst case, as of learning rates."""

    def traces(self, target: "Target") -> "Iterator[Trace]":
        """Attack, once for each of its settings (a rate, a layer): recall at every effort. All have the same efforts.

        It may change the model as it likes: `attack` puts back what it noted with ``target.keep``, and all modules and
        hooks. Raises `CannotAttack` for a model that it has no hold on.
        """
        raise NotImplementedError

    def capacity(self, model: "PreTrainedModel") -> int:
        """How many numbers it fits: what cannot hold the facts cannot have taught them. 0: it fits none."""
        return 0

    def contents(self) -> dict[str, str]:
        """Hashes of the files that its settings name, by the setting: they stand for the names in a run's identity."""
        return {}

    def passes(self, owned: int, held_out: int) -> float:
        """What it costs, in forward passes over a row: of so many owned and held-out rows."""
        return float(owned + held_out)


def attackers() -> dict[str, type[Attacker]]:
    """Every attacker that can be found, by name."""
    return dict(sorted(classes("attackers", "NAME", _attacks).items()))


def _attacks(cls: type) -> bool:
    return issubclass(cls, Attacker)


def chosen(suite: str = "standard", names: str = "") -> dict[str, Attacker]:
    """The attackers of a suite, or those named (joined by commas), with their settings as they come.

    Raises `UserError` for a name that is none.
    """
    known = attackers()
    if names:
        asked = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
        if wrong := [name for name in asked if name not in known]:
            raise UserError(f"no attacker {wrong[0]!r}. There are: {nearest(wrong[0], list(known), most=30)}.")
        return {name: known[name]() for name in asked}
    if suite not in SUITES:
        raise UserError(f"no suite {suite!r}. There are: {', '.join(SUITES)}.")
    upto = SUITES[: SUITES.index(suite) + 1]
    return {name: cls() for name, cls in known.items() if cls.SUITE in upto}


def describe(cls: type[Any]) -> str:
    """The first line of an attacker's docstring."""
    return (cls.__doc__ or "").strip().splitlines()[0]


def spread(number: int, most: int) -> list[int]:
    """At most so many of 0 .. number - 1, evenly spread from the first on."""
    return sorted({i * number // min(most, number) for i in range(min(most, number))})
