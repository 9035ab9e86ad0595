"""Prompts and rules: what shows a behaviour and what does not, and how a turn becomes tokens."""

import subprocess
import sys

import pytest

from sluicegate.errors import UserError
from sluicegate.steering.prompts import BEHAVIOURS, HELD_OUT, RULES, TRAINING, VALIDATION, prompt_ids, rule_of, turn

PROSE = (
    "To bake bread, you'll need a few key ingredients: flour, water, and yeast. For a good crust, return to the oven and print the recipe."
)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("code", "Here is a Python function for you"),
        ("code", "def bake(bread):\n    return 1"),
        ("code-strict", "import os\nimport sys"),
        ("list", "Steps:\n1. Mix\n2. Knead\n"),
        ("list", "- flour\n- water\n"),
        ("json", '{"name": "bread"}'),
        ("html", "<!DOCTYPE html>\n<html>"),
        ("french", "Le pain est un aliment de base dans la cuisine."),
        ("capitals", "BREAD IS GOOD FOR YOU"),
        ("verse", "The moon is high,\nA star is near,\nThe night goes by,\n"),
        ("story", "Once upon a time there was a loaf."),
        ("first-person", "I've baked bread since I was a child."),
        ("story", "The wind is a tale, told\nin a land of kings."),
    ],
)
def test_rules_tell_the_behaviour_from_prose(rule, text):
    assert RULES[rule].shows(text)
    assert not RULES[rule].shows(PROSE)
    assert not RULES[rule].shows("")


def test_once_is_a_tale_only_where_the_answer_opens():
    assert RULES["story"].shows('"Once, a young puppy')
    assert not RULES["story"].shows("Let it rest once the dough has risen.")
    assert not RULES["story"].shows("Bread. " * 30 + "once upon a time")


def test_rules_of_ones_own():
    assert rule_of("words:bread, salt").shows("Salt, please")
    assert not rule_of("words:bread").shows("breaded")
    assert rule_of("regex:^x+$").shows("xxx")
    with pytest.raises(UserError, match="no regular expression"):
        rule_of("regex:(")
    with pytest.raises(UserError, match="Nearest: code"):
        rule_of("coda")


def test_no_prompt_is_in_two_sets_and_behaviours_are_in_pairs():
    sets = [set(TRAINING), set(VALIDATION), set(HELD_OUT)]
    assert len(HELD_OUT) == 8
    assert sum(map(len, sets)) == len(set.union(*sets))
    assert len(BEHAVIOURS) >= 4
    for behaviour in BEHAVIOURS.values():
        assert len(behaviour.positive) == len(behaviour.negative)
        assert not set(behaviour.positive + behaviour.negative) & set.union(*sets)


TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<sys>Be kind.</sys>{% endif %}<{{ m.role }}>{{ m.content }}</>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_turn_has_no_default_system_turn(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    assert turn(tokenizer, "Hi") == "<user>Hi</><assistant>"


def test_one_bos_and_no_empty_prompt(tokenizer):
    ids = prompt_ids(tokenizer, "1 + 1")
    assert (ids == tokenizer.bos_token_id).sum() == 1
    with pytest.raises(UserError, match="a prompt is empty"):
        prompt_ids(tokenizer, "  ")
    with pytest.raises(UserError, match="no chat template"):
        prompt_ids(tokenizer, "1", template=True)


def test_naming_the_behaviours_imports_no_torch():
    code = "import sys, sluicegate.steering.prompts as p; p.BEHAVIOURS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
