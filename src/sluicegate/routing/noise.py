"""Label noise: what a labeller of a given precision and recall would have found."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sluicegate.engine.sampling import seed_of
from sluicegate.errors import UserError


@dataclass(frozen=True)
class Noisy:
    """Labels with mistakes in them, and how many there are."""

    labels: tuple[str, ...]
    """One a row."""
    precision: float
    """Share of the labelled rows that are rightly labelled; not a number where none are labelled."""
    recall: float
    """Share of the rows to be found that were found (the true-positive rate)."""
    fallout: float
    """Share of the retain rows that were falsely labelled (the false-positive rate)."""


def noisy(
    labels: Sequence[str],
    *,
    recall: float = 1.0,
    precision: float | None = None,
    fallout: float | None = None,
    seed: int = 0,
    label: str = "forget",
    missed: str = "unlabelled",
    confident: float = 1.0,
) -> Noisy:
    """Return labels as a labeller with this recall and precision (or fallout) would give them.

    Of the rows whose true label is `label`, round(recall * n) stay labelled, and the others become `missed`
    ("unlabelled" or "retain"). Of the rows whose true label is "retain", so many are falsely labelled that
    the precision comes out right, or round(fallout * n) of them. Of the other retain rows the share
    `confident` keeps its label and the rest are "unlabelled". Rows with any other label stay as they are.

    A pure function of its arguments, and nested: a row that is labelled at a recall of .1 is labelled at .5, and
    a row falsely labelled at a fallout of .01 is so at .05. Counts are rounded to whole rows; the result
    says what was reached. Raises `UserError` where there are too few retain rows for the precision asked.
    """
    if missed not in ("unlabelled", "retain"):
        raise UserError(f"missed is {missed!r}; rows that were not found become 'unlabelled' or 'retain'.")
    if precision is not None and fallout is not None:
        raise UserError("give precision or fallout, not both: with the recall either says how many rows are falsely labelled.")
    for name, value in (("recall", recall), ("precision", precision), ("fallout", fallout), ("confident", confident)):
        if value is not None and not (math.isfinite(value) and 0 <= value <= 1):
            raise UserError(f"{name} is {value:g}; it is a share, 0 to 1.")
    found = list(labels)
    there = [i for i, name in enumerate(found) if name == label]
    others = [i for i, name in enumerate(found) if name == "retain"]
    if not there:
        raise UserError(f"no row has the label {label!r}; the labels are {', '.join(sorted(set(found))) or 'none'}.")
    hits = round(recall * len(there))
    false = _false(hits, len(others), precision, fallout)
    unsure = round((1 - confident) * (len(others) - false))
    for i in _order(there, seed, "hit")[hits:]:
        found[i] = missed
    order = _order(others, seed, "false")
    for i in order[:false]:
        found[i] = label
    for i in order[len(order) - unsure :]:
        found[i] = "unlabelled"
    labelled = hits + false
    return Noisy(
        tuple(found),
        hits / labelled if labelled else math.nan,
        hits / len(there),
        false / len(others) if others else 0.0,
    )


def _false(hits: int, others: int, precision: float | None, fallout: float | None) -> int:
    """How many retain rows are falsely labelled."""
    if fallout is not None:
        return round(fallout * others)
    if precision is None or precision == 1:
        return 0
    if precision == 0:
        raise UserError("precision is 0, which any number of false labels would give. Say recall=0 and fallout= how many there are.")
    false = round(hits * (1 - precision) / precision)
    if false > others:
        lowest = hits / (hits + others)
        raise UserError(
            f"a precision of {precision:g} with {hits} rightly labelled rows takes {false} falsely labelled ones, but there are only "
            f"{others} retain rows. Ask for {math.ceil(lowest * 1000) / 1000:g} or more, for a lower recall, or hand in more retain rows."
        )
    return false


def _order(rows: list[int], seed: int, what: str) -> list[int]:
    """The rows in the order in which they are picked: the first of them at every share, so that larger shares hold
    smaller ones."""
    return [rows[int(i)] for i in np.random.default_rng(seed_of(seed, "noise", what)).permutation(len(rows))]
