"""TOFU's metrics, against values worked out by hand."""

import numpy as np
import pytest

from sluicegate.tasks.metrics import tofu

LN2 = float(np.log(2))


def losses(*probabilities):
    return -np.log(np.array(probabilities))


def test_the_truth_ratio_is_the_wrong_answers_geometric_mean_over_the_right_answer():
    # Row 1: right 1/2; wrong 1/4 and 1/16, whose geometric mean is sqrt(1/64) = 1/8: R = (1/8) / (1/2) = 1/4.
    # Their arithmetic mean would be 5/32, and R = 5/16. Row 2: right 1/4, wrong 1/2: R = 2.
    ratio = tofu.truth_ratio(losses(1 / 2, 1 / 4), [losses(1 / 4, 1 / 16), losses(1 / 2)])
    assert ratio == pytest.approx([1 / 4, 2])
    assert tofu.forget_truth(ratio) == pytest.approx(3 / 8)  # (min(1/4, 4) + min(2, 1/2)) / 2
    assert tofu.kept_truth(ratio) == pytest.approx(3 / 8)  # (1 - 1/4 + 0) / 2
    assert np.isfinite(tofu.truth_ratio(np.array([1e4]), [np.array([0.0])])).all()


def test_the_probability_among_choices_is_a_share():
    # 1/2 of 1/2 + 1/4 + 1/8 + 1/8 = 1, and 1/8 of 1/8 + 3/8 = 1/2: (1/2 + 1/4) / 2 = 3/8.
    right, wrong = losses(1 / 2, 1 / 8), [losses(1 / 4, 1 / 8, 1 / 8), losses(3 / 8)]
    assert tofu.among_choices(right, wrong) == pytest.approx(3 / 8)


def test_forget_quality_is_the_p_of_a_ks_test():
    # All of one sample below the other, three and three: the largest distance, which 2 of (6 over 3) = 20 orders have.
    assert tofu.forget_quality(np.array([1, 2, 3.0]), np.array([4, 5, 6.0])) == pytest.approx(2 / 20)
    assert tofu.forget_quality(np.array([1, 3, 5.0]), np.array([2, 4, 6.0])) == pytest.approx(1)


def test_model_utility_is_the_harmonic_mean_of_nine():
    assert len(tofu.NINE) == 9
    assert tofu.model_utility([1] * 8 + [1 / 2]) == pytest.approx(9 / 10)  # 9 / (8 + 2)
    assert tofu.model_utility([1] * 8 + [0]) == 0
