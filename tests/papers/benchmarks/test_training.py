"""The benchmark of the loop measures every variant against the plain loop, and the verb finds every benchmark."""

import re

import pytest

from sluicegate.app import main
from sluicegate_papers.benchmarks import training
from sluicegate_papers.benchmarks.cli import BENCH
from sluicegate_papers.benchmarks.training import Measured


@pytest.mark.slow
def test_every_variant_is_measured_against_the_plain_loop():
    found = training.run(quick=True)
    assert set(found.ratios) == set(training.VARIANTS)
    figures = training.summary(found)
    assert figures["plain_ms"] > 0
    assert figures["distil"] > figures["fit"] > 0.8


def test_the_table_gives_median_and_range():
    found = Measured(5.8, {"fit": (1.03, 1.11, 1.15), "distil": (1.31, 1.41, 1.45)})
    assert "| fit | 1.11 | 1.03 to 1.15 |" in training.markdown(found)
    assert "5.80 ms a step" in training.markdown(found)
    assert training.summary(found) == {"plain_ms": 5.8, "fit": 1.11, "distil": 1.41}


def test_without_a_name_the_verb_measures_routing(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("sluicegate_papers.benchmarks.cli.Measured.run", lambda self: asked.append((self.WHAT, self.quick)) or 0)
    for words in ([], ["--quick"], ["routing"], ["training", "--quick"], ["ranks"]):
        assert main(["bench", *words]) == 0
    assert asked == [("routing", False), ("routing", True), ("routing", False), ("training", True), ("ranks", False)]
    assert main(["bench", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(
        re.search(rf"^  {name} ", shown, re.MULTILINE) for name in ("routing", "training", "pipeline", "steering", "ranks", "scaling")
    )
    assert main(["bench", "routting"]) == 2
    assert BENCH.summary == "Measure the library on this machine"


def test_scaling_of_a_packaged_configuration_is_printed(capsys):
    assert main(["bench", "scaling", "--config", "biographies-tiny", "--devices", "2"]) == 0
    assert "| biographies-tiny |" in capsys.readouterr().out
