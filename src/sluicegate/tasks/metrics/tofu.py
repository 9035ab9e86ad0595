"""TOFU's metrics (Maini et al. 2024, arXiv 2401.06121), section 2.2.

Where the paper and its authors' code differ the code is followed, since all published numbers come from it: wrong
answers are averaged geometrically (equation 1 has an arithmetic mean), and probabilities among choices are normalised
by length. The token that ends an answer is left out here; the code counts it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sluicegate.tasks.benchmarks import Rows, rows
from sluicegate.tasks.metrics.memory import membership, memorised
from sluicegate.tasks.metrics.subject import LOGP, Array, Subject, rouge

FEW = 20
"""Rows below which a KS test can hardly tell two models apart."""


def truth_ratio(true: Array, false: Sequence[Array]) -> Array:
    """[n] R, equation 1: the probability of wrong answers over that of the right one, a token's geometric mean each.

    `true` [n] is the mean loss of the paraphrased answer, `false` those of the wrong ones, nats a token. Above 1 the
    wrong answers are likelier.
    """
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(true - np.array([wrong.mean() for wrong in false])))


def truth_of_forget(ratio: Array) -> float:
    """Mean of min(R, 1/R): 1 where wrong answers are as likely as the right one."""
    with np.errstate(divide="ignore"):
        return float(np.minimum(ratio, 1 / ratio).mean())


def truth_of_kept(ratio: Array) -> float:
    """Mean of max(0, 1 - R): 1 where wrong answers have no probability (section 2.2.1)."""
    return float(np.maximum(0, 1 - ratio).mean())


def among_choices(right: Array, wrong: Sequence[Array]) -> float:
    """Mean of P(right) / sum of P over the choices; P = exp(-loss), from mean losses in nats a token."""
    return float(np.mean([1 / (1 + np.exp(loss - others).sum()) for loss, others in zip(right, wrong, strict=True)]))


def forget_quality(ratio: Array, reference: Array) -> float:
    """p of the two-sample Kolmogorov-Smirnov test on the truth ratios of two models (section 2.2.2)."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(ratio, reference).pvalue)


def model_utility(nine: Sequence[float]) -> float:
    """Harmonic mean of probability, ROUGE and truth ratio on the retain set, real authors and world facts."""
    from scipy.stats import hmean

    return 0.0 if min(nine) <= 0 else float(hmean(nine))


def needed(configuration: str, data_dir: str) -> dict[str, Rows]:
    """The rows that are measured on, by group; a holdout where there is one."""
    both = ("question", "answer", "perturbed_answer")
    files = {"forget": f"{configuration}_perturbed", "retain": "retain_perturbed"}
    found = {group: rows(f"tofu/{file}", (*both, "paraphrased_answer"), data_dir) for group, file in files.items()}
    files = {"authors": "real_authors_perturbed", "facts": "world_facts_perturbed"}
    return found | {group: rows(f"tofu/{file}", both, data_dir) for group, file in files.items()}


def measure(subject: Subject, groups: Mapping[str, Rows]) -> tuple[dict[str, float], Array]:
    """All numbers but forget quality, by name, and the truth ratios [n] of the forget set."""
    numbers, nine, ratios = dict[str, float](), [], np.zeros(0)
    for group, found in groups.items():
        pairs = [(row["question"], row["answer"]) for _, row in found]
        if group == "holdout":
            continue
        told = subject.tokens(pairs, f"{group}: answers")
        right = np.array([-each[:, LOGP].mean() for each in told])
        wrongs = [[row["perturbed_answer"]] if isinstance(row["perturbed_answer"], str) else row["perturbed_answer"] for _, row in found]
        questions = [(q, wrong) for (q, _), these in zip(pairs, wrongs, strict=True) for wrong in these]
        ends = np.cumsum([len(these) for these in wrongs])[:-1]
        false = np.split(subject.losses(questions, f"{group}: wrong answers"), ends)
        asked = [(row["question"], row.get("paraphrased_answer") or row["answer"]) for _, row in found]
        kept = group in ("authors", "facts")
        ratio = truth_ratio(right if kept else subject.losses(asked, f"{group}: paraphrased answers"), false)
        written = rouge(subject.written(pairs, f"{group}: writing"), [answer for _, answer in pairs], "recall")
        three = {
            "probability": among_choices(right, false) if kept else float(np.exp(-right).mean()),
            "rouge": float(written.mean()),
            "truth_ratio": truth_of_forget(ratio) if group == "forget" else truth_of_kept(ratio),
        }
        numbers |= {f"{group}_{name}": value for name, value in three.items()}
        if group == "forget":
            ratios = ratio
            numbers |= memorised(told)
            if "holdout" in groups:
                other = [(row["question"], row["answer"]) for _, row in groups["holdout"]]
                numbers |= membership(subject, (pairs, told), (other, subject.tokens(other, "holdout: answers")))
        else:
            nine += three.values()
            if zero := [name for name, value in three.items() if value <= 0]:
                subject.warnings.append(f"model utility is 0 because {group}_{zero[0]} is 0")
    return numbers | {"model_utility": model_utility(nine)}, ratios
