"""The examples run as a newcomer runs them, are short, and show what they are there to show."""

import os
import re
import subprocess
import sys

import pytest

from pages import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def printed(name, folder):
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_started(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name}" in text


def test_the_audit_finds_that_suppressed_is_not_gone(tmp_path):
    said = printed("audit", tmp_path)
    assert said.startswith("HIDDEN, NOT GONE")
    assert (tmp_path / "audit" / "report.html").exists()


def test_the_cut_takes_out_what_was_routed_and_nothing_else(tmp_path):
    said = printed("route", tmp_path)
    shares = {line.split(":")[0].strip(): [int(n) for n in re.findall(r"(\d+)%", line)] for line in said.splitlines() if "%" in line}
    assert min(shares["trained"]) >= 95
    assert shares["cut"] == shares["without"]
    assert shares["cut"][1] >= 95
    assert shares["cut"][0] <= 50


def test_the_vector_turns_sums_into_products_and_a_random_one_does_not(tmp_path):
    said = printed("steer", tmp_path)
    shares = {line.split(":")[0].strip(): [int(n) for n in re.findall(r"(\d+)%", line)] for line in said.splitlines() if "%" in line}
    assert shares["as it is"][0] >= 90
    assert shares["the vector"][1] >= 70
    assert shares["a random one"][1] <= 10
