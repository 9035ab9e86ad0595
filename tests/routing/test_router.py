import copy

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import MixtralConfig, MixtralForCausalLM

from architectures import CONFIGS, build
from routed_nets import BLOCKS, HIDDEN, WIDTH, Net, columns_of, gradients, ids, nll
from sluicegate.errors import UserError
from sluicegate.routing.router import Router

SITES = {"mlp": BLOCKS}
SHUFFLED = [3, 1, 0, 2, 1, 0, 3, 2]
FORMS = pytest.mark.parametrize("form", ["gate", "protect"])
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def lm(name="llama"):
    model = build(name).eval()
    x = torch.randint(3, 130, (4, 6), generator=torch.Generator().manual_seed(0))
    return model, {"input_ids": x, "labels": x, "use_cache": False}


# ------------------------------------------------------------------------------ the activation form


def scaled_by_hand(net, batch, table):
    """Gradients with a hook on the MLP's hidden units that multiplies by each row's weights, spelt out."""
    column = columns_of("mlp.0.bias", (HIDDEN,))
    factor = table[:, column].double()[:, None] if table.dim() == 2 else table[..., column].double()

    def hold(module, args):
        x = args[0].clone()
        x.register_hook(lambda g: g * factor)
        return (x,)

    handle = net.mlp[2].register_forward_pre_hook(hold)
    net.zero_grad()
    nll(net, batch).backward()
    handle.remove()
    return gradients(net)


@pytest.mark.parametrize("by", ["row", "token", "shares", "token shares"])
@pytest.mark.parametrize("weights", [{}, {"one": {"rest": -0.75, "two": 0.1}, "retain": 0.5, "two": {"two": -3}}], ids=str)
def test_gates_multiply_the_gradients_of_the_units(by, weights):
    net, batch = Net(), ids(8)
    router = Router(net, SITES, weights=weights)
    labels = torch.tensor(SHUFFLED) if "token" not in by else torch.randint(0, 4, (8, 5), generator=torch.Generator().manual_seed(1))
    table = router.policy.backward[labels]
    if "shares" in by:
        labels = (F.one_hot(labels, 4).float() + 0.25) / 2
        table = labels @ router.policy.backward
    plain = nll(net, batch)
    with router(labels):
        loss = nll(net, batch)
        loss.backward()
    assert torch.equal(loss, plain)
    got = gradients(net)
    router.remove()
    for name, expected in scaled_by_hand(net, batch, table).items():
        torch.testing.assert_close(got[name], expected, **EXACT)


def test_what_was_found_for_one_batch_does_not_hold_the_labels_of_the_next():
    net, batch, draw = Net(), ids(8), torch.Generator().manual_seed(2)
    router = Router(net, SITES, weights={"one": -0.75, "two": {"one": 0.5}})
    mixed = [torch.randint(0, 4, (8,), generator=draw) for _ in range(3)]
    shares = [F.one_hot(labels, 4).float().flip(1) for labels in mixed]
    batches = [*mixed, *shares, mixed[0].sort().values, torch.randint(0, 4, (8, 5), generator=draw), mixed[0]]
    found = []
    for labels in batches:
        net.zero_grad()
        with router(labels):
            nll(net, batch).backward()
        found.append(gradients(net))
    router.remove()
    for labels, got in zip(batches, found, strict=True):
        table = labels @ router.policy.backward if labels.is_floating_point() else router.policy.backward[labels]
        for name, expected in scaled_by_hand(net, batch, table).items():
            torch.testing.assert_close(got[name], expected, **EXACT)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_the_forward_pass_is_plain_bitwise(kind):
    net, batch = Net().to(kind), ids(8)
    plain = net(batch)
    for form in ("gate", "protect"):
        router = Router(net, SITES, form=form, weights={"one": -0.3}, ablate={})
        with router(SHUFFLED):
            assert torch.equal(net(batch), plain)
        router.remove()


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 3)), min_size=1, max_size=20),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([{"a": 2, "b": (1, 4)}, {"a": (0, 7)}, {"a": (0, 3), "b": (3, 7)}]),
)
def test_gates_on_rows_that_lie_together_or_not_are_the_product_bitwise(stretches, kind, blocks):
    """Few stretches of one label are scaled run by run, many by one number a row; either is g times w."""
    labels = torch.tensor([label for label, count in stretches for _ in range(count)])
    model = nn.Sequential(nn.Identity())
    router = Router(model, {"0": blocks}, weights={"a": -0.3})
    generator = torch.Generator().manual_seed(len(labels))
    x = torch.randn(len(labels), 2, 7, generator=generator).to(kind).requires_grad_()
    g = torch.randn(len(labels), 2, 7, generator=generator).to(kind)
    labels = torch.where(labels == 3, len(router.labels) - 1, labels).clamp_max(len(router.labels) - 1)
    with router(labels):
        model(x).backward(g)
    column = torch.zeros(7, dtype=torch.long)
    for name, (start, stop) in router.sites[0][1].items():
        column[slice(start, stop or None)] = router.policy.columns.index(name)
    expected = g * router.policy.backward[labels][:, column].to(kind)[:, None]
    assert torch.equal(x.grad, expected)


@FORMS
def test_retain_rows_are_computed_without_the_block_and_the_others_with_it(form):
    net, batch = Net(), ids(4)
    router = Router(net, SITES, form=form, ablate={"retain": ["one"], "two": ["one", "two"]})
    plain = net(batch)
    with router(["retain", "one", "two", "unlabelled"]):
        mixed = net(batch)
    with router.ablate("one")(net):
        torch.testing.assert_close(mixed[0], net(batch)[0], **EXACT)
    with router.ablate()(net):
        torch.testing.assert_close(mixed[2], net(batch)[2], **EXACT)
    assert torch.equal(mixed[[1, 3]], plain[[1, 3]])
    assert not torch.allclose(mixed[0], plain[0])


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_retain_rows_of_real_architectures_equal_the_cut_model(name):
    model, batch = lm(name)
    router = Router(model, {"mlp_hidden": {"f": 16}, "heads": {"f": 2}}, form="protect")
    with torch.no_grad():
        with router(["retain", "f", "retain", "unlabelled"]):
            mixed = model(**batch).logits
        plain = model(**batch).logits
        with router.ablate("f")(model):
            cut = model(**batch).logits
    torch.testing.assert_close(mixed[[0, 2]], cut[[0, 2]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed[[1, 3]], plain[[1, 3]], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(cut, plain, atol=1e-2)


@FORMS
def test_rows_that_may_train_everything_are_plain_training(form):
    net, batch = Net(), ids(8)
    nll(net, batch).backward()
    plain = gradients(net)
    router = Router(net, SITES, form=form, ablate={})
    for labels in (["unlabelled"] * 8, ["retain", "unlabelled"] * 4):
        net.zero_grad()
        with router(labels):
            nll(net, batch).backward()
        assert all(torch.equal(value, plain[name]) for name, value in gradients(net).items())


@pytest.mark.parametrize("layer", ["0", "1", "2"])
def test_gates_at_modules_with_and_without_weights(layer):
    """At a convolution, a batch norm and an activation: channels are dimension 1, except behind a flattening."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).double()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    caught = {}
    router = Router(model, {layer: {"one": 2}}, weights={"one": -0.5})
    model[int(layer)].register_forward_hook(lambda m, a, y: caught.update(after=y) or y.retain_grad())
    with router([1, 0, 1]):
        inner = [x]
        for module in model:
            inner.append(module(inner[-1]))
            inner[-1].retain_grad()
        inner[-1].pow(2).sum().backward()
    g = caught["after"].grad
    caught.clear()
    router.remove()
    w = torch.ones_like(g)
    w[[0, 2], :-2] = -0.5
    module, before = model[int(layer)], inner[int(layer)].detach().requires_grad_()
    module(before).backward(g * w)
    if int(layer):
        torch.testing.assert_close(inner[int(layer)].grad, before.grad, **EXACT)


def test_the_first_tensor_of_a_tuple_is_routed_and_the_rest_handed_through():
    class Pair(nn.Module):
        def forward(self, x):
            return 2 * x, "kept"

    model = nn.Sequential(Pair())
    router = Router(model, {"0": {"one": 1}})
    x = torch.ones(2, 3, requires_grad=True)
    with router([0, 1]):
        y, kept = model(x)
        y.sum().backward()
    assert kept == "kept"
    assert x.grad.tolist() == [[2, 2, 2], [0, 0, 2]]


def test_an_output_that_is_no_tensor_is_refused_by_the_sites_name():
    class Odd(nn.Module):
        def forward(self, x):
            return {"x": x}

    model = nn.Sequential(Odd())
    router = Router(model, {"0": {"one": 1}})
    with router([0, 1]), pytest.raises(UserError, match=r"site '0' gives a dict; only a tensor, or a tuple that starts with one"):
        model(torch.ones(2, 3))


def test_inputs_given_by_name_are_routed_too():
    class Named(nn.Module):
        def forward(self, *, hidden, factor=1):
            return hidden * factor

    named = Named()
    model = nn.ModuleDict({"a": named})
    router = Router(model, {"a": {"one": 1}}, at="input")
    x = torch.ones(2, 3, requires_grad=True)
    with router([0, 1]):
        named(factor=2, hidden=x).sum().backward()
        assert x.grad.tolist() == [[2, 2, 2], [0, 0, 2]]
        with pytest.raises(UserError, match=r"site 'a' was called without a tensor to begin with"):
            named(hidden=3)


def test_gates_compose_over_several_sites_and_blocks():
    """A block may lie at several sites, and a site may have blocks that others lack: their rows train nothing there."""
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3))).double()
    router = Router(model, {"0": {"one": 2}, "1": {"two": 2}, "2": {"one": 1, "two": 3}})
    assert router.labels == ("retain", "one", "two", "unlabelled")
    with router(["one"] * 3):
        model(torch.randn(3, 6, dtype=torch.float64)).pow(2).sum().backward()
    got = [layer.weight.grad.any(1).tolist() for layer in model]
    assert got == [[False] * 6] * 2 + [[False, False, True, False, False, False]]  # nothing passes by the second site


# ------------------------------------------------------------------------------ along which dimension


class Pictures(nn.Module):
    """A block of one's own, which does not say that its channels are dimension 1."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(2, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.MaxPool2d(1)

    def forward(self, x):
        return self.pool(torch.relu(self.norm(self.conv(x))))


@pytest.mark.parametrize(
    ("site", "options"),
    [
        ("0", {"dim": 1}),
        ("0.norm", {}),
        ("0.pool", {}),
        ("1", {}),
        ("1.1", {"dim": 1}),
        ("1.1", {"dim": -3}),
        ("2", {}),
        ("0", {"dim": -1}),
        ("1.0", {"dim": -1}),
    ],
)
def test_units_lie_where_the_module_or_the_user_says(site, options):
    """At a block of one's own, norms, a pool, a chain; a convolution's channels are known whatever is said."""
    torch.manual_seed(0)
    model = nn.Sequential(Pictures(), nn.Sequential(nn.Conv2d(6, 6, 1), nn.Tanh()), nn.InstanceNorm2d(6)).double()
    x, module, seen = torch.randn(4, 2, 4, 4, dtype=torch.float64), model.get_submodule(site), {}

    def see(name):
        def hook(module, args, y):
            seen[name] = y
            if y.requires_grad:
                y.register_hook(lambda g: seen.update({name: g}))

        module.register_forward_hook(hook)

    see("before")
    router = Router(model, {site: {"one": 2}}, **options)
    see("after")
    with router([1, 0, 1, 2]):
        model(x).pow(3).sum().backward()
    last = site == "0" and options["dim"] == -1
    w = torch.ones(4, 6, 4, 4, dtype=torch.float64)
    if last:
        w[[0, 2], ..., :2] = 0
    else:
        w[[0, 2], :4] = 0
    assert seen["after"].any()
    assert torch.equal(seen["before"], seen["after"] * w)
    router.remove()
    with torch.no_grad(), router.ablate("one")(model):
        module.register_forward_hook(lambda m, a, y: seen.update(cut=y))  # behind the cut's own
        model(x)
    assert not seen["cut"][..., 2:].any() if last else not seen["cut"][:, 4:].any()
    assert seen["cut"].any()


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("model", "site", "shape", "said"),
    [
        (nn.Sequential(Pictures()), "0", (3, 2, 4, 4), r"\(3, 6, 4, 4\)"),
        (nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU()), "1", (3, 2, 4, 4), r"\(3, 6, 4, 4\)"),
        (nn.Sequential(nn.Conv1d(2, 6, 1), nn.ReLU()), "1", (3, 2, 4), r"\(3, 6, 4\)"),
        (nn.Sequential(nn.Conv2d(2, 6, 1), nn.PReLU(6)), "1", (3, 2, 4, 4), r"\(3, 6, 4, 4\)"),
    ],
)
def test_where_only_the_user_knows_along_which_dimension_units_lie_it_is_asked(model, site, shape, said, cut):
    router = Router(model, {site: {"one": 2}})
    with (
        pytest.raises(UserError, match=rf"site '{site}': its activations are {said}, and the module does not tell .* Say dim=1 \(channels"),
        router.ablate()(model) if cut else router([1, 0, 2]),
    ):
        model(torch.randn(shape))
    router.remove()
    router = Router(model, {site: {"one": 2}}, dim=9)
    with router([1, 0, 2]), pytest.raises(UserError, match=r"units cannot lie along dim=9"):
        model(torch.randn(shape))


def test_an_activation_function_of_a_model_without_convolutions_is_not_asked_about():
    router = Router(net := nn.Sequential(nn.Linear(3, 6), nn.ReLU()), {"1": {"one": 2}})
    with router([1, 0]):
        net(torch.randn(2, 4, 3)).sum().backward()
    assert net[0].weight.grad.any()


# ------------------------------------------------------------------------------ time first


class TimeFirst(nn.Module):
    """[t, b, 4] -> [t, b, 4]: every kind of layer, one step after the other."""

    def __init__(self):
        super().__init__()
        self.lift, self.norm, self.back = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4)
        self.place, self.gru = nn.Embedding(6, 4), nn.GRU(4, 4)
        self.double()

    def forward(self, x):
        x = x + self.place(torch.arange(len(x))[:, None])
        return self.back(torch.tanh(self.norm(self.lift(x))))


def time_first_reference(net, x, labels):
    """Gradients by one plain pass a row: of retain rows and unlabelled ones all, of the block's rows its units' own."""
    expected = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for row, label in enumerate(labels):
        net.zero_grad()
        net(x[:, row : row + 1]).pow(3).sum().backward()
        for name, g in gradients(net).items():
            if label != 1:
                expected[name] += g
            elif name in ("lift.weight", "lift.bias"):
                expected[name][-2:] += g[-2:]
    net.zero_grad()
    return expected


@pytest.mark.parametrize("steps", [6, 3])
@pytest.mark.parametrize("by", ["row", "token", "shares"])
def test_rows_of_activations_that_begin_with_time(steps, by):
    net, labels = TimeFirst(), torch.tensor([1, 1, 1, 0, 2, 0])
    x = torch.randn(steps, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = {"row": labels, "token": labels[:, None].expand(6, steps), "shares": F.one_hot(labels, 3).double()}[by]
    for form in ("protect", "gate"):
        expected = time_first_reference(net, x, labels.tolist())
        router = Router(net, {"lift": {"one": 2}}, form=form, ablate={}, joint_params="gru.*" if form == "protect" else (), batch_dim=1)
        with router(given):
            net(x).pow(3).sum().backward()
        got = gradients(net)
        for name, value in expected.items():
            if form == "protect" or name.startswith("lift"):
                torch.testing.assert_close(got[name], value, **EXACT)
        router.remove()
        router = Router(net, {"lift": {"one": 2}}, form=form, ablate={"retain": ["one"]}, batch_dim=1, joint_params="gru.*")
        with torch.no_grad():
            plain = net(x)
            with router(given):
                mixed = net(x)
            with router.ablate("one")(net):
                cut = net(x)
        torch.testing.assert_close(mixed[:, [3, 5]], cut[:, [3, 5]], **EXACT)
        torch.testing.assert_close(mixed[:, [0, 1, 2, 4]], plain[:, [0, 1, 2, 4]], **EXACT)
        router.remove()


def test_a_model_with_time_first_is_asked_about():
    for model, first in ((TimeFirst(), "gru"), (nn.ModuleList([nn.Linear(4, 4), nn.MultiheadAttention(4, 2)]), "1")):
        site = "lift" if first == "gru" else "0"
        with pytest.raises(UserError, match=rf"module '{first}' puts time first .* Say batch_dim=1 .* or batch_dim=0"):
            Router(model, {site: {"one": 2}})
        Router(model, {site: {"one": 2}}, batch_dim=0).remove()
    with pytest.raises(UserError, match=r"batch_dim is 2; it must be 0"):
        Router(Net(), SITES, batch_dim=2)


def test_the_report_counts_rows_where_they_are():
    net = TimeFirst()
    router = Router(net, {"lift": {"one": 2}}, form="protect", joint_params="gru.*", batch_dim=1)
    router.verify(torch.randn(5, 3, 4, dtype=torch.float64), lambda model, x: model(x).pow(2).sum())


# ------------------------------------------------------------------------------ weights used without a call


class Unseen(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.act = nn.Linear(4, 6), nn.Linear(6, 3), nn.ReLU()

    def forward(self, x):
        return F.linear(torch.relu(self.first(x)), self.second.weight, self.second.bias)


@pytest.mark.parametrize("labels", [[1, 1], [2, 2], [1, 0]])
def test_weights_that_learn_without_a_call_are_named_at_the_end_of_the_first_pass(labels):
    net, x = Unseen(), torch.randn(2, 4)
    router = Router(net, {"first": {"one": 2}}, form="protect", ablate={})
    for _ in range(2):  # until it is mended
        with (
            pytest.raises(UserError, match=r"2 weight\(s\) learn without a call of their module, .*: second.weight, second.bias. Let them"),
            router(labels),
        ):
            net(x).sum().backward()
    router.remove()
    router = Router(net, {"first": {"one": 2}}, form="protect", joint_params="second.weight,second.bias")
    with router(labels):
        net(x).sum().backward()
    router.remove()
    router = Router(net, {"second": {"one": 2}})
    with pytest.raises(UserError, match=r"2 weight\(s\) learn without a call of their module"), router(labels):
        net(x).sum().backward()
    router.remove()
    router = Router(net, {"first": {"one": 2}, "act": {"one": 2}})
    with pytest.warns(UserWarning, match=r"the site 'act' was not called in the first pass, so nothing was routed there"), router(labels):
        net(x).sum().backward()


def test_an_attention_that_reads_its_projections_weight_is_noticed():
    net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    for form, site in (("protect", "linear1"), ("gate", "self_attn.out_proj")):
        router = Router(net, {site: {"one": 4}}, form=form)
        with pytest.raises(UserError, match=r"2 weight\(s\) .*self_attn.out_proj.weight, self_attn.out_proj.bias"), router([1, 1]):
            net(torch.randn(2, 3, 8)).sum().backward()
        router.remove()


def test_a_late_backward_pass_is_no_use_without_a_call():
    net, x = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)}), torch.randn(2, 4)
    router = Router(net, {"a": {"one": 1}}, form="protect", ablate={})
    with router([1, 0]):
        first = net["a"](x).sum()
    with router([0, 1]):
        (first + net["b"](x).sum()).backward()
    assert torch.equal(net["a"].weight.grad[0], x[1])
    assert torch.equal(net["b"].weight.grad[0], x[0])


def test_what_is_compiled_is_called_unseen():
    net = Net()
    net.mlp.compile(backend="eager")
    router = Router(net, SITES, form="protect", ablate={})
    with router([1, 0]):
        nll(net, ids(2)).backward()
    assert net.mlp[0].weight.grad.any()


@FORMS
def test_what_is_not_called_and_does_not_learn_is_no_matter(form):
    net = nn.ModuleDict({"used": nn.Linear(4, 3), "other": nn.Linear(4, 3)})
    net["other"](torch.randn(2, 4)).sum().backward()  # an old gradient
    router = Router(net, {"used": {"one": 1}}, form=form)
    with router([1, 0]):
        net["used"](torch.randn(2, 4)).sum().backward()


def test_experts_in_one_stack_are_refused_until_they_are_said_to_be_joint():
    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    with pytest.raises(
        UserError, match=r"2 parameter\(s\), 'model.layers.0.mlp.experts.gate_up_proj' first, hold the weights of experts"
    ) as caught:
        Router(model, {"heads": {"one": 1}}, form="protect")
    pattern = "*experts.gate_up_proj,*experts.down_proj"
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    assert f"Let them, {experts / sum(p.numel() for p in model.parameters()):.0%} of all weights, learn" in str(caught.value)
    assert pattern in str(caught.value)
    router = Router(model, {"heads": {"one": 1}}, form="protect", joint_params=f"{pattern},*.mlp.gate.*")
    x = torch.randint(0, 32, (2, 5))
    report = router.verify({"input_ids": x, "labels": x})
    assert {name.rpartition(".")[2] for name in report.joint} == {"gate_up_proj", "down_proj", "weight"}


# ------------------------------------------------------------------------------ labels of the wrong size


@FORMS
def test_labels_of_another_batch_are_refused_by_the_sites_name(form):
    net = Net()
    router = Router(net, SITES, form=form)
    with router([0, 1]), pytest.raises(UserError, match=r"labels have shape \(2,\), but .*\(3, 5"):
        net(ids(3))
    with router(torch.zeros(3, 4, dtype=torch.long)), pytest.raises(UserError, match=r"labels have shape \(3, 4\), but .*\(3, 5"):
        net(ids(3))
    with router([0, 1, 2]):
        net(ids(3))  # and the router is as good as new


def test_labels_a_token_are_not_laid_over_features():
    """Three tokens and three channels: as many, and still not the same."""
    for model, shape in ((nn.Sequential(nn.Conv1d(2, 3, 1)), (2, 2, 7)), (nn.Sequential(nn.Linear(2, 3)), (2, 2))):
        router = Router(model, {"0": {"one": 1}})
        with router(torch.zeros(2, 3, dtype=torch.long)), pytest.raises(UserError, match=r"site '0': labels have shape \(2, 3\)"):
            model(torch.randn(shape))


def test_a_block_that_reaches_outside_is_found_at_the_first_pass():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    for extent in (7, (2, 9)):
        router = Router(model, {"1": {"one": extent}})
        with router([1]), pytest.raises(UserError, match=r"site '1': block 'one' reaches to feature \d, but there are only 6 here"):
            model(torch.randn(1, 4))
        router.remove()
    router = Router(model, {"1": {"one": (0, 5), "two": 2}})
    with router([1]), pytest.raises(UserError, match=r"site '1': blocks 'one' \(0 to 5\) and 'two' \(4 to 6\) overlap. Set them apart"):
        model(torch.randn(1, 4))


def test_labels_may_come_from_a_call_or_as_names():
    net, batch = Net(), ids(2)
    router = Router(net, SITES)
    found = []
    for labels in (lambda: ["one", "unlabelled"], ["one", "unlabelled"], router.index(["one", "unlabelled"]), [1, -1]):
        net.zero_grad()
        with router(labels):
            nll(net, batch).backward()
        found.append(gradients(net))
    for other in found[1:]:
        assert all(torch.equal(other[name], found[0][name]) for name in other)


# ------------------------------------------------------------------------------ entering and leaving


@FORMS
def test_a_router_is_entered_once(form):
    net = Net()
    router = Router(net, SITES, form=form)
    with (
        router([0, 1]),
        pytest.raises(UserError, match=r"the router is already entered. One block holds .* leave it before"),
        router([1, 1]),
    ):
        pass
    with router([0, 1]):  # and is closed again
        nll(net, ids(2)).backward()


@FORMS
def test_an_error_inside_closes_the_router_and_wrong_labels_do_not_open_it(form):
    net = Net()
    router = Router(net, SITES, form=form)
    with pytest.raises(ZeroDivisionError), router([0, 1]):
        1 / 0  # noqa: B018
    with pytest.raises(UserError, match="a label is 9"), router([9]):
        pass
    with router([0, 1]):
        nll(net, ids(2)).backward()


def test_gates_left_before_backward_say_so():
    net = Net()
    router = Router(net, SITES)
    with router([0, 1]):
        loss = nll(net, ids(2))
    with pytest.raises(UserError, match=r"site 'mlp': the router was left before backward. Put the call of backward\(\) inside the block"):
        loss.backward()


def test_gates_left_and_entered_again_before_backward_say_so_too():
    net = Net()
    router = Router(net, SITES)
    with router([0, 1]):
        loss = nll(net, ids(2))
    with router([1, 1]), pytest.raises(UserError, match=r"left before backward"):
        loss.backward()


def test_the_parameter_form_knows_its_rows_and_may_be_left():
    net, batch = Net(), ids(4)
    router = Router(net, SITES, form="protect")
    with router([0, 1, 2, 3]):
        nll(net, batch).backward()
    inside = gradients(net)
    net.zero_grad()
    with router([0, 1, 2, 3]):
        loss = nll(net, batch)
    loss.backward()
    assert all(torch.equal(value, inside[name]) for name, value in gradients(net).items())


class Checkpointed(Net):
    reentrant = False

    def forward(self, ids):
        h = self.embed(ids)
        return self.head(self.rms(h + checkpoint(lambda x: self.mlp(self.norm(x)), h, use_reentrant=self.reentrant)))


@FORMS
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_inside_is_exact_and_outside_an_error(form, reentrant):
    net, plain, batch = Checkpointed(), Net(), ids(4)
    net.reentrant = reentrant
    plain.load_state_dict(net.state_dict())
    labels = [1, 0, 2, 3]
    for model in (net, plain):
        router = Router(model, SITES, form=form)
        with router(labels):
            nll(model, batch).backward()
    for name, value in gradients(net).items():
        torch.testing.assert_close(value, gradients(plain)[name], **EXACT)

    router = Router(net, SITES, form=form)
    with router(labels):
        loss = nll(net, batch)
    with pytest.raises(
        UserError, match=r"site '(mlp|norm).*left before backward.*Under gradient checkpointing the forward pass is computed again"
    ):
        loss.backward()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@FORMS
@pytest.mark.parametrize("reentrant", [False, True])
def test_plain_training_with_checkpoints_goes_on_after_a_routed_pass_without_gradients(form, reentrant):
    net = Checkpointed()
    net.reentrant = reentrant
    router = Router(net, SITES, form=form)
    with torch.no_grad(), router([0, 1]):
        nll(net, ids(2))
    nll(net, ids(2)).backward()
    with router([0, 1]):
        nll(net, ids(2)).backward()
    nll(net, ids(2)).backward()
    assert all(torch.isfinite(g).all() for g in gradients(net).values())


@FORMS
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("labels", [([1, 0, 1, 0], [0, 1, 0, 1]), ([3, 3, 3, 3], [1, 1, 1, 1]), ([1, 1, 1, 1], [3, 3, 3, 3])])
def test_a_checkpointed_pass_that_comes_back_in_the_next_ones_block_is_an_error(form, reentrant, labels):
    net, batch = Checkpointed(), ids(4)
    net.reentrant = reentrant
    router = Router(net, SITES, form=form)
    with router(labels[0]):
        first = nll(net, batch)
    with router(labels[1]):
        nll(net, batch)
        with pytest.raises(UserError, match="left before backward"):
            first.backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_training_goes_on_whatever_was_left_before(reentrant):
    net, batch = Checkpointed(), ids(4)
    net.reentrant = reentrant
    router = Router(net, SITES, form="protect")
    for labels in ([3] * 4, [3] * 4, [1, 0, 2, 3], [3] * 4, [1] * 4):
        net.zero_grad()
        with router(labels):
            nll(net, batch).backward()
    with router([1, 0, 2, 3]):
        nll(net, batch)  # for validation
    with router([1, 0, 2, 3]):
        nll(net, batch).backward()


# ------------------------------------------------------------------------------ delayed labels


def test_labels_may_come_after_the_forward_pass():
    net, batch = Net(), ids(4)
    router = Router(net, SITES, weights={"one": -0.5})
    with router([1, 0, 2, 3]):
        nll(net, batch).backward()
    early = gradients(net)
    net.zero_grad()
    with router.delayed() as later:
        loss = nll(net, batch)
        later.label(["one", "retain", "two", "unlabelled"])
        loss.backward()
    for name, value in gradients(net).items():  # whose labels are known in time may leave products out, which rounds otherwise
        torch.testing.assert_close(value, early[name], **EXACT)


def test_delayed_labels_that_do_not_come_are_missed():
    net = Net()
    router = Router(net, SITES)
    with router.delayed() as later:
        loss = nll(net, ids(2))
        with pytest.raises(UserError, match=r"site 'mlp': backward began before the labels came. Call later.label\(labels\) first"):
            loss.backward()
    with pytest.raises(UserError, match=r"the block was left, so its labels come too late"):
        later.label([0, 1])
    with router.delayed() as later:
        loss = nll(net, ids(2))
        later.label([0, 1, 1])
        with pytest.raises(UserError, match=r"site 'mlp': labels have shape \(3,\), but the activations here are \(2, 5, 12\)"):
            loss.backward()
    with router.delayed() as later:
        loss = nll(net, ids(2))
        later.label([0, 1])
    with pytest.raises(UserError, match=r"left before backward"):
        loss.backward()


@pytest.mark.parametrize("options", [{"form": "protect"}, {"ablate": {"retain": ["one"]}}], ids=str)
def test_delayed_labels_are_for_plain_gates(options):
    router = Router(Net(), SITES, **options)
    with pytest.raises(UserError, match=r"need form='gate' and no ablate="), router.delayed():
        pass


# ------------------------------------------------------------------------------ making one


@pytest.mark.parametrize(
    ("sites", "options", "message"),
    [
        ({"mlp": {"one": 2}}, {"form": "both"}, r"form is 'both'; it must be gate or protect"),
        ({}, {}, r"a router needs at least one site, for example \{'model.layers"),
        ({"mlp": {}}, {}, r"the sites name no block. Give each a name and a size"),
        ({"mlp": 64}, {}, r"site 'mlp': give its blocks as a mapping, for example \{'forget': 64\}; got 64"),
        ({"mlq": {"one": 2}}, {}, r"the site 'mlq' matches no module. Nearest: mlp"),
        ({"mlp": {"one": 2}, "mlp_hidden": {"two": 2}}, {}, r"the site 'mlp' is matched twice: by 'mlp' and by 'mlp_hidden'"),
        ({"mlp": {"one": (0, 3), "two": (2, 4)}}, {}, r"site 'mlp': blocks 'one' \(0 to 3\) and 'two' \(2 to 4\) overlap"),
        ({"mlp": {"one": 13}}, {}, r"site 'mlp': its blocks take 13 units \('one': 13\), but the site has 12"),
        ({"mlp": {"rest": 2}}, {}, r"a block cannot be called 'rest'"),
        ({"mlp": {"one": 2}}, {"ablate": {"retain": ["two"]}}, r"no block 'two'. There are: rest, one"),
        ({"mlp": {"one": 2}}, {"weights": {"two": 0}}, r"no label 'two'. There are: retain, one, unlabelled"),
        ({"mlp.1": {"one": 2}}, {"form": "protect"}, r"site 'mlp.1' has no weights of its own, so the parameter form has nothing"),
        ({"mlp": {"one": 2}, "mlp.0": {"one": 2}}, {}, r"the parameter 'mlp.0.weight' is divided at two sites at once"),
        ({"mlp": {"one": 2}, "mlp.2": {"one": 2}}, {"form": "protect"}, r"the parameter 'mlp.2.weight' is divided at two sites"),
        ({"embed": {"one": 2}, "mlp": {"one": 2}}, {"form": "protect"}, r"site 'embed' has no weights of its own"),
        ({"mlp": {"one": 2}}, {"joint_params": "nrm.*"}, r"joint_params='nrm.\*' matches no parameter. Nearest:"),
    ],
)
def test_a_router_that_makes_no_sense_is_refused_and_leaves_the_model_alone(sites, options, message):
    net = Net()
    before = state(net)
    with pytest.raises(UserError, match=message):
        Router(net, sites, **options)
    assert state(net) == before


def test_gates_before_and_behind_a_layer_go_together():
    net, batch = Net(), ids(4)
    router = Router(net, {"mlp": {"one": 2}, "mlp.2": {"one": 3}})
    with router(["one"] * 4):
        nll(net, batch).backward()
    assert not net.mlp[2].weight.grad[:-3].any()
    assert net.mlp[2].weight.grad[-3:].any()
    assert not net.mlp[0].weight.grad[:-2].any()
    router.verify(batch, nll)


def test_a_router_describes_itself():
    router = Router(Net(), SITES)
    assert repr(router) == "Router(form='gate', mlp: {'one': (6, 9), 'two': (9, 12)})"
    assert router.blocks == ("one", "two")
    model, _ = lm()
    assert repr(Router(model, {"mlp_hidden": {"f": 2}, "heads": {"f": 1}})).endswith(", and 1 more)")


# ------------------------------------------------------------------------------ a model changed under it


@FORMS
@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net.mlp[0], "weight", nn.Parameter(torch.zeros(HIDDEN + 1, WIDTH))),
        lambda net: net.mlp.__setitem__(2, nn.Linear(HIDDEN, WIDTH)),
        lambda net: setattr(net, "mlp", nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))),
        lambda net: delattr(net, "mlp"),
    ],
    ids=["weight", "reader", "mlp", "gone"],
)
def test_a_model_changed_under_the_router_is_noticed(form, change):
    net = Net()
    router = Router(net, SITES, form=form)
    change(net)
    with pytest.raises(UserError, match=r"the model was changed under the router: '?mlp.*Call router.remove\(\) before"), router([0, 1]):
        pass
    with pytest.raises(UserError, match=r"the model was changed under the router"):
        router.report(ids(2), nll)


@FORMS
def test_new_values_and_another_precision_are_no_change(form):
    net = Net()
    router = Router(net, SITES, form=form)
    net.load_state_dict(Net(seed=1).state_dict())
    net.float()
    with router([0, 1]):
        nll(net, ids(2)).backward()
    assert net.mlp[0].weight.grad.dtype == torch.float32


# ------------------------------------------------------------------------------ coming off


def state(net):
    """What attaching could change: hooks and forwards, module by module."""
    return [
        (name, *(list(getattr(module, own).values()) for own in vars(module) if own.endswith("_hooks")), module.__dict__.get("forward"))
        for name, module in net.named_modules()
    ]


@FORMS
def test_remove_puts_everything_back(form):
    net, batch = Net(), ids(4)
    plain = net(batch)
    before = state(net)
    router = Router(net, SITES, form=form)
    assert state(net) != before
    assert torch.equal(net(batch), plain)  # idle, it changes nothing
    router.remove()
    assert state(net) == before
    router.remove()
    with pytest.raises(UserError, match=r"this router was removed from its model. Make a new one"), router([0] * 4):
        pass
    Router(net, SITES, form=form)  # and another may come


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@FORMS
def test_the_users_own_hooks_survive(form):
    net, batch, calls = Net(), ids(4), []
    add = calls.append
    for name in ("embed", "norm", "mlp.0", "mlp.2", "head"):
        module = net.get_submodule(name)
        module.register_forward_pre_hook(lambda m, a, n=name: add((n, "pre")))
        module.register_forward_hook(lambda m, a, y, n=name: add((n, "forward")))
        module.register_full_backward_hook(lambda m, gi, go, n=name: add((n, "backward")))

    def run():
        calls.clear()
        nll(net, batch).backward()
        return list(calls)

    plain = run()
    assert len(plain) == 15
    router = Router(net, SITES, form=form)
    assert run() == plain
    with router([0, 1, 2, 3]):
        assert sorted(run()) == sorted(plain)
    router.remove()
    assert run() == plain


def test_the_users_own_change_of_an_activation_is_kept():
    net, batch = Net(), ids(4)
    net.mlp[0].register_forward_hook(lambda m, a, y: 2 * y)
    plain = net(batch)
    for form in ("gate", "protect"):
        router = Router(net, SITES, form=form, ablate={})
        with router([0, 1, 2, 3]):
            assert torch.equal(net(batch), plain)
        router.remove()


@FORMS
@pytest.mark.parametrize("inside", [False, True])
def test_copies_of_a_routed_model_train_plainly(form, inside):
    net, batch = Net(), ids(4)
    nll(net, batch).backward()
    plain = gradients(net)
    net.zero_grad(set_to_none=True)
    router = Router(net, SITES, form=form)
    if inside:
        with router([1, 1, 1, 1]):
            reference = copy.deepcopy(net)
            nll(reference, batch).backward()
    else:
        reference = copy.deepcopy(net)
        with router([1, 1, 1, 1]):
            nll(reference, batch).backward()
    assert all(torch.equal(value, plain[name]) for name, value in gradients(reference).items())
    assert all(p.grad is None for p in net.parameters())
    again = Router(reference, SITES, form=form)  # and may have a router of their own
    reference.zero_grad()
    with again([1, 1, 1, 1]):
        nll(reference, batch).backward()
    assert not reference.mlp[0].weight.grad[:6].any()
    assert reference.mlp[0].weight.grad[6:9].any()
    with router([1, 1, 1, 1]):
        nll(net, batch).backward()
    assert not net.mlp[0].weight.grad[:6].any()


@FORMS
def test_a_routed_models_state_is_its_own(form):
    net = Net()
    before = net.state_dict().keys()
    Router(net, SITES, form=form)
    assert net.state_dict().keys() == before
