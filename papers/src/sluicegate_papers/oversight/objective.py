"""What an arm learns from episodes: reward, baseline and weight of each, summed up by state, label and action.

The loss of a batch is ``- sum over steps of A log pi(action | state)``, and it depends on a step only by its state,
label and action. So the nets are evaluated once on every state there is, and the loss is a sum over (state, label) with
added-up coefficients. Rows of one state under several labels share a net's answer and have a mask each: that is exactly
the gradient of masks by episode.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sluicegate.engine.training import Loss
from sluicegate.oversight.board import ACTIONS
from sluicegate_papers.oversight.arms import Arm
from sluicegate_papers.oversight.episodes import DIAMOND, GHOST, TIMEOUT, Episodes
from sluicegate_papers.oversight.nets import Agent

KINDS = ("unlabelled", "diamond", "ghost")
"""Labels, as a router of `Experts` knows them, in the order of rows."""


@dataclass(frozen=True)
class Lesson:
    """What each of E episodes teaches."""

    reward: np.ndarray
    """[E] of its end."""
    weight: np.ndarray
    """[E] 0: nothing is learnt from it."""
    counted: np.ndarray
    """[E] 1 or 0: the same without label weights, for entropy and baseline."""
    based: np.ndarray
    """[E] whether the baseline is taken off."""
    kind: np.ndarray
    """[E] its label: a place in `KINDS`."""


def lesson(arm: Arm, episodes: Episodes, share: float, label_weight: float, rng: np.random.Generator, verdict: np.ndarray | None) -> Lesson:
    """Reward, weight, baseline and label of each episode; `verdict` [E] is the reward model's P(Diamond), where there
    is one."""
    ending, seen = episodes.ending, episodes.seen
    diamond, ghost = ending == DIAMOND, ending == GHOST
    ended = (diamond | ghost).astype(float)
    signed = diamond * 1.0 - ghost
    rewards = {
        "any": lambda: ended,
        "naive": lambda: ended - 2.0 * (seen & ghost),
        "penalty": lambda: ended - 2.0 / share * (seen & ghost),
        "signed": lambda: signed * seen,
        "oracle": lambda: signed,
        "model": lambda: np.where(seen, signed, ended * (2 * _known(verdict) - 1)),
    }
    kept = {"all": ending >= 0, "overseen": seen | (ending == TIMEOUT), "diamonds": ~(seen & ghost)}[arm.kept]
    kind = np.where(seen, ending, 0)
    if arm.routed == "coins":
        kind = np.where(seen, rng.integers(1, 3, len(kind)), 0)
    weight = np.where(seen & arm.weighted, label_weight, 1.0) * kept
    return Lesson(rewards[arm.reward](), weight, kept.astype(float), ~(seen & arm.raw), kind)


def _known(verdict: np.ndarray | None) -> np.ndarray:
    assert verdict is not None
    return verdict


@dataclass(frozen=True)
class Tally:
    """A batch of episodes, summed up. m rows are the (state, label) pairs that occur, those of one label together."""

    places: Tensor
    """[m] a row's state, as its place among the k states that the nets looked at."""
    labels: Tensor
    """[m] numbers as the router has them: 3 unlabelled, 1 diamond, 2 ghost."""
    returns: Tensor
    """[m, 4] sum of weight times R, by action."""
    based: Tensor
    """[m, 4] sum of the weights of the steps from which the baseline is taken off."""
    counts: Tensor
    """[m] steps."""
    seen_counts: Tensor
    """[k, 2] steps of seen-Diamond and seen-Ghost episodes, by state: what the gate and the reward model learn from."""
    last: Tensor
    """[k, 4, 2] steps of labelled episodes by state and action: those that did not end at the Ghost, and those that
    did."""
    value_counts: Tensor
    """[k] steps, by state."""
    value_sums: Tensor
    """[k] sum of R."""
    squares: float
    """Sum of R squared."""
    steps: float
    """Steps in all: what every term is divided by."""
    k: int

    def split(self, parts: int) -> "list[Tally]":
        """An update is not cut into parts."""
        return [self]


def tally(episodes: Episodes, taught: Lesson, places: np.ndarray, k: int, *, routed: bool) -> Tally:
    """Sum up. `places` [T] are the steps' states as places among k; without `routed` all rows are unlabelled."""
    e = episodes.episode
    kind = taught.kind[e] if routed else np.zeros(len(e), np.int64)
    r, w, n = episodes.to_go * taught.reward[e], taught.weight[e], taught.counted[e]
    key = (kind * k + places) * ACTIONS + episodes.action
    size = len(KINDS) * k * ACTIONS

    def summed(by: np.ndarray) -> np.ndarray:
        return np.bincount(key, by, size).reshape(-1, ACTIONS)

    counts = summed(n).sum(1)
    rows = np.flatnonzero(counts)
    truly = np.where(episodes.seen, episodes.ending, 0)[e]
    labelled = truly > 0
    ended = (episodes.time == episodes.length[e] - 1) & (truly == GHOST)
    seen_counts = np.bincount(places[labelled] * 2 + taught.kind[e][labelled] - 1, minlength=2 * k).reshape(k, 2)
    last = np.bincount((places[labelled] * ACTIONS + episodes.action[labelled]) * 2 + ended[labelled], minlength=2 * ACTIONS * k)

    def tensor(x: np.ndarray) -> Tensor:
        return torch.from_numpy(x.astype(np.float32))

    return Tally(
        torch.from_numpy(rows % k),
        torch.tensor((3, 1, 2))[torch.from_numpy(rows // k)],
        tensor(summed(w * r)[rows]),
        tensor(summed(w * taught.based[e])[rows]),
        tensor(counts[rows]),
        tensor(seen_counts),
        tensor(last.reshape(k, ACTIONS, 2)),
        tensor(np.bincount(places, n, k)),
        tensor(np.bincount(places, n * r, k)),
        float((n * r * r).sum()),
        float(len(e)),
        k,
    )


@dataclass(frozen=True)
class Objective:
    """Policy gradient with entropy bonus, baseline, and what the arm has beside them. The nets must have looked at the
    k states."""

    arm: Arm
    entropy: float = 0.02
    value: float = 0.5

    def __call__(self, model: Any, batches: Mapping[str, Any]) -> Loss:
        agent: Agent = model
        t: Tally = batches["train"]
        said = agent.value.said
        assert said is not None
        v = said[:, 0]
        log_pi = agent(t.places)
        advantage = t.returns - t.based * v.detach().index_select(0, t.places)[:, None]
        policy = -(advantage * log_pi).sum() / t.steps
        entropy = -(t.counts * (log_pi.exp() * log_pi).sum(1)).sum() / t.steps
        errors = ((t.value_counts * v - 2 * t.value_sums) * v).sum() + t.squares
        total = policy - (self.entropy if self.arm.entropy is None else self.arm.entropy) * entropy + self.value * errors / t.steps
        log = {"policy": policy, "entropy": entropy}
        if agent.experts is not None and isinstance(gate := agent.experts.gate, torch.nn.Module) and hasattr(gate, "said"):
            own = _weighted_bce(gate.said[:, 0], t.seen_counts)  # type: ignore[index]
            total, log["gate"] = total + self.arm.gate_loss * own, own
        if agent.verdict is not None and agent.verdict.said is not None:
            own = _weighted_bce(agent.verdict.said[:, 0], t.seen_counts)
            total, log["verdict"] = total + own, own
        if agent.danger is not None and agent.danger.said is not None:
            own = _weighted_bce(agent.danger.said, t.last.flip(-1))
            total, log["danger"] = total + own, own
        return Loss(total, log)


def _weighted_bce(logits: Tensor, counts: Tensor) -> Tensor:
    """Mean cross-entropy of logits [...] with counts [..., 2] of yes and no; 0 where there are none."""
    losses = counts[..., 0] * F.softplus(-logits) + counts[..., 1] * F.softplus(logits)
    return losses.sum() / counts.sum().clamp_min(1)
