"""The three wheels hold every file of the trees, and work where nothing of the repository is near."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from pages import ROOT

DISTRIBUTIONS = {"sluicegate": Path(), "sluicegate_study": Path("study"), "sluicegate_papers": Path("papers")}


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The wheels by package, built from a copy: building in place would leave folders in the repository."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 or newer builds the wheels")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheels")
    for package, place in DISTRIBUTIONS.items():
        (copy / place).mkdir(exist_ok=True)
        for file in [*(ROOT / place).glob("pyproject.toml"), *(ROOT / place).glob("*.md"), *(ROOT / place).glob("LICENSE")]:
            shutil.copy(file, copy / place)
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / place / "src" / package, copy / place / "src" / package, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "-w", out, *(copy / place for place in DISTRIBUTIONS.values()))
    return {file.name.partition("-")[0]: file for file in out.glob("*.whl")}


@pytest.mark.parametrize("package", DISTRIBUTIONS)
def test_a_wheel_holds_every_file_of_its_tree_and_no_other(wheels, package):
    tree = ROOT / DISTRIBUTIONS[package] / "src"
    files = {p.relative_to(tree).as_posix() for p in (tree / package).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    held = {name for name in zipfile.ZipFile(wheels[package]).namelist() if ".dist-info/" not in name}
    assert held == files


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """The scripts of an environment with the wheels, which sees the dependencies of this one but nothing of Sluicegate
    in it."""
    folder = tmp_path_factory.mktemp("installed")
    others = folder / "others"
    others.mkdir()
    for site in [Path(p) for p in sys.path if p and any(Path(p).glob("*.dist-info"))]:
        for path in site.iterdir():
            if "sluicegate" not in path.name.lower() and path.suffix != ".pth" and not (others / path.name).exists():
                (others / path.name).symlink_to(path)
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "-q", "--no-deps", "--no-index"]
    run(*pip, *wheels.values())
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(site) / "others.pth").write_text(f"{others}\n")
    return python.parent


@pytest.fixture(scope="module")
def call(installed, tmp_path_factory):
    """Call a script of the environment from a folder of its own."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def called(*words):
        return run(installed / words[0], *words[1:], cwd=elsewhere, env=plain | {"OMP_NUM_THREADS": "1"})

    return called


def test_nothing_of_the_repository_is_imported(call, installed):
    where = call("python", "-c", "import sluicegate, sluicegate_study, sluicegate_papers as p; print(sluicegate.__file__, p.__file__)")
    assert all(Path(path).is_relative_to(installed.parent) for path in where.split())


def test_the_command_knows_the_verbs_of_all_three(call):
    shown = call("sluicegate", "--help")
    assert all(f"\n  {verb} " in shown for verb in ("demo", "audit", "route", "deck", "bench"))
    assert "--seeds" in call("sluicegate", "demo", "--help")
    assert "torch" in call("sluicegate", "doctor", "--model", "arithmetic-tiny")
    assert "deck" in call("sluicegate-study", "--help")
    assert "0 errors" in call("sluicegate", "deck", "check", "tossups")


def test_a_packaged_recipe_runs_and_writes_its_page(call, tmp_path):
    arms = ("base", "gold", "maxent", "graddiff", "oracle_match", "oracle_match_steps", "distill", "undo_0.4", "undo_0.6", "undo_0.8")
    attack = ["attack.lrs=[3e-3]", "attack.steps=2", "attack.probe=20", "attack.checkpoints=[0,2]"]
    short = [*(f"{arm}.steps=2" for arm in arms), *attack]
    call("sluicegate", "run", "undo-arithmetic", "--seeds", "1", "--out", tmp_path, "--workers", "1", "--set", *short)
    assert set(json.loads((tmp_path / "summary.json").read_text())["arms"]) == set(arms)
    assert "<svg" in (tmp_path / "report.html").read_text()
