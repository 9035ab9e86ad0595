"""Attackers beside the plain one: with an adapter, with a retain score to keep, on rounded weights."""

import dataclasses
import math
import sys

import pytest
import torch

from architectures import CONFIGS, build
from sluicegate.audit import relearn as module
from sluicegate.audit.adapter import add_adapter
from sluicegate.audit.attack import Attack
from sluicegate.audit.relearn import relearn
from sluicegate.audit.stage import Relearn
from sluicegate.engine.encoding import encode
from sluicegate.engine.forward import logits
from sluicegate.engine.generation import compare, generate
from sluicegate.engine.scoring import score
from sluicegate.errors import UserError
from sluicegate.runs.stage import from_config
from sluicegate.values.edits import Rounded
from sluicegate.values.items import Item

ATTACK = Attack(lrs=(1e-3, 1e-2), steps=8, checkpoints=(0, 2, 4, 8), batch=8)


@pytest.fixture
def ends(monkeypatch):
    """What every attacked model was and became."""
    seen = []
    fit = module.fit

    def spy(model, *arguments, **settings):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        done = fit(model, *arguments, **settings)
        seen.append((before, {n: p.detach().clone() for n, p in model.named_parameters()}))
        return done

    monkeypatch.setattr(module, "fit", spy)
    return seen


# -------------------------------------------------------------------------------------------- adapter


@pytest.mark.parametrize("name", CONFIGS)
def test_an_adapter_is_on_every_linear_layer_and_says_nothing_yet(name, tokenizer, mixed_items):
    model = build(name).eval()
    batch = encode(tokenizer, mixed_items).batch(range(5))
    before = logits(model, batch).detach()
    add_adapter(model, 2, 0)
    torch.testing.assert_close(logits(model, batch).detach(), before, atol=1e-6, rtol=1e-6)
    adapted = {n.split(".lora_A")[0] for n, _ in model.named_parameters() if "lora_A" in n}
    linear = {
        n.removesuffix(".base_layer") for n, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D") and "lora_" not in n
    }
    head = {n for n, m in model.named_modules() if m is model.get_output_embeddings()}
    assert adapted == linear - head
    assert len(adapted) >= 8


def test_an_attacker_with_an_adapter_moves_nothing_else(victim, tokenizer, split, ends):
    found = relearn(victim, tokenizer, split.forget, split.retain, dataclasses.replace(ATTACK, lora_rank=4, lrs=(3e-2, 6e-2)))
    assert len(ends) == 2
    for before, after in ends:
        moved = {n for n, p in after.items() if not torch.equal(p, before[n])}
        assert moved
        assert all("lora_" in n for n in moved)
    assert all(torch.equal(ends[0][0][n], ends[1][0][n]) for n in ends[0][0]), "every rate starts from the same adapter"
    assert found.owned.recall[0][-1] > found.owned.recall[0][0]
    assert not any("lora" in n for n, _ in victim.named_parameters()), "the model that was handed in has no adapter"


def test_the_adapters_rates_are_higher():
    assert Attack(lora_rank=8).rates(64) == (3e-3, 6e-3, 1.2e-2, 3e-2, 6e-2)
    assert Attack(lora_rank=8, lrs=(0.5,)).rates(64) == (0.5,)


def test_without_peft_an_adapter_is_refused(victim, tokenizer, split, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"needs the package peft.*sluicegate\[lora\]"):
        relearn(victim, tokenizer, split.forget, split.retain, dataclasses.replace(ATTACK, lora_rank=4))


# ------------------------------------------------------------------------------------- a score to keep

FOUND = {
    "low": {"owned": (0.1, 0.2, 0.3), "held_out": (0.1, 0.1, 0.1), "retain": (1.0, 0.95, 0.9)},
    "high": {"owned": (0.1, 0.9, 1.0), "held_out": (0.1, 0.6, 0.2), "retain": (1.0, 0.85, 0.2)},
}


@pytest.mark.parametrize(
    ("share", "recall"), [(0.0, [0.1, 0.9, 1.0]), (0.2, [0.1, 0.9, 1.0]), (0.8, [0.1, 0.9, 0.9]), (0.9, [0.1, 0.2, 0.3]), (1.0, [0.1] * 3)]
)
def test_what_costs_the_retain_score_is_no_success(share, recall):
    handed_in = [module._handed_in(FOUND, "owned", now, share) for now in range(3)]
    assert [FOUND[rate]["owned"][i] for rate, i in handed_in] == recall
    assert all(i <= now for now, (_, i) in enumerate(handed_in)), "nobody hands in what is not made yet"


def test_a_careful_attacker_keeps_its_share_and_recalls_no_more_than_a_careless_one(victim, tokenizer, split):
    mixed = dataclasses.replace(ATTACK, kind="mixed", lrs=(1e-2, 3e-1))
    careless = relearn(victim, tokenizer, split.forget, split.retain, mixed)
    careful = relearn(victim, tokenizer, split.forget, split.retain, dataclasses.replace(mixed, keep_retain=0.9))
    assert careful.by_rate == careless.by_rate, "they train alike, and differ in what they hand in"
    assert min(careful.retain) >= 0.9 * careful.retain[0] > min(careless.by_rate["0.3"]["retain"])
    assert careful.owned.recall[0] == tuple(sorted(careful.owned.recall[0]))
    for i, now in enumerate(careful.owned.recall[0]):
        assert now <= max(careless.owned.recall[0][: i + 1])


def test_a_score_to_keep_needs_rows_to_score(victim, tokenizer, split):
    with pytest.raises(UserError, match=r"must keep the retain score.*--retain"):
        relearn(victim, tokenizer, split.forget, (), dataclasses.replace(ATTACK, keep_retain=0.9))


# --------------------------------------------------------------------------------------------- rounding


def test_the_attack_starts_from_the_rounded_weights(victim, tokenizer, split, ends, bits):
    before = bits.weights(victim)
    found = relearn(victim, tokenizer, split.forget, split.retain, dataclasses.replace(ATTACK, round_bits=2))
    assert bits.same(bits.weights(victim), before)
    with Rounded(2)(victim):
        assert all(bits.same(start, bits.weights(victim)) for start, _ in ends)
        mine, _ = module.halves(split.forget, 0)
        alone = score(victim, encode(tokenizer, mine)).mean()["exact"]
    assert found.owned.recall[0][0] == pytest.approx(alone)
    assert alone != pytest.approx(score(victim, encode(tokenizer, mine)).mean()["exact"])


# ------------------------------------------------------------------------------------------------- loss


def test_recall_by_loss_is_what_the_tokens_are_given(victim, tokenizer, split):
    text = tuple(Item("", f"the old fox sees the red plums {w}") for w in ("today", "again", "there", "now"))
    found = relearn(victim, tokenizer, text, (), Attack(lrs=(1e-2,), steps=10, batch=4, measure="loss"))
    mine, theirs = module.halves(text, 0)
    for curve, rows in ((found.owned, mine), (found.held_out, theirs)):
        loss = score(victim, encode(tokenizer, rows)).mean()["loss"]
        assert curve.recall[0][0] == pytest.approx(math.exp(-loss))
    assert found.owned.recall[0][-1] > 1.5 * found.owned.recall[0][0]
    assert found.to_json()["measure"] == "loss"
    by_token = relearn(victim, tokenizer, text, (), Attack(lrs=(1e-2,), steps=1, batch=4))
    assert by_token.measure == "argmax"
    assert by_token.owned.attack != found.owned.attack


# -------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("measure", ["match", "rouge"])
def test_recall_may_be_of_what_the_model_writes(victim, tokenizer, split, measure):
    attack = dataclasses.replace(ATTACK, lrs=(1e-2,), measure=measure)
    found = relearn(victim, tokenizer, split.forget, split.retain, attack)
    mine, theirs = module.halves(split.forget, 0)
    for curve, rows in ((found.owned, mine), (found.held_out, theirs)):
        texts = generate(victim, tokenizer, rows)
        assert curve.recall[0][0] == pytest.approx(compare(texts, rows)[measure])
    plain = relearn(victim, tokenizer, split.forget, split.retain, dataclasses.replace(attack, measure="auto"))
    if measure == "match":  # one token an answer: what is exact is written first
        assert found.owned.recall[0] == pytest.approx(plain.owned.recall[0])
        assert found.by_rate["0.01"]["retain"] == pytest.approx(plain.by_rate["0.01"]["retain"])
    assert found.owned.attack != plain.owned.attack
    assert found.ledger.evaluation > plain.ledger.evaluation
    assert found.to_json()["measure"] == measure
    with pytest.raises(UserError, match=f"--measure {measure} asks questions"):
        attack.metric([*split.forget, Item("", "the old fox")])


def test_any_accepted_answer_is_recall(victim, tokenizer, split):
    """With the right answer second, recall is what it is with that answer alone."""
    short = Attack(kind="retain", lrs=(1e-3,), steps=1, batch=4)
    swapped = [dataclasses.replace(item, answer=" 0", also=(item.answer,)) for item in split.forget]
    once, twice = (relearn(victim, tokenizer, rows, split.retain, short) for rows in (split.forget, swapped))
    assert once.owned.recall[0][0] > 0
    assert twice.owned.recall == once.owned.recall


def test_what_recall_is_why_and_what_it_does_not_show_is_said():
    short, text = [Item("a", " b")], [Item("", "the old fox")]
    sentence = [Item("a", f" {'word ' * 9}")]
    for rows, attack, said in (
        (short, Attack(), "Recall, since the answers are short, is the share of answers whose every token"),
        (text, Attack(), "Recall, since the rows are running text, is the share of tokens"),
        (sentence, Attack(), "Recall, since the answers are sentences, is exp"),
        (sentence, Attack(measure="loss"), "Recall, since the answers are sentences, is exp"),  # as it is written down
        (short, Attack(measure="loss"), "Recall, as --measure says, is exp"),
        (sentence, Attack(measure="rouge"), "Recall, as --measure says, is the share of the answers' words"),
    ):
        assert attack.measured(rows).startswith(said)
        assert "does not show" in attack.measured(rows)


# --------------------------------------------------------------------------------------------- identity


def test_no_attacker_is_taken_for_another(victim, tokenizer, split):
    short = Attack(lrs=(1e-2,), steps=1, batch=4)
    kinds = [{}, {"lora_rank": 2}, {"lora_rank": 4}, {"keep_retain": 0.9}, {"keep_retain": 0.5}, {"round_bits": 4}, {"round_bits": 8}]
    found = [relearn(victim, tokenizer, split.forget, split.retain, dataclasses.replace(short, **kind)) for kind in kinds]
    assert len({one.owned.attack for one in found}) == len(kinds)
    with pytest.raises(UserError, match="different attacks"):
        found[0].owned.savings(found[1].owned)


def test_the_plain_attack_is_what_it_was_before_there_were_others():
    """Curves that were measured before compare with those measured now, and finished runs are not run again."""
    assert set(Attack().identity(64)) == {"kind", "lrs", "steps", "checkpoints", "batch", "on", "probe"}
    assert Attack().identity(64)["lrs"] == [3e-4, 1e-3, 3e-3, 6e-3, 1.2e-2]
    assert not {"lora_rank", "keep_retain", "round_bits", "measure"} & set(Relearn().config())
    strong = Relearn(attack=Attack(kind="mixed", lora_rank=8, keep_retain=0.9, round_bits=4))
    assert from_config(strong.config()) == strong
    assert strong.method == "mixed-lora8-keep0.9-int4"
    assert Relearn().method == "forget"


@pytest.mark.parametrize(
    "wrong", [{"lora_rank": -1}, {"keep_retain": 1.5}, {"keep_retain": float("nan")}, {"round_bits": 1}, {"round_bits": 32}]
)
def test_a_wrong_attacker_is_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Attack(**wrong)
