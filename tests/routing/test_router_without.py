"""Blocks that are ablated in one pass: `router(labels, without=...)`."""

import pytest
import torch

from routed_nets import BLOCKS, Net, gradients, ids, nll
from sluicegate.errors import UserError
from sluicegate.routing.router import Router

SITES = {"mlp": BLOCKS}
FORMS = pytest.mark.parametrize("form", ["gate", "protect"])
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@FORMS
def test_a_pass_without_a_block_is_the_cut_model_for_all_rows_but_the_blocks_own(form):
    net, batch = Net(), ids(4)
    router = Router(net, SITES, form=form, ablate={"retain": ["one", "two"]})
    plain = net(batch)
    with router(["retain", "one", "two", "unlabelled"], without=["one"]):
        mixed = net(batch)
    with router.ablate("one")(net):
        cut = net(batch)
    torch.testing.assert_close(mixed[[2, 3]], cut[[2, 3]], **EXACT)
    torch.testing.assert_close(mixed[1], plain[1], **EXACT)
    assert not torch.allclose(cut[2], plain[2])
    with router.ablate()(net):
        torch.testing.assert_close(mixed[0], net(batch)[0], **EXACT)


@FORMS
def test_rows_computed_without_a_block_do_not_train_it(form):
    net, batch = Net(), ids(4)
    router = Router(net, SITES, form=form, ablate={"retain": ["one", "two"]})
    learnt = {}
    for without in ([], ["one"]):
        net.zero_grad()
        with router(["unlabelled"] * 4, without=without):
            nll(net, batch).backward()
        learnt[bool(without)] = gradients(net)["mlp.0.bias"]
    start, stop = router.sites[0][1]["one"]
    assert learnt[False][start:stop].any()
    assert not learnt[True][start:stop].any()
    assert learnt[True][:start].any()


def test_the_next_pass_has_all_its_blocks_again():
    net, batch = Net(), ids(4)
    router = Router(net, SITES, form="protect")
    with router(["unlabelled"] * 4, without=["one"]):
        nll(net, batch).backward()
    net.zero_grad()
    with router(["unlabelled"] * 4):
        nll(net, batch).backward()
    routed = gradients(net)
    router.remove()
    net.zero_grad()
    nll(net, batch).backward()
    assert all(torch.allclose(routed[name], value) for name, value in gradients(net).items())


def test_a_block_that_is_none_and_a_router_that_cannot_ablate_are_refused():
    router = Router(Net(), SITES, form="protect")
    with pytest.raises(UserError, match="no block 'three'"), router([0], without=["three"]):
        pass
    with router([0]):  # it was not left open
        pass
    router = Router(Net(), SITES, form="protect", ablate={})
    with pytest.raises(UserError, match="cannot ablate"), router([0], without=["one"]):
        pass
