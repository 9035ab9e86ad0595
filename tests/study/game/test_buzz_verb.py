"""sluicegate buzz, as a user meets it."""

import json

import pytest

from sluicegate_study.app import main


def test_the_table_and_the_numbers(tmp_path, capsys):
    words = [
        "buzz",
        "--rules",
        "acf",
        "--opponent",
        "weak",
        "--tossups",
        "3",
        "--simulate",
        "2000",
        "--plot",
        str(tmp_path / "p" / "x.svg"),
    ]
    assert main([*words, "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert found["solve_s"] > 0
    assert 0.5 < found["win"] < 1
    assert list(found["thresholds"]["left"]) == ["1", "2", "3"]
    assert found["thresholds"]["left"]["1"]["-120"] is None
    assert found["thresholds"]["tick"] == 19
    assert abs(found["simulated"]["away"]) < 5
    assert (tmp_path / "p" / "x.svg").read_text().startswith("<?xml")


def test_the_same_numbers_each_time(capsys):
    outs = []
    for _ in range(2):
        assert main(["buzz", "--tossups", "2", "--simulate", "1000", "--seed", "4"]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rules", "x"], "naqt"),
        (["--opponent", "x"], "weak"),
        (["--tick", "21"], "--tick"),
        (["--simulate", "1"], "--simulate"),
        (["--known", "2"], "known"),
        (["--tossups", "-1"], "tossups"),
        (["--tossups", "1", "--plot", "x.doc"], ".png"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_mistakes(words, said, capsys):
    assert main(["buzz", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
