import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sluicegate.errors import UserError
from sluicegate.values.statistics import auroc, bootstrap_two_way, estimate, student_cdf


def test_the_interval_of_known_numbers():
    # Mean 3, standard deviation sqrt(2.5), t(4 degrees of freedom) = 2.776: half a width of 1.963.
    found = estimate([1, 2, 3, 4, 5])
    assert (found.mean, found.n) == (3, 5)
    assert found.low == pytest.approx(3 - 1.9629, abs=1e-3)
    assert found.high == pytest.approx(3 + 1.9629, abs=1e-3)
    two = estimate([0.0, 1.0])
    assert two.high == pytest.approx(0.5 + 12.706 * 0.5, abs=1e-3)


@pytest.mark.parametrize("n", [2, 3, 10, 31, 32, 200])
def test_the_interval_is_scipys_of_students_t(n):
    values = np.random.default_rng(n).normal(size=n)
    found = estimate(values.tolist())
    wanted = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(wanted, rel=1e-12, abs=1e-12)


def test_one_seed_has_no_interval_and_none_is_an_error():
    found = estimate([0.25])
    assert found.as_list() == [0.25, None, None]
    assert str(found) == "0.25 [one seed: no interval]"
    with pytest.raises(UserError, match="at least one seed"):
        estimate([])


@pytest.mark.parametrize(("t", "freedom", "known"), [(0, 3, 0.5), (1, 1, 0.75), (12.7062, 1, 0.975), (-2.7764, 4, 0.025)])
def test_students_distribution(t, freedom, known):
    assert student_cdf(t, freedom) == pytest.approx(known, abs=5e-6)


def test_a_two_way_bootstrap_draws_rows_and_columns():
    table = [[1.0, 0.0]] * 50  # the rows agree, so all that varies is which of the two columns is drawn
    found = bootstrap_two_way(table, lambda t: float(t.mean()))
    assert (found.mean, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 50)
    turned = bootstrap_two_way(np.transpose(table).tolist(), lambda t: float(t.mean()))
    assert (turned.mean, turned.low, turned.high, turned.n) == (0.5, 0.0, 1.0, 2)


def test_a_bootstrap_keeps_its_draws_and_needs_two_numbers():
    table = np.arange(12.0).reshape(3, 4).tolist()
    found = bootstrap_two_way(table, lambda t: float(np.median(t)))
    assert found == bootstrap_two_way(table, lambda t: float(np.median(t)))
    assert found != bootstrap_two_way(table, lambda t: float(np.median(t)), seed=1)
    assert math.isnan(bootstrap_two_way([[0.3]], lambda t: float(t.mean())).low)
    assert bootstrap_two_way([], lambda t: float(t.mean())).n == 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_auroc_is_the_share_of_pairs_in_order(positive, negative):
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert auroc(np.array(positive), np.array(negative)) == pytest.approx(sum(pairs) / len(pairs))
