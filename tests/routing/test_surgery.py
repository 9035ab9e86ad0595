"""Units added and taken out: the function, the shapes, the configuration, and what transformers makes of them."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

import sluicegate as sg
from architectures import CONFIGS, build
from sluicegate.errors import UserError
from sluicegate.routing.surgery import expand

MLP = {"gpt2": "transformer.h.*.mlp", "neox": "gpt_neox.layers.*.mlp"}
HEADS = {"gpt2": "transformer.h.*.attn", "neox": "gpt_neox.layers.*.attention"}
FIXED = {"gpt2", "neox"}
"""Architectures whose heads share the width of the model."""


def mlp(name):
    return MLP.get(name, "model.layers.*.mlp")


def heads(name):
    return HEADS.get(name, "model.layers.*.self_attn")


def made(name):
    """A model with biases that are not zero, so that losing one is seen."""
    model = build(name).eval()
    with torch.no_grad():
        for own, parameter in model.named_parameters():
            if own.endswith("bias"):
                parameter.copy_(torch.linspace(-0.3, 0.3, parameter.numel()))
    return model


def outputs(model):
    ids = torch.arange(3, 27).reshape(2, 12)
    with torch.no_grad():
        return model(input_ids=ids).logits


def shapes(model):
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def again(model, folder):
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def stir(model, pattern, blocks):
    """Give every weight of these units something to do, as training would."""
    router = sg.Router(model, {pattern: blocks})
    generator = torch.Generator().manual_seed(0)

    def draw(like):
        return torch.randn(like.shape, generator=generator).to(like) * 0.3

    with torch.no_grad():
        for site, placed in router.sites:
            for part in site.parts:
                for start, stop in placed.values():
                    mine = part.belongs(start, stop).nonzero().flatten()
                    value = model.get_parameter(part.parameter)
                    value.index_copy_(part.dim, mine, draw(value.index_select(part.dim, mine)))
    return router


def integers(model):
    return {(name, k): v for name, m in model.named_modules() for k, v in vars(m).items() if type(v) is int}


# ------------------------------------------------------------------------------- MLP units


@pytest.mark.parametrize("name", CONFIGS)
def test_new_mlp_units_keep_the_function_and_load_again(name, tmp_path, bits):
    model = made(name)
    before, weights = outputs(model), bits.weights(model)
    given = expand(model, {mlp(name): {"forget": 8, "other": 4}})
    assert given == {mlp(name): {"forget": 8, "other": 4}}
    torch.testing.assert_close(outputs(model), before, atol=1e-6, rtol=0)
    router = sg.Router(model, given)
    site, placed = router.sites[0]
    old = site.units - 12
    assert placed == {"forget": (old, old + 8), "other": (old + 8, old + 12)}
    for part in site.parts:  # the old units are first, bitwise
        assert torch.equal(model.get_parameter(part.parameter).narrow(part.dim, 0, old), weights[part.parameter])
    assert model.get_parameter(site.parts[0].parameter).narrow(site.parts[0].dim, old, 12).std().item() == pytest.approx(
        model.config.initializer_range, rel=0.2
    )
    router.remove()
    loaded = again(model, tmp_path)
    assert shapes(loaded) == shapes(model)
    assert torch.equal(outputs(loaded), outputs(model))
    assert integers(loaded) == integers(model)


@pytest.mark.parametrize("name", CONFIGS)
def test_cutting_what_was_added_gives_the_model_back(name, tmp_path, bits):
    model = made(name)
    before, weights, config = outputs(model), bits.weights(model), model.config.to_dict()
    expand(model, {mlp(name): {"forget": 8}})
    router = stir(model, mlp(name), {"forget": 8})
    assert not torch.allclose(outputs(model), before, atol=1e-3)
    cut = router.ablate("forget")
    with cut(model):
        ablated = outputs(model)
    done = cut.bake(model)
    assert done
    assert set(done.removed.values()) == {8}
    assert bits.same(bits.weights(model), weights)
    assert torch.equal(outputs(model), before)
    torch.testing.assert_close(ablated, before, atol=1e-6, rtol=0)
    loaded = again(model, tmp_path)
    assert bits.same(bits.weights(loaded), weights)
    said = model.config.to_dict()
    assert {k for k in config if said[k] != config[k]} <= {"architectures", "dtype", "n_inner"}
    with pytest.raises(UserError, match="the model was changed under the router"), router(["forget"]):
        pass


@pytest.mark.parametrize("name", CONFIGS)
def test_cutting_units_of_the_model_itself_makes_it_smaller(name, tmp_path):
    model = made(name)
    count = sum(p.numel() for p in model.parameters())
    cut = sg.Router(model, {mlp(name): {"forget": 16}}).ablate()
    with cut(model):
        ablated = outputs(model)
    assert cut.bake(model)
    torch.testing.assert_close(outputs(model), ablated, atol=1e-6, rtol=0)
    assert sum(p.numel() for p in model.parameters()) < count
    assert torch.equal(outputs(again(model, tmp_path)), outputs(model))


def test_one_of_two_blocks_goes_and_the_other_still_works(tmp_path):
    model = made("llama")
    given = expand(model, {"model.layers.*.mlp": {"a": 4, "b": 6}})
    router = stir(model, "model.layers.*.mlp", given["model.layers.*.mlp"])
    cut = router.ablate("a")
    with cut(model):
        ablated = outputs(model)
    assert cut.bake(model)
    torch.testing.assert_close(outputs(model), ablated, atol=1e-6, rtol=0)
    router.remove()
    assert sg.Router(model, {"model.layers.*.mlp": {"b": 6}}).sites[0][1] == {"b": (64, 70)}
    assert torch.equal(outputs(again(model, tmp_path)), outputs(model))


# ------------------------------------------------------------------------------- heads

GROUPED = sorted(set(CONFIGS) - FIXED)


@pytest.mark.parametrize("name", GROUPED)
def test_new_heads_keep_the_function_load_again_and_go_again(name, tmp_path, bits):
    model = made(name)
    before, weights = outputs(model), bits.weights(model)
    given = expand(model, {heads(name): {"forget": 4}})  # 4 query heads on 2 key and value heads become 8 on 4
    torch.testing.assert_close(outputs(model), before, atol=1e-6, rtol=0)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads, model.config.head_dim) == (8, 4, 8)
    loaded = again(model, tmp_path)
    assert torch.equal(outputs(loaded), outputs(model))
    assert integers(loaded) == integers(model)
    router = stir(model, heads(name), given[heads(name)])
    assert not torch.allclose(outputs(model), before, atol=1e-3)
    assert router.ablate("forget").bake(model)
    assert bits.same(bits.weights(model), weights)
    assert torch.equal(outputs(model), before)
    assert torch.equal(outputs(again(model, tmp_path)), before)


@pytest.mark.parametrize("name", sorted(FIXED))
def test_heads_as_wide_as_the_model_grow_in_memory_only(name, tmp_path, bits):
    model = made(name)
    before, weights, config = outputs(model), bits.weights(model), model.config.to_dict()
    with pytest.raises(UserError, match=r"cannot have 5 heads in a model that transformers loads.*in_memory=True"):
        expand(model, {heads(name): {"forget": 1}})
    assert bits.same(bits.weights(model), weights)
    assert model.config.to_dict() == config
    given = expand(model, {heads(name): {"forget": 1}}, in_memory=True)
    torch.testing.assert_close(outputs(model), before, atol=1e-6, rtol=0)
    router = stir(model, heads(name), given[heads(name)])
    assert not torch.allclose(outputs(model), before, atol=1e-3)
    assert router.ablate("forget").bake(model)
    assert bits.same(bits.weights(model), weights)
    assert torch.equal(outputs(again(model, tmp_path)), before)


def test_units_and_heads_at_once(tmp_path, bits):
    model = made("qwen2")
    before, weights = outputs(model), bits.weights(model)
    router = sg.Router(model, expand(model, {"mlp_hidden": {"forget": 8}, "heads": {"forget": 2}}))
    torch.testing.assert_close(outputs(model), before, atol=1e-6, rtol=0)
    assert torch.equal(outputs(again(model, tmp_path)), outputs(model))
    assert router.ablate().bake(model)
    assert bits.same(bits.weights(model), weights)


def test_heads_that_do_not_group():
    model = made("qwen2")
    with pytest.raises(UserError, match=r"added in groups of 2. Give a multiple of 2"):
        expand(model, {"heads": {"forget": 3}})
    cut = sg.Router(model, {"heads": {"forget": 1}}).ablate()
    with cut(model):
        ablated = outputs(model)
    done = cut.bake(model)
    assert not done
    assert "share key and value heads" in str(done)
    torch.testing.assert_close(outputs(model), ablated, atol=1e-6, rtol=0)


def test_a_number_of_heads_that_the_architecture_refuses():
    with pytest.raises(UserError, match=r"cannot have 6 heads.*not a multiple of the number of attention heads"):
        expand(made("llama"), {"heads": {"forget": 2}})


# ------------------------------------------------------------------------------- some layers only


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_that_were_not_named_get_units_that_stay_dead(name, tmp_path, bits):
    model = made(name)
    before, weights = outputs(model), bits.weights(model)
    first = mlp(name).replace("*", "0")
    given = expand(model, {first: {"forget": 8}})
    torch.testing.assert_close(outputs(model), before, atol=1e-6, rtol=0)
    assert torch.equal(outputs(again(model, tmp_path)), outputs(model))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    ids = torch.arange(3, 27).reshape(2, 12)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    model.eval()
    router = sg.Router(model, {mlp(name): {"forget": 8}})
    for site, placed in router.sites:
        used = [bool(model.get_parameter(p.parameter).movedim(p.dim, 0)[p.belongs(*placed["forget"])].any()) for p in site.parts]
        assert all(used) if ".0." in site.name else not any(used)
    router.remove()
    cut = sg.Router(model, given).ablate("forget")
    with cut(model):
        ablated = outputs(model)
    assert cut.bake(model)
    torch.testing.assert_close(outputs(model), ablated, atol=1e-6, rtol=0)
    assert shapes(model) == {n: tuple(w.shape) for n, w in weights.items()}
    assert torch.equal(outputs(again(model, tmp_path)), outputs(model))


def test_uneven_layers_are_left_as_zeros():
    model = made("llama")
    before = shapes(model)
    cut = sg.Router(model, {"model.layers.0.mlp": {"forget": 8}}).ablate()
    with cut(model):
        ablated = outputs(model)
    done = cut.bake(model)
    assert not done
    assert done.removed == {}
    assert "one width for all layers" in str(done)
    assert shapes(model) == before
    assert torch.equal(outputs(model), ablated)


def test_blocks_of_different_sizes_are_left_as_zeros_too(bits):
    model = made("llama")
    cut = sg.Router(model, {"model.layers.0.mlp": {"forget": 8}, "model.layers.1.mlp": {"forget": 4}}).ablate()
    with cut(model):
        ablated = bits.weights(model)
    done = cut.bake(model)
    assert done.removed == {}
    assert set(done.left) == {"model.layers.0.mlp", "model.layers.1.mlp"}
    assert "not all of them can give up as many units" in str(done)
    assert bits.same(bits.weights(model), ablated)


def test_dead_units_of_other_layers_go_only_as_far_as_needed(tmp_path):
    model = made("llama")
    expand(model, {"model.layers.0.mlp": {"a": 4, "b": 8}})  # layer 1 gets 12 dead units
    cut = sg.Router(model, {"model.layers.0.mlp": {"a": 4, "b": 8}}).ablate("b")
    assert cut.bake(model)
    assert model.config.intermediate_size == 68
    assert [layer.mlp.up_proj.out_features for layer in model.model.layers] == [68, 68]
    again(model, tmp_path)


def test_one_layer_in_memory_and_back(tmp_path, bits):
    model = made("llama")
    weights = bits.weights(model)
    router = sg.Router(model, expand(model, {"model.layers.1.mlp": {"forget": 8}}, in_memory=True))
    assert [site.units for site, _ in router.sites] == [72]
    assert model.model.layers[0].mlp.up_proj.out_features == 64
    assert router.ablate().bake(model)
    assert bits.same(bits.weights(model), weights)
    again(model, tmp_path)


def test_an_activation_that_is_not_zero_at_zero_is_refused():
    config = CONFIGS["gpt2"]()
    config.activation_function = "sigmoid"
    model = sg.fresh(config, 0)
    with pytest.raises(UserError, match=r"must stay zero.*Name all layers"):
        expand(model, {"transformer.h.0.mlp": {"forget": 8}})
    expand(model, {"transformer.h.*.mlp": {"forget": 8}})


# ------------------------------------------------------------------------------- models of any kind


class Plain(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.one = nn.Sequential(nn.Linear(5, 12, bias=bias), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 3))
        self.two = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 3))

    def forward(self, x):
        return self.two(self.one(x))


@pytest.mark.parametrize("bias", [True, False])
def test_a_model_without_a_configuration(bias, bits):
    torch.manual_seed(0)
    model = Plain(bias).eval()
    x = torch.randn(4, 5)
    with torch.no_grad():
        before, weights = model(x), bits.weights(model)
    router = sg.Router(model, expand(model, {"one": {"forget": 6}}))
    assert model.one[0].out_features == model.one[3].in_features == 18
    assert model.two[0].out_features == 7
    torch.testing.assert_close(model(x), before, atol=1e-6, rtol=0)
    assert router.ablate().bake(model).removed == {"one": 6}
    assert bits.same(bits.weights(model), weights)
    assert model.one[0].out_features == model.one[3].in_features == 12


@given(
    units=st.integers(2, 9),
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    bias=st.booleans(),
    start=st.sampled_from(["zero", "random"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_whatever_is_added_can_be_taken_out_block_by_block(units, counts, bias, start, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, units, bias=bias), nn.GELU(), nn.Linear(units, 2, bias=bias))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    given = expand(model, {"": {f"block {i}": count for i, count in enumerate(counts)}}, start=start, seed=seed)
    for block in list(given[""]):
        router = sg.Router(model, given)
        assert router.ablate(block).bake(model).removed == {"": given[""].pop(block)}
        router.remove()
        assert model[0].out_features == model[2].in_features == units + sum(given[""].values())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_random_start_draws_both_sides_and_depends_on_the_seed_alone():
    def drawn(**how):
        torch.manual_seed(0)
        model = Plain()
        torch.manual_seed(how.get("seed", 0) + 7)
        state = torch.get_rng_state()
        expand(model, {"one": {"forget": 6}}, **how)
        assert torch.equal(torch.get_rng_state(), state)
        return model.one[0].weight[12:].detach(), model.one[3].weight[:, 12:].detach()

    makers, readers = drawn(start="random", seed=1)
    assert makers.any()
    assert readers.any()
    assert torch.equal(drawn(start="random", seed=1)[0], makers)
    assert not torch.equal(drawn(start="random", seed=2)[0], makers)
    zero_makers, zero_readers = drawn(start="zero", seed=1)
    assert torch.equal(zero_makers, makers)
    assert not zero_readers.any()


def test_parameters_stay_the_same_objects(bits):
    model = made("gpt2").to(torch.float64)
    model.transformer.h[0].mlp.c_fc.bias.requires_grad_(False)
    parameters = list(model.parameters())
    outputs_before = model(input_ids=torch.arange(3, 9)[None], labels=torch.arange(3, 9)[None])
    outputs_before.loss.backward()
    gradient = model.transformer.h[0].mlp.c_fc.weight.grad.clone()
    expand(model, {"mlp_hidden": {"forget": 8}})
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    layer = model.transformer.h[0].mlp.c_fc
    assert layer.weight.dtype == torch.float64
    assert (layer.nf, tuple(layer.weight.shape), tuple(layer.bias.shape)) == (136, (32, 136), (136,))
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad
    assert torch.equal(layer.weight.grad[:, :128], gradient)
    assert not layer.weight.grad[:, 128:].any()
    assert model.lm_head.weight is model.transformer.wte.weight
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    model(input_ids=torch.arange(3, 9)[None], labels=torch.arange(3, 9)[None]).loss.backward()
    optimizer.step()
    assert model.transformer.h[0].mlp.c_proj.weight[128:].any()


def test_what_a_module_remembers_of_its_width_is_asked_of_the_architecture(monkeypatch):
    own = LlamaMLP.__init__

    def remembering(self, config):
        own(self, config)
        self.how_wide = config.intermediate_size

    monkeypatch.setattr(LlamaMLP, "__init__", remembering)
    model = made("llama")
    router = sg.Router(model, expand(model, {"model.layers.0.mlp": {"forget": 8}}))
    assert [layer.mlp.how_wide for layer in model.model.layers] == [72, 72]
    assert router.ablate().bake(model)
    assert [layer.mlp.how_wide for layer in model.model.layers] == [64, 64]


def test_a_copy_is_not_touched():
    model = made("llama")
    other = copy.deepcopy(model)
    expand(model, {"mlp_hidden": {"forget": 8}})
    assert other.model.layers[0].mlp.up_proj.weight.shape == (64, 32)
    assert other.config.intermediate_size == 64


def test_units_of_a_wrapped_model(bits):
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = made("llama")

    model = Wrapper()
    weights = bits.weights(model)
    router = sg.Router(model, expand(model, {"inner.model.layers.0.mlp": {"forget": 8}}))
    assert model.inner.config.intermediate_size == 72
    assert router.ablate().bake(model)
    assert bits.same(bits.weights(model), weights)
    assert model.inner.config.intermediate_size == 64


# ------------------------------------------------------------------------------- LoRA

peft = pytest.importorskip("peft")


def adapted(name="llama", *, seed=0, **how):
    torch.manual_seed(seed)
    targets = {"gpt2": ["c_attn"], "neox": ["query_key_value"]}.get(name, ["q_proj", "v_proj"])
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": targets, "init_lora_weights": False, **how})
    return peft.get_peft_model(made(name), config).eval()


@pytest.mark.parametrize(("name", "how"), [("llama", {}), ("gpt2", {}), ("llama", {"use_rslora": True}), ("llama", {"use_dora": True})])
def test_new_ranks_keep_the_adapter_and_go_again(name, how, tmp_path, bits):
    model = adapted(name, **how)
    before, weights = outputs(model), bits.weights(model)
    given = expand(model, {"lora_rank": {"forget": 3}})
    torch.testing.assert_close(outputs(model), before, atol=1e-6, rtol=0)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(made(name), tmp_path).eval()
    assert loaded.peft_config["default"].r == 7
    torch.testing.assert_close(outputs(loaded), outputs(model), atol=1e-6, rtol=0)
    router = stir(model, "lora_rank", given["lora_rank"])
    assert not torch.allclose(outputs(model), before, atol=1e-4)
    assert router.ablate("forget").bake(model)
    assert bits.same(bits.weights(model), weights)
    torch.testing.assert_close(outputs(model), before, atol=1e-6, rtol=0)
    assert (model.peft_config["default"].r, model.peft_config["default"].lora_alpha) == (4, 6)


def test_ranks_of_some_layers_are_saved_as_patterns(tmp_path):
    model = adapted()
    name = "base_model.model.model.layers.1.self_attn.q_proj"
    expand(model, {name: {"forget": 2}})
    config = model.peft_config["default"]
    assert (config.r, config.rank_pattern) == (4, {"model.layers.1.self_attn.q_proj": 6})
    assert config.alpha_pattern == {"model.layers.1.self_attn.q_proj": 9}
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(made("llama"), tmp_path).eval()
    torch.testing.assert_close(outputs(loaded), outputs(model), atol=1e-6, rtol=0)
    router = stir(model, name, {"forget": 2})
    assert router.ablate().bake(model)
    assert config.rank_pattern == config.alpha_pattern == {}


def test_layers_inside_adapters_get_no_dead_units(bits):
    model = adapted(target_modules=["up_proj"], layers_to_transform=[1])
    weights = bits.weights(model)
    with pytest.raises(UserError, match=r"layers.1.mlp' would get units as well.*adapters lie around"):
        expand(model, {"base_model.model.model.layers.0.mlp": {"forget": 4}})
    assert bits.same(bits.weights(model), weights)


def test_an_mlp_beside_adapters_grows_and_one_inside_does_not():
    model = adapted(target_modules=["q_proj", "up_proj"])
    with pytest.raises(UserError, match=r"adapters lie around its layers. Expand the model before"):
        expand(model, {"base_model.model.model.layers.*.mlp": {"forget": 4}})
    model = adapted()
    before = outputs(model)
    expand(model, {"base_model.model.model.layers.*.mlp": {"forget": 4}})
    torch.testing.assert_close(outputs(model), before, atol=1e-6, rtol=0)
    assert model.base_model.model.config.intermediate_size == 68


# ------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({}, "nothing to expand"),
        ({"model.layers.*.mpl": {"forget": 4}}, "matches no module. Nearest:"),
        ({"model.layers.*.input_layernorm": {"forget": 4}}, "is no MLP, attention or LoRA layer"),
        ({"model.layers.0.mlp.up_proj": {"forget": 4}}, "is no MLP, attention or LoRA layer"),
        ({"model.layers.*.mlp": {"forget": 0}}, "give the number of units to add, at least 1"),
        ({"model.layers.*.mlp": {"forget": (4, 8)}}, "give the number of units to add"),
        ({"model.layers.*.mlp": {}}, "no block is named"),
        ({"model.layers.*.mlp": {"a": 4}, "mlp_hidden": {"b": 4}}, "matched twice"),
        ({"model.layers.0.mlp": {"a": 4}, "model.layers.1.mlp": {"a": 8}}, "holds one width for all layers"),
    ],
)
def test_mistakes_are_named_and_nothing_is_changed(sites, message, bits):
    model = made("llama")
    weights = bits.weights(model)
    with pytest.raises(UserError, match=message):
        expand(model, sites)
    assert bits.same(bits.weights(model), weights)
    with pytest.raises(UserError, match="start is 'none'"):
        expand(model, {"mlp_hidden": {"forget": 4}}, start="none")


@pytest.mark.parametrize("form", ["gate", "protect"])
def test_a_router_must_be_taken_off_before_expanding(form, bits):
    model = made("llama")
    weights = bits.weights(model)
    router = sg.Router(model, {"mlp_hidden": {"forget": 4}}, form=form)
    with pytest.raises(UserError, match=r"a router is attached to the model .* router.remove\(\) first"):
        expand(model, {"mlp_hidden": {"forget": 4}})
    with pytest.raises(UserError, match="the router is entered"), router(["forget"]):
        router.ablate().bake(model)
    assert bits.same(bits.weights(model), weights)
    router.remove()
    expand(model, {"mlp_hidden": {"forget": 4}})


def test_a_graph_that_is_still_held_is_named(bits):
    model = Plain().eval()
    router = sg.Router(model, {"one": {"forget": 4}})
    cut = router.ablate()
    output = model(torch.ones(2, 5))  # without no_grad, and without backward
    done = cut.bake(model)
    assert not done
    assert "Delete what that pass gave" in str(done)
    assert model.one[0].weight.shape == (12, 5)
    router.remove()
    with pytest.raises(UserError, match=r"is part of a graph that is still held"):
        expand(model, {"two": {"forget": 4}})
    del output
    assert cut.bake(model)
    assert model.one[0].weight.shape == (8, 5)


def test_a_shared_weight_cannot_change_alone():
    model = Plain()
    model.two = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 3))
    model.two[0].weight = model.one[0].weight
    with pytest.raises(UserError, match=r"is the same weight as two.0.weight"):
        expand(model, {"one": {"forget": 4}})


def test_a_layer_whose_weights_are_made_from_others_is_refused_wherever_it_is():
    model = build("llama")
    nn.utils.parametrizations.weight_norm(model.model.layers[1].mlp.up_proj)
    with pytest.raises(
        UserError, match=r"layers.0.mlp' cannot have .*layers.1.mlp.up_proj.weight is made from other weights at every call"
    ):
        expand(model, {"model.layers.0.mlp": {"forget": 4}})
    with pytest.raises(UserError, match=r"site 'model.layers.1.mlp' \(LlamaMLP\) is no MLP"):
        expand(model, {"model.layers.1.mlp": {"forget": 4}})
