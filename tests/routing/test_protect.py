import copy

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.prune import random_unstructured
from transformers.pytorch_utils import Conv1D

from architectures import CONFIGS, build
from routed_nets import BLOCKS, HIDDEN, WIDTH, Net, columns_of, gradients, ids, nll, row_by_row
from sluicegate.errors import UserError
from sluicegate.routing.router import Router

SITES = {"mlp": BLOCKS}
SORTED, SHUFFLED = [0, 0, 1, 1, 2, 2, 3, 3], [3, 1, 0, 2, 1, 0, 3, 2]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def same(first, second, **close):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], **(close or EXACT), msg=lambda text, name=name: f"{name}: {text}")


def routed(router, batch, labels, loss=nll):
    router.model.zero_grad()
    with router(labels):
        loss(router.model, batch).backward()
    return gradients(router.model)


# ------------------------------------------------------------------------------ against one backward pass a row


@pytest.mark.parametrize("labels", [SORTED, SHUFFLED, [1] * 8, [0] * 8, [3] * 8, [0] * 4 + [3] * 4, [1, 2] * 4])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("options", [{}, {"weights": {"one": {"rest": -0.75, "two": 0.25}, "retain": 0.5}}, {"ablate": {}}], ids=str)
def test_weight_gradients_are_the_sum_over_the_rows_that_may_train_them(labels, tied, options):
    net, labels = Net(tied=tied), torch.tensor(labels)
    router = Router(net, SITES, form="protect", **options)
    batch = ids(len(labels))
    got = routed(router, batch, labels)
    router.remove()
    same(got, row_by_row(net, batch, labels, router.policy.backward, router.policy.forward))


@settings(max_examples=25)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=7), st.integers(0, 99))
def test_rows_may_lie_in_any_order(labels, seed):
    net, labels = Net(seed), torch.tensor(labels)
    router = Router(net, SITES, form="protect", weights={"two": {"one": -0.5}})
    batch = ids(len(labels), seed=seed)
    got = routed(router, batch, labels)
    router.remove()
    same(got, row_by_row(net, batch, labels, router.policy.backward, router.policy.forward))


def test_the_forward_pass_and_the_gradients_of_activations_are_plain():
    net, batch = Net(), ids(8)
    seen = {}
    for name in ("embed", "norm", "mlp.0", "mlp.2", "rms", "head"):
        net.get_submodule(name).register_forward_hook(
            lambda m, a, y, n=name: y.register_hook(lambda g: seen.update({n: g.clone()})) and None
        )
    plain_loss = nll(net, batch)
    plain_loss.backward()
    plain = dict(seen)
    router = Router(net, SITES, form="protect", ablate={})
    seen.clear()
    with router(SHUFFLED):
        loss = nll(net, batch)
        loss.backward()
    assert torch.equal(loss, plain_loss)
    assert seen.keys() == plain.keys()
    same(seen, plain)


@pytest.mark.parametrize("labels", [SORTED, SHUFFLED])
@pytest.mark.parametrize("ablate", [None, {}])
def test_runs_lists_and_shares_of_rows_agree(labels, ablate):
    """Sorted rows are sliced, shuffled ones gathered, and soft labels multiplied."""
    net, batch = Net(), ids(8)
    router = Router(net, SITES, form="protect", weights={"one": -0.75}, ablate=ablate)
    order = torch.tensor(labels).argsort(stable=True)
    as_lists = routed(router, batch, torch.tensor(labels))
    as_runs = routed(router, batch[order], torch.tensor(labels)[order])
    as_shares = routed(router, batch, F.one_hot(torch.tensor(labels), 4).double())
    same(as_runs, as_lists)
    same(as_shares, as_lists, rtol=1e-6, atol=1e-7)


def test_soft_labels_are_linear_in_their_shares():
    net, batch = Net(), ids(6)
    router = Router(net, SITES, form="protect", weights={"one": -0.75}, ablate={})
    shares = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares /= shares.sum(-1, keepdim=True)
    soft = routed(router, batch, shares)
    router.remove()
    each = shares @ router.policy.backward.double()  # as if every row had a label of its own
    same(soft, row_by_row(net, batch, torch.arange(6), each, torch.ones(6, 3)), rtol=1e-5, atol=1e-6)


def test_a_share_of_ablation_scales_the_activation_once():
    """Half retain, half unlabelled: the block is computed at one half, and its gradient is that pass's own."""
    net, batch = Net(), ids(4)
    router = Router(net, SITES, form="protect")
    soft = routed(router, batch, torch.tensor([[0.5, 0, 0, 0.5]]).expand(4, 4))
    router.remove()
    table = torch.tensor([[1.0, 0.5, 0.5]])
    same(soft, row_by_row(net, batch, torch.zeros(4, dtype=torch.long), torch.ones(1, 3), table))


def test_rows_of_zero_and_one_label_train_like_plain_rows():
    net, batch = Net(), ids(8)
    nll(net, batch).backward()
    plain = gradients(net)
    for options, label in [({}, "unlabelled"), ({"ablate": {}}, "retain")]:
        router = Router(net, SITES, form="protect", **options)
        got = routed(router, batch, [label] * 8)
        assert all(torch.equal(got[name], plain[name]) for name in plain)  # nothing was divided, so it is the same bitwise
        router.remove()


# ------------------------------------------------------------------------------ tokens


def test_labels_a_token_that_repeat_a_rows_are_the_rows():
    net, batch = Net(), ids(8)
    router = Router(net, SITES, form="protect", weights={"one": -0.75})
    by_row = routed(router, batch, torch.tensor(SHUFFLED))
    same(routed(router, batch, torch.tensor(SHUFFLED)[:, None].expand(8, 5)), by_row)
    same(routed(router, batch, F.one_hot(torch.tensor(SHUFFLED), 4).double()[:, None].expand(8, 5, 4)), by_row, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_tokens_of_a_linear_layer_are_weighed_one_by_one(soft, flat):
    """Against g and x at every position, also where the model lays rows and tokens into one dimension."""
    layer = nn.Linear(4, 6).double()
    model = nn.Sequential(nn.Flatten(0, 1), layer) if flat else nn.Sequential(nn.Identity(), layer)
    router = Router(model, {"1": {"one": 2}}, form="protect", weights={"one": -0.5}, ablate={})
    x, g = torch.randn(3, 5, 4, dtype=torch.float64), torch.randn(3, 5, 6, dtype=torch.float64)
    labels = torch.randint(0, 3, (3, 5))
    with router(F.one_hot(labels, 3).double() if soft else labels):
        (model(x).view(3, 5, 6) * g).sum().backward()
    for column, units in [(0, slice(0, 4)), (1, slice(4, 6))]:
        w = router.policy.backward[labels, column].double()
        torch.testing.assert_close(layer.weight.grad[units], torch.einsum("bt,bto,bti->oi", w, g[..., units], x), **EXACT)
        torch.testing.assert_close(layer.bias.grad[units], torch.einsum("bt,bto->o", w, g[..., units]), **EXACT)


# ------------------------------------------------------------------------------ other layers


class Head(nn.Module):
    """Some layers, and a routed linear one behind them."""

    def __init__(self, *layers, width):
        super().__init__()
        self.body, self.last = nn.Sequential(*layers), nn.Linear(width, 4)
        self.double()

    def forward(self, x):
        return self.last(self.body(x).flatten(1))


def image_loss(model, x):
    return model(x).pow(2).flatten(1).sum(1).mean()


@pytest.mark.parametrize(
    ("layers", "width", "shape"),
    [
        ([nn.Conv2d(2, 3, 3)], 12, (2, 4, 4)),
        ([nn.Conv1d(2, 3, 2, groups=1, bias=False)], 9, (2, 4)),
        ([nn.ConvTranspose1d(2, 3, 2)], 15, (2, 4)),
        ([nn.Conv2d(2, 4, 3, groups=2), nn.GroupNorm(2, 4)], 16, (2, 4, 4)),
        ([nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()], 12, (2, 4, 4)),
        ([nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, affine=True), nn.PReLU(3)], 12, (2, 4, 4)),
        ([Conv1D(5, 4)], 10, (2, 4)),
        ([nn.Bilinear(4, 4, 5)], 10, (2, 4)),
    ],
    ids=lambda value: "-".join(type(layer).__name__ for layer in value) if isinstance(value, list) else "",
)
def test_other_layers_hold_rows_back_too(layers, width, shape):
    if isinstance(layers[0], nn.Bilinear):
        bilinear = layers[0]
        layers = [_Twice(bilinear)]
    model = Head(*copy.deepcopy(layers), width=width).eval()  # a batch norm's rows are independent only when it does not measure them
    x, labels = torch.randn(6, *shape, dtype=torch.float64), torch.tensor([1, 0, 1, 2, 0, 1])
    plain = {label: _plain_share(model, x, labels == label) for label in range(3)}
    router = Router(model, {"last": {"one": 1}}, form="protect", weights={"one": -0.5}, ablate={})
    with router(labels):
        loss = image_loss(model, x)
        loss.backward()
    router.remove()
    assert torch.equal(loss, image_loss(model, x))
    for name, got in gradients(model).items():
        column = torch.zeros(got.shape, dtype=torch.long)
        if name.startswith("last."):
            column[3:] = 1
        expected = sum(router.policy.backward[label].double()[column] * plain[label][name] for label in range(3))
        torch.testing.assert_close(got, expected, **EXACT)


class _Twice(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, input2=x)


def _plain_share(model, x, rows):
    model.zero_grad()
    (model(x).pow(2).flatten(1).sum(1) * rows).sum().div(len(x)).backward()
    found = gradients(model)
    model.zero_grad()
    return found


def test_a_batch_norm_counts_a_batch_once():
    model = Head(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), width=12)
    reference, x = copy.deepcopy(model), torch.randn(6, 2, 4, 4, dtype=torch.float64)
    router = Router(model, {"last": {"one": 1}}, form="protect", ablate={})
    with router([0, 1, 0, 1, 2, 2]):
        image_loss(model, x).backward()
    image_loss(reference, x)
    for (name, buffer), expected in zip(model.named_buffers(), reference.buffers(), strict=True):
        assert torch.equal(buffer, expected), name


class Position(nn.Module):
    """GPT-2's way with positions: one row of them for all rows of the batch."""

    def __init__(self):
        super().__init__()
        self.place, self.net = nn.Embedding(5, WIDTH), Net()
        self.double()

    def forward(self, ids):
        h = self.net.embed(ids) + self.place(torch.arange(ids.shape[1])[None])
        return self.net.head(self.net.rms(h + self.net.mlp(self.net.norm(h))))


@pytest.mark.parametrize("by", ["row", "token"])
@pytest.mark.parametrize("rows", [8, 1])
def test_positions_shared_by_all_rows_learn_from_those_that_may_train_them(by, rows):
    model, batch, labels = Position(), ids(8)[:rows], torch.tensor(SHUFFLED)[:rows]
    expected = torch.zeros_like(model.place.weight)
    for row, label in zip(batch, labels.tolist(), strict=True):
        if label in (0, 3):
            model.zero_grad()
            (nll(model, row[None]) / rows).backward()
            expected += model.place.weight.grad
    router = Router(model, {"net.mlp": BLOCKS}, form="protect", ablate={})
    got = routed(router, batch, labels if by == "row" else labels[:, None].expand(rows, 5))
    torch.testing.assert_close(got["place.weight"], expected, **EXACT)


def test_a_linear_layer_of_positions_too():
    model = nn.ModuleDict({"place": nn.Linear(3, WIDTH), "mlp": Net().mlp}).double()
    grid = torch.randn(1, 5, 3, dtype=torch.float64)
    x = torch.randn(4, 5, WIDTH, dtype=torch.float64)
    router = Router(model, SITES, form="protect", ablate={})
    with router([0, 1, 1, 3]):
        model["mlp"](x + model["place"](grid)).pow(2).sum().backward()
    got = model["place"].weight.grad.clone()
    router.remove()
    model.zero_grad()
    model["mlp"](x[[0, 3]] + model["place"](grid)).pow(2).sum().backward()
    torch.testing.assert_close(got, model["place"].weight.grad, **EXACT)


# ------------------------------------------------------------------------------ joint parameters


@pytest.mark.parametrize("joint", ["mlp.0.weight", "*.bias", "norm.weight, rms.*", ["embed.weight"], "m*"])
@pytest.mark.parametrize("soft", [False, True])
def test_joint_parameters_learn_from_every_row(joint, soft):
    net, batch, labels = Net(), ids(8), torch.tensor(SHUFFLED)
    expected = row_by_row(net, batch, labels, torch.tensor([[1.0, 1, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1]]), torch.ones(4, 3))
    nll(net, batch).backward()
    plain = gradients(net)
    router = Router(net, SITES, form="protect", joint_params=joint, ablate={})
    got = routed(router, batch, F.one_hot(labels, 4).double() if soft else labels)
    divided = set(router.pieces())
    assert divided != set(plain)
    same(got, {name: expected[name] if name in divided else plain[name] for name in plain}, rtol=1e-9, atol=1e-9)


def test_a_joint_pattern_that_matches_nothing_lists_the_nearest():
    with pytest.raises(UserError, match=r"joint_params='norm.wieght' matches no parameter. Nearest: norm.weight"):
        Router(Net(), SITES, form="protect", joint_params="norm.wieght")


def test_a_router_that_would_protect_nothing_is_refused():
    with pytest.raises(UserError, match=r"joint_params='\*' matches every parameter, so nothing would be protected"):
        Router(Net(), SITES, form="protect", joint_params="*")


def test_frozen_weights_stay_without_a_gradient():
    net = Net()
    net.mlp[0].requires_grad_(False)
    net.norm.requires_grad_(False)
    net.mlp[2].weight.requires_grad_(False)
    router = Router(net, SITES, form="protect")
    with router([1, 2, 0, 3]):
        nll(net, ids(4)).backward()
    assert {name for name, p in net.named_parameters() if p.grad is None} == {
        "mlp.0.weight",
        "mlp.0.bias",
        "mlp.2.weight",
        "norm.weight",
        "norm.bias",
    }


# ------------------------------------------------------------------------------ what cannot be told apart


def test_a_module_that_gives_no_tensor_is_refused_by_name():
    model = nn.ModuleDict({"lstm": nn.LSTM(4, 4, batch_first=True), "last": nn.Linear(4, 3)})
    router = Router(model, {"last": {"one": 1}}, form="protect")
    with (
        router([1, 0]),
        pytest.raises(UserError, match=r"module 'lstm' \(LSTM\) .* gives a tuple, .*learn from everything: joint_params='lstm.\*'"),
    ):
        model["lstm"](torch.randn(2, 3, 4))
    router.remove()
    router = Router(model, {"last": {"one": 1}}, form="protect", joint_params="lstm.*")
    with router([1, 0]):
        model["last"](model["lstm"](torch.randn(2, 3, 4))[0]).sum().backward()
    assert model["lstm"].weight_hh_l0.grad.any()


@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(4, 4, 1)], ids=lambda layer: type(layer).__name__)
def test_a_module_that_does_not_see_the_batch_row_by_row_is_refused_by_name(layer):
    model = nn.ModuleDict({"odd": layer, "last": nn.Linear(4, 3)})
    router = Router(model, {"last": {"one": 1}}, form="protect")
    x = torch.randn(6, 4, 5) if isinstance(layer, nn.Conv1d) else torch.randn(6, 4)
    with router([1, 0, 2]), pytest.raises(UserError, match=r"module 'odd': labels have shape \(3,\), .*\(6, 4.*joint_params='odd.\*'"):
        model["odd"](x)


def test_labels_a_token_never_reach_over_features():
    """Four tokens and four features: as many, and still not the same."""
    model = nn.ModuleDict({"odd": nn.Linear(4, 4), "last": nn.Linear(4, 3)})
    router = Router(model, {"last": {"one": 1}}, form="protect")
    with router(torch.ones(2, 4, dtype=torch.long)), pytest.raises(UserError, match=r"module 'odd'"):
        model["odd"](torch.randn(2, 4))


def test_a_linear_layer_with_a_forward_of_its_own_keeps_it():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(Doubled(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    plain = model(x)
    plain[[0, 2]].pow(2).sum().backward()
    expected = model[0].weight.grad.clone()
    model.zero_grad()
    router = Router(model, {"2": {"one": 1}}, form="protect", ablate={})
    with router([0, 1, 2]):
        y = model(x)
        assert torch.equal(y, plain)
        y.pow(2).sum().backward()
    torch.testing.assert_close(model[0].weight.grad, expected, **EXACT)


def test_a_forward_that_somebody_else_put_on_a_module_is_not_overruled():
    net = Net()
    net.norm.forward = lambda x: 3 * x
    router = Router(net, SITES, form="protect")
    loss = nll(net, ids(2))
    assert torch.isfinite(loss)  # a plain pass runs it
    with (
        router([0, 1]),
        pytest.raises(UserError, match=r"module 'norm': something else has put .*joint_params='norm.\*'"),
    ):
        nll(net, ids(2))
    router.remove()
    assert net.norm.forward(torch.ones(1)) == 3


# ------------------------------------------------------------------------------ real architectures


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("by", ["row", "token"])
def test_real_architectures_row_by_row(name, by):
    """Rows of the block train it alone, as in a pass of their own; the rest learns from the others; heads and MLP at
    once."""
    model = build(name).double().eval()
    x = torch.randint(3, 130, (5, 6), generator=torch.Generator().manual_seed(0))
    mask, labels = torch.ones_like(x), torch.tensor([1, 0, 1, 2, 0])

    def loss(rows):
        logits = model(x[rows], attention_mask=mask[rows], use_cache=False).logits[:, :-1]
        out = F.cross_entropy(logits.flatten(0, 1), x[rows][:, 1:].flatten())
        return out * rows.sum() / len(x)

    plain = {}
    for label in range(3):
        model.zero_grad()
        loss(labels == label).backward()
        plain[label] = gradients(model)
    router = Router(model, {"mlp_hidden": {"f": 16}, "heads": {"f": 2}}, form="protect", ablate={})
    model.zero_grad()
    with router(labels if by == "row" else labels[:, None].expand(5, 6)):
        loss(torch.ones(5, dtype=torch.bool)).backward()
    got = gradients(model)
    divided = 0
    for parameter, gradient in got.items():
        own = torch.zeros_like(gradient, dtype=torch.bool)
        for site, placed in router.sites:
            for part in site.parts:
                if part.parameter == parameter:
                    own.index_fill_(part.dim, part.belongs(*placed["f"]).nonzero().flatten(), True)
                    divided += 1
        expected = plain[0][parameter] + plain[2][parameter] + own * plain[1][parameter]
        expected = torch.where(own, expected, plain[0][parameter] + plain[2][parameter])
        close = {"rtol": 1e-4, "atol": 1e-7} if name == "gemma2" else {"rtol": 1e-9, "atol": 1e-12}  # its norms work in single precision
        torch.testing.assert_close(gradient, expected, **close, msg=lambda text, n=parameter: f"{n}: {text}")
        assert not own.any() or plain[1][parameter][own].any()
    assert divided >= 12


def test_the_shares_of_a_parameter_are_a_partition():
    router = Router(Net(), SITES, form="protect")
    for name, parameter in router.model.named_parameters():
        column = torch.full(parameter.shape, -9)
        for piece in router.pieces()[name]:
            for start, stop in piece.runs or ((0, parameter.shape[piece.dim]),):
                view = column.narrow(piece.dim, start, stop - start)
                assert (view == -9).all()
                view.fill_(piece.column)
        assert torch.equal(column, columns_of(name, parameter.shape))
    assert HIDDEN == 12


@pytest.mark.parametrize("made_by", [nn.utils.weight_norm, lambda module: random_unstructured(module, "weight", 0.5)])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weights_that_a_hook_makes_are_an_error_that_says_what_to_do(made_by):
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    made_by(net[0])
    with pytest.raises(UserError, match=r"module '0' \(Linear\) has a weight that a hook .* joint_params='0.\*'"):
        Router(net, {"2": {"forget": 2}}, form="protect")
    Router(net, {"2": {"forget": 2}}, form="protect", joint_params="0.*")


@pytest.mark.parametrize("made_by", [parametrizations.weight_norm, parametrizations.orthogonal, parametrizations.spectral_norm])
@pytest.mark.parametrize("soft", [False, True])
def test_what_makes_a_layers_weights_learns_from_the_rows_that_may_train_the_layer(made_by, soft):
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    made_by(net[0])
    net(torch.randn(2, 4, dtype=torch.float64))
    net.eval()  # a spectral norm draws nearer to its value at each pass in training
    x, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([1, 0, 1, 2, 0, 1])
    plain = net(x).detach()
    net(x)[labels != 1].pow(2).sum().backward()
    expected = {name: g for name, g in gradients(net).items() if name.startswith("0.")}
    net.zero_grad()
    router = Router(net, {"2": {"one": 1}}, form="protect", ablate={})
    with router(F.one_hot(labels, 3).double() if soft else labels):
        y = net(x)
        y.pow(2).sum().backward()
    assert torch.equal(y, plain)
    got = gradients(net)
    assert any(name.endswith(("weight.original0", "weight.original")) for name in expected)
    same({name: got[name] for name in expected}, expected)
    net.train()
    before, reference = {n: b.clone() for n, b in net.named_buffers()}, copy.deepcopy(net)
    with router(labels):
        net(x)
    router.remove()
    reference(x)
    assert all(torch.equal(b, c) for b, c in zip(net.buffers(), reference.buffers(), strict=True)), before  # it drew nearer once
    with parametrize.cached(), Router(net, {"2": {"one": 1}}, form="protect")(labels), pytest.raises(UserError, match=r"Leave parametrize"):
        net(x)


@pytest.mark.parametrize("made_by", [parametrizations.weight_norm, parametrizations.orthogonal, parametrizations.spectral_norm])
def test_units_of_weights_that_are_made_cannot_be_protected_but_gated_and_cut(made_by):
    net = nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4)), nn.Linear(4, 2)).double().eval()
    made_by(net[0][0])
    with pytest.raises(UserError, match=r"site '0' has no weights of its own \(they are made from others .*remove_parametrizations"):
        Router(net, {"0": {"one": 2}}, form="protect")
    router, x = Router(net, {"0": {"one": 2}}), torch.randn(5, 4, dtype=torch.float64)
    seen = []
    net[0][1].register_forward_hook(lambda m, a, y: y.register_hook(seen.append) and None if y.requires_grad else None)
    with router([1, 0, 1, 2, 1]):
        net(x).pow(2).sum().backward()
    assert seen[0].any(1).all()
    assert not seen[0][[0, 2, 4], :4].any()  # rows of the block train its units alone
    hidden = net[0][1](net[0][0](x)).detach()
    hidden[:, 4:] = 0
    with torch.no_grad(), router.ablate("one")(net):
        torch.testing.assert_close(net(x), net[1](net[0][2](hidden)), **EXACT)
    assert router.pieces() == {}  # so that the report lists them as joint
