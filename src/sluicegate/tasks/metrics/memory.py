"""What a model shows of having seen a text: memorisation token by token, and membership."""

import math
import zlib
from collections.abc import Sequence

import numpy as np

from sluicegate.tasks.metrics.subject import FIRST, LOGP, MEAN, SD, Array, Subject
from sluicegate.values.statistics import Estimate, auroc

Texts = tuple[Sequence[tuple[str, str]], Sequence[Array]]
"""Prompts and texts, and the tokens of each text (see `Subject.tokens`)."""


def memorised(told: Sequence[Array]) -> dict[str, float]:
    """Exact memorisation and extraction strength, means over texts.

    The first is the share of tokens that are the model's first choice (Tirumala et al. 2022, arXiv 2205.10770). The
    second is 1 - k/n, k the shortest beginning after which all the other tokens are (Carlini et al. 2021, in the form
    of Wang et al. 2024, arXiv 2406.09179): 0 where the last token is not the first choice.
    """
    begun = [np.flatnonzero(each[:, FIRST] == 0) for each in told]
    strength = [1 - (missed[-1] + 1) / len(each) if len(missed) else 1.0 for missed, each in zip(begun, told, strict=True)]
    return {"forget_memorised": float(np.mean([each[:, FIRST].mean() for each in told])), "forget_extraction": float(np.mean(strength))}


def min_k(values: Array, share: float = 0.2) -> float:
    """Mean of the lowest `share` of the values [k], at least of one: Min-K% (Shi et al. 2023, arXiv 2310.16789, eq. 1)."""
    return float(np.sort(values)[: max(1, int(share * len(values)))].mean())


def seen(text: str, told: Array) -> dict[str, float]:
    """How much each attack takes a text for one that was trained on; larger is more.

    loss: the mean log-probability (Yeom et al. 2018); zlib: the sum over the bytes of the packed text (Carlini et al.
    2021, arXiv 2012.07805); min_k: `min_k` of log-probabilities; min_k_pp: of (log p - mean) / sd, both over the
    vocabulary (Zhang et al. 2024, arXiv 2404.02936, Min-K%++); blind: the text's length alone, which no model is
    needed for (Das et al. 2024, arXiv 2406.16201).
    """
    logp = told[:, LOGP]
    standard = (logp - told[:, MEAN]) / np.maximum(told[:, SD], 1e-3)
    packed = len(zlib.compress(text.encode()))
    numbers = (logp.mean(), logp.sum() / packed, min_k(logp), min_k(standard), len(text))
    return dict(zip(("loss", "zlib", "min_k", "min_k_pp", "blind"), map(float, numbers), strict=True))


def auc(members: Array, others: Array) -> Estimate:
    """AUC with the 95 % interval of DeLong et al. (1988, Biometrics 44:837): the variance over both groups' rows."""
    below = np.array([auroc(np.array([one]), others) for one in members])
    above = np.array([auroc(members, np.array([one])) for one in others])
    parts = [float(v.var(ddof=1)) / len(v) if len(v) > 1 else math.nan for v in (below, above)]
    half = 1.96 * math.sqrt(sum(parts))
    mean = float(below.mean())
    return Estimate(mean, max(mean - half, 0.0), min(mean + half, 1.0), len(members) + len(others))


def membership(subject: Subject, members: Texts, others: Texts) -> dict[str, float]:
    """AUC of each attack, members against others; warns where the two differ by their length alone."""
    scores = [[seen(text, each) for (_, text), each in zip(*group, strict=True)] for group in (members, others)]
    found = {name: auc(*(np.array([one[name] for one in group]) for group in scores)) for name in scores[0][0]}
    if not found["blind"].low <= 0.5 <= found["blind"].high:
        said = f"forget and holdout are told apart by length alone (AUC {found['blind']})"
        subject.warnings.append(f"{said}: not from one distribution, so an AUC is no sign of membership")
    subject.intervals.update({f"auc_{name}": [estimate.low, estimate.high] for name, estimate in found.items()})
    return {f"auc_{name}": estimate.mean for name, estimate in found.items()}
