"""What a model shows of having seen a text: memorisation token by token, and membership."""

import math
import zlib
from collections.abc import Sequence

import numpy as np

from sluicegate.tasks.metrics.subject import FIRST, LOGP, MEAN, SD, Array, Pairs, Subject
from sluicegate.values.statistics import Estimate, auroc


def exact_memorisation(told: Sequence[Array]) -> float:
    """Share of tokens that are the model's first choice, mean over texts (Tirumala et al. 2022, arXiv 2205.10770)."""
    return float(np.mean([each[:, FIRST].mean() for each in told]))


def extraction_strength(told: Sequence[Array]) -> float:
    """Mean of 1 - k/n, k the shortest beginning after which all tokens are first choices (Carlini et al. 2021, arXiv
    2012.07805, in the form of Wang et al. 2024, arXiv 2406.09179): 0 where the last token is none."""
    missed = [np.flatnonzero(np.append(1, each[:, FIRST]) == 0) for each in told]  # numbered from 1
    return float(np.mean([1 - (at[-1] if len(at) else 0) / len(each) for at, each in zip(missed, told, strict=True)]))


def min_k(values: Array, share: float = 0.2) -> float:
    """Mean of the lowest `share` of a text's values [k], at least of one (Shi et al. 2023, arXiv 2310.16789, eq. 1)."""
    return float(np.sort(values)[: max(1, int(share * len(values)))].mean())


def familiar(text: str, told: Array) -> dict[str, float]:
    """How much each attack takes a text for one that was trained on; larger is more.

    loss: mean log-probability (Yeom et al. 2018, arXiv 1709.01604). zlib: their sum over the bytes of the packed text
    (Carlini et al. 2021). min_k: Min-20% of log-probabilities. min_k_pp: of (log p - mean) / sd over the vocabulary
    (Zhang et al. 2024, arXiv 2404.02936). blind: the text's length, no model (Das et al. 2024, arXiv 2406.16201).
    """
    logp, packed = told[:, LOGP], len(zlib.compress(text.encode()))
    standard = (logp - told[:, MEAN]) / np.maximum(told[:, SD], 1e-3)
    return {
        "loss": float(logp.mean()),
        "zlib": float(logp.sum()) / packed,
        "min_k": min_k(logp),
        "min_k_pp": min_k(standard),
        "blind": float(len(text)),
    }


def auc(members: Array, others: Array) -> Estimate:
    """AUC with the 95 % interval of DeLong et al. (1988, Biometrics 44:837): each row's share of wins, its variance."""
    wins = np.array([auroc(np.array([one]), others) for one in members])
    losses = np.array([auroc(members, np.array([one])) for one in others])
    half = 1.96 * math.sqrt(sum(float(v.var(ddof=1)) / len(v) if len(v) > 1 else math.nan for v in (wins, losses)))
    return Estimate(float(wins.mean()), max(wins.mean() - half, 0.0), min(wins.mean() + half, 1.0), len(wins) + len(losses))


def membership(subject: Subject, members: Pairs, theirs: Sequence[Array], others: Pairs, rest: Sequence[Array]) -> dict[str, float]:
    """AUC of each attack, members against others; warns where the two sets differ by length alone."""
    scores = [[familiar(text, each) for (_, text), each in zip(*side, strict=True)] for side in ((members, theirs), (others, rest))]
    found = {name: auc(*(np.array([one[name] for one in side]) for side in scores)) for name in scores[0][0]}
    if not found["blind"].low <= 0.5 <= found["blind"].high:
        said = f"forget and holdout are told apart by their length alone (AUC {found['blind'].mean:.2f})"
        subject.warnings.append(f"{said}: they are not from one distribution, so an AUC is no sign of membership")
    subject.intervals.update({f"auc_{name}": estimate.as_list()[1:] for name, estimate in found.items()})
    return {f"auc_{name}": estimate.mean for name, estimate in found.items()}
