"""Study without the library: imports, and its wheel in an environment of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from house import ROOT, ROOTS, modules

ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "sluicegate"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
"""From here on, importing these fails as where they are not installed."""


def run_alone(code, *words):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, ROOTS))}
    return subprocess.run([sys.executable, "-c", f"{ALONE}\n{code}", *words], capture_output=True, text=True, env=environment)


def test_every_module_is_imported_without_the_library_and_torch():
    """The quiz of a language model apart, whose command line is read all the same."""
    names = [name for name in modules() if name.startswith("sluicegate_study") and not name.startswith("sluicegate_study.quiz")]
    assert len(names) > 50
    check = "from sluicegate_study.errors import UserError; assert UserError.__module__ == 'sluicegate_study.errors'"
    done = run_alone(f"import {', '.join([*names, 'sluicegate_study.quiz.cli'])}\n{check}")
    assert done.returncode == 0, done.stderr


def test_the_check_can_fail():
    assert "torch" in run_alone("import sluicegate_study.quiz.quiz").stderr


MAIN = "from sluicegate_study.app import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["deck", "check", "attention"], 0, "cards"),
        (["buzz", "--tossups", "2"], 0, "best play wins"),
        (["deck", "check", "nowhere"], 2, "sluicegate-study deck new nowhere"),
        (["quiz", "some/model"], 2, "pip install sluicegate"),
        (["quiz", "--help"], 0, "--threshold"),
    ],
)
def test_verbs_without_the_library(words, status, said):
    done = run_alone(MAIN, *words)
    assert done.returncode == status, done.stderr
    assert said in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of programs of a new environment into which the wheel was installed by pip, with what it depends
    on."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, for a build leaves files in the folder of its sources.
    shutil.copytree(ROOT / "study", folder / "study", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", "build"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv"), "install", "--quiet", "--retries", "0", "--timeout", "20"]
    done = subprocess.run([*pip, str(folder / "study")], capture_output=True, text=True, env=outside())
    if done.returncode and any(said in done.stderr for said in ("No matching distribution", "Connection", "connect", "timed out")):
        pytest.skip(f"no package index answers: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder / "venv" / "bin"


def outside():
    """The environment variables, without those by which the sources would be found."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def test_the_wheel_in_an_empty_environment(installed, tmp_path):
    def run(*command):
        return subprocess.run(
            [str(part) for part in command], cwd=tmp_path, capture_output=True, text=True, env=outside(), check=True
        ).stdout

    program = installed / "sluicegate-study"
    assert "usage: sluicegate-study VERB" in run(program, "--help")
    assert "0 errors" in run(program, "deck", "check", "tossups")
    assert run(program, "--version").strip() == "0.1.0"
    assert "usage: sluicegate-study play" in run(installed / "python", "-m", "sluicegate_study", "play", "--help")
    find = "from importlib.util import find_spec; print(*map(find_spec, ('torch', 'transformers', 'sluicegate')))"
    assert run(installed / "python", "-c", find).split() == ["None"] * 3
    where = run(installed / "python", "-c", "import sluicegate_study; print(sluicegate_study.__file__)")
    assert Path(where).is_relative_to(installed.parent)
