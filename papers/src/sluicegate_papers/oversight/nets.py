"""The nets: one policy, or a Diamond expert and a Ghost expert mixed by a gate; a baseline; and what labelled episodes
teach."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sluicegate.errors import UserError
from sluicegate.oversight.board import ACTIONS, Board
from sluicegate.routing.experts import Experts
from sluicegate_papers.oversight.arms import Arm


class Looked(nn.Module):
    """A net that is evaluated once on a list of observations, and then looked up by their places.

    All episodes of an update visit the same few states, so the cost of an update does not depend on how many there are.
    Called with places [m], it gives what the net said there, [m, out].
    """

    def __init__(self, net: nn.Module, features: int) -> None:
        super().__init__()
        self.net = net
        self.features = features
        """How much of an observation it sees: less than all of it hides the flags, which come last."""
        self.said: Tensor | None = None

    def look(self, observations: Tensor) -> Tensor:
        """Evaluate on [k, features]; hold the answers until the next call."""
        self.said = self.net(observations[:, : self.features])
        return self.said

    def forward(self, places: Tensor) -> Tensor:
        if self.said is None:
            raise UserError("the nets have not looked at any states. Call agent.look(observations) first.")
        return self.said.index_select(0, places)


class Constant(nn.Module):
    """A gate that says nothing: every expert has the same share."""

    def forward(self, places: Tensor) -> Tensor:
        return torch.zeros(len(places), 1, device=places.device)


def trunk(features: int, width: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())


def network(features: int, width: int, out: int) -> nn.Sequential:
    return nn.Sequential(*trunk(features, width), nn.Linear(width, out))


class Agent(nn.Module):
    """An arm's nets. Everything that is asked of states goes by their places in what `look` was given."""

    def __init__(self, arm: Arm, board: Board, width: int = 64) -> None:
        super().__init__()
        features, blind = board.features, board.features - board.cells
        own = blind if arm.blind else features
        self.policy: nn.Module
        if arm.mixture:
            gates = {"blind": blind, "flags": features}
            gate = Constant() if arm.gate == "constant" else Looked(network(gates[arm.gate], width, 1), gates[arm.gate])
            experts = {name: Looked(trunk(own, width), own) for name in ("diamond", "ghost")}
            self.policy = Experts(experts, gate)
        else:
            self.policy = Looked(trunk(own, width), own)
        self.head = nn.Linear(width, ACTIONS)
        self.value = Looked(network(own, width, 1), own)
        self.verdict = Looked(network(features, width, 1), features) if arm.reward == "model" else None
        """Logit that an episode which was here ends at the Diamond."""
        self.danger = Looked(network(blind, width, ACTIONS), blind) if arm.avoid == "danger" else None
        """Logit that an action ends at the Ghost. It sees no flags: they would give the label away."""
        self.around = 0.0
        """How strictly steps that are told to end at the Ghost are left out; see `steer.Around`."""

    @property
    def experts(self) -> Experts | None:
        return self.policy if isinstance(self.policy, Experts) else None

    def look(self, observations: Tensor) -> None:
        """Evaluate every net on [k, features]."""
        for module in self.modules():
            if isinstance(module, Looked):
                module.look(observations)

    def forget(self) -> None:
        """Drop what the nets said, and with it the graph."""
        for module in self.modules():
            if isinstance(module, Looked):
                module.said = None

    @contextmanager
    def looking(self, observations: Tensor) -> Iterator[Tensor]:
        """For the length of a block, without gradients: answers on these observations, and places of all of them."""
        with torch.no_grad():
            self.look(observations)
            try:
                yield torch.arange(len(observations), device=observations.device)
            finally:
                self.forget()

    def forward(self, places: Tensor) -> Tensor:
        """[m, 4] log-probabilities of the actions at places [m]."""
        logits: Tensor = self.head(self.policy(places))
        if self.around and self.danger is not None:
            logits = logits + self.around * nn.functional.logsigmoid(-self.danger(places))
        return logits.log_softmax(-1)

    def opening(self, places: Tensor) -> Tensor:
        """[m] the Diamond expert's share."""
        assert self.experts is not None
        assert self.experts.gate is not None
        return torch.sigmoid(self.experts.gate(places)[:, 0])
