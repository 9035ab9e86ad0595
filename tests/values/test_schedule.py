import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.errors import UserError
from sluicegate.values.schedule import Schedule, distilling_rate, training_rate, unlearning_rate


def test_warm_up_is_linear_and_reaches_the_peak():
    schedule = Schedule(steps=10, lr=1.0, warmup=4)
    assert [schedule.rate(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_runs_from_the_peak_to_the_final_share():
    schedule = Schedule(steps=100, lr=2.0, warmup=20, decay="cosine", final=0.1)
    assert schedule.rate(20) == pytest.approx(2.0)
    assert schedule.rate(60) == pytest.approx(2.0 * 0.55)
    assert schedule.rate(100) == pytest.approx(0.2)
    assert schedule.rate(40) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))))


def test_cosine_over_its_own_span_then_stays_at_the_end():
    schedule = Schedule(steps=100, lr=1.0, decay="cosine", decay_steps=50, final=0.0)
    assert schedule.rate(25) == pytest.approx(0.5)
    assert schedule.rate(50) == schedule.rate(99) == pytest.approx(0.0)


@given(steps=st.integers(1, 50), warmup=st.integers(0, 60), decay=st.sampled_from(["constant", "cosine"]), span=st.integers(0, 60))
def test_the_rate_never_leaves_zero_to_peak_and_falls_after_the_warm_up(steps, warmup, decay, span):
    schedule = Schedule(steps=steps, lr=1.0, warmup=warmup, decay=decay, decay_steps=span)
    rates = [schedule.rate(step) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_an_open_learning_rate_falls_with_the_width_and_a_given_one_stays():
    assert training_rate(64) == pytest.approx(6e-3)
    assert training_rate(128) == pytest.approx(3e-3)
    assert distilling_rate(64) == pytest.approx(3e-3)
    assert unlearning_rate(64) == pytest.approx(2e-3)
    assert unlearning_rate(576) == pytest.approx(2.5e-5)
    assert unlearning_rate(8192) == pytest.approx(1e-5)
    assert Schedule().or_rate(0.25).lr == 0.25
    assert Schedule(lr=0.5).or_rate(0.25).lr == 0.5


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"batch": 0}, {"accumulate": 0}, {"warmup": -1}, {"clip": -1.0}, {"lr": -1.0}, {"lr": math.nan}, {"lr": math.inf}],
)
def test_a_wrong_value_is_named(wrong):
    (value,) = wrong.values()
    with pytest.raises(UserError, match=str(value)):
        Schedule(**wrong)


def test_more_parts_than_rows_is_refused():
    with pytest.raises(UserError, match="cannot be cut into that many parts"):
        Schedule(batch=4, accumulate=5)


def test_an_unknown_shape_is_refused():
    with pytest.raises(UserError, match=r"decay is 'linear'.*constant, cosine"):
        Schedule(decay="linear")
