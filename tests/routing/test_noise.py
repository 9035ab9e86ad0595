import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.errors import UserError
from sluicegate.routing.noise import noisy

shares = st.floats(0, 1)
counts = st.integers(1, 60)


def truth(forget=40, retain=160, other=5):
    names = ["forget"] * forget + ["retain"] * retain + ["adjacent"] * other
    return [names[i] for i in np.random.default_rng(1).permutation(len(names))]


def labelled(found, true, kind):
    return {i for i, (name, was) in enumerate(zip(found.labels, true, strict=True)) if name == "forget" and was == kind}


@given(recall=shares, precision=st.floats(0.5, 1), forget=counts, seed=st.integers(0, 5))
def test_what_is_reached_is_within_a_row_of_what_was_asked(recall, precision, forget, seed):
    true = truth(forget, retain=forget)
    found = noisy(true, recall=recall, precision=precision, seed=seed)
    hits, false = len(labelled(found, true, "forget")), len(labelled(found, true, "retain"))
    assert abs(hits - recall * forget) <= 0.5
    assert abs(false - hits * (1 - precision) / precision) <= 0.5
    assert found.recall == hits / forget
    assert found.fallout == false / forget
    assert found.precision == hits / (hits + false) if hits + false else math.isnan(found.precision)
    assert found.labels.count("unlabelled") == forget - hits
    assert [n for n, was in zip(found.labels, true, strict=True) if was == "adjacent"] == ["adjacent"] * 5


@given(tpr=shares, fallout=shares)
def test_rates_may_be_asked_for_in_place_of_precision(tpr, fallout):
    found = noisy(truth(), recall=tpr, fallout=fallout)
    assert abs(found.recall - tpr) <= 0.5 / 40
    assert abs(found.fallout - fallout) <= 0.5 / 160


@given(low=shares, high=shares, precision=st.floats(0.3, 1), seed=st.integers(0, 3))
def test_a_lower_recall_labels_some_of_the_same_rows(low, high, precision, seed):
    low, high = sorted((low, high))
    true = truth()
    few, many = (noisy(true, recall=recall, precision=precision, seed=seed) for recall in (low, high))
    for kind in ("forget", "retain"):
        assert labelled(few, true, kind) <= labelled(many, true, kind)


def test_it_is_a_pure_function_of_its_arguments():
    torch.manual_seed(0)
    np.random.seed(0)
    state = torch.get_rng_state()
    first = noisy(truth(), recall=0.5, precision=0.8, seed=3)
    noisy(truth(), recall=0.9, seed=8)
    np.random.random()
    assert noisy(truth(), recall=0.5, precision=0.8, seed=3) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert noisy(truth(), recall=0.5, precision=0.8, seed=4).labels != first.labels


def test_the_rows_that_are_picked_are_spread_over_all():
    true = ["forget"] * 300 + ["retain"] * 300
    found = noisy(true, recall=0.5, precision=0.5)
    for kind in (range(300), range(300, 600)):
        firsts = sum(found.labels[i] == "forget" for i in kind[:150])
        assert 55 < firsts < 95, "about half of the 150 labelled rows are in the first half"
    hits, false = ([name == "forget" for name in found.labels[at]] for at in (slice(300), slice(300, 600)))
    assert 100 < sum(h == f for h, f in zip(hits, false, strict=True)) < 200, "which are missed and which are falsely found is not one draw"


def test_perfect_labels_change_nothing_and_no_recall_labels_nothing():
    assert noisy(truth()).labels == tuple(truth())
    blind = noisy(truth(), recall=0)
    assert "forget" not in blind.labels
    assert math.isnan(blind.precision)
    assert (blind.recall, blind.fallout) == (0, 0)


def test_what_was_missed_may_pass_as_retain():
    found = noisy(truth(), recall=0.25, missed="retain")
    assert found.labels.count("retain") == 160 + 30
    assert "unlabelled" not in found.labels


def test_retain_rows_that_nobody_is_sure_of_are_unlabelled():
    true = truth()
    found = noisy(true, recall=0.5, fallout=0.25, confident=0.25)
    assert len(labelled(found, true, "retain")) == 40
    assert found.labels.count("retain") == 30
    assert found.labels.count("unlabelled") == 90 + 20
    assert noisy(true, confident=0).labels.count("retain") == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": 0.05}, r"takes 760 falsely labelled ones, but there are only 160 retain rows. Ask for 0.2 or more"),
        ({"recall": 1.5}, "recall is 1.5; it is a share, 0 to 1"),
        ({"recall": math.nan}, "recall is nan"),
        ({"precision": -0.1}, "precision is -0.1"),
        ({"precision": 0}, "precision is 0, which any number"),
        ({"precision": 0.5, "fallout": 0.1}, "precision or fallout, not both"),
        ({"missed": "forget"}, "missed is 'forget'; .*'unlabelled' or 'retain'"),
        ({"label": "forgot"}, "no row has the label 'forgot'; the labels are adjacent, forget, retain"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        noisy(truth(), **settings)


def test_the_precision_that_the_message_names_is_possible():
    assert noisy(truth(), precision=0.2).labels.count("forget") == 200
