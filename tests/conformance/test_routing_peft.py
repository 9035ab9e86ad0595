"""Routing adapters (PEFT), and models that adapters are wrapped around."""

import warnings

import peft
import pytest
import torch
import torch.nn.functional as F

from architectures import build
from sluicegate.routing.router import Router

TARGETS = {"llama": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"], "gpt2": ["c_attn", "c_fc", "c_proj"]}
RANK, FORGET = 4, slice(2, 4)
both_forms = pytest.mark.parametrize("form", ["gate", "protect"])
everywhere = pytest.mark.parametrize("name", TARGETS)


def adapted(name):
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Conv1D is transposed, which PEFT sees and says
        torch.manual_seed(0)
        config = peft.LoraConfig(r=RANK, target_modules=TARGETS[name], init_lora_weights=False)
        return peft.get_peft_model(build(name), config).eval()


def rows():
    return torch.randint(3, 132, (4, 9), generator=torch.Generator().manual_seed(0))


def loss_of(model, ids):
    scores = model(input_ids=ids, use_cache=False).logits
    return F.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def steps(model, router, optimizer, labels, count=3):
    for _ in range(count):
        with router(labels):
            loss_of(model, rows()).backward()
        optimizer.step()
        optimizer.zero_grad()


@everywhere
@both_forms
def test_split_ranks_keep_the_bits_of_the_rest(name, form):
    """Rows of A and columns of B: momentum and weight decay are at work when the forget rows come."""
    model = adapted(name)
    router = Router(model, {"lora_rank": {"forget": 2}}, form=form)
    router.verify(rows(), loss_of)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    router.guard(optimizer)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    steps(model, router, optimizer, ["unlabelled"] * 4)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    steps(model, router, optimizer, ["forget"] * 4)
    seen = 0
    for n, p in model.named_parameters():
        if "lora_" not in n:
            assert torch.equal(p, start[n])
            continue
        assert not torch.equal(before[n], start[n])
        own, was = (p, before[n]) if "lora_A" in n else (p.t(), before[n].t())
        if "lora_A" in n or form == "protect":  # a gate lies between A and B, and cannot hold B
            assert torch.equal(own[: FORGET.start], was[: FORGET.start])
            seen += 1
        assert not torch.equal(own[FORGET], was[FORGET])
    assert seen


@everywhere
@both_forms
def test_the_forward_pass_without_ablation_is_that_of_the_adapted_model(name, form):
    model = adapted(name)
    expected = loss_of(model, rows())
    router = Router(model, {"lora_rank": {"forget": 2}}, form=form, ablate={})
    with router([0, 1, 2, 1]):
        loss = loss_of(model, rows())
        loss.backward()
    assert torch.equal(loss, expected)


@everywhere
@both_forms
def test_units_under_adapters_are_held_with_what_the_adapters_add(name, form):
    """B's rows of what makes a unit, and A's columns of what reads it, belong to the unit too."""
    model = adapted(name)
    router = Router(model, {"mlp_hidden": {"forget": 16}}, form=form)
    found = router.verify(rows(), loss_of)
    learning = {(row.parameter.rsplit(".mlp.", 1)[-1], row.block) for row in found.learning("forget") if ".layers.0.mlp." in row.parameter}
    first, reads = ("up_proj", "down_proj") if name == "llama" else ("c_fc", "c_proj")
    if name == "gpt2":
        learning = {(row.parameter.rsplit(".mlp.", 1)[-1], row.block) for row in found.learning("forget") if ".h.0.mlp." in row.parameter}
    assert (f"{first}.lora_B.default.weight", "forget") in learning
    assert (f"{first}.lora_B.default.weight", "rest") not in learning
    if form == "protect":
        assert (f"{reads}.lora_A.default.weight", "forget") in learning
        assert (f"{reads}.lora_A.default.weight", "rest") not in learning


@everywhere
def test_cutting_units_under_adapters_cuts_what_the_adapters_add(name):
    model = adapted(name)
    router = Router(model, {"mlp_hidden": {"forget": 16}, "heads": {"forget": 2}})

    def without(start, stop):
        return lambda module, args: (args[0].index_fill(-1, torch.arange(start, stop), 0.0), *args[1:])

    with torch.no_grad():
        plain = loss_of(model, rows())
        with router.ablate("forget")(model):
            cut = loss_of(model, rows())
        assert torch.equal(loss_of(model, rows()), plain)
        handles = [
            model.get_submodule(site.hook_module).register_forward_pre_hook(without(*(edge * site.width for edge in placed["forget"])))
            for site, placed in router.sites
        ]
        expected = loss_of(model, rows())
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(cut, expected)
    assert abs(cut - plain) > 1e-3
