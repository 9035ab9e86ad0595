import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from architectures import CONFIGS, build
from routed_nets import Net
from sluicegate.errors import UserError
from sluicegate.routing.router import Router
from sluicegate_papers.demix import Demix

IDS = torch.randint(3, 100, (4, 7), generator=torch.Generator().manual_seed(0))
EVERY = pytest.mark.parametrize("name", CONFIGS)


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def experts_of(model, name):
    return {n: p for n, p in model.named_parameters() if f".experts.{name}." in n}


def disturb(model, name="forget", size=0.1):
    """Set an expert apart from its origin."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in experts_of(model, name).values():
            p.add_(size * torch.randn(p.shape, generator=generator))


@EVERY
def test_with_the_retain_label_the_model_is_the_original_bitwise(name):
    model = build(name).eval()
    before = model(IDS).logits
    demix = Demix(model, "mlp_hidden", ["forget"])
    disturb(model)
    assert torch.equal(model(IDS).logits, before)
    for label in (0, -1, 2):
        with demix([label] * 4):
            assert torch.equal(model(IDS).logits, before)
    with demix(["forget"] * 4):
        assert not torch.allclose(model(IDS).logits, before)


@EVERY
def test_rows_move_their_own_expert_and_no_other(name):
    model = build(name).eval()
    demix = Demix(model, "mlp_hidden", ["forget"])
    for label, other in (("forget", "retain"), ("retain", "forget"), ("unlabelled", "forget")):
        model.zero_grad()
        with demix([label] * 4):
            model(IDS, labels=IDS).loss.backward()
        mine = {"forget": "forget"}.get(label, "retain")
        assert all(p.grad is None for p in experts_of(model, other).values())
        assert all(p.grad.abs().sum() > 0 for n, p in experts_of(model, mine).items() if "weight" in n)


@EVERY
def test_a_mixed_batch_is_its_rows_alone(name):
    model = build(name).eval()
    demix = Demix(model, "mlp_hidden", ["forget", "other"])
    disturb(model)
    disturb(model, "other", -0.2)
    labels = ["forget", "retain", "other", "unlabelled"]
    with demix(labels):
        mixed = model(IDS).logits
        mixed[:, :, 5].sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for i, label in enumerate(labels):
        with demix([label]):
            alone = model(IDS[i : i + 1]).logits
            torch.testing.assert_close(alone[0], mixed[i], atol=1e-5, rtol=1e-4)
            alone[:, :, 5].sum().backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients.get(n), atol=1e-4, rtol=1e-3, msg=n)


def test_tokens_can_have_labels_of_their_own():
    model = build("llama")
    demix = Demix(model, "model.layers.1.mlp", ["forget"])
    disturb(model)
    labels = (torch.arange(28).reshape(4, 7) % 3 == 0).long()
    block, x = model.model.layers[1].mlp, data(4, 7, 32)
    with demix(labels):
        mixed = block(x)
        torch.testing.assert_close(block(x.flatten(0, 1)), mixed.flatten(0, 1))
    wanted = torch.where(labels[..., None] == 1, block.experts["forget"](x), block.experts["retain"](x))
    torch.testing.assert_close(mixed, wanted)


@EVERY
def test_the_kept_model_is_an_ordinary_one_that_saves_and_loads(name, tmp_path, bits):
    model, reference = build(name).eval(), build(name).eval()
    demix = Demix(model, "mlp_hidden", ["forget"])
    disturb(model)
    with demix.ablate()(model):
        cut = model(IDS).logits
    assert demix.keep("retain") is model
    assert bits.same(bits.weights(model), bits.weights(reference))
    assert torch.equal(model(IDS).logits, cut)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert bits.same(bits.weights(loaded), bits.weights(reference))
    with pytest.raises(UserError, match="matches no Experts"):
        demix.keep("retain")


def test_the_other_expert_can_be_kept_too():
    model = build("llama")
    demix = Demix(model, "mlp_hidden", ["forget"])
    disturb(model)
    with demix(["forget"] * 4):
        wanted = model(IDS).logits
    with pytest.raises(UserError, match="has no expert 'retian'"):
        demix.keep("retian")
    assert torch.equal(demix.keep("forget")(IDS).logits, wanted)


def test_ablation_overrides_labels_and_has_a_dose():
    model = build("llama")
    before = model(IDS).logits
    demix = Demix(model, "mlp_hidden", ["forget"])
    disturb(model)
    with demix(["forget"] * 4), demix.ablate()(model):
        assert torch.equal(model(IDS).logits, before)
    with demix(["forget"] * 4), (demix.ablate() * 0.5)(model):
        block, x = model.model.layers[0].mlp, data(4, 7, 32)
        torch.testing.assert_close(block(x), (block.experts["retain"](x) + block.experts["forget"](x)) / 2)
    with (demix.ablate() * 0.5)(model):  # without labels everything is the retained expert's already
        torch.testing.assert_close(model(IDS).logits, before)


def test_an_expert_without_rows_is_not_moved_by_momentum():
    model = build("llama")
    demix = Demix(model, "mlp_hidden", ["forget"])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
    for label in (["forget", "retain"] * 2, ["forget"] * 4):
        before = {n: p.detach().clone() for n, p in experts_of(model, "retain").items()}
        optimizer.zero_grad()
        with demix(label):
            model(IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert all(torch.equal(p, before[n]) for n, p in experts_of(model, "retain").items())


def test_generation_passes_through_the_retained_expert():
    model, reference = build("gpt2").eval(), build("gpt2").eval()
    Demix(model, "mlp_hidden", ["forget"])
    disturb(model)
    wanted = reference.generate(IDS[:1], max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(IDS[:1], max_new_tokens=4, do_sample=False), wanted)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients_inside_and_raises_outside(reentrant):
    model = build("llama").train()
    demix, labels = Demix(model, "mlp_hidden", ["forget"]), ["forget", "retain", "retain", "forget"]
    found = []
    for on in (False, True):
        model.zero_grad()
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        with demix(labels):
            model(IDS, labels=IDS).loss.backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)
    with demix(labels):
        loss = model(IDS, labels=IDS).loss
    with pytest.raises(UserError, match="the block was left before backward"):
        loss.backward()
    model.zero_grad()
    model(IDS, labels=IDS).loss.backward()  # without labels, afterwards, is fine


def test_a_copy_of_the_model_begins_without_labels():
    model = build("llama")
    demix = Demix(model, "mlp_hidden", ["forget"])
    disturb(model)
    plain = model(IDS).logits
    with demix(["forget"] * 4):
        reference = copy.deepcopy(model)
        assert torch.equal(reference(IDS).logits, plain)
    assert reference.model.layers[0].mlp.choice is reference.model.layers[1].mlp.choice is not model.model.layers[0].mlp.choice


def test_labels_are_put_back_after_an_exception():
    model = build("llama")
    before, demix = model(IDS).logits, Demix(model, "mlp_hidden", ["forget"])
    disturb(model)
    with pytest.raises(RuntimeError, match="mine"), demix(["forget"] * 4):
        raise RuntimeError("mine")
    assert torch.equal(model(IDS).logits, before)


def test_demix_says_what_is_wrong():
    model = build("llama")
    for sites, names, message in (
        ("mlp_hidden", [], "names are empty"),
        ("mlp_hidden", ["retain"], "besides retain"),
        (["mlp_hidden", "resid"], ["forget"], "holds another site"),
        ("model.layers.9.mlp", ["forget"], "matches no module"),
    ):
        with pytest.raises(UserError, match=message):
            Demix(model, sites, names)
    demix = Demix(model, "mlp_hidden", "forget")
    with pytest.raises(UserError, match="has experts by label already"):
        Demix(model, "model.layers.*.mlp", ["forget"])
    with pytest.raises(UserError, match="cannot be routed as well"):
        Router(model, {"model.layers.*.mlp": {"forget": 1}})
    with pytest.raises(UserError, match=r"labels are \(3,\), but the activations are \(4, 7, 32\)"), demix([0] * 3):
        model(IDS)
    with pytest.raises(UserError, match="0 retain, 1 forget, 2 unlabelled"), demix([3] * 4):
        pass
    with demix([0] * 4), pytest.raises(UserError, match="already in place"), demix([0] * 4):
        pass


def test_the_earlier_name_of_modules_is_taken():
    with pytest.warns(DeprecationWarning, match="is now modules="):
        assert Demix(Net(), sites="mlp", names=["one"]).labels == ("retain", "one", "unlabelled")
