import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from sluicegate.errors import UserError
from sluicegate.routing.labels import assign, policy
from sluicegate.routing.pass_context import PassContext, laid

POLICY = policy(["a", "b"], {"a": -0.75, "b": {"a": 0.5}}, {"retain": ["a"]})


def entered(labels):
    context = PassContext(POLICY)
    context.enter(assign(labels, POLICY, torch.device("cpu")))
    return context


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_groups_are_the_rows_with_their_labels_weights(labels):
    table = POLICY.backward * POLICY.forward
    found = torch.full((len(labels), 4), torch.nan)
    for selection, weights in entered(torch.tensor(labels)).labels.groups:
        chosen = torch.zeros(len(labels), dtype=torch.bool)
        chosen[slice(None) if selection is None else selection] = True
        assert found[chosen].isnan().all()  # no row twice
        found[chosen] = torch.tensor(weights)
    assert torch.equal(found, torch.cat([table[torch.tensor(labels)], torch.ones(len(labels), 1)], 1))


def groups(labels):
    return [(s if s is None or isinstance(s, slice) else s.tolist(), w) for s, w in entered(torch.tensor(labels)).labels.groups]


def test_rows_that_lie_together_are_a_run_and_those_that_train_everything_come_first():
    a, everything = (-0.75, 1.0, 0.0, 1.0), (1.0, 1.0, 1.0, 1.0)
    assert groups([1, 1, 3, 3, 3, 1]) == [(slice(2, 5), everything), ([0, 1, 5], a)]
    assert groups([3, 3]) == [(None, everything)]
    assert groups([3, 1, 3]) == [([0, 2], everything), (slice(1, 2), a)]


def test_tokens_count_one_by_one():
    assert [s for s, _ in groups([[0, 2], [2, 2]])] == [slice(0, 1), slice(1, 4)]
    assert [s for s, _ in groups([[3, 1], [3, 1]])] == [[0, 2], [1, 3]]


def test_soft_labels_have_no_numbers():
    context = entered(torch.tensor([[1.0, 0, 0, 0]]))
    assert context.labels.index is None
    context.leave()
    assert context.labels is None


def test_labels_that_come_again_are_remembered_but_not_for_another_policy():
    other = policy(["a", "b"], {}, {})
    first, again, others = (assign([1, 0], p, torch.device("cpu")) for p in (POLICY, POLICY, other))
    assert again is first
    assert others.backward.tolist() != first.backward.tolist()


def test_nothing_is_held_back_only_when_every_row_has_weight_one():
    assert entered([3, 3]).labels.whole == {-1, 0, 1, 2}
    assert entered([0, 3]).labels.whole == {-1, 0, 2}
    assert entered([1, 1]).labels.whole == {-1, 1}  # all rows train the rest, but not with weight one
    assert entered([1, 3]).labels.whole == {-1, 1}


def test_ledgers_gather_what_was_moved():
    context = PassContext(POLICY)
    context.ledgers.append(set())
    with torch.no_grad():
        context.enter(assign([3], POLICY, torch.device("cpu")))
    assert not context.ledgers[0]
    context.leave()
    context.enter(assign([0], POLICY, torch.device("cpu")))
    assert context.ledgers[0] == {(True, False, True)}


def test_a_copy_is_closed():
    context = entered([0, 1])
    reference = copy.deepcopy(context)
    assert context.open
    assert not reference.open
    assert reference.policy is POLICY


def test_a_pass_that_is_over_is_too_late():
    context = entered([0])
    context.check(1, "here")
    context.leave()
    with pytest.raises(UserError, match="site 'here': the router was left before backward"):
        context.check(1, "here")
    context.enter(assign([0], POLICY, torch.device("cpu")))
    with pytest.raises(UserError, match="site 'here'"):
        context.check(1, "here")


@pytest.mark.parametrize(
    ("lead", "shape", "axis", "expected"),
    [
        ((3,), (3, 4), 1, (3, 2)),
        ((3,), (3, 5, 4), 2, (3, 2)),
        ((3,), (3, 4, 7), 1, (3, 2)),
        ((3, 5), (3, 5, 4), 2, (3, 5, 2)),
        ((3, 5), (3, 5, 2, 4), 3, (3, 5, 2)),
        ((3, 5), (15, 4), 1, (15, 2)),
        ((3, 5), (3, 5), 1, None),  # as many features as tokens
        ((3, 5), (3, 5, 7), 1, None),  # as many channels as tokens
        ((3,), (15, 4), 1, None),
        ((3,), (4, 3), 1, None),
        ((3,), (3,), 0, None),
        ((3, 5), (5, 3, 4), 2, None),
    ],
)
def test_weights_are_laid_along_rows_and_tokens_only(lead, shape, axis, expected):
    weights = torch.arange(float(torch.Size(lead).numel() * 2)).reshape(*lead, 2)
    own = laid(weights, shape, axis)
    assert (None if own is None else tuple(own.shape)) == expected
    if own is not None:
        assert torch.equal(own.flatten(), weights.flatten())


@pytest.mark.parametrize(
    ("lead", "shape", "axis", "expected"),
    [
        ((3,), (5, 3, 4), 2, (5, 3, 2)),
        ((3,), (3, 3, 4), 2, (3, 3, 2)),
        ((3,), (3, 4), 1, (3, 2)),  # without time
        ((3,), (3, 4, 7), 1, (3, 2)),  # a picture's channels
        ((3, 5), (5, 3, 4), 2, (5, 3, 2)),
        ((3, 5), (15, 4), 1, (15, 2)),
        ((3,), (3, 5, 4), 2, None),
        ((3, 5), (3, 5, 4), 2, None),
    ],
)
def test_where_time_comes_first_every_step_has_its_rows_weights(lead, shape, axis, expected):
    weights = torch.arange(float(torch.Size(lead).numel() * 2)).reshape(*lead, 2)
    own = laid(weights, shape, axis, 1)
    assert (None if own is None else tuple(own.shape)) == expected
    if own is not None and axis > 1:
        for step in range(shape[0]):
            assert torch.equal(own[step], weights if len(lead) == 1 else weights[:, step])
    elif own is not None:
        assert torch.equal(own, weights if len(lead) == 1 else weights.transpose(0, 1).reshape(15, 2))
