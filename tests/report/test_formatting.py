"""How numbers are written on pages and in the terminal."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.report.formatting import MINUS, THIN, flops, measure, plain, share, written
from sluicegate.values.statistics import Estimate

SIZES = st.floats(-1e6, 1e6, allow_nan=False)


@given(SIZES, st.integers(0, 4))
def test_a_number_is_read_back_and_zero_has_no_sign(value, digits):
    text = plain(value, digits)
    assert float(text.replace(MINUS, "-")) == pytest.approx(value, abs=0.5001 * 10**-digits)
    assert "-" not in text
    assert not (text.startswith(MINUS) and float(text.replace(MINUS, "-")) == 0)


@given(st.floats(0, 1))
def test_a_share_is_written_as_all_or_nothing_only_where_it_is(value):
    text = share(value)
    assert float(text) == pytest.approx(100 * value, abs=0.51)
    if text in ("0", "100"):
        assert min(value, 1 - value) < 0.0005


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0.0, "0"), (999.0, "999"), (999.6, "1.00 k"), (1.59e11, "159 G"), (12345678.0, "12.3 M"), (2.5e18, "2.50 E")],
)
def test_flops_have_three_digits_and_a_prefix(value, wanted):
    assert flops(value) == wanted.replace(" ", THIN)


@given(st.floats(1e-4, 1e5))
def test_a_measure_has_three_digits_that_count(size):
    assert float(measure(size)(size)) == pytest.approx(size, rel=0.006)


def test_an_estimate_has_its_interval_where_there_is_one():
    assert str(written(Estimate(0.5, 0.4, 0.6, 5), "share")) == f"50{THIN}% [40 to 60]"
    assert str(written(Estimate(2.0, math.nan, math.nan, 1))) == "2.00"
    assert str(written(Estimate(0.5, 0.5, 0.5, 5))) == "0.50"
    assert not written(None)
    assert not written(Estimate(math.nan, math.nan, math.nan, 0))
