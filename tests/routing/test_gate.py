import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from sluicegate.routing.gate import ablated, gate

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
weights_of = st.floats(-3, 3, width=16)


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(
    st.sampled_from(DTYPES),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from(["row", "token"]),
    st.data(),
)
def test_forward_is_the_identity_bitwise_and_backward_the_product(dtype, b, t, by, data):
    lead = (b,) if by == "row" else (b, t)
    count = 3 * b * (t if by == "token" else 1)
    w = torch.tensor(data.draw(st.lists(weights_of, min_size=count, max_size=count))).reshape(*lead, 3)
    cuts = sorted(data.draw(st.lists(st.integers(0, 6), min_size=4, max_size=4)))
    columns = ((cuts[0], cuts[1], 1), (cuts[2], cuts[3], 2))
    x = noise(b, t, 6, seed=count, dtype=dtype).requires_grad_()
    g = noise(b, t, 6, seed=count + 1, dtype=dtype)
    y = gate(x, w, columns)
    assert y.dtype == dtype
    assert torch.equal(y, x)
    (gx,) = torch.autograd.grad(y, x, g)
    assert gx.dtype == dtype
    for i in range(b):
        for j in range(t):
            own = (w[i] if by == "row" else w[i, j]).to(dtype)
            each = own[0].repeat(6)
            each[cuts[0] : cuts[1]], each[cuts[2] : cuts[3]] = own[1], own[2]
            assert torch.equal(gx[i, j], g[i, j] * each)


def test_numbers_that_are_none_pass_unharmed():
    x = torch.tensor([[float("inf"), float("nan"), -0.0, 1e-45]])
    assert torch.equal(gate(x, torch.full((1, 1), 0.3)).view(torch.int32), x.view(torch.int32))


def test_without_blocks_the_whole_row_is_scaled():
    x = noise(3, 4).requires_grad_()
    gate(x, torch.tensor([[1.0], [0.0], [-0.75]])).sum().backward()
    assert torch.equal(x.grad, torch.tensor([1.0, 0.0, -0.75])[:, None].expand(3, 4))


def test_places_may_count_from_the_end():
    x, g, w = noise(2, 6).requires_grad_(), noise(2, 6, seed=1), noise(2, 3, seed=2)
    from_end = torch.autograd.grad(gate(x, w, ((-4, -2, 1), (-2, 0, 2))), x, g)[0]
    assert torch.equal(from_end, torch.autograd.grad(gate(x, w, ((2, 4, 1), (4, 6, 2))), x, g)[0])


def test_units_may_lie_along_another_dimension():
    x, g, w = noise(2, 6, 3, 3).requires_grad_(), noise(2, 6, 3, 3, seed=1), noise(2, 2, seed=2)
    (gx,) = torch.autograd.grad(gate(x, w, ((4, 6, 1),), dim=1), x, g)
    assert torch.equal(gx[:, :4], g[:, :4] * w[:, 0].reshape(2, 1, 1, 1))
    assert torch.equal(gx[:, 4:], g[:, 4:] * w[:, 1].reshape(2, 1, 1, 1))


def test_the_gradient_is_linear_in_the_weights():
    x, g = noise(3, 6, dtype=torch.float64).requires_grad_(), noise(3, 6, seed=1, dtype=torch.float64)
    a, b = noise(3, 2, seed=2, dtype=torch.float64), noise(3, 2, seed=3, dtype=torch.float64)

    def back(w):
        return torch.autograd.grad(gate(x, w, ((4, 6, 1),)), x, g)[0]

    torch.testing.assert_close(back(0.3 * a + 0.7 * b), 0.3 * back(a) + 0.7 * back(b), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_single_precision_weight_widens_nothing(dtype):
    x = noise(2, 4, dtype=dtype).requires_grad_()
    y = gate(x, torch.full((2, 1), 0.3))
    y.float().sum().backward()
    assert (y.dtype, x.grad.dtype) == (dtype, dtype)


def test_works_twice_differentiated():
    x, w = noise(2, 4, dtype=torch.float64).requires_grad_(), torch.tensor([[0.5], [-2.0]], dtype=torch.float64)
    first = torch.autograd.grad((gate(x, w) ** 3).sum(), x, create_graph=True)[0]
    torch.testing.assert_close(first, 3 * x**2 * w)
    # The derivative of the gradient, through which the gate is passed a second time.
    torch.testing.assert_close(torch.autograd.grad(first.sum(), x)[0], 6 * x * w * w)


def test_works_one_sample_at_a_time():
    linear, x, w = nn.Linear(4, 3), noise(5, 4), noise(5, 2, seed=1)

    def loss(parameters, x, w):
        return gate(torch.func.functional_call(linear, parameters, (x[None],)), w[None], ((1, 3, 1),)).pow(2).sum()

    parameters = dict(linear.named_parameters())
    together = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, w)
    for i in range(5):
        alone = torch.func.grad(loss)(parameters, x[i], w[i])
        for name in parameters:
            torch.testing.assert_close(together[name][i], alone[name])


def test_ablated_leaves_the_rest_alone_and_the_input_too():
    x, w = noise(2, 3, 6), torch.tensor([[9.0, 0.0, 1.0], [9.0, 1.0, 0.0]])
    before = x.clone()
    y = ablated(x, w, ((2, 4, 1), (4, 6, 2)), -1)
    assert torch.equal(x, before)
    expected = x.clone()
    expected[0, :, 2:4] = 0
    expected[1, :, 4:6] = 0
    assert torch.equal(y, expected)


def test_a_gradient_that_others_hold_is_left_to_them():
    g = noise(4, 6, seed=3)
    before, x = g.clone(), noise(4, 6).requires_grad_()
    kept = []
    y = gate(x, torch.tensor([[0.0, 1.0]] * 4), ((3, 6, 1),))
    y.register_hook(kept.append)
    y.backward(g)
    assert torch.equal(g, before)
    assert torch.equal(kept[0], before)
    assert not x.grad[:, :3].any()
