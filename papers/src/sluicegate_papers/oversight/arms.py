"""The arms: ways to train on episodes of which only some are overseen. Settings only; what they mean is in `objective`.

Notation: U are unlabelled episodes (their end is not overseen, or they timed out), SD those seen to end at the Diamond,
SG those seen to end at the Ghost; R is the discounted reward to come; V a learnt baseline.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from sluicegate.errors import UserError, nearest
from sluicegate_papers.oversight.stopping import PICKS

Reward = Literal["any", "naive", "penalty", "signed", "oracle", "model"]
"""An episode's reward. any: 1 for any end. naive: the same, but -1 for SG. penalty: the same, but 1 - 2 / p for SG.
signed: +1 for SD, -1 for SG. oracle: +1 and -1 for every end, seen or not. model: a reward model's verdict where the
end is not seen."""


@dataclass(frozen=True)
class Arm:
    """One way of training."""

    about: str
    reward: Reward = "any"
    kept: Literal["all", "overseen", "diamonds"] = "all"
    """Episodes that are learnt from. overseen: labelled ones and time-outs. diamonds: all but SG."""
    mixture: bool = False
    """A Diamond expert, a Ghost expert and a gate, judged with the gate held at the Diamond expert; else one net."""
    routed: Literal["", "labels", "coins"] = ""
    """Labelled episodes train their own expert alone: by their labels, or (placebo) by the toss of a coin."""
    raw: bool = False
    """No baseline on labelled episodes: R in place of R - V."""
    weighted: bool = False
    """Labelled episodes count `label_weight` times."""
    blind: bool = False
    """The nets do not see the flags."""
    gate: Literal["blind", "flags", "constant"] = "blind"
    """Whether the gate sees the flags, or is a constant 1/2."""
    gate_loss: float = 1.0
    """Weight of the gate's own loss: cross-entropy with the label, on labelled episodes' steps."""
    entropy: float | None = None
    """Weight of the entropy bonus, where it is the arm's own."""
    avoid: Literal["", "negative", "danger"] = ""
    """How SG keeps the policy off the Ghost. negative: SG trains the Diamond expert with a weight below 0. danger: a
    net learns from labelled episodes which steps end at the Ghost, and the judged policy leaves them out."""


_ROUTED = Arm(
    "mixture of experts with routed gradients, steered to the Diamond expert; no baseline on labelled episodes, weighted, blind gate",
    mixture=True,
    routed="labels",
    raw=True,
    weighted=True,
)

ARMS: dict[str, Arm] = {
    "naive": Arm("one net; any end earns 1, a Ghost that is seen -1", reward="naive"),
    "naive_penalty": Arm("the same with the penalty for a seen Ghost divided by the share", reward="penalty"),
    "filter": Arm("one net, on labelled episodes and time-outs only", reward="signed", kept="overseen"),
    "filter_hidden": Arm("the same without the flags' channel", reward="signed", kept="overseen", blind=True),
    "moe": Arm("routed's net and gate, but every episode trains everything, with a baseline", mixture=True),
    "routed_paper": Arm(
        "routing as in the paper: baseline everywhere, gate sees the flags and has a small loss of its own",
        mixture=True,
        routed="labels",
        gate="flags",
        gate_loss=0.01,
        entropy=0.1,
    ),
    "routed": _ROUTED,
    "single": Arm("one net, routed's losses: unlabelled episodes and seen Diamonds", kept="diamonds", raw=True, weighted=True),
    "reward_model": Arm("one net; a model learnt from labelled episodes judges the other ends", reward="model"),
    "oracle": Arm("one net; every end is judged rightly", reward="oracle"),
    "placebo": replace(_ROUTED, about="routed with labels by the toss of a coin", routed="coins"),
    "routed_baseline": replace(_ROUTED, about="routed, baseline kept on labelled episodes", raw=False),
    "routed_unweighted": replace(_ROUTED, about="routed, labelled episodes count once", weighted=False),
    "routed_flags": replace(_ROUTED, about="routed, the gate sees the flags", gate="flags"),
    "routed_constant": replace(_ROUTED, about="routed, the gate is a constant 1/2", gate="constant"),
    "routed_negative": replace(_ROUTED, about="routed, and seen Ghosts train the Diamond expert backwards", avoid="negative"),
    "routed_avoid": replace(_ROUTED, about="routed, steered round steps that labelled episodes tell end at the Ghost", avoid="danger"),
    "single_avoid": Arm(
        "single, steered round steps that labelled episodes tell end at the Ghost", kept="diamonds", raw=True, weighted=True, avoid="danger"
    ),
    "any_avoid": Arm("one net that walks to any end, steered round the same steps to the Ghost", avoid="danger"),
}  # fmt: skip
"""What is trained, by name."""

CONTROLS = ("naive", "naive_penalty", "naive_stopped", "naive_penalty_stopped", "filter", "filter_hidden", "moe", "routed_paper", "routed",
            "single", "reward_model", "oracle", "placebo")  # fmt: skip
"""The arms of the table, in its order."""
ABLATIONS = ("routed_baseline", "routed_unweighted", "routed_flags", "routed_constant")
AVOIDING = ("routed_negative", "routed_avoid", "single_avoid", "any_avoid")
"""Attempts at the ceiling of an expert that learnt nothing of Ghosts, and their controls."""
_STOPPED = {"naive_stopped": ("naive", "weighted"), "naive_penalty_stopped": ("naive_penalty", "seen")}
NAMES = (*CONTROLS, *ABLATIONS, *AVOIDING)
"""Every arm that can be asked for."""


def trained_as(name: str) -> tuple[str, str]:
    """(arm that is trained, pick of its looks): a stopped arm is another arm's run, stopped. Raises `UserError` for
    none."""
    if name not in NAMES:
        raise UserError(f"there is no arm {name!r}. Nearest: {nearest(name, list(NAMES))}. All: {', '.join(NAMES)}.")
    return _STOPPED.get(name, (name, "last"))


def to_train(names: Iterable[str]) -> list[str]:
    """The arms to train so that all these can be reported, each once, in order."""
    return list(dict.fromkeys(trained_as(name)[0] for name in names))


def values_of(name: str, result: dict[str, Any], rule: str = "") -> dict[str, float]:
    """Figures of a reported arm (return, diamond, ghost, timeout, near, far, length, step) from the result of what it
    was trained as.

    `rule` takes another look than the arm's own: "last", "seen", "weighted" or "peek".
    """
    if rule and rule not in PICKS:
        raise UserError(f"there is no stopping rule {rule!r}. Nearest: {nearest(rule, list(PICKS))}. All: {', '.join(PICKS)}.")
    found: dict[str, float] = result["picks"][rule or trained_as(name)[1]]
    return found
