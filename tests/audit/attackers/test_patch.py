"""Unlearning depth: hidden states of the original in the model, and the other way round."""

import pytest
import torch

from architectures import build
from sluicegate.audit.attacked import attack
from sluicegate.audit.attackers.patch import Patch
from sluicegate.engine.models import fresh
from sluicegate.engine.train import train
from sluicegate.values.schedule import Schedule


@pytest.fixture(scope="module")
def original(tokenizer, split):
    config = build("llama").config
    config.num_hidden_layers = 3
    model = fresh(config, 0)
    train(model, tokenizer, split.forget, Schedule(steps=60, lr=1e-2, batch=16))
    return model


def hidden_behind(original, layer):
    """The original with one layer's output turned round: all it knows is still there, in the layers before."""
    model = fresh(original.config, 0)
    model.load_state_dict(original.state_dict())
    with torch.no_grad():
        for p in (model.model.layers[layer].mlp.down_proj.weight, model.model.layers[layer].self_attn.o_proj.weight):
            p.mul_(-4)
    return model


@pytest.mark.parametrize("layer", [0, 1])
def test_the_depth_at_which_answers_come_back_is_where_they_were_hidden(layer, original, tokenizer, split):
    found = attack(Patch(), hidden_behind(original, layer), tokenizer, split.forget, original=lambda: original)
    recall = dict(zip(found.held_out.effort, found.held_out.recall[0], strict=True))
    assert list(recall) == [0, 1, 2]
    assert recall[0] < 0.5
    assert [n for n in (1, 2) if recall[n] == 1] == [n for n in (1, 2) if n > layer], "with the layer that hides it the original's"


@pytest.mark.parametrize(("layer", "recalled"), [(1, [False, False, True]), (2, [False, True, True])])
def test_the_models_own_states_are_read_by_the_originals_last_layers(layer, recalled, original, tokenizer, split):
    found = attack(Patch(into="original"), hidden_behind(original, layer), tokenizer, split.forget, original=lambda: original)
    assert [recall == 1 for recall in found.held_out.recall[0]] == recalled


def test_a_stranger_understands_nothing(original, tokenizer, split):
    reference = fresh(original.config, 7)
    found = attack(Patch(), reference, tokenizer, split.forget, original=lambda: original)
    assert max(found.held_out.recall[0]) < 0.5
    assert found.flops["teacher"] > 0


def test_the_original_is_left_alone(original, tokenizer, split, bits):
    before = bits.weights(original)
    attack(Patch(into="original"), fresh(original.config, 7), tokenizer, split.forget[:8], original=lambda: original)
    assert bits.same(bits.weights(original), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in original.modules())
