"""An attacker that searches by successive halving."""

import pytest

from sluicegate.audit.attacked import attack
from sluicegate.audit.attackers import search as module
from sluicegate.audit.attackers.search import Search


@pytest.mark.parametrize(("trials", "rounds"), [(50, [27, 13, 6, 3, 1]), (7, [4, 2, 1]), (3, [2, 1]), (2, [2]), (1, [1])])
def test_rounds_halve_and_add_up(trials, rounds):
    assert sum(rounds) == trials
    assert Search(trials=trials).rounds() == rounds


@pytest.fixture
def tried(monkeypatch):
    """Every trial, with what is made of its reading: (way, steps)."""
    seen, real = [], Search._tried

    def spy(self, target, way, steps, name):
        reading = real(self, target, way, steps, name)
        seen.append((way, steps, reading))
        return reading

    monkeypatch.setattr(module.Search, "_tried", spy)
    return seen


def test_the_better_half_is_trained_longer_and_the_best_so_far_is_handed_in(victim, tokenizer, split, tried):
    found = attack(Search(trials=7, steps=8, batch=16), victim, tokenizer, split.forget, split.retain, seed=1)
    assert [steps for _, steps, _ in tried] == [2] * 4 + [4] * 2 + [8]
    first, second, third = tried[:4], tried[4:6], tried[6:]
    kept = lambda r: r["retain"] >= 0.9 * found.retain[0]  # noqa: E731
    rank = lambda one: (kept(one[2]), sum(one[2]["facts"]))  # noqa: E731
    assert [way for way, *_ in second] == [way for way, *_ in sorted(first, key=rank, reverse=True)[:2]]
    assert third[0][0] == max(second, key=rank)[0]
    best = sum(found.evidence[0])
    for evidence, (_, _, reading) in zip(found.evidence[1:], tried, strict=True):
        best = max([best, sum(reading["facts"])] if kept(reading) else [best])
        assert sum(evidence) == pytest.approx(best)
    assert min(found.retain) >= 0.9 * found.retain[0]


@pytest.mark.parametrize(("keep_retain", "handed_in"), [(0.9, [0, 2, 2]), (0.0, [1, 1, 1])])
def test_what_costs_the_retain_score_is_not_handed_in(keep_retain, handed_in, victim, tokenizer, split, monkeypatch):
    """The first trial finds most and ruins the model; the second finds less and spares it."""
    plain = attack(Search(trials=1, steps=1), victim, tokenizer, split.forget, split.retain)
    evidence = [plain.evidence[0], *([-level] * len(plain.facts) for level in (0.1, 0.2, 0.3))]

    def tried(self, target, way, steps, name):
        number = int(name.split()[1])
        retain = plain.retain[0] * (0.5 if number == 1 else 0.95)
        return {"owned": 0.0, "held_out": 0.0, "retain": retain, "facts": evidence[number], "owned facts": [0.0]}

    monkeypatch.setattr(module.Search, "_tried", tried)
    found = attack(Search(trials=3, keep_retain=keep_retain), victim, tokenizer, split.forget, split.retain)
    assert [list(own) for own in found.evidence[1:]] == [list(evidence[number]) for number in handed_in]


def test_without_retain_rows_none_are_mixed_in(victim, tokenizer, split, tried):
    attack(Search(trials=4, steps=2), victim, tokenizer, split.forget, seed=1)
    assert {way.mix for way, *_ in tried} == {0.0}
    assert len({way.lr for way, *_ in tried}) > 1
