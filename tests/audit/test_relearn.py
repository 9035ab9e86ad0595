import math

import pytest

from sluicegate.audit import relearn as module
from sluicegate.audit.attack import Attack
from sluicegate.audit.relearn import Relearned, relearn
from sluicegate.engine.training import Ledger
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.values.curves import Curve
from sluicegate.values.items import Item, halves

ATTACK = Attack(lrs=(1e-3, 1e-2), steps=8, checkpoints=(0, 2, 4, 8), batch=8)


@pytest.fixture
def spied(monkeypatch):
    """The items that the attacker trains on, as they are drawn."""
    seen = []
    mixture = module.Mixture

    def spy(rows, *arguments):
        made = mixture(rows, *arguments)

        def draw(step):
            batch = made(step)
            seen.extend(rows.items[i] for i in batch.index.tolist())
            return batch

        return draw

    monkeypatch.setattr(module, "Mixture", spy)
    return seen


def test_the_attacker_trains_on_its_half_and_never_on_the_other(victim, tokenizer, split, spied):
    found = relearn(victim, tokenizer, split.forget, split.retain, ATTACK, seed=4)
    mine, theirs = halves(split.forget, 4)
    assert set(spied) <= set(mine)
    assert len({item.key for item in spied}) == len({item.key for item in mine})
    assert not {item.key for item in spied} & {item.key for item in theirs}
    # Only the half that it trains on comes back.
    assert found.owned.recall[0][-1] > found.owned.recall[0][0]
    assert found.owned.recall[0][-1] > found.held_out.recall[0][-1]


def test_the_two_halves_are_measured_apart(victim, tokenizer, split, monkeypatch):
    measured = []
    score = module.score_any
    monkeypatch.setattr(module, "score_any", lambda m, rows, *more: (measured.append(set(rows.items)), score(m, rows, *more))[1])
    relearn(victim, tokenizer, split.forget, split.retain, Attack(lrs=(1e-3,), steps=1, checkpoints=(), batch=4), seed=1)
    mine, theirs = halves(split.forget, 1)
    assert measured[:3] == [set(mine), set(theirs), set(split.retain)]


def test_the_worst_case_is_the_largest_over_the_rates_at_every_checkpoint(victim, tokenizer, split):
    found = relearn(victim, tokenizer, split.forget, split.retain, ATTACK)
    assert found.owned.effort == (0, 2, 4, 8)
    for name, curve in (("owned", found.owned), ("held_out", found.held_out)):
        by_rate = [found.by_rate[rate][name] for rate in ("0.001", "0.01")]
        assert curve.recall[0] == tuple(map(max, *by_rate))
        for i, best in enumerate(found.best_rate[name]):
            assert found.by_rate[f"{best:g}"][name][i] == curve.recall[0][i]
    assert by_rate[0] != by_rate[1] or found.by_rate["0.001"]["owned"] != found.by_rate["0.01"]["owned"]
    for i, best in enumerate(found.best_rate["owned"]):
        assert found.retain[i] == found.by_rate[f"{best:g}"]["retain"][i]


def test_every_rate_starts_from_the_model_as_it_was(victim, tokenizer, split):
    both = relearn(victim, tokenizer, split.forget, split.retain, ATTACK)
    for rate in (1e-3, 1e-2):
        alone = relearn(victim, tokenizer, split.forget, split.retain, Attack(lrs=(rate,), steps=8, checkpoints=(0, 2, 4, 8), batch=8))
        assert alone.by_rate[f"{rate:g}"] == both.by_rate[f"{rate:g}"]


def test_the_model_is_left_bitwise_as_it_was(victim, tokenizer, split, bits):
    victim.train()
    before = bits.weights(victim)
    relearn(victim, tokenizer, split.forget, split.retain, ATTACK)
    assert bits.same(bits.weights(victim), before)
    assert victim.training
    assert all(p.requires_grad for p in victim.parameters())


def test_the_same_seed_gives_the_same_attack_and_another_another(victim, tokenizer, split):
    first, again, other = (relearn(victim, tokenizer, split.forget, split.retain, ATTACK, seed=s) for s in (0, 0, 1))
    assert first.to_json() == again.to_json()
    assert first.by_rate != other.by_rate
    assert first.owned.attack == other.owned.attack, "seeds of one attack can be joined"


def test_an_attack_is_told_from_another_by_its_settings_and_its_facts(victim, tokenizer, split):
    digests = {
        relearn(victim, tokenizer, forget, split.retain, attack).owned.attack
        for forget, attack in (
            (split.forget, Attack(lrs=(1e-3,), steps=1)),
            (split.forget, Attack(lrs=(2e-3,), steps=1)),
            (split.forget, Attack(lrs=(1e-3,), steps=2)),
            (split.forget, Attack(lrs=(1e-3,), steps=1, batch=8)),
            (split.forget[:-1], Attack(lrs=(1e-3,), steps=1)),
        )
    }
    assert len(digests) == 5


def test_an_attack_on_retain_rows_only(victim, tokenizer, split, spied):
    relearn(victim, tokenizer, split.forget, split.retain, Attack(kind="retain", lrs=(1e-3,), steps=3, batch=8))
    assert set(spied) <= set(split.retain)
    assert spied


def test_a_mixed_attack_is_half_and_half(victim, tokenizer, split, spied):
    relearn(victim, tokenizer, split.forget, split.retain, Attack(kind="mixed", lrs=(1e-3,), steps=3, batch=8), seed=2)
    mine, _ = halves(split.forget, 2)
    for start in range(0, 24, 8):
        batch = spied[start : start + 8]
        assert sum(item in mine for item in batch) == 4
        assert sum(item in split.retain for item in batch) == 4


@pytest.mark.parametrize("kind", ["retain", "mixed"])
def test_an_attack_without_its_rows_is_refused(victim, tokenizer, split, kind):
    with pytest.raises(UserError, match=f"kind '{kind}'.*--retain"):
        relearn(victim, tokenizer, split.forget, (), Attack(kind=kind))


def test_a_forget_set_too_small_to_split_is_refused(victim, tokenizer, split):
    with pytest.raises(UserError, match="at least 4"):
        relearn(victim, tokenizer, split.forget[:3], split.retain, ATTACK)


def test_without_retain_rows_nothing_is_said_about_them(victim, tokenizer, split):
    found = relearn(victim, tokenizer, split.forget, (), Attack(lrs=(1e-3,), steps=1))
    assert found.retain == ()
    assert set(found.by_rate["0.001"]) == {"owned", "held_out"}


def test_running_text_is_measured_by_its_tokens(victim, tokenizer, split):
    text = tuple(Item("", f"the old fox sees the red plums {w}") for w in ("today", "again", "there", "now"))
    found = relearn(victim, tokenizer, text, (), Attack(lrs=(1e-2,), steps=10, batch=4))
    assert 0 < found.owned.recall[0][-1] <= 1
    assert any(r not in (0, 0.5, 1) for r in found.owned.recall[0]), "a share of tokens, not of rows"


def test_a_probe_measures_the_same_rows_of_every_model(victim, tiny, tokenizer, split, monkeypatch):
    measured = []
    score = module.score_any
    monkeypatch.setattr(module, "score_any", lambda m, rows, *more: (measured.append(rows.items), score(m, rows, *more))[1])
    for model in (victim, tiny):
        relearn(model, tokenizer, split.forget, split.retain, Attack(lrs=(1e-3,), steps=1, probe=5))
    half = len(measured) // 2
    assert measured[:half] == measured[half:]
    assert {len(items) for items in measured} == {5}


def test_the_rates_left_open_follow_the_width():
    assert Attack().rates(64) == (3e-4, 1e-3, 3e-3, 6e-3, 1.2e-2)
    assert Attack().rates(128) == (1.5e-4, 5e-4, 1.5e-3, 3e-3, 6e-3)
    assert Attack(lrs=(0.5,)).rates(128) == (0.5,)


def test_the_first_and_the_last_step_are_always_measured():
    assert Attack(steps=12, checkpoints=(5, 30, 3)).checkpoints_within() == (0, 3, 5, 12)


@pytest.mark.parametrize(
    "wrong", [{"lrs": (0.0,)}, {"lrs": (1e-3, 1e-3)}, {"lrs": (math.nan,)}, {"steps": 0}, {"kind": "both"}, {"batch": 0}, {"probe": -1}]
)
def test_a_wrong_attack_is_named(wrong):
    with pytest.raises(UserError):
        Attack(**wrong)


def found(owned, best, held_out=(0.0, 0.1, 0.1), rates=("0.001", "0.01", "0.1")):
    def curve(row):
        return Curve((0.0, 1.0, 2.0), (row,), (0,), "attack steps", "a")

    by_rate = {rate: {} for rate in rates}
    return Relearned(curve(owned), curve(held_out), (), by_rate, {"owned": best, "held_out": (0.01,) * 3}, {}, Ledger())


def test_a_best_rate_at_the_edge_of_the_grid_is_warned_about():
    assert found((0.0, 0.5, 0.5), (0.001, 0.01, 0.01)).warnings() == []
    for edge, word in ((0.1, "highest"), (0.001, "lowest")):
        (text,) = found((0.0, 0.5, 0.5), (0.01, edge, 0.01)).warnings()
        assert f"owned facts: the best learning rate {edge:g} is the {word} of the grid" in text
    assert found((0.0, 0.5, 0.5), (0.1, 0.1, 0.01), rates=("0.1",)).warnings() == [], "one rate has no edge"
    already = found((0.5, 0.5, 0.5), (0.1, 0.01, 0.01)).warnings()
    assert not any("grid" in text for text in already), "what is known before the attack has no best rate"


def test_a_recall_that_still_rises_is_warned_about():
    assert found((0.0, 0.5, 0.6), (0.01,) * 3).warnings() == ["owned facts: recall was still rising at the last of 2 steps."]
    assert found((0.0, 0.5, 1.0), (0.01,) * 3).warnings() == []
    (text,) = found((0.0, 0.5, 0.5), (0.01,) * 3, held_out=(0.0, 0.1, 0.2)).warnings()
    assert text.startswith("held-out facts: recall was still rising")


def test_the_warnings_of_a_real_attack_are_in_its_record(tiny, tokenizer, split):
    record = relearn(tiny, tokenizer, split.forget, split.retain, Attack(lrs=(1e-5, 1e-2), steps=15, batch=8)).to_json()
    assert any("is the highest of the grid" in text for text in record["warnings"])


def test_a_rate_that_breaks_the_model_does_not_end_the_attack(victim, tokenizer, split):
    """A grid is there to be wide: what diverges recovers nothing, and the other rates still count."""
    wild = relearn(victim, tokenizer, split.forget, split.retain, Attack(lrs=(1e-2, 1e30), steps=6, checkpoints=(2, 4, 6), batch=8))
    tame = relearn(victim, tokenizer, split.forget, split.retain, Attack(lrs=(1e-2,), steps=6, checkpoints=(2, 4, 6), batch=8))
    assert wild.owned.recall == tame.owned.recall
    assert wild.by_rate["1e+30"]["owned"] == (tame.by_rate["0.01"]["owned"][0], 0, 0, 0)
    assert "the learning rate 1e+30 broke the model at step 2." in wild.to_json()["warnings"]
    assert wild.ledger.student > tame.ledger.student


def test_the_ledger_holds_every_rate(victim, tokenizer, split):
    one = relearn(victim, tokenizer, split.forget, split.retain, Attack(lrs=(1e-3,), steps=4, batch=8))
    two = relearn(victim, tokenizer, split.forget, split.retain, Attack(lrs=(1e-3, 2e-3), steps=4, batch=8))
    assert two.ledger.student == 2 * one.ledger.student > 0
    assert two.ledger.evaluation == 2 * one.ledger.evaluation > 0


def test_savings_compare_with_a_reference_under_the_same_attack(victim, tiny, tokenizer, split):
    attack = Attack(lrs=(1e-2,), steps=30, batch=16)
    edited, reference = (relearn(model, tokenizer, split.forget, split.retain, attack) for model in (victim, tiny))
    assert reference.savings(reference).mean == 0
    assert edited.owned.recall[0][0] > 0.5 > reference.owned.recall[0][0]
    assert edited.savings(reference).mean == 1, "what is still there needs no effort at all"
    with pytest.raises(UserError, match="equal effort"):
        edited.savings(relearn(tiny, tokenizer, split.forget, split.retain, Attack(lrs=(2e-2,), steps=30, batch=16)))


def test_progress_tells_the_rate(victim, tokenizer, split):
    told = set()
    run = RunContext("attack", lambda part, *_: told.add(part))
    relearn(victim, tokenizer, split.forget, split.retain, ATTACK, run=run)
    assert told == {"attack lr 0.001", "attack lr 0.01"}
