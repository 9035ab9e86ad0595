"""Every number among the settings has a range, declared with its type, and is checked in one place."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, get_args

import pytest

from sluicegate.audit.attack import Attack
from sluicegate.errors import UserError
from sluicegate.runs.stage import Stage, from_config, stages
from sluicegate.unlearning.objectives import methods
from sluicegate.unlearning.objectives.npo import NPO
from sluicegate.values.ranges import Checked, Count, Positive, Range, check, range_of
from sluicegate.values.schedule import Schedule

WILD = (math.nan, math.inf, -math.inf, 2**70, -(2**70), 10**400)


def classes():
    """Every class of settings: the stages, what is nested in them, and the methods that these may have."""
    found = {*stages().values(), *methods().values()}
    nested = {type(f.default) for cls in found for f in dataclasses.fields(cls) if dataclasses.is_dataclass(f.default)}
    return sorted(found | nested, key=lambda cls: (cls.__module__, cls.__name__))


def numbers(cls):
    return [(field, range_of(field.type)) for field in dataclasses.fields(cls) if range_of(field.type)]


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_no_number_of_ours_is_declared_without_a_range_or_taken_outside_of_it(cls):
    for field, (kind, allowed) in numbers(cls):
        declared = get_args(field.type)[0] if isinstance(field.default, tuple) else field.type
        assert any(isinstance(note, Range) for note in get_args(declared)), field.name
        for value in WILD if kind is int else (*WILD[:3], WILD[-1]):
            with pytest.raises(UserError, match=f"^{field.name} is .*; it must be a{' whole' * (kind is int)} number, {allowed}.$"):
                cls(**{field.name: (value,) if isinstance(field.default, tuple) else value})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"verb": "latent", "leak": 2**70}, "leak is 1.1805916207174113e+21; it must be a number, at least 0 and at most 1."),
        ({"verb": "latent", "leak": 10**400}, "leak is 1000"),
        ({"verb": "latent", "hidden": [10**9]}, "hidden is (1000000000,); it must be a whole number, at least 1 and at most 65,536."),
        (
            {"verb": "train", "steps": 2**70},
            "steps is 1180591620717411303424; it must be a whole number, at least 1 and at most 100,000,000.",
        ),
        ({"verb": "train", "beta2": math.nan}, "beta2 is nan; it must be a number, at least 0 and less than 1."),
        ({"verb": "unlearn", "beta2": 1}, "beta2 is 1.0; it must be a number, at least 0 and less than 1."),
        ({"verb": "train", "final": math.nan}, "final is nan; it must be a number, at least 0."),
        ({"verb": "train", "final": -1}, "final is -1.0; it must be a number, at least 0."),
        ({"verb": "unlearn", "method": "npo", "beta": 0}, "beta is 0.0; it must be a number, more than 0."),
        ({"verb": "relearn", "lrs": [1e-3, math.inf]}, "lrs is (0.001, inf); it must be a number, more than 0."),
        ({"verb": "undo", "method": []}, "undo has no setting 'method'"),
        ({"verb": "unlearn", "method": []}, "unlearn has no method []. There are: "),
        ({"verb": {}}, "no verb {}"),
    ],
)
def test_a_wild_value_in_a_table_is_one_line_that_names_it_and_what_is_allowed(table, message):
    with pytest.raises(UserError) as caught:
        from_config(table)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_stop_rule_cannot_divide_by_is_refused_and_without_a_rule_it_is_no_matter():
    plan = {"verb": "undo", "retain": "task:arithmetic/retain", "check_every": 0}
    with pytest.raises(UserError, match=r"check_every is 0.*--stop-at 0"):
        from_config(plan).plan(from_config(plan).split())
    plan["stop_at"] = 0.0
    assert from_config(plan).plan(from_config(plan).split())[1] is None


@pytest.mark.parametrize(
    ("allowed", "words", "inside", "outside"),
    [
        (Range(0, 1), "at least 0 and at most 1", (0, 0.5, 1), (-1e-9, 1.1)),
        (Range(0, 1, above=True, below=True), "more than 0 and less than 1", (1e-300,), (0, 1)),
        (Range(0), "at least 0", (0, 1e308), (-1, 10**400)),
        (Range(), "finite", (-1e308, 0), (10**400,)),
    ],
)
def test_a_range_holds_and_says_its_ends(allowed, words, inside, outside):
    assert str(allowed) == words
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in (*outside, math.nan, math.inf, -math.inf))


@pytest.mark.parametrize("wrong", ["3", True, 3.0, None])
def test_what_is_no_whole_number_is_refused_from_python_too(wrong):
    with pytest.raises(UserError, match=r"steps is .*; it must be a whole number"):
        Schedule(steps=wrong)
    with pytest.raises(UserError, match=r"beta is '.1'; it must be a number, more than 0."):
        NPO(beta=".1")


def test_a_plug_ins_settings_are_checked_where_they_are_nested_though_they_know_nothing_of_ranges():
    @dataclass(frozen=True)
    class Theirs:
        NAME = "theirs"
        weight: float = 1.0
        seed: int = 0

    @dataclass(frozen=True)
    class Host(Stage):
        objective: Theirs = Theirs()

    assert Host(Theirs(weight=1e30, seed=-(2**40)))
    for wrong in (Theirs(weight=math.nan), Theirs(seed=2**70)):
        with pytest.raises(UserError, match="it must be"):
            Host(wrong)


def test_a_dataclass_that_is_checked_checks_itself():
    @dataclass(frozen=True)
    class Own(Checked):
        rate: Positive = 1.0
        counts: tuple[Count, ...] = (1,)
        other: Annotated[str, "a note"] = ""

    assert check(Own(2, (3, 4))) is None
    with pytest.raises(UserError, match=r"counts is \(3, 0\)"):
        Own(2, (3, 0))
    with pytest.raises(UserError, match=r"keep_retain is 1.5"):
        Attack(keep_retain=1.5)
