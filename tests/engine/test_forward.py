"""The FLOPs of a forward pass, worked out by hand."""

from types import SimpleNamespace

import pytest
import torch
from transformers import RwkvConfig

from architectures import build
from sluicegate.engine.encoding import encode
from sluicegate.engine.forward import Meter, matrices
from sluicegate.engine.models import fresh
from sluicegate.engine.scoring import score
from sluicegate.errors import UserError
from sluicegate.values.items import Item

HEAD = 132 * 32
ATTENTION = 32 * 32 + 2 * 32 * 16 + 32 * 32
"""Queries, keys and values of half as many heads, output."""
LATENT = 32 * 12 + 12 * 4 * (8 + 4) + 32 * (16 + 4) + 16 * 4 * (8 + 6) + 4 * 6 * 32
"""DeepSeek-V3: queries down and up, keys and values down and up, output."""
WEIGHTS = {
    # Two layers; a router, and two of four experts, gate and up in one.
    "mixtral": HEAD + 2 * (ATTENTION + 4 * 32 + 2 * (32 * 128 + 64 * 32)),
    "gptoss": HEAD + 2 * (ATTENTION + 4 * 32 + 2 * (32 * 128 + 64 * 32)),
    "qwen3moe": HEAD + 2 * (ATTENTION + 4 * 32 + 2 * (32 * 32 + 16 * 32)),
    # A dense layer; one with a router, two of four experts and a shared one.
    "deepseek": HEAD + 2 * LATENT + 3 * 32 * 64 + 4 * 32 + 2 * (32 * 32 + 16 * 32) + 3 * 32 * 16,
    # In, selection, time step, out.
    "mamba": HEAD + 2 * (32 * 128 + 64 * (2 + 2 * 4) + 2 * 64 + 64 * 32),
}
PAIRS = {"deepseek": 2 * 4 * (12 + 6) * 2, "mamba": 0}
"""Two products for a pair of tokens, by four heads and two layers; else of size 8 each."""
STATE = {"mamba": 2 * 64 * 4}


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_flops_of_experts_in_use_and_of_a_state(name):
    meter = Meter(build(name))
    batch = SimpleNamespace(ids=torch.zeros(3, 5))
    a_token = 2 * WEIGHTS[name] + 6 * STATE.get(name, 0) + 5 * PAIRS.get(name, 2 * 4 * (8 + 8) * 2)
    assert meter(batch) == 3 * 5 * a_token


def test_every_matrix_of_a_mixture_counts_once():
    model = build("mixtral")
    counted = sum(weight.numel() for *_, weight in matrices(model))
    assert counted == sum(p.numel() for p in model.parameters() if p.dim() > 1) - model.get_input_embeddings().weight.numel()


def test_a_model_of_unknown_cost_is_refused_by_name():
    model = fresh(RwkvConfig(vocab_size=132, hidden_size=64, num_hidden_layers=2, attention_hidden_size=64), 0)
    with pytest.raises(UserError, match="the FLOPs of a model of type 'rwkv' are not known"):
        Meter(model)


def test_a_state_space_model_is_scored(tokenizer):
    found = score(build("mamba"), encode(tokenizer, [Item("3 * 4 =", " 12"), Item("1 + 1 =", " 2 = 2")])).mean()
    assert 0 < found["loss"] < 20
