"""Vectors as edits: what they add and where, with the cache and with padding, what they leave alone, and what is
refused."""

import pytest
import torch

from architectures import CONFIGS, build
from sluicegate.errors import UserError
from sluicegate.steering.vector import SteeringSet, SteeringVector, module_of

LAYER = {"gpt2": "transformer.h.0", "neox": "gpt_neox.layers.0"}
IDS = torch.tensor([[2, 9, 11, 30, 7, 5]])


def layer(name):
    return LAYER.get(name, "model.layers.0")


def vector(module="model.layers.0", tokens="not_first", scale=1.0, width=32):
    return SteeringVector(scale * torch.randn(width, generator=torch.Generator().manual_seed(0)), module, tokens)


def outputs(model, module, ids=IDS, **kwargs):
    """The module's output for ids."""
    kept = []
    handle = module_of(model, module).register_forward_hook(lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        model(input_ids=ids, **kwargs)
    handle.remove()
    return kept[0]


@pytest.fixture(scope="module")
def llama():
    return build("llama").eval()


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_vector_is_added_to_the_output_and_taken_away_again_bitwise(name):
    model = build(name).eval()
    v = vector(layer(name))
    plain = model(input_ids=IDS).logits
    before = outputs(model, layer(name))
    with (0.5 * v)(model):
        inside = outputs(model, layer(name))
        steered = model(input_ids=IDS).logits
    assert torch.equal(inside[:, 0], before[:, 0])
    assert torch.allclose(inside[:, 1:] - before[:, 1:], 0.5 * v.values.expand_as(before[:, 1:]), atol=1e-5)
    assert not torch.allclose(steered, plain)
    assert torch.equal(model(input_ids=IDS).logits, plain)


@pytest.mark.parametrize(
    ("tokens", "places"),
    [
        ("all", range(6)),
        ("not_first", range(1, 6)),
        ("last", [5]),
        ("prompt", range(6)),
        ("generated", []),
        ("2:4", [2, 3]),
        ("4:", [4, 5]),
    ],
)
def test_only_the_selected_tokens_are_steered(llama, tokens, places):
    before = outputs(llama, "model.layers.0")
    with vector(tokens=tokens)(llama):
        inside = outputs(llama, "model.layers.0")
    assert [i for i in range(6) if not torch.equal(inside[0, i], before[0, i])] == list(places)


@pytest.mark.parametrize("tokens", ["all", "not_first", "last", "prompt", "generated", "2:7", "7:"])
def test_a_cache_changes_nothing(llama, tokens):
    """Greedy answers with the cache are those of one pass over everything, in which the selector is spelt out as
    positions."""
    n = IDS.shape[1]
    spelt = {"last": f"{n - 1}:{n}", "prompt": f"0:{n}", "generated": f"{n}:"}.get(tokens, tokens)
    v = vector(tokens=tokens, scale=3.0)
    with v(llama):
        made = llama.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=6, do_sample=False, pad_token_id=0)
    with SteeringVector(v.values, v.module, spelt)(llama):
        again = llama(input_ids=made[:, :-1], use_cache=False).logits[:, n - 1 :].argmax(-1)
    assert torch.equal(made[:, n:], again)


def test_padding_on_the_left_is_not_counted_and_not_steered(llama):
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), IDS], 1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    before = outputs(llama, "model.layers.0", padded, attention_mask=mask)
    with vector()(llama):
        inside = outputs(llama, "model.layers.0", padded, attention_mask=mask)
    assert [i for i in range(9) if not torch.equal(inside[0, i], before[0, i])] == [4, 5, 6, 7, 8]


def test_every_row_gets_its_own_vector(llama):
    twins = SteeringSet(torch.randn(5, 32, generator=torch.Generator().manual_seed(1)), "model.layers.0")
    with torch.no_grad(), twins.rows([3, 1])(llama):
        both = llama(input_ids=IDS.expand(2, -1)).logits
    for row, index in enumerate((3, 1)):
        with torch.no_grad(), twins[index](llama):
            assert torch.allclose(both[row], llama(input_ids=IDS).logits[0], atol=1e-5)


def test_sums_and_doses(llama):
    a, b = vector(), vector("model.layers.1", scale=0.3)
    with torch.no_grad():
        with (2 * (a + b))(llama):
            both = llama(input_ids=IDS).logits
        with (a * 2)(llama), (b * 2)(llama):
            assert torch.equal(llama(input_ids=IDS).logits, both)
    assert (0.5 * (a * 3)).made_from["dose"] == 1.5


def test_an_exception_restores_and_other_hooks_survive(llama):
    calls = []
    handle = llama.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    plain = llama(input_ids=IDS).logits
    with pytest.raises(RuntimeError, match="mine"), vector()(llama):
        raise RuntimeError("mine")
    assert torch.equal(llama(input_ids=IDS).logits, plain)
    assert len(calls) == 2
    assert list(llama.model.layers[0]._forward_hooks) == [handle.id]
    assert not llama._forward_pre_hooks
    handle.remove()


def test_baking_is_the_same_as_the_block_where_there_is_a_bias():
    model = build("gpt2").eval()
    v = vector("transformer.h.0", "all")
    with torch.no_grad():
        with v(model):
            wanted = model(input_ids=IDS).logits
        v.bake(model)
        assert torch.allclose(model(input_ids=IDS).logits, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (vector("model.layer.0"), "no module 'model.layer.0'.*Nearest: .*model.layers.0"),
        (vector(width=16), "16 numbers.*32"),
        (SteeringSet(torch.ones(3, 32), "model.layers.0").rows([0, 1, 2]), "3 vectors for a batch of 1"),
    ],
)
def test_what_does_not_fit_is_refused(llama, edit, words):
    with pytest.raises(UserError, match=words), edit(llama):
        llama(input_ids=IDS)
    assert not llama.model.layers[0]._forward_hooks


def test_nan_unknown_selectors_and_baking_where_it_cannot_be_done_are_refused(llama):
    with pytest.raises(UserError, match="1 numbers that are NaN"):
        SteeringVector(torch.tensor([1.0, float("nan")]), "m")
    with pytest.raises(UserError, match=r"tokens is 'most'.*not_first"):
        vector(tokens="most")
    with pytest.raises(UserError, match="spares some tokens"):
        vector().bake(llama)
    with pytest.raises(UserError, match="no layer with a bias"):
        vector(tokens="all").bake(llama)
    with pytest.raises(UserError, match="cannot be baked"):
        SteeringSet(torch.ones(1, 32), "m").rows([0]).bake(llama)


def test_cosines_of_a_set():
    rows = torch.eye(4)[:3]
    assert SteeringSet(rows, "m").max_cos() == 0
    assert SteeringSet(rows, "m").max_cos(SteeringVector(-torch.ones(4), "m")) == pytest.approx(0.5)
    assert SteeringSet(torch.tensor([[1.0, 0], [-2.0, 0]]), "m").max_cos() == pytest.approx(1)
