"""Memorisation and membership, against values worked out by hand."""

import zlib

import numpy as np
import pytest

from sluicegate.tasks.metrics.memory import auc, exact_memorisation, extraction_strength, familiar, membership, min_k
from sluicegate.tasks.metrics.subject import FIRST, LOGP, Subject


def told(first=(), logp=()):
    found = np.zeros((max(len(first), len(logp)), 4))
    found[:, FIRST] = first if len(first) else 0
    found[:, LOGP] = logp if len(logp) else 0
    return found


def test_memorisation_counts_tokens_and_extraction_what_follows_the_last_miss():
    texts = [told([0, 1, 0, 1]), told([1, 1, 1, 0]), told([1, 1])]
    assert exact_memorisation(texts) == pytest.approx((1 / 2 + 3 / 4 + 1) / 3)
    # After the third token all are right: 1 - 3/4. The last one is wrong: 1 - 4/4. All are right: 1 - 0.
    assert extraction_strength(texts) == pytest.approx((1 / 4 + 0 + 1) / 3)


def test_min_k_is_the_mean_of_the_lowest():
    assert min_k(-np.arange(1.0, 11)) == pytest.approx(-9.5)  # 20 % of ten: -10 and -9
    assert min_k(-np.arange(1.0, 11), 0.4) == pytest.approx(-8.5)  # -10, -9, -8 and -7
    assert min_k(np.array([-1.0, -3, -2])) == -3  # a fifth of three is less than one: one


def test_what_each_attack_makes_of_a_text():
    tokens = np.array([[-1, -2, 0.5, 1], [-4, -2, 2, 0]])
    found = familiar("abcd", tokens)
    assert found["loss"] == pytest.approx(-2.5)
    assert found["zlib"] == pytest.approx(-5 / len(zlib.compress(b"abcd")))
    assert found["min_k"] == -4
    assert found["min_k_pp"] == pytest.approx(-1)  # the lower of (-1 + 2) / 0.5 = 2 and (-4 + 2) / 2 = -1
    assert found["blind"] == 4


def test_the_auc_and_its_interval():
    # Of the members 3, 4 and 5 the first beats two of 1, 2, 3.5, the others all three: 8/9. Shares of wins 2/3, 1, 1
    # have the variance 1/27, and so have those of the other side: 1.96 sqrt(2 / 81) = 0.308.
    found = auc(np.array([3.0, 4, 5]), np.array([1.0, 2, 3.5]))
    assert found.mean == pytest.approx(8 / 9)
    assert found.low == pytest.approx(8 / 9 - 0.308, abs=1e-3)
    assert found.high == 1
    assert auc(np.array([1.0]), np.array([0.0, 1])).as_list() == [0.75, None, None]


def test_sets_that_differ_by_length_are_told():
    subject = Subject(None, None)
    side = [("", "a" * n) for n in (50, 51, 52, 53)], [told(logp=[-1, -2])] * 4
    found = membership(subject, *side, *side)
    assert set(found.values()) == {0.5}
    assert subject.warnings == []
    assert subject.intervals["auc_loss"] == [0.5, 0.5]
    membership(subject, *side, [("", "b" * n) for n in (5, 6, 7, 8)], side[1])
    assert [text for text in subject.warnings if "length alone (AUC 1.00)" in text]
