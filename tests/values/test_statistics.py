import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sluicegate.errors import UserError
from sluicegate.values.statistics import auroc, bootstrap_two_way, estimate, estimate_shares, student_cdf


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


def test_the_interval_of_a_share_is_agrestis_and_caffos_where_seeds_agree():
    # 5 of 10 on each of two seeds: (10 + 2) / (20 + 4) = .5, and 1.96 sqrt(.25 / 24) = .2000.
    found = estimate_shares([0.5, 0.5], 10)
    assert (found.mean, found.n) == (0.5, 2)
    assert (found.low, found.high) == pytest.approx((0.2999, 0.7000), abs=1e-4)
    # 8 of 10 and 2 of 10 on one seed: 9/12 - 3/12, and 1.96 sqrt(2 * .1875 / 12) = .3465.
    found = estimate_shares([0.8], 10, [0.2])
    assert (found.mean, found.low, found.high) == pytest.approx((0.6, 0.5 - 0.3465, 0.5 + 0.3465), abs=1e-4)
    one_sided = estimate_shares([0.8], 10, [0.2], confidence=0.9)
    assert one_sided.high == pytest.approx(0.5 + 1.6449 * 0.3465 / 1.96, abs=1e-4)


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, 1.0, 1.0], [0.1, 0.1], [0.0]])
def test_equal_shares_are_no_certainty(values):
    for found, least in ((estimate_shares(values, 10), 0), (estimate_shares(values, 10, [0.0] * len(values)), -1)):
        assert least <= found.low <= found.mean <= found.high <= 1
        assert found.high - found.low > 0.05


def test_seeds_that_differ_by_far_are_what_counts():
    values = [0.1, 0.5, 0.9]
    many = estimate_shares(values, 1_000_000)
    t = estimate(values, at_least=0.0, at_most=1.0)
    assert (many.low, many.high) == pytest.approx((t.low, t.high), abs=1e-3)
    assert estimate_shares([0.5, 0.5, 0.5], 20).low > estimate_shares([0.2, 0.5, 0.8], 20).low


@pytest.mark.parametrize(("p", "q", "seeds", "between"), [(0.05, 0.05, 3, 0.0), (0.3, 0.1, 3, 0.0), (0.1, 0.1, 5, 0.03)])
def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says(p, q, seeds, between):
    draw, n, held = np.random.default_rng(4), 30, 0
    for _ in range(400):
        a, b = (draw.binomial(n, np.clip(x + draw.normal(0, between, seeds), 0, 1)) / n for x in (p, q))
        found = estimate_shares(a.tolist(), n, b.tolist())
        held += found.low <= p - q <= found.high
    assert held / 400 >= 0.93


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
