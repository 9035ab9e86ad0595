import copy
import itertools
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from architectures import CONFIGS, build
from routed_nets import BLOCKS, Net, ids, nll
from sluicegate.errors import UserError
from sluicegate.routing.router import Router
from sluicegate.values.edits import Edit, Noise

SITES = {"mlp": BLOCKS}
EVERY = pytest.mark.parametrize("name", sorted(CONFIGS))
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def muted(net, batch, *blocks, dose=1.0):
    """The network's answer with a hook that scales the blocks' units."""

    def scale(module, args):
        x = args[0].clone()
        for block in blocks:
            x[..., slice(*BLOCKS[block])] *= 1 - dose
        return (x,)

    handle = net.mlp[2].register_forward_pre_hook(scale)
    out = net(batch)
    handle.remove()
    return out


@torch.no_grad()
def test_a_cut_takes_away_what_the_units_put_out():
    net, batch = Net(), ids(4)
    router = Router(net, SITES)
    for blocks in (["one"], ["two"], ["one", "two"]):
        with router.ablate(*blocks)(net):
            torch.testing.assert_close(net(batch), muted(net, batch, *blocks), **EXACT)
        assert router.ablate(*blocks).blocks == tuple(blocks)
    assert router.ablate().blocks == ("one", "two")


@torch.no_grad()
def test_everything_that_makes_or_reads_a_unit_is_zero_and_nothing_else_changed():
    net = Net()
    cut = Router(net, SITES).ablate("one")
    before = {name: p.clone() for name, p in net.named_parameters()}
    with cut(net):
        assert not net.mlp[0].weight[6:9].any()
        assert not net.mlp[0].bias[6:9].any()
        assert not net.mlp[2].weight[:, 6:9].any()
        for name, p in net.named_parameters():
            expected = before[name].clone()
            if name == "mlp.2.weight":
                expected[:, 6:9] = 0
            elif name.startswith("mlp.0"):
                expected[6:9] = 0
            assert torch.equal(p, expected), name


@EVERY
@torch.no_grad()
def test_leaving_the_block_restores_real_architectures_bitwise(name, bits):
    model = build(name).eval()
    x = torch.randint(3, 130, (2, 6))
    cut = Router(model, {"mlp_hidden": {"f": 16}, "heads": {"f": 2}}).ablate("f")
    before, plain = bits.weights(model), model(x).logits
    with cut(model):
        assert not torch.allclose(model(x).logits, plain)
    assert bits.same(bits.weights(model), before)
    with pytest.raises(ZeroDivisionError), cut(model):
        1 / 0  # noqa: B018
    assert bits.same(bits.weights(model), before)
    with (cut * 0)(model):
        assert bits.same(bits.weights(model), before)
        assert torch.equal(model(x).logits, plain)
    assert torch.equal(model(x).logits, plain)


@torch.no_grad()
def test_a_part_of_a_cut_scales_what_the_units_put_out():
    net, batch = Net(), ids(4)
    cut = Router(net, SITES).ablate("one")
    for dose in (0.25, 0.5, -1.0, 2.0):
        expected = muted(net, batch, "one", dose=dose)
        for edit in (cut * dose, dose * cut):
            with edit(net):
                torch.testing.assert_close(net(batch), expected, **EXACT)
    assert (0.5 * (cut * 0.5)).dose == 0.25


@torch.no_grad()
def test_every_choice_of_blocks_is_a_model_of_its_own(bits):
    """Three blocks, over two sites: eight models from one."""
    net, batch = Net(), ids(4)
    router = Router(net, {"mlp": {"a": (3, 6), "b": (6, 9), "c": (9, 12)}, "norm": {"a": 2}})
    before, seen = bits.weights(net), []
    for count in range(4):
        for blocks in itertools.combinations("abc", count):
            if not blocks:
                seen.append(net(batch))
                continue
            with router.ablate(*blocks)(net):
                seen.append(net(batch))
            with ExitStack() as stack:  # one inside the other, and added up
                for block in blocks:
                    stack.enter_context(router.ablate(block)(net))
                torch.testing.assert_close(net(batch), seen[-1], **EXACT)
            added = router.ablate(blocks[0])
            for block in blocks[1:]:
                added = added + router.ablate(block)
            with added(net):
                torch.testing.assert_close(net(batch), seen[-1], **EXACT)
            assert bits.same(bits.weights(net), before)
    assert len(seen) == 8
    for first, second in itertools.combinations(seen, 2):
        assert not torch.allclose(first, second)


@torch.no_grad()
@pytest.mark.parametrize("at", ["auto", "input"])
def test_a_site_without_weights_is_silenced_while_the_block_lasts(at):
    net, batch = Net(), ids(4)
    router = Router(net, {"mlp.1": {"one": (6, 9), "two": 3}}, at=at)
    cut = router.ablate("one")
    plain = net(batch)
    if at == "auto":
        for dose in (1.0, 0.5):
            expected = muted(net, batch, "one", dose=dose)
            with (cut * dose)(net):
                torch.testing.assert_close(net(batch), expected, **EXACT)
    with cut(net):
        assert not torch.allclose(net(batch), plain)
    with (cut * 0)(net):
        assert torch.equal(net(batch), plain)
    assert torch.equal(net(batch), plain)
    with pytest.raises(UserError, match=r"site 'mlp.1' has no weights of its own, so there is nothing to bake: use `with cut\(model\)"):
        cut.bake(net)


@torch.no_grad()
def test_outputs_in_a_tuple_and_inputs_by_name_are_silenced_too():
    class Pair(nn.Module):
        def forward(self, *, hidden):
            return hidden, "kept"

    model = nn.ModuleDict({"a": Pair()})
    x = torch.ones(2, 3)
    with Router(model, {"a": {"one": 1}}).ablate()(model):
        y, kept = model["a"](hidden=x)
    assert (y.tolist(), kept) == ([[1, 1, 0]] * 2, "kept")
    with Router(model, {"a": {"one": 1}}, at="input").ablate()(model):
        assert model["a"](hidden=x)[0].tolist() == [[1, 1, 0]] * 2
    with Router(model, {"a": {"one": 4}}).ablate()(model), pytest.raises(UserError, match="block 'one' reaches to feature 4"):
        model["a"](hidden=x)


@torch.no_grad()
@pytest.mark.parametrize(("site", "at"), [("0", "output"), ("0", "input"), ("2", "output"), ("2", "input")])
def test_either_side_of_layers_with_weights(site, at):
    model = nn.Sequential(nn.Conv1d(4, 6, 1), nn.Flatten(), nn.Linear(18, 5)).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    cut = Router(model, {site: {"one": 2}}, at=at).ablate("one")

    def zero(t):
        t = t.clone()
        t.narrow(1, t.shape[1] - 2, 2).zero_()
        return t

    layer = model[int(site)]
    hook = (
        layer.register_forward_pre_hook(lambda m, a: (zero(a[0]),))
        if at == "input"
        else layer.register_forward_hook(lambda m, a, y: zero(y))
    )
    expected = model(x)
    hook.remove()
    with cut(model):
        torch.testing.assert_close(model(x), expected, **EXACT)


@torch.no_grad()
def test_a_shared_key_head_stays_for_those_who_need_it():
    model = build("llama").eval()
    attention = model.model.layers[0].self_attn
    router = Router(model, {"model.layers.0.self_attn": {"one": (1, 2), "pair": (2, 4)}})
    before = attention.k_proj.weight.clone()
    with router.ablate("one")(model):
        assert torch.equal(attention.k_proj.weight, before)  # head 0 reads it too
        assert not attention.q_proj.weight[8:16].any()
        assert not attention.o_proj.weight[:, 8:16].any()
    with router.ablate("pair")(model):
        assert not attention.k_proj.weight[8:].any()
        assert torch.equal(attention.k_proj.weight[:8], before[:8])


@torch.no_grad()
def test_a_tied_output_matrix_is_cut_once(bits):
    net = Net()
    cut = Router(net, {"head": {"word": (3, 4)}}).ablate("word")
    before = bits.weights(net)
    with cut(net):
        assert not net.head.weight[3].any()
        assert not net(ids(2))[..., 3].any()
    assert bits.same(bits.weights(net), before)


@torch.no_grad()
def test_a_bake_is_the_same_for_good():
    net, batch = Net(), ids(4)
    router = Router(net, SITES)
    router.remove()
    cut = router.ablate("one")
    with cut(net):
        expected = net(batch)
    reference = copy.deepcopy(net)
    (cut * 0.5).bake(reference)
    torch.testing.assert_close(reference(batch), muted(net, batch, "one", dose=0.5), **EXACT)
    cut.bake(net)
    torch.testing.assert_close(net(batch), expected, **EXACT)


@torch.no_grad()
def test_a_cut_is_an_edit_that_goes_with_others(bits):
    net, batch = Net(), ids(2)
    cut = Router(net, SITES).ablate("one")
    assert isinstance(cut, Edit)
    before = bits.weights(net)
    with (cut + Noise(0.5))(net):
        assert net.mlp[0].weight[6:9].any()
    with (Noise(0.5) + cut)(net):
        assert not net.mlp[0].weight[6:9].any()
        assert torch.isfinite(nll(net, batch))
    assert bits.same(bits.weights(net), before)


@torch.no_grad()
def test_a_cut_fits_another_model_of_the_same_shape():
    net, batch = Net(), ids(4)
    cut = Router(net, SITES).ablate("one")
    other = Net(seed=1)
    with cut(other):
        torch.testing.assert_close(other(batch), muted(other, batch, "one"), **EXACT)


def test_ablating_what_was_never_routed_is_refused():
    router = Router(Net(), SITES)
    with pytest.raises(UserError, match=r"nothing was ever routed to 'three'. The blocks are one, two"):
        router.ablate("one", "three")


def test_a_model_that_changed_since_is_refused_by_name():
    net = Net()
    cut = Router(net, SITES).ablate("one")
    net.mlp[0] = nn.Linear(8, 14).double()
    with pytest.raises(UserError, match=r"site 'mlp': mlp.0.weight has 14 entries, and had 12 when the router was made.*make a new router"):
        cut.bake(net)
    with (
        pytest.raises(UserError, match=r"site 'mlp': the model has no parameter 'mlp.0.weight'. Was it made from another model"),
        cut(nn.Linear(2, 2)),
    ):
        pass


@torch.no_grad()
def test_cutting_while_a_pass_is_routed():
    """What the label's rows are computed without, and what is cut, add up."""
    net, batch = Net(), ids(4)
    router = Router(net, SITES, form="protect", ablate={"retain": ["one"]})
    with router(["retain"] * 4), router.ablate("two")(net):
        torch.testing.assert_close(net(batch), muted(net, batch, "one", "two"), **EXACT)
