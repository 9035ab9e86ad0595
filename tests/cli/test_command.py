"""How words become options: nothing that was said is dropped."""

from dataclasses import dataclass

import pytest

from sluicegate.cli.command import assignment, gathered, parse
from sluicegate.execution.runner import Common
from sluicegate.execution.where import Where
from sluicegate.runs.stage import setting


@dataclass
class Some:
    """Some options."""

    set: tuple[str, ...] = ()
    """Settings."""
    max_steps: tuple[int, ...] = ()
    """Numbers."""
    out: str = ""
    """A place."""
    where: Where = Where()
    quick: bool = False
    """Less."""


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("--set a=1 --set b=2", ("a=1", "b=2")),
        ("--set a=1 --out x --set b=2 c=3 --quick --set=d=4", ("a=1", "b=2", "c=3", "d=4")),
        ("--set a=1 b=2", ("a=1", "b=2")),
        ("--out x", ()),
    ],
)
def test_an_option_of_many_values_may_be_given_again(words, wanted):
    found = parse(Some, "some", words.split())
    assert found.set == wanted
    assert found.out == ("x" if "--out" in words else "")
    assert found.quick == ("--quick" in words)


def test_names_with_underscores_are_the_same_option():
    assert parse(Some, "some", ["--max_steps", "1", "--max-steps", "-2", "3"]).max_steps == (1, -2, 3)


def test_options_of_a_part_count_as_well():
    found = parse(Some, "some", ["--resources", "train=1", "--set", "a=1", "--resources", "attack=2"])
    assert found.where.resources == ("train=1", "attack=2")
    assert found.set == ("a=1",)


def test_other_options_and_what_follows_two_dashes_are_left_alone():
    assert gathered(["name", "--out", "a", "--out", "b"], {"--set"}) == ["name", "--out", "a", "--out", "b"]
    assert gathered(["--set", "a", "--", "--set", "b"], {"--set"}) == ["--set", "a", "--", "--set", "b"]


@pytest.mark.parametrize(
    ("text", "value"), [(".95", 0.95), ("-5.", -5.0), ("1e-3", 0.001), ("v1.2", "v1.2"), ("1.5.2", "1.5.2"), ("[]", [])]
)
def test_values_are_toml_or_plain_words_or_short_numbers(text, value):
    assert assignment(f"attack.lrs={text}") == ("attack.lrs", value)


def test_an_option_is_taken_by_its_earlier_name(capsys):
    @dataclass
    class Renamed:
        """Renamed options."""

        max_units: int = setting(3, was="most_units")
        """A number."""

    for words in ("--most-units 4", "--most_units=4", "--max-units 4"):
        assert parse(Renamed, "some", words.split()).max_units == 4
        assert ("note: --most-units is now --max-units" in capsys.readouterr().err) == ("most" in words)


def test_a_long_word_that_is_refused_is_quoted_in_few_lines(capsys):
    lines = []
    for word in ("a", "a" * 5000):
        with pytest.raises(SystemExit):
            parse(Common, "score", ["--seeds", word])
        lines.append(len(capsys.readouterr().err.splitlines()))
    assert lines[0] < lines[1] < lines[0] + 20  # all of it would be a hundred more
    assert parse(Common, "score", ["--out", "a" * 5000]).out == "a" * 5000
