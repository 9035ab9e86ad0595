"""The zoo: what its specimens are, and what is reported of them."""

import numpy as np
import pytest

from sluicegate_papers.zoo import relations
from sluicegate_papers.zoo.power import CALIBRATED, Zoo, is_calibration, summarise, weigh
from sluicegate_papers.zoo.specimens import METHODS, REFERENCES, RESIDUES, TASKS, place, plan, taught

FACTS = [f"fact {n:02d}" for n in range(40)]


def record(seed, method="none", residue=0.0, task="arithmetic", by=3.0):
    rng = np.random.default_rng([seed, METHODS.index(method), round(100 * residue), TASKS.index(task)])
    known = FACTS[: round(residue * len(FACTS))]
    attacks = {}
    own = rng.normal(-3, 1, len(FACTS)) + by * np.isin(FACTS, known)
    for number, held in ((0, FACTS[:20]), (1, FACTS[20:])):
        at = dict(zip(FACTS, own, strict=True))
        owned = [fact for fact in FACTS if fact not in held]
        one = {"effort": [0.0, 3.0], "owned": [0.0, 0.5], "held_out": [0.0, 0.2], "retain": [1.0, 1.0], "settings": ["", ""], "flops": 1.0}
        one |= {"evidence": [[at[f] for f in held]] * 2, "owned evidence": [[at[f] for f in owned]] * 2}
        attacks |= {f"full {number}": one, f"facts {number}": held, f"owned facts {number}": owned}
    return {"task": task, "residue": residue, "method": method, "seed": seed, "attacks": attacks, "taught": known}


@pytest.fixture(scope="module")
def zoo():
    references = [record(seed, task=task) for seed in REFERENCES for task in TASKS]
    grid = [(seed, method, residue, task) for seed in (0, 1, 2) for method in METHODS for residue in (0.0, 0.1, 0.25) for task in TASKS]
    return Zoo([*references, *(record(*one) for one in grid)])


def test_calibration_uses_no_held_out_specimen(zoo):
    null = zoo.calibrate()
    assert null["nulls"] == len(CALIBRATED["seed"]) * len(CALIBRATED["task"]) * len(CALIBRATED["method"])
    held = [i for i, one in enumerate(zoo.specimens) if not is_calibration(one)]
    kept = {i: zoo.cells[i] for i in held}
    try:
        for i in held:
            zoo.cells[i] = {}
        assert zoo.calibrate() == null
    finally:
        for i, own in kept.items():
            zoo.cells[i] = own


def test_facts_that_were_taught_are_found_and_nulls_are_not(zoo):
    rows = zoo.judge(zoo.calibrate())
    held = summarise([row for row in rows if not row["calibration"]])
    assert held["auc"]["0.25"] > 0.9
    alarms, of = held["false_alarms"]
    assert alarms <= 0.1 * of
    assert held["models"] == sum(not row["calibration"] for row in rows)
    assert held["attackers"]["full"] > 0.8


def test_what_says_nothing_is_told_as_nothing():
    references = [record(seed) for seed in REFERENCES]
    grid = [(seed, method, residue) for seed in range(8) for method in ("none", "maxent", "npo") for residue in (0.0, 0.1)]
    zoo = Zoo([*references, *(record(*one, by=0.0) for one in grid)])
    found = summarise(zoo.judge(zoo.calibrate()))
    assert 0.3 < found["auc"]["0.1"] < 0.7


def test_models_that_were_distilled_are_no_positives(zoo):
    rows = zoo.judge(zoo.calibrate())
    found = summarise(rows)
    hidden = [row for row in rows if row["residue"] == 0.1 and row["method"] not in ("distill", "undo")]
    assert found["power"]["0.1"][1] == len(hidden)
    assert found["found after distilling or noise"]["0.1"][1] == sum(row["residue"] == 0.1 for row in rows) - len(hidden)


def test_the_taught_part_is_drawn_from_the_seed_and_has_the_right_size():
    split = relations.split()
    facts = {item.key for item in split.forget}
    for residue in RESIDUES:
        assert len(taught(split.forget, residue, 3)) == round(residue * len(facts))
    assert taught(split.forget, 0.25, 1) != taught(split.forget, 0.25, 2)
    assert taught(split.forget, 0.25, 1) == taught(split.forget, 0.25, 1)


@pytest.mark.parametrize("name", TASKS)
def test_sides_share_no_fact_and_every_word_is_known(name):
    there = place(name)
    assert not {item.key for item in there.split.forget} & {item.key for item in there.split.retain}
    _, tokenizer = there.draw(0)
    rows = [*there.split.forget, *there.split.retain, *there.text]
    assert not any(tokenizer.unk_token_id in tokenizer(item.text)["input_ids"] for item in rows)


def test_the_plan_begins_with_references_and_holds_enough():
    bases = plan(4)
    assert [seed for _, _, seed, _ in bases[: 3 * len(REFERENCES)]] == [seed for seed in REFERENCES for _ in TASKS]
    rest = bases[3 * len(REFERENCES) :]
    assert len(set(rest)) == len(rest)
    specimens = [(residue, method) for _, residue, _, methods in rest for method in methods]
    assert len(specimens) >= 240
    assert sum(not residue for residue, _ in specimens) >= 100


def test_two_hops_lead_where_the_relations_do():
    world = relations.world()
    for item in (*relations.split().forget, *relations.split().retain):
        name, *path = item.key.split()
        for relation in path:
            name = world[name, relation]
        assert item.answer.strip() == name


def test_weights_go_to_what_tells_taught_from_untaught_and_none_is_negative():
    rng = np.random.default_rng(0)
    taught = rng.random(300) < 0.2
    table = np.stack([rng.normal(size=300) + 2 * taught, rng.normal(size=300), rng.normal(size=300) - 2 * taught], 1)
    weights = weigh([(table, taught)])
    assert weights[0] > 5 * weights[1]
    assert weights[2] == 0
