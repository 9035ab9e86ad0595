"""Adapters reach every matrix of a model, also where no layer is called for it."""

import copy

import pytest
import torch

from architectures import build
from sluicegate.audit.adapter import add_adapter
from sluicegate.audit.attack import Attack
from sluicegate.audit.relearn import relearn
from sluicegate.engine.forward import matrices

RANK = 2


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "qwen3moe", "deepseek", "gptoss", "mamba"])
def test_every_matrix_but_the_output_layer_gets_an_adapter(name):
    model = build(name).eval()
    ids = torch.arange(12)[None] % 132
    reached = [w for *_, w in matrices(model) if w is not model.get_output_embeddings().weight]
    adapted = copy.deepcopy(model)
    add_adapter(adapted, RANK, seed=0)
    trained = {key: p for key, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in key for key in trained)
    # A [e, a, b] stack has e adapters of RANK, each of RANK (a + b) numbers.
    assert sum(p.numel() for p in trained.values()) == sum(RANK * w.shape[:-2].numel() * sum(w.shape[-2:]) for w in reached)
    with torch.no_grad():
        torch.testing.assert_close(adapted(input_ids=ids, use_cache=False).logits, model(input_ids=ids, use_cache=False).logits)
    adapted(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert [key for key, p in trained.items() if "lora_B" in key and (p.grad is None or not p.grad.any())] == []


@pytest.mark.parametrize("name", ["mixtral", "mamba"])
@pytest.mark.parametrize("rank", [0, RANK])
def test_a_mixture_and_a_state_space_model_are_attacked(name, rank, split, tokenizer):
    attack = Attack(lrs=(1e-2,), steps=3, checkpoints=(0, 3), batch=4, probe=4, lora_rank=rank)
    found = relearn(build(name), tokenizer, split.forget, attack=attack)
    assert found.diverged == {}
    assert found.ledger.total > 0
