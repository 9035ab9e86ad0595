import copy
import math
import subprocess
import sys

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from architectures import build
from documented import undocumented
from sluicegate.errors import UserError
from sluicegate.routing.penalties import Penalty, groups, penalties, penalty, ramp
from sluicegate.routing.penalties.correlation import Correlation
from sluicegate.routing.penalties.hsic import HSIC
from sluicegate.routing.penalties.l1 import L1
from sluicegate.routing.penalties.orthogonality import Orthogonality
from sluicegate.routing.router import Router
from sluicegate.routing.watch import watch

HALVES = {"low": (0, 4), "high": (4, 8)}
EVERY = pytest.mark.parametrize("name", sorted(penalties()))
COMPARING = pytest.mark.parametrize("name", ["correlation", "hsic", "orthogonality"])


def z(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------ what holds for all


def test_the_penalties_are_found():
    assert sorted(penalties()) == ["correlation", "hsic", "l1", "orthogonality"]
    assert penalty("l1") is L1
    with pytest.raises(UserError, match=r"no penalty 'l3'. There are: .*l1"):
        penalty("l3")


def test_finding_them_does_not_import_torch():
    code = "import sys; from sluicegate.routing.penalties import penalties; penalties(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@EVERY
@pytest.mark.parametrize(
    "case", ["random", "zero", "constant", "one row", "one unit dead", "huge", "tiny", "equal rows"], ids=lambda c: c.replace(" ", "-")
)
def test_loss_and_gradient_are_finite(name, case):
    x = z(12, 8)
    if case == "one row":
        x = x[:1]
    elif case == "one unit dead":
        x[:, 2] = 0
    else:
        x = {"zero": 0 * x, "constant": 0 * x + 0.1, "huge": 1e6 * x, "tiny": 1e-9 * x, "equal rows": x[:1].expand(12, 8)}.get(case, x)
    x = x.clone().requires_grad_()
    loss = penalties()[name]()(x, HALVES, 1.0)
    loss.backward()
    assert loss.shape == ()
    assert float(loss.detach()) >= 0
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


@EVERY
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_half_precision_is_summed_in_full(name, kind):
    x = z(64, 8)
    found = penalties()[name](weight=1.0)(x.to(kind), HALVES)
    assert found.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(found.float(), penalties()[name](weight=1.0)(x, HALVES), rtol=2e-2, atol=2e-3)


@EVERY
def test_tokens_count_as_rows(name):
    x = z(3, 5, 8)
    torch.testing.assert_close(penalties()[name]()(x, HALVES), penalties()[name]()(x.flatten(0, 1), HALVES))


@EVERY
def test_what_is_in_no_block_is_the_rest_and_negative_places_count_from_the_end(name):
    x, method = z(12, 8), penalties()[name]()
    wanted = method(x, HALVES)
    for blocks in ({"high": (4, 8)}, {"high": (-4, 0)}, {"low": (0, 4)}):
        torch.testing.assert_close(method(x, blocks), wanted)
    mixed = x[:, [0, 4, 5, 1, 2, 6, 7, 3]]  # a rest in three pieces
    torch.testing.assert_close(method(mixed, {"a": (1, 3), "b": (5, 7)}), method(x, {"a": (4, 6), "b": (6, 8)}))


@EVERY
@pytest.mark.parametrize(("share", "wanted"), [(0.0, 0.0), (0.125, 0.5), (0.25, 1.0), (1.0, 1.0)])
def test_the_weight_rises_in_a_straight_line(name, share, wanted):
    x, kind = z(12, 8), penalties()[name]
    torch.testing.assert_close(kind(weight=2.0, warmup=0.25)(x, HALVES, share), wanted * 2 * kind(weight=1.0)(x, HALVES))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_ramp_is_a_share_that_never_falls(warmup, a, b):
    early, late = sorted((a, b))
    assert 0 <= ramp(warmup, early) <= ramp(warmup, late) <= 1
    assert ramp(warmup, 1.0) == 1


@EVERY
@pytest.mark.parametrize(
    ("given_", "message"),
    [({"weight": -1.0}, "weight is -1"), ({"weight": math.nan}, "weight is nan"), ({"warmup": 20.0}, "warmup is 20; it is a share.*n / N")],
)
def test_senseless_settings_are_refused(name, given_, message):
    with pytest.raises(UserError, match=message):
        penalties()[name](**given_)


@EVERY
def test_every_penalty_documents_its_fields_and_source(name):
    import dataclasses
    import inspect

    kind = penalties()[name]
    assert isinstance(kind(), Penalty)
    assert dataclasses.fields(kind)
    assert "Source:" in inspect.getdoc(kind)
    assert [field for cls in kind.__mro__ if dataclasses.is_dataclass(cls) for field in undocumented(cls)] == []


@pytest.mark.parametrize(
    ("blocks", "message"),
    [({"a": (4, 9)}, "features 4 to 9, but there are 8"), ({"a": (0, 4), "b": (3, 5)}, "'b'.*overlaps"), ({"a": (3, 3)}, "3 to 3")],
)
def test_blocks_that_do_not_fit_are_named(blocks, message):
    with pytest.raises(UserError, match=message):
        groups(z(2, 8), blocks)


@COMPARING
def test_one_block_has_nothing_to_be_apart_from(name):
    with pytest.raises(UserError, match="all 8 features are one block"):
        penalties()[name]()(z(12, 8), {"all": (0, 8)})


# ------------------------------------------------------------------------------ values


def test_l1_by_hand():
    x = torch.tensor([[1.0, -2.0, 3.0], [0.0, 1.0, -1.0]])
    assert float(L1(0.5)(x, {"b": (2, 3)})) == 0.5 * (6 + 2) / 2
    assert float(L1(0.5, on="b")(x, {"b": (2, 3)})) == 0.5 * (3 + 1) / 2
    assert float(L1(0.5, on="rest")(x, {"b": (2, 3)})) == 0.5 * (3 + 1) / 2
    with pytest.raises(UserError, match=r"on is 'c'.*There are: b, rest"):
        L1(on="c")(x, {"b": (2, 3)})


def test_correlation_is_that_of_corrcoef():
    x = z(20, 8, seed=1)
    wanted = torch.corrcoef(x.T)[:4, 4:].abs().mean()
    torch.testing.assert_close(Correlation(0.1)(x, HALVES), 0.1 * wanted)
    three = torch.corrcoef(x.T).abs()
    pooled = (three[:2, 2:].sum() + three[2:5, 5:].sum()) / (2 * 6 + 3 * 3)
    torch.testing.assert_close(Correlation(1.0)(x, {"a": (0, 2), "b": (2, 5)}), pooled)


@COMPARING
def test_equal_blocks_are_at_the_most_and_unrelated_ones_lower(name):
    method, same = penalties()[name](weight=1.0), z(256, 1).repeat(1, 2)
    torch.testing.assert_close(method(same, {"a": (0, 1)}), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert float(method(z(256, 2), {"a": (0, 1)})) < 0.1


def test_orthogonality_by_hand():
    x = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    # The cosines of unit 0 with units 1 and 2 are 1 / sqrt(2), and 0 for a unit of length 0.
    torch.testing.assert_close(Orthogonality(1.0)(x, {"a": (0, 1)}), torch.tensor(0.25))


def test_orthogonality_sets_weights_apart():
    layer = nn.Linear(6, 8, bias=False)
    optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (loss := Orthogonality(1.0)(layer.weight.T, {"high": (-4, 0)})).backward()
        optimizer.step()
    low, high = torch.nn.functional.normalize(layer.weight.detach(), dim=1).split(4)
    assert float(loss.detach()) < 0.02
    torch.testing.assert_close(float((low @ high.T).square().mean()), float(loss.detach()), atol=1e-3, rtol=0)


def test_hsic_sees_a_dependence_that_correlation_does_not():
    x = torch.linspace(-1, 1, 201)[:, None]
    both = torch.cat([x, x.square()], 1)
    assert float(Correlation(1.0)(both, {"a": (0, 1)})) < 1e-5
    assert float(HSIC(1.0)(both, {"a": (0, 1)})) > 0.2


def test_hsic_by_hand():
    x = z(10, 4, seed=3)

    def kernel(a):
        square = torch.cdist(a, a, compute_mode="donot_use_mm_for_euclid_dist").square()
        median = square[~torch.eye(10, dtype=torch.bool)].median()
        h = torch.eye(10) - 0.1
        return h @ torch.exp(-square / (2 * median)) @ h

    ka, kb = kernel(x[:, :1]), kernel(x[:, 1:])
    wanted = (ka @ kb).trace() / ((ka @ ka).trace() * (kb @ kb).trace()).sqrt()
    torch.testing.assert_close(HSIC(1.0)(x, {"a": (0, 1)}), wanted)


def test_hsic_takes_every_nth_row_of_many():
    x = z(1000, 4)
    assert torch.equal(HSIC(rows=100)(x, {"a": (0, 1)}), HSIC(rows=100)(x[::10], {"a": (0, 1)}))
    with pytest.raises(UserError, match="rows is 1"):
        HSIC(rows=1)


@COMPARING
@given(scale=st.floats(0.01, 100))
def test_scaling_the_units_changes_nothing(name, scale):
    x, method = z(24, 8), penalties()[name](weight=1.0)
    torch.testing.assert_close(method(scale * x, HALVES), method(x, HALVES), rtol=1e-3, atol=1e-5)


# ------------------------------------------------------------------------------ watching


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8))
        self.encoder[2].bias.data.normal_()
        self.decoder = nn.Linear(8, 6)

    def forward(self, x):
        return self.decoder(self.encoder(x))


def net(seed=0):
    torch.manual_seed(seed)
    return Autoencoder()


SITE = {"encoder.2": {"high": (4, 8)}}


def test_a_watched_site_gives_the_penalty_of_its_activations():
    model, x = net(), z(5, 6)
    with watch(model, SITE) as seen:
        model(x)
        found = seen.penalty([L1(1.0), Correlation(2.0)])
    encoded = model.encoder(x)
    torch.testing.assert_close(found, L1(1.0)(encoded, HALVES) + Correlation(2.0)(encoded, HALVES))
    assert not model.encoder[2]._forward_hooks


def test_one_penalty_needs_no_list_and_the_sites_add_up():
    model, x = net(), z(5, 6)
    with watch(model, SITE | {"encoder.0": {"some": 3}}) as seen:
        model(x)
        found = seen.penalty(L1(1.0))
    torch.testing.assert_close(found, L1(1.0)(model.encoder(x), {}) + L1(1.0)(model.encoder[0](x), {}))


def test_several_passes_are_one_batch_and_each_counts_once():
    model, x = net(), z(8, 6)
    with watch(model, SITE) as seen:
        model(x[:3])
        model(x[3:])
        torch.testing.assert_close(seen.penalty(Correlation()), Correlation()(model.encoder(x), HALVES))
        seen.clear()
        with pytest.raises(UserError, match=r"nothing passed by the site 'encoder.2'"):
            seen.penalty(L1())


def test_passes_without_gradients_and_copies_are_not_kept():
    model, x = net(), z(3, 6)
    with watch(model, SITE) as seen:
        with torch.no_grad():
            model(x)
        copy.deepcopy(model)(x)
        assert seen.taken == {"encoder.2": []}


def test_the_hooks_are_gone_after_an_exception():
    model = net()
    with pytest.raises(RuntimeError, match="mine"), watch(model, SITE):
        raise RuntimeError("mine")
    assert not model.encoder[2]._forward_hooks


def test_channels_and_tuples_are_watched():
    class Pair(nn.Module):
        def forward(self, x):
            return x, "state"

    model = nn.Sequential(nn.Conv2d(1, 4, 3), Pair())
    x = z(2, 1, 6, 6)
    size = model[0](x).detach().movedim(1, -1).abs().flatten(0, 2).mean(0)  # by channel
    with watch(model, {"0": {"b": 1}, "1": {"b": (0, 4)}}, dim=1) as seen:
        model(x)
        torch.testing.assert_close(seen.penalty(L1(1.0, on="b")), size[3] + size.sum())
    with watch(model, {"1": {"b": 1}}), pytest.raises(UserError, match=r"site '1': its activations are \(2, 4, 4, 4\), .* Say dim=1"):
        model(x)


def test_padding_is_left_out():
    model, x = build("llama"), torch.randint(3, 100, (2, 5), generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    methods = [L1(1.0), Correlation(1.0)]
    with watch(model, {"mlp_hidden": {"forget": 16}}) as seen:
        model(x, attention_mask=real)
        together = seen.penalty(methods, real=real)
        model(x[:1])
        model(x[1:, :2])
        torch.testing.assert_close(together, seen.penalty(methods), rtol=1e-4, atol=1e-5)
        model(x)
        with pytest.raises(UserError, match=r"real is \(2, 4\), but the activations are \(2, 5, 64\)"):
            seen.penalty(methods, real=real[:, :4])
        model(x)
        with pytest.raises(UserError, match=r"real holds 2 mask\(s\), but 1 forward"):
            seen.penalty(methods, real=[real, real])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_heads_are_blocks_of_features(name):
    model, x = build(name), torch.arange(3, 13)[None]
    with watch(model, {"heads": {"forget": 1}}) as seen:
        model(x)
        assert {z.shape[-1] for (z,) in seen.taken.values()} == {32}
        spread = L1(1.0, on="forget")
        wanted = sum(z[..., 24:].abs().sum() / 10 for (z,) in seen.taken.values())
        torch.testing.assert_close(seen.penalty(spread), wanted)


@pytest.mark.parametrize(("routed", "router_first"), [(False, False), (False, True), (True, True)])
def test_a_penalty_goes_round_the_gate_unless_it_is_asked_to_obey(routed, router_first):
    model, x = net(), z(4, 6)
    router = Router(model, SITE) if router_first else None
    with watch(model, SITE, routed=routed) as seen:
        router = router or Router(model, SITE)
        with router(["high"] * 4):
            model(x)
            seen.penalty(L1()).backward()
    gradient = model.encoder[2].weight.grad
    assert gradient[4:].abs().sum() > 0
    assert bool((gradient[:4] == 0).all()) == routed


def test_the_parameter_form_holds_penalties_back():
    model, x = net(), z(4, 6)
    router = Router(model, SITE, form="protect")
    with watch(model, SITE) as seen, router(["high"] * 4):
        (model(x).square().mean() + seen.penalty(L1())).backward()
    assert bool((model.encoder[2].weight.grad[:4] == 0).all())
    assert model.encoder[2].weight.grad[4:].abs().sum() > 0


def test_gradient_checkpointing_is_watched_once_or_refused():
    model, ids = build("llama").train(), torch.arange(3, 13)[None]
    found = {}
    for reentrant in (None, False):
        model.zero_grad()
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with watch(model, {"mlp_hidden": {"forget": 16}}) as seen:
            (model(ids, labels=ids).loss + seen.penalty(L1(1.0))).backward()
            assert not any(seen.taken.values())
        found[reentrant] = [p.grad.clone() for p in model.parameters()]
    for plain, again in zip(*found.values(), strict=True):
        torch.testing.assert_close(plain, again)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with watch(model, {"mlp_hidden": {"forget": 16}}) as seen:
        model(ids)
        with pytest.raises(UserError, match="use_reentrant=False"):
            seen.penalty(L1())


def test_a_site_matched_twice_is_refused():
    with pytest.raises(UserError, match=r"'encoder.2' is matched by two"), watch(net(), SITE | {"encoder.[2]": {"high": 4}}):
        pass


def test_l1_and_routing_make_the_blocks_silent_on_each_others_rows():
    """What the penalty is for: rows of a block quieten the other block, which learns nothing else from them."""
    torch.manual_seed(0)
    model, x = net(), z(64, 6)
    x[:32, 3:], x[32:, :3] = 0, 0
    labels = ["low"] * 32 + ["high"] * 32
    router = Router(model, {"encoder.2": HALVES})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with watch(model, {"encoder.2": HALVES}) as seen:
        for step in range(150):
            optimizer.zero_grad()
            with router(labels):
                ((model(x) - x).square().mean() + seen.penalty(L1(0.02, warmup=0.25), step / 150)).backward()
            optimizer.step()
    size = model.encoder(x).detach().abs()
    assert float(size[:32, :4].mean()) > 2 * float(size[:32, 4:].mean())
    assert float(size[32:, 4:].mean()) > 2 * float(size[32:, :4].mean())
