"""Models that leave an attacker nothing to do, and rows that change what stands in front."""

import dataclasses

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from architectures import build, learner
from sluicegate.audit import target as module
from sluicegate.audit.attacked import attack
from sluicegate.audit.attackers import CannotAttack, attackers
from sluicegate.audit.attackers.soft import behind
from sluicegate.engine.encoding import encode
from sluicegate.engine.models import fresh


def refused(name, model, tokenizer, split, **more):
    with pytest.raises(CannotAttack) as caught:
        attack(attackers()[name](), model, tokenizer, split.forget[:8], split.retain[:4], **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_without_gains_and_biases(tokenizer, split):
    model = build("llama")
    for norm in [m for m in model.modules() if "RMSNorm" in type(m).__name__]:
        weight = norm.weight.detach()
        del norm.weight
        norm.register_buffer("weight", weight)
    assert "no gains and no biases" in refused("gains", model, tokenizer, split)


@pytest.mark.parametrize("name", ["soft", "prefix"])
def test_no_position_left_in_front(name, tokenizer, split):
    longest = max(encode(tokenizer, split.forget[:8]).lengths.tolist())
    model = fresh(GPT2Config(vocab_size=132, n_embd=16, n_layer=1, n_head=2, n_positions=longest, bos_token_id=2, eos_token_id=None), 0)
    assert "nothing fits in front" in refused(name, model, tokenizer, split)


def test_shots_that_do_not_fit(tokenizer, split):
    longest = max(encode(tokenizer, split.forget[:8]).lengths.tolist())
    config = LlamaConfig(
        vocab_size=132, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=longest
    )
    assert "no shot fits" in refused("shots", fresh(config, 0), tokenizer, split)


@pytest.mark.parametrize("name", ["lens", "patch"])
def test_one_layer(name, tokenizer, split):
    assert "one layer" in refused(name, learner(), tokenizer, split, original=learner)


def test_what_an_attacker_needs(tokenizer, split):
    assert "needs --original" in refused("patch", build("llama"), tokenizer, split)
    with pytest.raises(CannotAttack, match="needs --retain"):
        attack(attackers()["mixed"](), build("llama"), tokenizer, split.forget[:8])


def test_an_original_of_another_shape(tokenizer, split):
    assert "another number or width" in refused("patch", build("llama"), tokenizer, split, original=learner)


def test_pruning_leaves_out_weights_that_no_layer_is_called_for(tokenizer, split):
    model = build("mamba")  # which reads one projection's weight itself
    found = attack(attackers()["prune"](shares=(0.3,)), model, tokenizer, split.forget[:8], split.retain[:4])
    assert found.evidence[0] != found.evidence[1]


@pytest.mark.parametrize("name", ["soft", "prefix"])
def test_what_stands_in_front_stands_before_retain_rows_and_other_answers_too(name, tokenizer, split, monkeypatch):
    """With a wrong answer first and the right one beside it, recall is that of the right one: both are asked alike."""
    seen, read = [], module.Target.read
    monkeypatch.setattr(module.Target, "read", lambda self, *a, **k: seen.append(self) or read(self, *a, **k))
    quick = {"tokens": (2,), "steps": 2} | ({"lrs": (1e-2,), "checkpoints": (0, 2)} if name == "soft" else {"enumerate_to": 0, "top": 4})
    attacker, victim = attackers()[name](**quick), build("llama")
    attack(attacker, victim, tokenizer, split.forget[:8], split.retain[:4], seed=1)
    plain, last = seen[0], seen[-1]
    for group in ("owned", "held_out", "retain"):
        before, after = getattr(plain, group), getattr(last, group)
        assert after.ids.shape[1] == before.ids.shape[1] + 2
        torch.testing.assert_close(after.ids[:, 3:], before.ids[:, 1:])
    others = last.encoded(plain.held_out.items)
    torch.testing.assert_close(others.ids, last.held_out.ids)
    torch.testing.assert_close(others.starts, last.held_out.starts)


def test_retain_rows_without_room_in_front_are_left_out(tokenizer, split):
    config = build("llama").config
    config.max_position_embeddings = 12
    long = dataclasses.replace(split.retain[0], prompt="bo shares 12 shells among 4 each =")
    with module.target_of(fresh(config, 0), tokenizer, split.forget[:8], [split.retain[1], long]) as target:
        ids = torch.tensor([5, 6, 7])
        longest = int(encode(tokenizer, [long]).lengths.max())
        assert longest <= 12 < longest + 3
        assert len(target.retain) == 2
        assert behind(target, ids).retain.items == (split.retain[1],)
