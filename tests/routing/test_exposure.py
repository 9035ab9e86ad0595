import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from architectures import CONFIGS, TIED, build
from routed_nets import BLOCKS, Net, gradients, ids, nll
from sluicegate.errors import UserError
from sluicegate.routing.router import Router

SITES = {"mlp": BLOCKS}
FORMS = pytest.mark.parametrize("form", ["gate", "protect"])


def batch_of(model, rows=3):
    x = torch.randint(3, 130, (rows, 6), generator=torch.Generator().manual_seed(0))
    return {"input_ids": x, "labels": x}


# ------------------------------------------------------------------------------ what learns from what


@FORMS
def test_norms_are_those_of_a_pass_with_all_rows_under_the_label(form):
    net, batch = Net(), ids(3)
    router = Router(net, SITES, form=form, weights={"one": -0.75})
    report = router.report(batch, nll)
    assert report.labels == ("retain", "one", "two", "unlabelled")
    found = {(row.parameter, row.block): row for row in report.rows}
    for label in report.labels:
        net.zero_grad()
        with router([label] * 3):
            nll(net, batch).backward()
        g = gradients(net)
        w = net.mlp[0].weight
        for block, units in (("rest", slice(0, 6)), ("one", slice(6, 9)), ("two", slice(9, 12))):
            assert found["mlp.0.weight", block].norms[label] == pytest.approx(float(g["mlp.0.weight"][units].norm()))
            assert found["mlp.0.weight", block].size == pytest.approx(float(w[units].detach().norm()))
        whole = found["norm.weight", "rest" if form == "protect" else "joint"]
        assert whole.norms[label] == pytest.approx(float(g["norm.weight"].norm()))


@FORMS
def test_the_report_says_what_is_protected_from_what(form):
    report = Router(Net(), SITES, form=form, weights={"two": -0.75}).report(ids(3), nll)
    protected = {(row.parameter, row.block): set(row.protected) for row in report.rows}
    cut = {"retain"} if form == "protect" else set()  # its default computes retain rows without the blocks
    assert protected["mlp.0.weight", "rest"] == {"one"}
    assert protected["mlp.0.weight", "one"] == {"two"} | cut
    assert protected["mlp.0.weight", "two"] == {"one"} | cut
    columns = {block for name, block in protected if name == "mlp.2.weight"}
    assert columns == ({"rest", "one", "two"} if form == "protect" else {"joint"})
    assert ("norm.weight" in report.joint) == (form == "gate")
    assert report.leaks == ()
    report.check()
    learning = {(row.parameter, row.block) for row in report.learning("one")}
    assert ("mlp.0.weight", "one") in learning
    assert ("mlp.0.weight", "rest") not in learning
    assert (("mlp.2.weight", "joint") in learning) == (form == "gate")


def test_relative_norms_are_over_all_parameters_of_a_block():
    net, batch = Net(), ids(3)
    router = Router(net, SITES)
    relative = router.report(batch, nll).relative()
    with router(["one"] * 3):
        nll(net, batch).backward()
    g = torch.cat([net.mlp[0].weight.grad[6:9].flatten(), net.mlp[0].bias.grad[6:9]]).norm()
    size = torch.cat([net.mlp[0].weight[6:9].flatten(), net.mlp[0].bias[6:9]]).detach().norm()
    assert relative["one", "one"] == pytest.approx(float(g / size))
    assert relative["rest", "one"] == 0.0
    assert relative["two", "one"] == 0.0


def test_the_report_reads_as_a_table():
    text = str(Router(Net(), SITES).report(ids(3), nll)).splitlines()
    assert text[0] == "gradient norm over weight norm, by block and label"
    assert text[1].split() == ["block", "retain", "one", "two", "unlabelled"]
    assert [line.split()[0] for line in text[2:6]] == ["joint", "rest", "one", "two"] or {line.split()[0] for line in text[2:6]} == {
        "joint",
        "rest",
        "one",
        "two",
    }
    # 88 + 16 + 96 + 8 + 8 = 216 of 324 weights: the embedding, norms, what reads the units and its bias.
    assert text[-1] == (
        "learns from every label, 0.67 of the weights: mlp.2.weight (0.3), embed.weight (0.27), norm.weight (0.025), norm.bias (0.025), "
        "mlp.2.bias (0.025), rms.weight (0.025)"
    )


def test_verify_says_what_is_joint_and_where_rows_meet(capsys):
    router = Router(Net(), SITES, form="protect", joint_params="mlp.0.*")
    router.verify(ids(3), nll)
    assert capsys.readouterr().err == "learns from every label, 0.33 of the weights: mlp.0.weight (0.3), mlp.0.bias (0.037)\n"
    router.remove()
    Router(Net(), SITES, form="protect").verify(ids(3), nll)
    assert capsys.readouterr().err == ""


def test_rows_meet_in_a_batch_norm_and_no_more_in_eval_mode(capsys):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 3)).double()
    x, y, labels = torch.randn(6, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2]), ["forget"] * 3 + ["retain"] * 3
    other = torch.cat([(y[:3] + 1) % 3, y[3:]])

    def rests_gradient(target):
        net.zero_grad()
        with router(labels):
            F.cross_entropy(net(x), target).backward()
        return net[0].weight.grad.clone()

    router = Router(net, {"3": {"forget": 2}}, form="protect")
    with pytest.warns(UserWarning, match=r"rows meet in 1 batch norm\(s\) in training mode, '1' first: .*eval mode"):
        first = rests_gradient(y)
    assert not torch.allclose(first, rests_gradient(other))  # forget rows' targets reach what they may not train
    router.verify(x, lambda model, x: F.cross_entropy(model(x), y))
    assert "rows meet in 1 batch norm(s)" in capsys.readouterr().err
    net[1].eval()
    means = net[1].running_mean.clone()
    assert torch.equal(rests_gradient(y), rests_gradient(other))
    assert torch.equal(net[1].running_mean, means)
    router.verify(x, lambda model, x: F.cross_entropy(model(x), y))
    assert capsys.readouterr().err == ""


@FORMS
def test_looking_changes_nothing(form, bits):
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    x = torch.randn(5, 4)
    net(x).sum().backward()
    router = Router(net, {"0": {"one": 2}}, form=form, ablate={})
    before, given = bits.weights(net), {name: p.grad for name, p in net.named_parameters()}
    buffers = [b.clone() for b in net.buffers()]
    generator = torch.get_rng_state()
    router.report(x, lambda model, x: model(x).pow(2).sum())
    assert bits.same(bits.weights(net), before)
    assert all(p.grad is given[name] for name, p in net.named_parameters())
    assert all(torch.equal(b, c) for b, c in zip(net.buffers(), buffers, strict=True))
    assert torch.equal(torch.get_rng_state(), generator)
    with router([0] * 5):  # and it is closed again
        pass


def test_an_error_inside_the_loss_leaves_gradients_and_router_as_they_were():
    net = Net()
    nll(net, ids(2)).backward()
    given = gradients(net)
    router = Router(net, SITES)
    with pytest.raises(ZeroDivisionError):
        router.report(ids(2), lambda model, x: 1 / 0)
    assert all(torch.equal(value, given[name]) for name, value in gradients(net).items())
    with router([0, 1]):
        nll(net, ids(2)).backward()


# ------------------------------------------------------------------------------ leaks


@pytest.mark.parametrize("name", sorted(CONFIGS))
@FORMS
def test_nothing_leaks_in_real_architectures(name, form):
    model = build(name)
    router = Router(model, {"mlp_hidden": {"f": 16, "g": 8}, "heads": {"f": 1, "g": 1}}, form=form)
    report = router.verify(batch_of(model))
    for label in ("f", "g"):
        assert {row.block for row in report.learning(label)} == ({label} if form == "protect" else {label, "joint"})
    if form == "protect":
        assert report.joint == ()
        assert ("lm_head.weight" in router.pieces()) == (name not in TIED)  # a tied weight is held at both its ends


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_key_head_that_a_block_shares_with_the_rest_is_nobodys_under_gates(name):
    """Two query heads to a key head, and a block of one: a gate cannot tell whose gradient the key head gets."""
    model = build(name)
    router = Router(model, {"heads": {"f": 1}})
    report = router.verify(batch_of(model))
    k = [row for row in report.rows if row.parameter == "model.layers.0.self_attn.k_proj.weight"]
    assert {row.block for row in k} == {"rest", "joint"}
    assert all(row.norms["f"] > 0 for row in k if row.block == "joint")
    assert all(row.norms["f"] == 0 for row in k if row.block == "rest")
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    router.guard(optimizer)
    before = model.model.layers[0].self_attn.k_proj.weight.detach().clone()
    with router(["f"] * 3):
        model(**batch_of(model)).loss.backward()
    optimizer.step()
    moved = (model.model.layers[0].self_attn.k_proj.weight != before).any(1)
    assert moved.tolist() == [False] * 8 + [True] * 8


class Functional(nn.Module):
    """Uses its embedding a second time where no module shows it."""

    def __init__(self):
        super().__init__()
        self.net = Net(tied=False)

    def forward(self, ids):
        return F.linear(self.net.rms(self.net.embed(ids) + self.net.mlp(self.net.norm(self.net.embed(ids)))), self.net.embed.weight)


def test_a_weight_used_behind_the_routers_back_is_reported_by_name():
    model = Functional()
    router = Router(model, {"net.mlp": BLOCKS}, form="protect", joint_params="net.head.*")
    with pytest.raises(UserError) as caught:
        router.verify(ids(3), nll)
    message = str(caught.value)
    assert message.startswith("1 protected share(s) still receive a gradient: net.embed.weight (rest) from one, two.")
    assert "Declare it in joint_params=, or route at another site." in message
    router.remove()
    Router(model, {"net.mlp": BLOCKS}, form="protect", joint_params="net.head.*, net.embed.weight").verify(ids(3), nll)


def test_an_attention_that_calls_its_projection_without_its_module_is_reported():
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    router = Router(model, {"linear1": {"f": 4}}, form="protect")
    x = torch.randn(3, 5, 8)
    report = router.report(x, lambda model, x: model(x).pow(2).mean())
    assert [(row.parameter, row.protected) for row in report.leaks] == [
        ("self_attn.out_proj.weight", ("f",)),
        ("self_attn.out_proj.bias", ("f",)),
    ]
    assert set(report.joint) == {"self_attn.in_proj_weight", "self_attn.in_proj_bias"}
    with pytest.raises(UserError, match=r"2 protected share\(s\) still receive a gradient: self_attn.out_proj.weight \(rest\) from f"):
        report.check()


def test_a_tied_weight_that_a_gate_cannot_hold_is_reported():
    """The output matrix is the embedding: a gate at the logits does not reach what the embedding learns."""
    router = Router(Net(), {"head": {"word": (3, 4)}})
    with pytest.raises(UserError, match=r"embed.weight \(rest\) from word"):
        router.verify(ids(3), nll)
    Router(Net(tied=False), {"head": {"word": (3, 4)}}).verify(ids(3), nll)
    Router(Net(), {"head": {"word": (3, 4)}}, joint_params="embed.*").verify(ids(3), nll)


def test_many_leaks_are_counted():
    net = nn.ModuleList([Functional() for _ in range(5)])
    router = Router(net, {"*.net.mlp": BLOCKS}, form="protect", joint_params="*.head.*")
    for model in net:
        model.net.norm.forward = lambda x, own=model.net.norm: F.layer_norm(x, (8,), own.weight, own.bias)  # past the stand-in
    with pytest.raises(UserError, match=r"15 protected share\(s\) .* and 7 more\. The weight is used where the router does not see it"):
        router.verify(ids(2), lambda net, x: sum(nll(model, x) for model in net))


# ------------------------------------------------------------------------------ batches


def test_batches_are_mappings_tuples_or_tensors():
    class Losing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x, y=None):
            return self.linear(x).pow(2).mean()

    model = Losing()
    router = Router(model, {"linear": {"one": 2}})
    x = torch.randn(3, 4)
    expected = router.report(x).relative()
    assert router.report({"x": x}).relative() == expected
    assert router.report((x, None)).relative() == expected
    assert router.report([x]).relative() == expected


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"n": 3}, r"the batch holds no tensor, so its number of rows cannot be told"),
        (torch.randint(0, 11, (2, 5)), r"the model's answer holds no loss. Put labels into the batch, or give loss=lambda model, batch"),
    ],
)
def test_a_batch_without_rows_or_a_loss_is_refused(batch, message):
    router = Router(Net(), SITES)
    with pytest.raises(UserError, match=message):
        router.report(batch)


def test_a_report_is_the_same_twice_and_for_a_copy():
    net = Net()
    router = Router(net, SITES)
    first = router.report(ids(3), nll).relative()
    assert router.report(ids(3), nll).relative() == first
    again = Router(copy.deepcopy(net), SITES).report(ids(3), nll).relative()
    assert again == pytest.approx(first, rel=1e-12)  # the copy has the first router's hooks too, so its layers are computed in other pieces
