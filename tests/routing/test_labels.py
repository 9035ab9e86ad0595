import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from sluicegate.errors import UserError
from sluicegate.routing.labels import as_index, assign, policy

CPU = torch.device("cpu")
PLAIN = policy(["a", "b"], {}, {})
RETAIN, A, B, UNLABELLED = 0, 1, 2, 3


# ------------------------------------------------------------------------------ the tables


def test_the_default_policy():
    assert PLAIN.labels == ("retain", "a", "b", "unlabelled")
    assert PLAIN.columns == ("rest", "a", "b")
    assert PLAIN.backward.tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1]]
    assert PLAIN.forward.tolist() == [[1, 1, 1]] * 4
    assert not PLAIN.ablates


def test_weights_change_a_label_and_nothing_else():
    changed = policy(["a", "b"], {"a": -0.75, "unlabelled": {"rest": 0.5, "b": 2}}, {})
    assert changed.backward.tolist() == [[1, 1, 1], [-0.75, 1, 0], [0, 0, 1], [0.5, 1, 2]]


def test_ablation_is_for_the_forward_pass_and_trains_nothing_there():
    cut = policy(["a", "b"], {}, {"retain": ["a"], "b": "a"})
    assert cut.forward.tolist() == [[1, 0, 1], [1, 1, 1], [1, 0, 1], [1, 1, 1]]
    assert cut.ablates
    assert cut.trains().tolist() == [[True, False, True], [False, True, False], [False, False, True], [True, True, True]]


@pytest.mark.parametrize(
    ("blocks", "weights", "ablate", "message"),
    [
        (["rest"], {}, {}, r"a block cannot be called 'rest': retain, unlabelled and rest have a meaning of their own"),
        (["retain"], {}, {}, r"a block cannot be called 'retain'"),
        ([""], {}, {}, r"a block cannot be called ''"),
        (["forget"], {"forgot": 0}, {}, r"no label 'forgot'. There are: retain, forget, unlabelled"),
        (["forget"], {"forget": {"rst": 0}}, {}, r"no block 'rst'. There are: rest, forget"),
        (["forget"], {"forget": float("nan")}, {}, r"the weight of label 'forget' on 'rest' is nan; it must be a finite number"),
        (["forget"], {"forget": {"forget": float("inf")}}, {}, r"the weight of label 'forget' on 'forget' is inf"),
        (["forget"], {}, {"retain": ["rest"]}, r"'retain' cannot be computed without 'rest': only blocks can be ablated \(forget\)"),
        (["forget"], {}, {"retain": ["frget"]}, r"no block 'frget'. There are: rest, forget"),
        (["forget"], {}, {"all": ["forget"]}, r"no label 'all'. There are: retain, forget, unlabelled"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(blocks, weights, ablate, message):
    with pytest.raises(UserError, match=message):
        policy(blocks, weights, ablate)


# ------------------------------------------------------------------------------ what is handed in


def test_names_numbers_and_minus_one_are_the_same_labels():
    names = assign(["retain", "a", "b", "unlabelled"], PLAIN, CPU)
    for given_ in (torch.tensor([0, 1, 2, 3]), [0, 1, 2, -1], (0, 1, 2, 3), torch.tensor([0, 1, 2, -1], dtype=torch.int8)):
        assert torch.equal(assign(given_, PLAIN, CPU).index, names.index)
    assert torch.equal(names.backward, PLAIN.backward)
    assert names.forward is None


@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_each_row_or_token_gets_its_labels_weights(shape):
    index = torch.randint(-1, 4, shape, generator=torch.Generator().manual_seed(1))
    cut = policy(["a", "b"], {"a": -0.75}, {"retain": ["a"]})
    got = assign(index, cut, CPU)
    assert got.backward.shape == got.forward.shape == (*shape, 3)
    for where in torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape)).tolist():
        where = tuple(where)
        assert torch.equal(got.backward[where], cut.backward[index[where]])
        assert torch.equal(got.forward[where], cut.forward[index[where]])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_moved_is_what_some_row_may_train(index):
    cut = policy(["a", "b"], {"b": {"a": 0.5}}, {"retain": ["a"]})
    expected = [any(cut.trains()[label, column] for label in index) for column in range(3)]
    assert assign(index, cut, CPU).moved == tuple(expected)
    hot = torch.nn.functional.one_hot(torch.tensor(index), 4).float()
    assert assign(hot, cut, CPU).moved == tuple(expected)  # as shares too


@given(st.lists(st.integers(0, 4), min_size=8, max_size=8))
def test_soft_labels_are_linear_in_their_shares(numbers):
    counts = torch.tensor(numbers, dtype=torch.float64).reshape(2, 4) + torch.tensor([1.0, 0, 0, 0])
    shares = counts / counts.sum(-1, keepdim=True)
    cut = policy(["a", "b"], {"a": -0.75}, {"retain": ["a"]})
    soft = assign(shares, cut, CPU)
    assert soft.index is None
    each = [assign([label] * 2, cut, CPU) for label in range(4)]
    for which in ("backward", "forward"):
        mixed = sum(shares[:, label, None].float() * getattr(each[label], which) for label in range(4))
        torch.testing.assert_close(getattr(soft, which), mixed)


def test_shares_rounded_to_half_precision_are_accepted():
    shares = torch.rand(64, 4, generator=torch.Generator().manual_seed(0)).softmax(-1).bfloat16()
    assert (shares.float().sum(-1) != 1).any()
    assert assign(shares, PLAIN, CPU).backward.shape == (64, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("retain", r"labels are str; give a tensor, or one name or number a row. Names: retain, a, b, unlabelled"),
        (3, r"labels are int; give a tensor"),
        (["retain", "c"], r"no label 'c'. There are: retain, a, b, unlabelled"),
        ([["retain"], ["a"]], r"cannot read the labels .*; give one name or number a row. Names: retain, a, b, unlabelled"),
        ([[0, 1], [0]], r"cannot read the labels"),
        (torch.tensor([0, 4]), r"a label is 4; labels are 0 retain, 1 a, 2 b, 3 unlabelled \(or -1 for unlabelled\)"),
        (torch.tensor([0, -2]), r"a label is -2; labels are 0 retain"),
        (torch.tensor([True, False]), r"labels are boolean; give numbers: 0 retain"),
        (torch.tensor(1), r"labels have shape \(\); expected \(batch,\) for rows or \(batch, tokens\) for tokens"),
        (torch.zeros(2, 2, 2, dtype=torch.long), r"labels have shape \(2, 2, 2\); expected"),
        (torch.zeros(0, dtype=torch.long), r"labels have shape \(0,\)"),
        (torch.tensor([0.0, 1.0]), r"soft labels have shape \(2,\); expected \(batch, 4\) or \(batch, tokens, 4\).*must be whole numbers"),
        (torch.ones(2, 3) / 3, r"soft labels have shape \(2, 3\); .*the shares of retain, a, b, unlabelled"),
        (torch.ones(2, 4), r"soft labels must be shares: 0 or more, adding up to 1 for every row"),
        (torch.tensor([[1.5, -0.5, 0, 0]]), r"soft labels must be shares"),
        (torch.tensor([[float("nan"), 1, 0, 0]]), r"soft labels must be shares"),
    ],
)
def test_labels_of_the_wrong_shape_or_range_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        assign(labels, PLAIN, CPU)


def test_names_become_numbers():
    assert as_index(["b", "unlabelled"], PLAIN.labels).tolist() == [2, 3]
