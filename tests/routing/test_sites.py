import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from architectures import CONFIGS, build
from routed_nets import Net
from sluicegate.errors import UserError
from sluicegate.routing.experts import Experts
from sluicegate.routing.sites import Part, Site, find, place, runs, site_of

EVERY = pytest.mark.parametrize("name", sorted(CONFIGS))
MLPS = {"neox": "gpt_neox.layers.*.mlp", "gpt2": "transformer.h.*.mlp"}
ATTENTIONS = {"neox": "gpt_neox.layers.*.attention", "gpt2": "transformer.h.*.attn"}
GROUPED = {"llama", "mistral", "qwen2", "gemma2"}


@pytest.fixture(scope="module")
def models():
    return {name: build(name).eval() for name in CONFIGS}


def names(model, pattern):
    return [site.name for site in find(model, pattern)]


# ------------------------------------------------------------------------------ by name


def test_globs_are_over_full_names_and_a_star_crosses_dots(models):
    llama = models["llama"]
    assert names(llama, "model.layers.*.mlp") == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert names(llama, "model.layers.[1-9].mlp") == ["model.layers.1.mlp"]
    assert names(llama, "model.layers.[!0].mlp") == ["model.layers.1.mlp"]
    assert names(llama, "model.layers.?.mlp.act_fn") == ["model.layers.0.mlp.act_fn", "model.layers.1.mlp.act_fn"]
    for pattern in ("**.mlp", "*.mlp", "model.*.mlp"):
        assert names(llama, pattern) == ["model.layers.0.mlp", "model.layers.1.mlp"]


def test_of_modules_inside_each_other_the_outermost_counts(models):
    llama = models["llama"]
    assert names(llama, "model.layers.*") == ["model.layers.0", "model.layers.1"]
    assert names(llama, "*") == ["model", "lm_head"]
    assert names(llama, "model.layers.1.mlp.*") == [f"model.layers.1.mlp.{n}" for n in ("gate_proj", "up_proj", "down_proj", "act_fn")]
    assert names(nn.ModuleDict({"a": nn.Linear(1, 1), "ab": nn.Linear(1, 1)}), "a*") == ["a", "ab"]


def test_a_star_alone_does_not_mean_the_model_itself():
    assert names(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "*") == ["0", "1"]
    assert names(Net(), "**") == ["embed", "norm", "mlp", "rms", "head"]
    assert find(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), "")[0].kind == "mlp"


def test_a_wrong_name_lists_the_nearest(models):
    with pytest.raises(UserError) as caught:
        find(models["llama"], "model.layers.0.mpl")
    assert "the site 'model.layers.0.mpl' matches no module. Nearest: model.layers.0.mlp" in str(caught.value)
    assert "mlp_hidden, heads, lora_rank, resid, experts" in str(caught.value)


def test_brackets_that_match_nothing_are_refused(models):
    with pytest.raises(UserError, match=r"the site 'model.layers.\[9-0\].mlp' matches no module. Nearest"):
        find(models["llama"], "model.layers.[9-0].mlp")


@given(st.text(alphabet="ab.*?[]!+(\\^$|0-9", max_size=8))
def test_any_pattern_is_matched_or_refused(pattern):
    model = nn.ModuleDict({"a": nn.ModuleDict({"b0": nn.Linear(1, 1)})})
    try:
        found, message = find(model, pattern), ""
    except UserError as error:
        found, message = [], str(error)
    assert all(site.name or not pattern for site in found)
    assert found or repr(pattern) in message


# ------------------------------------------------------------------------------ aliases


@EVERY
def test_aliases_find_what_the_names_find(models, name):
    model = models[name]
    assert names(model, "mlp_hidden") == names(model, MLPS.get(name, "model.layers.*.mlp"))
    assert names(model, "heads") == names(model, ATTENTIONS.get(name, "model.layers.*.self_attn"))
    assert len(names(model, "resid")) == len(names(model, "mlp_hidden")) == 2
    assert all(site.kind == "features" and site.at == "output" and site.units is None for site in find(model, "resid"))


@EVERY
@pytest.mark.parametrize("alias", ["lora_rank", "experts"])
def test_an_alias_that_nothing_answers_to_is_refused(models, name, alias):
    with pytest.raises(UserError, match=rf"the model has no site of the kind '{alias}'. Name a module instead, for example"):
        find(models[name], alias)


def test_a_module_of_that_very_name_comes_before_the_alias():
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "heads": nn.Linear(2, 3)})
    assert [(site.name, site.kind) for site in find(model, "heads")] == [("heads", "features")]


def test_experts_are_found_by_their_alias():
    model = nn.Sequential(Experts({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}, gate=nn.Linear(2, 2)), nn.Linear(2, 2))
    assert names(model, "experts") == ["0"]


# ------------------------------------------------------------------------------ what belongs to a unit


@EVERY
def test_mlp_units_have_their_rows_and_columns(models, name):
    model = models[name]
    parameters = dict(model.named_parameters())
    for site in find(model, "mlp_hidden"):
        units = 128 if name == "gpt2" else 64
        assert (site.kind, site.units, site.width, site.at) == ("mlp", units, 1, "input")
        assert {part.parameter for part in site.parts if not part.consumer} == {
            n for n in parameters if n.startswith(site.name) and n not in (f"{site.hook_module}.weight", f"{site.hook_module}.bias")
        }
        assert [part.parameter for part in site.parts if part.consumer] == [f"{site.hook_module}.weight"]
        for part in site.parts:
            assert parameters[part.parameter].shape[part.dim] == units
            assert part.belongs(4, 6).nonzero().flatten().tolist() == [4, 5]


@EVERY
@pytest.mark.parametrize("kind", ["mlp_hidden", "heads"])
@torch.no_grad()
def test_a_units_activation_depends_on_its_own_weights_and_is_read_by_its_own(models, name, kind):
    """By experiment: change what belongs to a unit, and see which activations, or which outputs, change."""
    model, x = models[name], torch.randint(3, 130, (2, 7), generator=torch.Generator().manual_seed(0))
    site = find(model, kind)[0]
    caught = {}
    reader = model.get_submodule(site.hook_module)
    handles = [reader.register_forward_hook(lambda m, args, out: caught.update(x=args[0].clone(), y=out.clone()))]

    def run():
        model(x)
        return caught["x"].unflatten(-1, (site.units, site.width)), caught["y"]

    before, output = run()
    parameters = dict(model.named_parameters())
    for part in site.parts:
        parameter, kept = parameters[part.parameter], parameters[part.parameter].clone()
        alone = part.belongs(1, 2)
        several = part.touches(1, 2)
        assert several.any()
        where = [slice(None)] * parameter.dim()
        where[part.dim] = several
        parameter[tuple(where)] += 1.0
        after, changed = run()
        parameter.copy_(kept)
        moved = (after != before).flatten(0, 1).any(-1).any(0).nonzero().flatten().tolist()
        if part.consumer:
            assert moved == []
            assert not torch.equal(changed, output)
            # What the reader adds now is unit 1's activation and no other's.
            difference = before[..., 1, :].sum(-1, keepdim=True)
            torch.testing.assert_close(changed - output, difference.expand_as(output), rtol=1e-4, atol=1e-4)
        elif name in GROUPED and kind == "heads" and part.span > 1:
            assert moved == [0, 1]  # the two query heads that share the key head
            assert not alone.any()
            assert part.belongs(0, 2).sum() == site.width
        elif ".k_proj.bias" in part.parameter:
            assert set(moved) <= {1}
        else:
            assert moved == [1]
    for handle in handles:
        handle.remove()


def test_a_tied_weight_goes_by_the_name_that_the_model_gives_it():
    site = find(Net(), "head")[0]
    assert [part.parameter for part in site.parts] == ["embed.weight"]
    assert [part.parameter for part in find(Net(tied=False), "head")[0].parts] == ["head.weight"]


def test_either_side_of_a_linear_layer():
    model = nn.Sequential(nn.Linear(4, 6))
    output, given_ = site_of(model, "0"), site_of(model, "0", at="input")
    assert [(p.parameter, p.dim, p.consumer) for p in output.parts] == [("0.weight", 0, False), ("0.bias", 0, False)]
    assert [(p.parameter, p.dim, p.consumer) for p in given_.parts] == [("0.weight", 1, True)]
    assert (output.units, given_.units, given_.at) == (6, 4, "input")


def test_either_side_of_a_convolution():
    model = nn.Sequential(nn.Conv2d(4, 6, 3))
    output, given_ = site_of(model, "0"), site_of(model, "0", at="input")
    assert [(p.parameter, p.dim) for p in output.parts] == [("0.weight", 0), ("0.bias", 0)]
    assert [(p.parameter, p.dim) for p in given_.parts] == [("0.weight", 1)]
    assert (output.dim, output.units, given_.units) == (1, 6, 4)
    assert site_of(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)), "0").parts == ()


def test_a_module_without_weights_of_its_own_has_features_only():
    site = find(Net(), "mlp.1")[0]
    assert (site.kind, site.units, site.parts) == ("features", None, ())


def test_at_chooses_the_side_of_a_whole_mlp():
    site = site_of(Net(), "mlp", at="output")
    assert (site.kind, site.hook_module, site.at, site.units) == ("features", "mlp", "output", None)


def test_an_attention_that_hides_the_size_of_its_heads_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj = self.k_proj = self.v_proj = self.o_proj = None
            for own in ("q_proj", "k_proj", "v_proj", "o_proj"):
                setattr(self, own, nn.Linear(4, 4))

    with pytest.raises(UserError, match=r"cannot tell the size of a head of Odd: it has neither head_dim nor head_size"):
        find(nn.Sequential(Odd()), "0")


# ------------------------------------------------------------------------------ blocks


SITE = Site("somewhere", "features", "somewhere", "output", 10)
UNKNOWN = Site("somewhere", "features", "somewhere", "output", None)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ({"a": 2}, {"a": (8, 10)}),
        ({"a": 2, "b": 3}, {"a": (5, 7), "b": (7, 10)}),
        ({"a": (0, 4), "b": (4, 10)}, {"a": (0, 4), "b": (4, 10)}),
        ({"a": range(2, 5), "b": slice(-2, None)}, {"a": (2, 5), "b": (8, 10)}),
        ({"a": slice(3), "b": [5, -1]}, {"a": (0, 3), "b": (5, 9)}),
        ({"a": 1, "b": (0, 1)}, {"a": (9, 10), "b": (0, 1)}),
        ({}, {}),
    ],
)
def test_places_of_blocks(blocks, expected):
    assert place(SITE, blocks) == expected


def test_places_count_from_the_end_where_the_width_is_unknown():
    assert place(UNKNOWN, {"a": 2, "b": 3}) == {"a": (-5, -3), "b": (-3, 0)}
    assert place(UNKNOWN, {"a": (0, 4), "b": slice(-2, None)}) == {"a": (0, 4), "b": (-2, 0)}


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"a": 0}, r"site 'somewhere': block 'a' has 0 units; give it at least 1"),
        ({"a": 11}, r"site 'somewhere': its blocks take 11 units \('a': 11\), but the site has 10. Take fewer"),
        ({"a": 6, "b": 5}, r"its blocks take 11 units \('a': 6 and 'b': 5\), but the site has 10"),
        ({"a": (8, 12)}, r"block 'a' is units 8 to 12, but the site has 10 units"),
        ({"a": (4, 4)}, r"block 'a' is units 4 to 4, but"),
        ({"a": (0, 5), "b": (4, 6)}, r"blocks 'a' \(0 to 5\) and 'b' \(4 to 6\) overlap. Set them apart"),
        ({"a": 2, "b": (0, 9)}, r"blocks 'a' \(8 to 10\) and 'b' \(0 to 9\) overlap"),
        ({"a": range(0, 6, 2)}, r"block 'a' skips units \(range\(0, 6, 2\)\); a block is one run of units"),
        ({"a": "64"}, r"block 'a' is '64'; give a number of units, or \(start, stop\)"),
        ({"a": 2.5}, r"block 'a' is 2.5; give a number of units"),
        ({"a": (0.0, 5.0)}, r"block 'a' is \(0.0, 5.0\); give a number of units"),
        ({"a": (1, 2, 3)}, r"block 'a' is \(1, 2, 3\); give a number of units"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(blocks, message):
    with pytest.raises(UserError, match=message):
        place(SITE, blocks)


def test_an_open_end_needs_a_known_width():
    with pytest.raises(UserError, match=r"block 'a' is units 2 to 0, but name it as a count, or as \(start, stop\)"):
        place(UNKNOWN, {"a": slice(2, None)})


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_runs_are_what_is_true(mask):
    mask = torch.tensor(mask)
    covered = torch.zeros_like(mask)
    for start, stop in runs(mask):
        assert start < stop
        assert not covered[start:stop].any()
        covered[start:stop] = True
        assert start == 0 or not mask[start - 1]
    assert torch.equal(covered, mask)


@given(st.integers(1, 4), st.integers(0, 7), st.integers(1, 8))
def test_what_belongs_touches_and_a_shared_index_belongs_only_with_all_its_units(span, start, size):
    stop = start + size
    part = Part("p", 0, torch.arange(0, 8, span).repeat_interleave(2), span)
    for i, first in enumerate(part.unit.tolist()):
        served = set(range(first, first + span))
        block = set(range(start, stop))
        assert bool(part.belongs(start, stop)[i]) == (served <= block)
        assert bool(part.touches(start, stop)[i]) == bool(served & block)
