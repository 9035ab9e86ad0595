"""TOFU's metrics (Maini et al. 2024, arXiv 2401.06121, section 2.2).

Where the paper and its authors' code differ the code is followed, as all published numbers come from it: wrong answers
are averaged geometrically (equation 1 has an arithmetic mean), and the probabilities of choices are taken a token.
The token that ends an answer, which the code counts, is left out.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax
from scipy.stats import hmean, ks_2samp

from sluicegate.tasks.benchmarks import Rows
from sluicegate.tasks.metrics.subject import LOGP, Array, Subject

NINE = [f"{group}_{name}" for group in ("retain", "authors", "facts") for name in ("probability", "rouge", "truth_ratio")]


def truth_ratio(true: Array, false: Sequence[Array]) -> Array:
    """[n] R (equation 1): how probable wrong answers are over the paraphrased right one, the geometric mean a token.

    `true` [n] holds the right answers' mean losses, `false` those of each one's wrong answers, nats a token.
    """
    return np.asarray(np.exp(np.clip(true - np.array([wrong.mean() for wrong in false]), -700, 700)))  # R stays finite


def forget_truth(ratio: Array) -> float:
    """Mean of min(R, 1/R), as the code has it for the forget set: 1 where wrong answers are as likely as the right."""
    return float(np.minimum(ratio, 1 / ratio).mean())


def kept_truth(ratio: Array) -> float:
    """Mean of max(0, 1 - R) (section 2.2.1): 1 where wrong answers have no probability."""
    return float(np.maximum(0, 1 - ratio).mean())


def among_choices(right: Array, wrong: Sequence[Array]) -> float:
    """Mean of P(right) over the sum of all choices' P, where P = exp(-loss), mean losses in nats a token."""
    return float(np.mean([softmax(-np.append(loss, others))[0] for loss, others in zip(right, wrong, strict=True)]))


def forget_quality(ratio: Array, reference: Array) -> float:
    """p of the two-sample Kolmogorov-Smirnov test on two models' truth ratios of the forget set (section 2.2.2)."""
    return float(ks_2samp(ratio, reference).pvalue)


def model_utility(nine: Sequence[float]) -> float:
    """Harmonic mean of probability, ROUGE and truth ratio of the three sets that are to be kept (section 2.2.1)."""
    return float(hmean(nine)) if min(nine) > 0 else 0.0


def answers(subject: Subject, group: str, rows: Rows) -> tuple[dict[str, float], list[Array], Array]:
    """Probability, ROUGE-L recall and truth ratio of one group; the tokens of its answers, and R [n]."""
    pairs = [(row["question"], row["answer"]) for _, row in rows]
    told = subject.tokens(pairs, f"{group}: answers")
    right = np.array([-each[:, LOGP].mean() for each in told])
    wrong = [np.atleast_1d(row["perturbed_answer"]).tolist() for _, row in rows]
    offered = [(question, each) for (question, _), these in zip(pairs, wrong, strict=True) for each in these]
    false = np.split(subject.losses(offered, f"{group}: wrong answers"), np.cumsum([len(these) for these in wrong])[:-1])
    choice, true = not all(row.get("paraphrased_answer") for _, row in rows), right
    if not choice:
        true = subject.losses([(row["question"], row["paraphrased_answer"]) for _, row in rows], f"{group}: paraphrased answers")
    ratio = truth_ratio(true, false)
    numbers = {
        f"{group}_probability": among_choices(right, false) if choice else float(np.exp(-right).mean()),
        f"{group}_rouge": subject.written(pairs, f"{group}: writing"),
        f"{group}_truth_ratio": (forget_truth if group == "forget" else kept_truth)(ratio),
    }
    return numbers, told, ratio
