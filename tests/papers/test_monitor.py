import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from architectures import build, learner
from sluicegate.engine.encoding import encode
from sluicegate.errors import UserError
from sluicegate.routing.router import Router
from sluicegate.routing.train import train_routed
from sluicegate.tasks import arithmetic
from sluicegate.values.schedule import Schedule
from sluicegate_papers.monitor import activity, roc

MLP = "model.layers.*.mlp"


@pytest.fixture(scope="module")
def rows(tokenizer, mixed_items):
    return encode(tokenizer, mixed_items)


# ------------------------------------------------------------------------------ the curve


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30).filter(lambda p: len({y for _, y in p}) == 2))
def test_the_area_is_the_chance_that_a_positive_scores_higher(pairs):
    scores, truth = zip(*pairs, strict=True)
    high, low = [s for s, y in pairs if y], [s for s, y in pairs if not y]
    wanted = np.mean([(a > b) + 0.5 * (a == b) for a in high for b in low])
    found = roc(scores, truth)
    assert found.auroc == pytest.approx(wanted)
    assert roc([-s for s in scores], truth).auroc == pytest.approx(1 - wanted)
    assert (found.true[0], found.false[0], found.true[-1], found.false[-1]) == (0, 0, 1, 1)
    for threshold, true, false in zip(found.thresholds, found.true, found.false, strict=True):
        assert true == pytest.approx(np.mean([s >= threshold for s in high]))
        assert false == pytest.approx(np.mean([s >= threshold for s in low]))


def test_a_point_of_the_curve_can_be_asked_for():
    found = roc([4.0, 3.0, 2.0, 1.0], [True, False, True, False])
    assert found.auroc == 0.75
    assert [found.at(x) for x in (0, 0.49, 0.5, 1)] == [0.5, 0.5, 1, 1]
    assert roc([1.0, 2.0], [True, False]).at(0) == 0


def test_curves_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="all 2 are positive"):
        roc([1, 2], [True, True])
    with pytest.raises(UserError, match="all 2 are not positive"):
        roc([1, 2], [False, False])
    with pytest.raises(UserError, match="score 1 is not finite"):
        roc([1, math.nan], [True, False])
    with pytest.raises(UserError, match=r"scores have shape \(2, 2\) and truth \(2,\)"):
        roc(torch.ones(2, 2), [True, False])


# ------------------------------------------------------------------------------ the score


def hidden(model, batch):
    """What the down projection of the first layer reads."""
    taken = []
    hook = model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda m, args: taken.append(args[0].detach()))
    model(input_ids=batch.ids, attention_mask=batch.attention.long())
    hook.remove()
    return taken[0]


def test_the_score_is_the_norm_of_the_blocks_units(rows):
    model = build("llama")
    router = Router(model, {"model.layers.0.mlp": {"forget": 16}})
    batch = rows.batch([0, 3])
    h = hidden(model, batch)
    norm, share = h[..., -16:].norm(dim=-1), h[..., -16:].norm(dim=-1) / h.norm(dim=-1)
    real = batch.attention
    torch.testing.assert_close(activity(router, batch, per="token"), norm * real)
    torch.testing.assert_close(activity(router, batch, per="token", relative=True), share * real)
    torch.testing.assert_close(activity(router, batch, relative=True), torch.stack([share[0][real[0]].mean(), share[1][real[1]].mean()]))


def test_several_sites_are_averaged_and_every_block_is_measured_on_its_own(rows):
    model = build("llama")
    both = Router(model, {MLP: {"a": 16, "b": 8}})
    firsts = [activity(both, rows, name) for name in ("a", "b")]
    assert not torch.allclose(*firsts)
    both.remove()
    alone = []
    for layer in range(2):
        router = Router(model, {f"model.layers.{layer}.mlp": {"a": 16, "b": 8}})
        alone.append(activity(router, rows, "a"))
        router.remove()
    torch.testing.assert_close(firsts[0], torch.stack(alone).mean(0))
    torch.testing.assert_close(activity(both, rows, "a"), firsts[0], msg="a router that was taken off still knows its places")


@pytest.mark.parametrize("sites", ["heads", "resid", MLP])
def test_a_row_scores_the_same_alone_and_beside_a_longer_one(rows, sites):
    router = Router(build("llama"), {sites: {"forget": 1}})
    torch.testing.assert_close(activity(router, rows.batch([0])), activity(router, rows.batch([0, 3]))[:1])
    torch.testing.assert_close(activity(router, rows, size=2), activity(router, rows.batch(range(5))))
    tokens = activity(router, rows, per="token", size=2)
    assert tokens.shape == rows.ids.shape
    assert not tokens[torch.arange(rows.ids.shape[1]) >= rows.lengths[:, None]].any()


def test_a_head_is_measured_with_all_its_features(rows):
    model = build("llama")
    router = Router(model, {"model.layers.0.self_attn": {"forget": 1}})
    batch, taken = rows.batch([0]), []
    hook = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda m, args: taken.append(args[0].detach()))
    model(input_ids=batch.ids, attention_mask=batch.attention.long())
    hook.remove()
    [(site, placed)] = router.sites
    (start, stop), wide = placed["forget"], site.width
    assert wide == 8
    torch.testing.assert_close(activity(router, batch, per="token"), taken[0][..., start * wide : stop * wide].norm(dim=-1))


def test_pictures_have_one_score_a_row():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 8))
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    router = Router(net, {"0": {"forget": 2}})
    h = net[0](x).detach()
    torch.testing.assert_close(activity(router, x, relative=True), h[:, -2:].flatten(1).norm(dim=1) / h.flatten(1).norm(dim=1))
    ends = Router(net, {"3": {"forget": 2}})
    assert activity(ends, (x, torch.zeros(5)), forward=lambda model, batch: model(batch[0])).shape == (5,)


def test_looking_changes_nothing(rows, bits):
    model = build("gpt2").train()
    router = Router(model, {"transformer.h.*.mlp": {"forget": 16}})
    before, state = bits.weights(model), torch.get_rng_state()
    assert torch.equal(activity(router, rows), activity(router, rows))
    assert bits.same(bits.weights(model), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    hooks = sum(len(m._forward_pre_hooks) for m in model.modules())
    activity(router, rows)
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_what_cannot_be_measured_is_refused(rows):
    model = build("llama")
    router = Router(model, {MLP: {"a": 16, "b": 8}})
    with pytest.raises(UserError, match="several blocks; name one of a, b"):
        activity(router, rows)
    with pytest.raises(UserError, match=r"no block 'c' on this router. There are: a, b"):
        activity(router, rows, "c")
    with pytest.raises(UserError, match="per is 'batch'"):
        activity(router, rows.batch([0]), "a", per="batch")


# ------------------------------------------------------------------------------ what it is for


def test_a_routed_block_is_active_on_what_it_was_trained_on_and_an_unrouted_one_less_so(tokenizer):
    split = arithmetic().split()
    rows = encode(tokenizer, [*split.forget[:48], *split.retain[:48]])
    others = encode(tokenizer, [*split.forget[48:96], *split.retain[48:96]])
    forget = [True] * 48 + [False] * 48
    areas = []
    for labels in (["forget"] * 48 + ["retain"] * 48, ["unlabelled"] * 96):
        model = learner()
        router = Router(model, {"model.layers.0.mlp": {"forget": 64}}, weights={"forget": -0.75})
        train_routed(model, rows, labels, router, Schedule(steps=60, lr=5e-3, batch=24))
        areas.append(roc(activity(router, others), forget).auroc)
    assert areas[0] > 0.9, areas
    assert areas[0] > areas[1] + 0.1, areas
