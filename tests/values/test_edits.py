import copy

import pytest
import torch

from architectures import ADDS_ONE, CONFIGS, build
from sluicegate.errors import UserError
from sluicegate.values.edits import Edit, Noise, Rounded, identity_gains, match_names, match_parameters

architectures = pytest.mark.parametrize("name", CONFIGS)


def randomised(name):
    """A model none of whose parameters, gains and biases included, is at its initial value."""
    model = build(name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


@architectures
def test_an_edit_of_no_dose_is_the_identity_bitwise(name, bits):
    model = randomised(name)
    before = bits.weights(model)
    for edit in (Noise(0.0, 1.0), 0 * Noise(0.7, 1.0)):
        with edit(model):
            assert bits.same(bits.weights(model), before)
        edit.bake(model)
        assert bits.same(bits.weights(model), before)


@architectures
def test_leaving_the_block_restores_every_weight_bitwise(name, bits):
    model = randomised(name)
    before = bits.weights(model)
    with Noise(0.5)(model):
        assert not any(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert bits.same(bits.weights(model), before)


def test_an_exception_inside_the_block_restores_too(tiny, bits):
    before = bits.weights(tiny)

    def inside():
        with (Noise(0.5) + Noise(0.3, seed=1))(tiny):
            assert not bits.same(bits.weights(tiny), before)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        inside()
    assert bits.same(bits.weights(tiny), before)


def test_training_inside_the_block_is_undone_too(tiny, bits):
    before = bits.weights(tiny)
    with Noise(0.5)(tiny), torch.no_grad():
        for p in tiny.parameters():
            p.add_(1.0)
    assert bits.same(bits.weights(tiny), before)


def test_baking_equals_the_block(tiny, bits):
    with Noise(0.5)(tiny):
        inside = bits.weights(tiny)
    Noise(0.5).bake(tiny)
    assert bits.same(bits.weights(tiny), inside)


def test_other_sites_are_left_alone(tiny, bits):
    before = bits.weights(tiny)
    Noise(0.5, params="*.mlp.*, lm_head.weight").bake(tiny)
    after = bits.weights(tiny)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if ".mlp." in name or name == "lm_head.weight"}


def test_the_noise_of_a_parameter_depends_on_its_name_and_seed_alone(tiny):
    everywhere = Noise(0.5).new_weights(tiny)
    alone = Noise(0.5, params="*.mlp.*").new_weights(tiny)
    assert len(alone) < len(everywhere)
    assert all(torch.equal(everywhere[name], alone[name]) for name in alone)
    other = Noise(0.5, seed=1).new_weights(tiny)
    assert not any(torch.equal(everywhere[name], other[name]) for name in everywhere if everywhere[name].dim() > 1)
    mlps = [value for name, value in Noise(1.0).new_weights(tiny).items() if "gate_proj" in name or "up_proj" in name]
    assert not torch.equal(*mlps), "two weights of one shape got the same noise"


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.1), (1.0, 2.0)])
def test_the_formula(tiny, alpha, beta):
    pure = Noise(1.0, 1.0).new_weights(tiny)
    for name, value in Noise(alpha, beta).new_weights(tiny).items():
        old = tiny.get_parameter(name)
        wanted = (1 - alpha) * old + alpha * beta * pure[name] if old.dim() > 1 else (1 - alpha) * old + alpha
        torch.testing.assert_close(value, wanted)


def test_noise_is_xavier_uniform(tiny):
    name = "lm_head.weight"
    bound = (6 / (132 + 64)) ** 0.5
    noise = Noise(1.0, 1.0).new_weights(tiny)[name]
    assert 0.98 * bound < float(noise.abs().max()) <= bound
    assert float(noise.std()) == pytest.approx(bound / 3**0.5, rel=0.03)
    assert abs(float(noise.mean())) < 0.03 * bound


@architectures
def test_norms_are_recognised_and_whether_they_add_one(name):
    model = randomised(name)
    gains = identity_gains(model)
    # All one-dimensional weights of these models are gains of norms; two layers hold at least two each, and one is
    # last.
    assert set(gains) == {n for n, p in model.named_parameters() if p.dim() == 1 and n.endswith("weight")}
    assert len(gains) >= 5
    assert set(gains.values()) == {0.0 if name in ADDS_ONE else 1.0}


@architectures
def test_full_dose_without_noise_leaves_norms_that_only_normalise(name):
    model = randomised(name)
    with Noise(1.0, 0.0)(model):
        for prefix, module in model.named_modules():
            if "norm" not in type(module).__name__.lower():
                continue
            x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(2))
            centred = x - x.mean(-1, keepdim=True) if "LayerNorm" in type(module).__name__ else x
            torch.testing.assert_close(
                module(x), centred / centred.square().mean(-1, keepdim=True).sqrt(), atol=1e-4, rtol=1e-4, msg=prefix
            )
        for parameter_name, p in model.named_parameters():
            if p.dim() > 1 or parameter_name.endswith("bias"):
                assert not p.any()


def test_the_callers_generator_is_left_alone(tiny):
    before = torch.get_rng_state()
    Noise(0.5).bake(tiny)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_edits_are_one_after_the_other(tiny, bits):
    first, second = Noise(0.5, params="*.mlp.*"), Noise(0.25, seed=1)
    both = copy.deepcopy(tiny)
    (first + second).bake(both)
    before = bits.weights(tiny)
    with (first + second)(tiny):
        assert bits.same(bits.weights(tiny), bits.weights(both))
    assert bits.same(bits.weights(tiny), before)
    first.bake(tiny)
    second.bake(tiny)
    assert bits.same(bits.weights(tiny), bits.weights(both))


def test_a_sum_scales_both_parts(tiny, bits):
    scaled, by_hand = copy.deepcopy(tiny), copy.deepcopy(tiny)
    (0.5 * (Noise(0.5) + Noise(0.25, seed=1) + Noise(0.1, seed=2))).bake(scaled)
    (Noise(0.25) + Noise(0.125, seed=1) + Noise(0.05, seed=2)).bake(by_hand)
    assert bits.same(bits.weights(scaled), bits.weights(by_hand))
    assert isinstance(Noise(0.5), Edit)
    assert isinstance(Noise(0.5) + Noise(0.5), Edit)


def test_a_tied_weight_is_edited_once_and_stays_tied():
    model = build("gpt2")
    old = model.transformer.wte.weight.detach().clone()
    Noise(0.5, 0.0).bake(model)
    torch.testing.assert_close(model.transformer.wte.weight, 0.5 * old)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_a_pattern_that_matches_nothing_lists_the_nearest(tiny):
    with pytest.raises(UserError, match=r"'model\.layer\.0\.mlp\.up_proj\.weight' matches no.*model\.layers\.0\.mlp\.up_proj\.weight"):
        match_parameters(tiny, "lm_head.weight,model.layer.0.mlp.up_proj.weight")


@pytest.mark.parametrize(("alpha", "beta"), [(-0.1, 0.1), (1.1, 0.1), (float("nan"), 0.1), (0.5, -1.0), (0.5, float("nan"))])
def test_a_dose_out_of_range_is_refused(alpha, beta):
    with pytest.raises(UserError, match=r"alpha|beta"):
        Noise(alpha, beta)


def test_a_bare_norm_is_a_model_too():
    norm = torch.nn.LayerNorm(8)
    torch.nn.init.constant_(norm.weight, 3.0)
    Noise(1.0).bake(norm)
    assert (norm.weight == 1).all()


# ------------------------------------------------------------------------------------------- rounding


def linear(rows):
    layer = torch.nn.Linear(len(rows[0]), len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return layer


def test_rounding_is_to_the_nearest_of_a_rows_levels():
    layer = linear([[0.7, -0.35, 0.06, 0.0], [7.0, 3.6, -1.4, 0.4]])
    bias = layer.bias.detach().clone()
    Rounded(4).bake(layer)  # 7 levels to either side: of .1 in the first row, of 1 in the second
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[0.7, -0.4, 0.1, 0.0], [7.0, 4.0, -1.0, 0.0]]))
    assert torch.equal(layer.bias, bias)


def test_groups_have_scales_of_their_own_and_the_last_may_be_short():
    layer = linear([[7.0, 3.6, 0.07, 0.036, 0.5]])
    Rounded(4, group=2).bake(layer)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[7.0, 4.0, 0.07, 0.04, 0.5]]))


def test_more_bits_are_nearer_and_rounding_twice_is_rounding_once(tiny):
    before = {n: p.detach().clone() for n, p in tiny.named_parameters()}
    far = {}
    for bits in (2, 4, 8, 16):
        with Rounded(bits)(tiny):
            once = {n: p.detach().clone() for n, p in tiny.named_parameters()}
            far[bits] = max(float((once[n] - before[n]).abs().max()) for n in once)
            with Rounded(bits)(tiny):
                for name, p in tiny.named_parameters():
                    torch.testing.assert_close(p.detach(), once[name])
        assert all(torch.equal(p, before[n]) for n, p in tiny.named_parameters())
    assert far[2] > far[4] > far[8] > far[16] > 0


def test_a_dose_of_rounding(tiny):
    before = {n: p.detach().clone() for n, p in tiny.named_parameters()}
    whole, half = Rounded(3).new_weights(tiny), (0.5 * Rounded(3)).new_weights(tiny)
    for name, value in half.items():
        torch.testing.assert_close(value, (before[name] + whole[name]) / 2)
    assert (0.0 * Rounded(3)).new_weights(tiny) == {}


def test_a_row_of_zeros_stays_so():
    layer = linear([[0.0, 0.0]])
    Rounded(8).bake(layer)
    assert layer.weight.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("wrong", [{"bits": 1}, {"bits": 32}, {"bits": 4, "group": -1}])
def test_a_rounding_that_is_none_is_refused(wrong):
    with pytest.raises(UserError, match=r"is -?[0-9]+;"):
        Rounded(**wrong)


def test_globs_are_on_full_names_and_a_star_crosses_dots():
    names = ["model.layers.0.mlp.up.weight", "model.layers.1.mlp.up.weight", "lm_head.weight", "norm.weight"]
    assert match_names(names, "*.mlp.*") == names[:2]
    assert match_names(names, "norm.weight, model.layers.[1-3].*") == [names[1], names[3]], "in the model's order"
    with pytest.raises(UserError, match=r"'norm' matches no module. Nearest: .*norm.weight"):
        match_names(names, "*, norm", "module")


def test_the_earlier_name_of_params_is_taken_with_a_warning():
    with pytest.warns(DeprecationWarning, match=r"sites=.*is now params="):
        assert Noise(0.5, sites="*.mlp.*") == Noise(0.5, params="*.mlp.*")


@pytest.mark.parametrize("name", ["mixtral", "qwen3moe", "deepseek", "gptoss"])
def test_the_noise_of_fused_experts_is_that_of_each_matrix(name):
    """Uniform in [-b, b] with one matrix's fans: standard deviation b / sqrt(3)."""
    model = build(name)
    stacks = {key: p for key, p in model.named_parameters() if p.dim() == 3}
    assert stacks
    new = Noise(1.0, beta=1.0).new_weights(model)
    for key, p in stacks.items():
        bound = (6 / (p.shape[1] + p.shape[2])) ** 0.5
        for expert in new[key]:
            assert 0.97 * bound < float(expert.abs().max()) <= bound
            assert float(expert.std()) == pytest.approx(bound / 3**0.5, rel=0.08)
        assert not torch.equal(new[key][0], new[key][1])


def test_the_biases_of_fused_experts_shrink_and_get_no_noise():
    model = build("gptoss")
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj_bias.fill_(2.0)
    new = Noise(0.25, beta=1.0).new_weights(model)["model.layers.0.mlp.experts.down_proj_bias"]
    torch.testing.assert_close(new, torch.full_like(new, 1.5))


def test_the_noise_of_a_convolution_keeps_its_own_fans():
    model = build("mamba")
    new = Noise(1.0, beta=1.0).new_weights(model)["backbone.layers.0.mixer.conv1d.weight"]  # [64, 1, 4], by channel
    assert float(new.abs().max()) <= (6 / (4 + 64 * 4)) ** 0.5
