import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.engine.encoding import encode
from sluicegate.engine.sampling import Mixture, Order, Part, _apportion, seed_of
from sluicegate.errors import UserError


@given(n=st.integers(1, 40), size=st.integers(1, 15), seed=st.integers(0, 99))
def test_every_row_is_drawn_once_an_epoch(n, size, seed):
    order = Order(n, seed)
    drawn = [row for step in range(3 * n) for row in order.draw(step, size)]
    for start in range(0, len(drawn) - n + 1, n):
        assert sorted(drawn[start : start + n]) == list(range(n))


@given(n=st.integers(2, 40), size=st.integers(1, 15), seed=st.integers(0, 99), steps=st.lists(st.integers(0, 300), min_size=1, max_size=30))
def test_a_step_draws_the_same_rows_whenever_it_is_asked(n, size, seed, steps):
    used = Order(n, seed)
    for step in steps:
        assert used.draw(step, size) == Order(n, seed).draw(step, size)


def test_epochs_and_seeds_have_their_own_order():
    order = Order(20, 0)
    assert order.draw(0, 20) != order.draw(1, 20)
    assert order.draw(0, 20) != Order(20, 1).draw(0, 20)


@given(size=st.integers(1, 100), shares=st.lists(st.floats(0.01, 10), min_size=1, max_size=5))
def test_shares_are_apportioned_to_whole_rows_that_add_up(size, shares):
    counts = _apportion(size, {str(i): share for i, share in enumerate(shares)})
    assert sum(counts.values()) == size
    for i, share in enumerate(shares):
        assert abs(counts[str(i)] - size * share / sum(shares)) < 1


def test_a_mixture_holds_its_parts_in_their_shares(tokenizer, split):
    rows = encode(tokenizer, split.forget + split.retain)
    n = len(split.forget)
    mixture = Mixture(rows, 8, 0, {"forget": Part(range(n), 0.25), "retain": Part(range(n, len(rows)), 0.75), "none": Part((), 0.0)})
    for step in range(5):
        chosen = mixture(step).index
        assert int((chosen < n).sum()) == 2
        assert len(chosen) == 8
    assert mixture(3).index.tolist() == mixture(3).index.tolist() != mixture(4).index.tolist()


def test_an_empty_part_and_an_empty_batch_are_refused(tokenizer, split):
    rows = encode(tokenizer, split.forget)
    with pytest.raises(UserError, match="50% retain rows, but there are none"):
        Mixture(rows, 8, 0, {"forget": Part(range(4), 0.5), "retain": Part((), 0.5)})
    with pytest.raises(UserError, match="batch size is 0"):
        Mixture(rows, 0, 0)


def test_seeds_differ_by_every_part_and_never_move():
    assert len({seed_of(s, word) for s in range(5) for word in ("pool", "forget", "retain", "train", "attack", "owned", "held_out")}) == 35
    assert len({seed_of(s, step) for s in range(5) for step in range(200)}) == 1000
    # Written down: another value would change the numbers of every run that was published.
    assert (seed_of(0, "pool"), seed_of(7, 3, "noise")) == (3876704084601468665, 4211634589121142484)
