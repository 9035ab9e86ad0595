"""The same fact asked otherwise."""

import dataclasses
import json

import pytest

from architectures import learner
from sluicegate.audit.attacked import attack
from sluicegate.audit.attacker_stage import Attackers
from sluicegate.audit.attackers import CannotAttack
from sluicegate.audit.attackers.rephrase import TEMPLATES, Rephrase
from sluicegate.engine.train import train
from sluicegate.errors import UserError
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule


@pytest.fixture
def file(tmp_path):
    def write(name, *lines):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return str(tmp_path / name)

    return write


@pytest.fixture(scope="module")
def doubled(tokenizer, split):
    """A model that answers where a question is asked twice, and says 0 where it is asked once."""
    twice = [dataclasses.replace(item, prompt=f"{item.prompt} {item.prompt}") for item in split.forget]
    once = [dataclasses.replace(item, answer=" 0") for item in split.forget]
    model = learner()
    train(model, tokenizer, [*twice, *once], Schedule(steps=120, lr=1e-2, batch=32))
    return model


def test_any_way_that_is_right_is_recall(doubled, tokenizer, split, file):
    ways = file("ways.txt", "bo shares {prompt}", "{prompt} {prompt}", "ann fills {prompt}")
    found = attack(Rephrase(templates=ways), doubled, tokenizer, split.forget, split.retain)
    assert found.held_out.effort == (0, 1, 2, 3)
    recall = found.held_out.recall[0]
    assert recall[1] < 0.3
    assert recall[2] > 0.8
    assert recall[3] >= recall[2], "what one way gave is not lost by another"
    for before, after in zip(found.evidence, found.evidence[1:], strict=False):
        assert all(a <= b for a, b in zip(before, after, strict=True))
    assert len(set(found.retain)) == 1


def test_rows_that_share_a_fact_are_ways_to_ask(doubled, tokenizer, split, file):
    named = [dataclasses.replace(item, fact=f"fact {n}") for n, item in enumerate(split.forget)]
    rows = [{"prompt": f"{i.prompt} {i.prompt}", "answer": i.answer, "fact": i.fact} for i in named[::2]]
    rows += [{"prompt": "1 + 1 =", "answer": " 2", "fact": "of no forget row"}]
    also, ways = file("also.jsonl", *map(json.dumps, rows)), file("ways.txt", "ann fills {prompt}")
    found = attack(Rephrase(templates=ways, also=also), doubled, tokenizer, named, seed=2)
    gained = {f for f, a, b in zip(found.facts, found.evidence[1], found.evidence[2], strict=True) if b > a + 0.1}
    assert gained
    assert gained <= {row["fact"] for row in rows}, "those of which there are rows, and no others"
    other = file("other.jsonl", json.dumps(rows[-1]))
    with pytest.raises(UserError, match=r"no row of --also .* asks for a fact of the forget set"):
        attack(Rephrase(also=other), doubled, tokenizer, named)


def test_ways_that_the_tokenizer_cannot_say_are_left_out_and_named(doubled, tokenizer, split, file):
    found = attack(Rephrase(), doubled, tokenizer, split.forget)
    assert found.held_out.effort == (0, 1)
    assert len(found.notes) == len(TEMPLATES) - 1
    assert all("cannot represent" in note for note in found.notes)
    with pytest.raises(CannotAttack, match="no way to ask is left of 1"):
        attack(Rephrase(templates=file("ways.txt", "Zauberei: {prompt}")), doubled, tokenizer, split.forget)
    with pytest.raises(CannotAttack, match="running text asks nothing"):
        attack(
            Rephrase(), doubled, tokenizer, [Item("", f"the old fox sees the red plums {w}") for w in ("today", "again", "there", "now")]
        )


def test_a_wrong_file_of_templates_is_named(file):
    with pytest.raises(UserError, match=r"'and another' has no \{prompt\}"):
        Rephrase(templates=file("ways.txt", "say {prompt}", "and another")).ways()
    with pytest.raises(UserError, match=r"has no \{prompt\}"):
        Rephrase(templates=file("empty.txt", "")).ways()


def test_a_run_is_known_by_what_the_files_hold_and_not_by_their_names(file):
    first, same, other = file("a.txt", "say {prompt}"), file("b.txt", "say {prompt}", ""), file("c.txt", "{prompt} now")
    told = [Attackers(attacker=Rephrase(templates=name)).contents() for name in (first, same, other)]
    assert told[0] == told[1] != told[2]
    assert Attackers(attacker=Rephrase()).contents() == {}
