"""Edits of an agent: the gate held at one expert, and steps that end at the Ghost left out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

from torch import nn

from sluicegate.errors import UserError
from sluicegate.routing.experts import Steer
from sluicegate.values.edits import Applied, Edit
from sluicegate_papers.oversight.arms import Arm
from sluicegate_papers.oversight.nets import Agent

TO_DIAMOND = Steer({"diamond": 1.0})
"""The gate held at the Diamond expert: what the paper judges."""
TO_GHOST = Steer({"ghost": 1.0})
STRICT = 8.0


@dataclass(frozen=True)
class Around(Applied):
    """Leave out the steps that are told to end at the Ghost: their probability is multiplied by P(not the Ghost) to
    this power."""

    dose: float = STRICT
    """0: the policy as it is. Must not be below 0."""

    def __post_init__(self) -> None:
        if not self.dose >= 0:
            raise UserError(f"the dose is {self.dose:g}; it must be 0 (the policy as it is) or more.")

    @contextmanager
    def _applied(self, model: nn.Module) -> Iterator[None]:
        agent = _told(model)
        before = agent.around
        agent.around = before + self.dose
        try:
            yield
        finally:
            agent.around = before

    def __mul__(self, dose: float) -> Self:
        return replace(self, dose=self.dose * dose)

    def bake(self, model: nn.Module) -> None:
        """Go round them for good."""
        _told(model).around += self.dose


def _told(model: nn.Module) -> Agent:
    if not isinstance(model, Agent) or model.danger is None:
        raise UserError("this agent was not told which steps end at the Ghost: train an arm that avoids it, for example routed_avoid.")
    return model


@dataclass(frozen=True)
class AsIs(Applied):
    """No change."""

    @contextmanager
    def _applied(self, model: nn.Module) -> Iterator[None]:
        yield

    def __mul__(self, dose: float) -> Self:
        return self

    def __add__(self, other: Edit) -> Edit:
        return other

    def bake(self, model: nn.Module) -> None:
        """Nothing to do."""


def judged(arm: Arm) -> Edit:
    """The edit under which an arm is judged: mixtures are steered to the Diamond expert."""
    edit: Edit = TO_DIAMOND if arm.mixture else AsIs()
    return edit + Around() if arm.avoid == "danger" else edit
