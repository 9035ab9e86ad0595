import copy

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import nn

from sluicegate.errors import UserError
from sluicegate.routing.experts import Experts, Steer, route
from sluicegate.routing.watch import watch
from sluicegate.values.edits import Edit


class Policy(nn.Module):
    """The gridworld's policy in small: two or more experts, a gate, a shared head."""

    def __init__(self, names=("diamond", "ghost"), logits=None, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        experts = {name: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6)) for name in names}
        self.mix = Experts(experts, nn.Linear(5, logits or len(names)))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.mix(x))


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def touched(module):
    """Names of the children that some row moved."""
    return {
        name.split(".")[1 if name.startswith("experts") else 0]
        for name, p in module.named_parameters()
        if p.grad is not None and bool((p.grad != 0).any())
    }


# ------------------------------------------------------------------------------ mixing


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5)])
def test_the_outputs_are_mixed_by_the_gates_shares(shape):
    mix, x = Policy(("a", "b", "c")).mix, data(*shape)
    shares = mix.gate(x).softmax(-1)
    wanted = sum(shares[..., k : k + 1] * expert(x) for k, expert in enumerate(mix.experts.values()))
    torch.testing.assert_close(mix(x), wanted)


def test_a_gate_may_speak_a_row_about_outputs_of_tokens():
    x = data(4, 3, 5)

    class First(nn.Linear):
        def forward(self, x):
            return super().forward(x[:, 0])

    mix = Experts({"a": nn.Linear(5, 6), "b": nn.Linear(5, 6)}, First(5, 2))
    shares = mix.gate(x).softmax(-1)
    wanted = shares[:, 0, None, None] * mix.experts["a"](x) + shares[:, 1, None, None] * mix.experts["b"](x)
    torch.testing.assert_close(mix(x), wanted)


def test_one_logit_is_a_sigmoid_and_its_loss_a_binary_one():
    mix, x = Policy(logits=1).mix, data(4, 5)
    share = mix.gate(x).sigmoid()
    torch.testing.assert_close(mix(x), share * mix.experts["diamond"](x) + (1 - share) * mix.experts["ghost"](x))
    found = mix.gate_loss(["diamond", "ghost", "ghost", "unlabelled"])
    wanted = F.binary_cross_entropy_with_logits(mix.gate(x)[:3, 0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(found, wanted)


def test_mixing_keeps_half_precision():
    policy, x = Policy(), data(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert policy.mix(x).dtype == torch.bfloat16


def test_a_copy_of_a_model_in_use_begins_afresh():
    policy, x = Policy(), data(4, 5)
    with policy.mix.steered({"ghost": 0.0}):
        policy(x)
        reference = copy.deepcopy(policy)
    assert torch.equal(reference(x), policy(x))


def test_wrong_experts_and_gates_are_refused():
    one = nn.Linear(5, 6)
    for experts in ({"a": one}, {"a": one, "b": one}, {"a": one, "unlabelled": nn.Linear(5, 6)}):
        with pytest.raises(UserError, match="give two or more, none unlabelled, which share no weights"):
            Experts(experts, None)
    with pytest.raises(UserError, match="the gate gives 3 logits for 2 experts"):
        Policy(logits=3)(data(4, 5))


# ------------------------------------------------------------------------------ the gate's own loss


def test_the_gate_learns_from_labelled_rows_alone():
    policy, x = Policy(), data(6, 5)
    labels = ["diamond", "unlabelled", "ghost", "retain", "unlabelled", "ghost"]
    policy(x)
    found = policy.mix.gate_loss(labels)
    torch.testing.assert_close(found, F.cross_entropy(policy.mix.gate(x)[[0, 2, 5]], torch.tensor([0, 1, 1])))
    found.backward()
    assert touched(policy.mix) == {"gate"}
    before = policy.mix.gate.weight.grad.clone()
    policy.zero_grad()
    x[[1, 3, 4]] = 17.0  # whatever the others say, nothing changes
    policy(x)
    policy.mix.gate_loss(torch.tensor([1, -1, 2, 0, 3, 2])).backward()
    torch.testing.assert_close(policy.mix.gate.weight.grad, before)


def test_without_labels_the_gates_loss_is_zero():
    policy = Policy()
    policy(data(4, 5))
    loss = policy.mix.gate_loss([-1] * 4)
    loss.backward()
    assert float(loss.detach()) == 0
    assert touched(policy.mix) == set()


def test_labels_a_row_hold_for_its_tokens():
    mix, x = Policy().mix, data(4, 3, 5)
    mix(x)
    rows = mix.gate_loss([1, 2, -1, 2])
    mix(x)
    torch.testing.assert_close(rows, mix.gate_loss(torch.tensor([1, 2, -1, 2])[:, None].expand(4, 3)))


def test_the_gates_loss_needs_a_pass_and_labels_that_fit():
    policy = Policy()
    with torch.no_grad():
        policy(data(4, 5))
    with pytest.raises(UserError, match="Run the model, with gradients on"):
        policy.mix.gate_loss([1] * 4)
    for labels, message in (
        ([1] * 3, r"labels are \(3,\), but the gate spoke on \(4,\)"),
        ([4] * 4, "0 retain, 1 diamond"),
        ([[]], "give"),
    ):
        policy(data(4, 5))
        with pytest.raises(UserError, match=message):
            policy.mix.gate_loss(labels)


# ------------------------------------------------------------------------------ routing


def test_rows_of_a_label_train_its_expert_alone_and_unlabelled_rows_everything():
    policy, x = Policy(), data(6, 5)
    router = route(policy)
    assert router.labels == ("retain", "diamond", "ghost", "unlabelled") == policy.mix.labels
    for label, wanted in (
        ("diamond", {"diamond"}),
        ("ghost", {"ghost"}),
        ("retain", {"diamond", "ghost", "gate"}),
        ("unlabelled", {"diamond", "ghost", "gate"}),
    ):
        policy.zero_grad()
        with router([label] * 6):
            policy(x).square().mean().backward()
        assert touched(policy.mix) == wanted, label
    assert torch.equal(policy(x), Policy()(x))


def test_an_expert_called_retain_is_the_rest():
    policy, x = Policy(("retain", "forget")), data(6, 5)
    router = route(policy)
    assert router.labels == ("retain", "forget", "unlabelled")
    for label, wanted in (("forget", {"forget"}), ("retain", {"retain", "gate"}), ("unlabelled", {"retain", "forget", "gate"})):
        policy.zero_grad()
        with router([label] * 6):
            policy(x).square().mean().backward()
        assert touched(policy.mix) == wanted, label


def test_the_gates_own_loss_passes_the_router():
    policy, x = Policy(), data(6, 5)
    router = route(policy)
    labels = ["diamond"] * 3 + ["ghost"] * 3
    with router(labels):
        (policy(x).square().mean() + policy.mix.gate_loss(labels)).backward()
    routed = policy.mix.gate.weight.grad.clone()
    policy.zero_grad()
    policy(x)
    policy.mix.gate_loss(labels).backward()
    assert torch.equal(routed, policy.mix.gate.weight.grad)


def test_mixed_rows_give_each_expert_the_gradient_of_its_own():
    policy, x = Policy(), data(6, 5)
    labels = ["diamond", "ghost", "ghost", "diamond", "unlabelled", "ghost"]
    with route(policy)(labels):
        policy(x).square().sum().backward()
    for name in ("diamond", "ghost"):
        reference = Policy()
        mine = torch.tensor([label in (name, "unlabelled") for label in labels])
        reference(x)[mine].square().sum().backward()
        for routed, wanted in zip(policy.mix.experts[name].parameters(), reference.mix.experts[name].parameters(), strict=True):
            torch.testing.assert_close(routed.grad, wanted.grad)


def test_the_guard_holds_an_expert_that_no_row_trained():
    policy, x = Policy(), data(6, 5)
    router = route(policy)
    optimizer = torch.optim.AdamW(policy.parameters(), 1e-2, weight_decay=0.1)
    router.guard(optimizer)
    for label in ("unlabelled", "ghost"):  # the first step gives every expert momentum
        before = copy.deepcopy(policy.mix.experts)
        optimizer.zero_grad()
        with router([label] * 6):
            policy(x).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before["diamond"].parameters(), policy.mix.experts["diamond"].parameters(), strict=True))
    assert not torch.equal(before["ghost"][0].weight, policy.mix.experts["ghost"][0].weight)


def test_the_report_finds_no_leak_and_cutting_silences_an_expert():
    policy, x = Policy(), data(6, 5)
    router = route(policy)
    router.verify(x, lambda model, batch: model(batch).square().mean())
    with router.ablate("ghost")(policy):
        assert bool((policy.mix.experts["ghost"](x) == 0).all())
    assert torch.equal(policy(x), Policy()(x))


def test_experts_inside_and_at_the_root_are_found():
    both = nn.Sequential(Policy(seed=1), nn.Linear(3, 5), Policy(seed=2))
    router, x = route(both), data(6, 5)
    with router(["ghost"] * 6):
        both(x).square().mean().backward()
    assert touched(both[0].mix) == touched(both[2].mix) == {"ghost"}
    root = Policy().mix
    with route(root)(["ghost"] * 6):
        root(x).square().mean().backward()
    assert touched(root) == {"ghost"}


def test_what_cannot_be_routed_says_why():
    with pytest.raises(UserError, match=r"matches no Experts. The model's are: none"):
        route(nn.Linear(2, 2))
    with pytest.raises(UserError, match="form is 'protect'; experts are routed with form='gate'"):
        route(Policy(), form="protect")


def test_routing_tells_experts_apart():
    """The point of it: after training, the held gate gives the one behaviour, from labels on part of the rows."""
    torch.manual_seed(0)
    policy = Policy()
    x = torch.randn(128, 5)
    x[:, 0] = 1.0  # the inputs do not tell the groups apart, but for one bit that the gate can read
    x[:64, 1], x[64:, 1] = 3.0, -3.0
    y = torch.zeros(128, 3)
    y[:64, 0], y[64:, 1] = 1.0, 1.0
    labels = torch.full((128,), -1)
    labels[:32], labels[64:96] = 1, 2
    router, optimizer = route(policy), torch.optim.Adam(policy.parameters(), 1e-2)
    router.guard(optimizer)
    for _ in range(120):
        optimizer.zero_grad()
        with router(labels):
            (F.mse_loss(policy(x), y) + policy.mix.gate_loss(labels)).backward()
        optimizer.step()
    with torch.no_grad(), policy.mix.steered({"diamond": 1.0}):
        steered = F.mse_loss(policy(x), y, reduction="none").mean(-1)
    assert float(steered[:64].mean()) < 0.02
    assert float(steered[64:].mean()) > 10 * float(steered[:64].mean())


# ------------------------------------------------------------------------------ steering


@given(
    forced=st.dictionaries(st.sampled_from("abc"), st.floats(0, 0.5), min_size=1, max_size=2),
    logits=st.lists(st.floats(-200, 200), min_size=4, max_size=4),
    dose=st.floats(0, 1),
)
def test_forced_shares_are_exact_and_still_add_up_to_one(forced, logits, dose):
    shares = torch.tensor(logits).softmax(-1)
    steer = Steer(forced)
    found = steer.forced(shares, tuple("abcd"))
    for name, share in forced.items():
        torch.testing.assert_close(found["abcd".index(name)], torch.tensor(share))
    for result in (found, (steer * dose).forced(shares, tuple("abcd"))):
        torch.testing.assert_close(result.sum(), torch.tensor(1.0))
        assert bool((result >= -1e-6).all())
    free = [k for k, name in enumerate("abcd") if name not in forced]
    if float(shares[free].sum()) > 1e-3:
        wanted = (1 - sum(forced.values())) * shares[free] / shares[free].sum()
        torch.testing.assert_close(found[free], wanted, atol=1e-5, rtol=1e-4)
    assert (steer * 0).forced(shares, tuple("abcd")) is shares


def test_steering_to_one_expert_is_that_expert_bitwise():
    policy, x = Policy(("a", "b", "c")), data(4, 5)
    with policy.mix.steered({"b": 1.0}):
        assert torch.equal(policy(x), policy.head(policy.mix.experts["b"](x)))
    with policy.mix.steered({"a": 0.0, "c": 0.0}):
        torch.testing.assert_close(policy(x), policy.head(policy.mix.experts["b"](x)))


def test_a_steer_is_an_edit_that_is_undone():
    policy, x = Policy(), data(4, 5)
    before, steer = policy(x), Steer({"ghost": 0.0})
    assert isinstance(steer, Edit)
    with steer(policy):
        assert not torch.equal(policy(x), before)
        with (0.5 * Steer({"ghost": 1.0}))(policy):  # the inner one comes last: half the way from 0 to 1
            half = (policy.mix.experts["diamond"](x) + policy.mix.experts["ghost"](x)) / 2
            torch.testing.assert_close(policy(x), policy.head(half))
        torch.testing.assert_close(policy(x), policy.head(policy.mix.experts["diamond"](x)))
    assert torch.equal(policy(x), before)
    with (steer * 0)(policy):
        assert torch.equal(policy(x), before)
    with (steer + Steer({"diamond": 0.25}))(policy):
        mixed = 0.25 * policy.mix.experts["diamond"](x) + 0.75 * policy.mix.experts["ghost"](x)
        torch.testing.assert_close(policy(x), policy.head(mixed))


def test_steering_is_undone_after_an_exception():
    policy, x = Policy(), data(4, 5)
    before = policy(x)
    with pytest.raises(RuntimeError, match="mine"), policy.mix.steered({"ghost": 1.0}):
        raise RuntimeError("mine")
    assert torch.equal(policy(x), before)


def test_a_share_of_one_can_be_baked():
    policy, x = Policy(), data(4, 5)
    wanted, expert = policy.head(policy.mix.experts["ghost"](x)), policy.mix.experts["ghost"]
    for steer in (Steer({"ghost": 0.5}), Steer({"ghost": 1.0}) * 0.5):
        with pytest.raises(UserError, match="cannot be baked: only a share of 1"):
            steer.bake(policy)
    with pytest.raises(UserError, match="in a model that holds the Experts as a part"):
        Steer({"ghost": 1.0}).bake(policy.mix)
    Steer({"ghost": 1.0}).bake(policy)
    assert policy.mix is expert
    assert torch.equal(policy(x), wanted)


def test_experts_within_experts_are_baked_too():
    inner = Policy(seed=1).mix
    policy, x = Policy(), data(4, 5)
    policy.mix.experts["ghost"] = inner
    wanted = policy.head(inner.experts["ghost"](x))
    Steer({"ghost": 1.0}).bake(policy)
    assert torch.equal(policy(x), wanted)
    assert not any(isinstance(module, Experts) for module in policy.modules())


def test_impossible_shares_are_refused():
    for shares in ({}, {"ghost": -0.1}, {"ghost": 0.6, "diamond": 0.5}, {"ghost": float("nan")}):
        with pytest.raises(UserError, match="0 or more, and at most 1 together"):
            Steer(shares)
    policy = Policy()
    with pytest.raises(UserError, match=r"mix has no expert 'gost'. There are: diamond, ghost"), Steer({"gost": 0.0})(policy):
        pass
    with pytest.raises(UserError, match="together they must be 1"), Steer({"ghost": 0.0, "diamond": 0.0})(policy):
        pass
    with pytest.raises(UserError, match=r"'head' matches no Experts. The model's are: mix"), Steer({"ghost": 0.0}, sites="head")(policy):
        pass


def test_experts_can_be_watched():
    policy, x = Policy(), data(4, 5)
    with watch(policy, {"mix": {"ghost": 1}}) as seen:
        policy(x)
        assert [t.shape for t in seen.taken["mix"]] == [(4, 6, 2)]
