"""Evidence fact by fact: what stands out in a model is found, and what models that never knew differ by is not."""

import math

import numpy as np
import pytest

from sluicegate.audit import suite
from sluicegate.audit.attacked import Attacked
from sluicegate.audit.suite import cells, join, judge_suite, nulls, statistics_of
from sluicegate.values.curves import Curve

FACTS = [f"fact {n:02d}" for n in range(60)]
NAMES = ("benign", "full", "mixed", "direction")


def attacked(name, seed, values):
    """What an attacker found: `values` is the evidence of each fact, at two efforts."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(FACTS))
    held, owned = (sorted(order[part]) for part in (slice(0, 30), slice(30, 60)))
    curve = Curve((0.0, 3.0), ((0.1, 0.2),), (seed,), "steps", name)
    sides = {
        "facts": tuple(FACTS[i] for i in held),
        "evidence": tuple(tuple(values[i] for i in held) for _ in range(2)),
        "owned_facts": tuple(FACTS[i] for i in owned),
        "owned_evidence": tuple(tuple(values[i] for i in owned) for _ in range(2)),
    }
    fields = dict.fromkeys(Attacked.__dataclass_fields__, ())
    return Attacked(**{**fields, "attacker": name, "owned": curve, "held_out": curve, "capacity": 3, "flops": {"student": 5.0}, **sides})


def model(seed, known=(), by=0.0, noise=1.0):
    """A model whose evidence is noise, with more for the facts that are known."""
    rng = np.random.default_rng(seed)
    own = rng.normal(-3, noise, len(FACTS)) + by * np.isin(range(len(FACTS)), known)
    return {name: [attacked(name, s, own + rng.normal(0, 0.3, len(FACTS))) for s in (0, 1)] for name in NAMES}


REFERENCES = [model(100 + n) for n in range(5)]


@pytest.fixture(autouse=True)
def null(monkeypatch, request):
    """What models that never knew give here, and not in the zoo."""
    if "of_models" in request.node.name:
        return
    found = {}
    for mode, references in (("one", REFERENCES[:1]), ("several", REFERENCES)):
        weights = {f"{name} {side}": 1.0 for name in NAMES for side in ("held_out", "owned")}
        told = [statistics_of(cells(model(200 + n), references), weights, mode == "several")[2] for n in range(20)]
        moments = {name: [np.mean([t[name] for t in told]), np.std([t[name] for t in told])] for name in ("tail", "shift")}
        found[mode] = {"weights": weights, **moments, "threshold": 3.5, "fact": 0.5, "nulls": 20, "power": {"0.1": 0.5}}
        found[mode]["attackers"] = dict.fromkeys(NAMES, moments)
    monkeypatch.setattr(suite, "nulls", lambda: found)


@pytest.mark.parametrize("references", [REFERENCES, REFERENCES[:1]])
def test_facts_that_stand_out_are_found_and_named(references):
    found = judge_suite(model(1, known=range(6), by=9.0), references, len(FACTS))
    assert found.found
    assert found.z > found.threshold
    assert set(sorted(found.facts, key=found.facts.get)[-6:]) == set(FACTS[:6])


def test_a_model_that_knows_all_facts_is_found_though_none_stands_out():
    found = judge_suite(model(1, known=range(60), by=9.0), REFERENCES, len(FACTS))
    assert found.found


@pytest.mark.parametrize("references", [REFERENCES, REFERENCES[:1]])
def test_what_never_knew_is_not_found(references):
    assert not any(judge_suite(model(seed), references, len(FACTS)).found for seed in range(1, 9))


def test_more_evidence_for_any_fact_never_makes_a_model_look_cleaner():
    levels = [judge_suite(model(3, known=range(6), by=by), REFERENCES, len(FACTS)).z for by in (0, 2, 4, 6, 8)]
    assert levels == sorted(levels)


def test_without_a_reference_nothing_is_concluded():
    found = judge_suite(model(1, known=range(60), by=9.0), [], len(FACTS))
    assert math.isnan(found.z)
    assert not found.found
    assert "Without a model that never knew" in found.sentences[0]


def test_seeds_that_the_reference_was_not_attacked_on_count_for_nothing():
    own, other = model(1), [{name: runs[:1] for name, runs in REFERENCES[0].items()}]
    assert cells(own, other) == cells({name: runs[:1] for name, runs in own.items()}, other)


def test_evidence_is_centred_on_the_models_own_median():
    table = np.random.default_rng(0).normal(size=(40, 2))
    each, shift = join(["a", "b"], table, {"a": 1.0, "b": 1.0}, True)
    moved, more = join(["a", "b"], table + 5, {"a": 1.0, "b": 1.0}, True)
    assert np.allclose(each, moved)
    assert more - shift == pytest.approx(5)


def test_too_few_facts_are_told_instead_of_power():
    few = judge_suite(model(1), REFERENCES, suite.FEW - 1)
    assert few.power == {}
    assert "too few" in few.sentences[1]
    assert judge_suite(model(1), REFERENCES, suite.FEW).power


def test_the_findings_name_every_attacker_that_attacked_both():
    found = judge_suite(model(1), REFERENCES, len(FACTS))
    assert {finding.attacker for finding in found.findings} == set(NAMES)
    assert [f.z for f in found.findings] == sorted((f.z for f in found.findings), reverse=True)
    assert {(f.effort, f.unit, f.capacity, f.flops) for f in found.findings} == {(3.0, "steps", 3, 5.0)}


def test_the_null_is_of_models_and_says_of_how_many():
    assert set(nulls()) == {"one", "several"}
    assert all(null["nulls"] >= 10 and null["threshold"] > 1 for null in nulls().values())
