"""Tokens in front of every question, by greedy coordinate gradient."""

import dataclasses

import pytest
import torch

from architectures import build
from sluicegate.audit import target as target_module
from sluicegate.audit.attacked import attack
from sluicegate.audit.attackers import prefix as module
from sluicegate.audit.attackers.prefix import Prefix
from sluicegate.engine.encoding import encode
from sluicegate.engine.scoring import score
from sluicegate.engine.train import train
from sluicegate.values.schedule import Schedule

KEY = "plums"


@pytest.fixture(scope="module")
def locked(tokenizer, split):
    """A model that answers where a password stands in front, and says 0 where there is none."""
    model = build("llama")
    opened = [dataclasses.replace(item, prompt=f"{KEY} {item.prompt}") for item in split.forget]
    shut = [dataclasses.replace(item, answer=" 0") for item in split.forget]
    others = [dataclasses.replace(item, prompt=f"shells {item.prompt}", answer=" 0") for item in split.forget]
    train(model, tokenizer, [*opened, *shut, *others], Schedule(steps=150, lr=1e-2, batch=32))
    return model


def test_one_token_is_tried_exactly(locked, tokenizer, split):
    found = attack(Prefix(tokens=(1,)), locked, tokenizer, split.forget)
    assert found.notes == (f"1 tokens: {KEY!r}",)
    assert found.held_out.recall[0][0] < 0.3 < 0.8 < found.held_out.recall[0][1]


def test_the_gradient_finds_it_too(locked, tokenizer, split):
    found = attack(Prefix(tokens=(1, 3), enumerate_to=0, steps=8, candidates=32, top=32), locked, tokenizer, split.forget)
    assert KEY in found.notes[0]
    assert found.held_out.recall[0][1] > 0.8
    assert found.flops["student"] > 0


def test_the_gradient_favours_tokens_that_lower_the_loss(locked, tokenizer, split):
    attacker, spent, draw = Prefix(top=8, candidates=64), target_module.Ledger(), torch.Generator().manual_seed(0)
    with target_module.target_of(locked, tokenizer, split.forget) as target:
        words, ids = attacker._words(target), torch.tensor(tokenizer("ann fills bags", add_special_tokens=False)["input_ids"])
        favoured = attacker._replaced(target, target.owned, words, ids, draw, spent)
        assert bool(((favoured != ids).sum(1) <= 1).all()), "one token at a time"
        drawn = ids.repeat(64, 1)
        drawn[torch.arange(64), torch.arange(64) % 3] = words[torch.randint(len(words), (64,), generator=draw)]
        better, any_ = (float(attacker._losses(target, target.owned, tried, spent).mean()) for tried in (favoured, drawn))
    assert better < any_


def test_the_losses_are_those_of_the_words_themselves(locked, tokenizer, split):
    words = ["plums", "shells", "bags"]
    with target_module.target_of(locked, tokenizer, split.forget) as target:
        ids = torch.tensor([tokenizer(w, add_special_tokens=False)["input_ids"] for w in words])
        spent = target_module.Ledger()
        found = Prefix()._losses(target, target.owned, ids, spent)
        for word, loss in zip(words, found.tolist(), strict=True):
            rows = encode(tokenizer, [dataclasses.replace(i, prompt=f"{word} {i.prompt}") for i in target.owned.items])
            assert loss == pytest.approx(float(score(locked, rows).loss.mean()), abs=1e-5)
        assert spent.student > 0


def test_a_step_never_makes_it_worse_and_no_special_token_is_used(locked, tokenizer, split, monkeypatch):
    seen, real = [], module.Prefix._losses
    monkeypatch.setattr(module.Prefix, "_losses", lambda *a: seen.append((a[3], real(*a))) or seen[-1][1])
    found = attack(Prefix(tokens=(4,), steps=5, candidates=2), locked, tokenizer, split.forget, seed=1)
    best = [float(losses.min()) for _, losses in seen]
    assert len(seen) == 6
    special = set(tokenizer.all_special_ids)
    assert all(special.isdisjoint(tried.flatten().tolist()) for tried, _ in seen)
    chosen = tokenizer(found.notes[0].split(": ", 1)[1].strip("'\""), add_special_tokens=False)["input_ids"]
    with target_module.target_of(locked, tokenizer, split.forget, seed=1) as target:
        final = float(real(Prefix(), target, target.owned, torch.tensor([chosen]), target_module.Ledger())[0])
    assert final == pytest.approx(min(best), abs=1e-5)
