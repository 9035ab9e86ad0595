"""A plug-in of another distribution is found by every part that asks, and one that fails is named and left out."""

import json
import subprocess
import sys

import pytest

from plugin import documented, install
from sluicegate import registry, tasks
from sluicegate.app import main
from sluicegate.app.verbs import verbs
from sluicegate.audit.attacked import attack
from sluicegate.audit.attackers import attackers
from sluicegate.runs.stage import from_config, stages
from sluicegate.unlearning.objectives import methods

ROWS = ["--forget", "task:tables/forget", "--retain", "task:tables/retain"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder, beside a folder for distributions on the path of modules."""
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(site)
    yield site
    for name in [name for name in sys.modules if name.partition(".")[0] in ("sluicegate_mine", "sluicegate_broken")]:
        del sys.modules[name]


@pytest.fixture
def mine(place):
    """The plug-in of docs/extending.md."""
    assert "unlikelihood" not in methods()
    assert "lengths" not in verbs()
    install(place, "mine", "sluicegate_mine", documented())
    registry.forget()


def test_the_page_shows_a_file_of_every_kind():
    assert {path.rpartition("/")[2] for path in documented()} == {
        "__init__.py",
        "attackers.py",
        "objectives.py",
        "tasks.py",
        "rules.py",
        "penalties.py",
        "lengths_stage.py",
        "tables.toml",
    }


def test_its_verb_stands_under_its_heading_and_runs(mine, capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "  lengths " in shown[shown.index("\nsee:") :].partition("\n\n")[0]
    assert main(["lengths", "--model", "arithmetic-tiny", "--forget", "task:tables/forget", "--out", "counted", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert found["measures"]["rows"] == len(tasks.read("task:tables/forget")) == 25
    assert found["measures"]["tokens"] > 100
    assert main(["run", "counted/config.toml", "--out", "counted"]) == 0


def test_its_objective_is_a_method_with_its_own_options(mine, capsys):
    with pytest.raises(SystemExit):
        main(["unlearn", "--method", "unlikelihood", "--help"])
    assert "weight of the retain set's cross-entropy" in " ".join(capsys.readouterr().out.split())
    words = ["unlearn", "--method", "unlikelihood", "--model", "arithmetic-tiny", *ROWS, "--steps", "2", "--retain-weight", "2"]
    assert main([*words, "--json"]) == 0
    [folder] = json.loads(capsys.readouterr().out.splitlines()[-1])["folders"]
    assert folder.startswith("runs/unlearn/unlearn-unlikelihood-")


def test_its_attacker_is_one_of_all_and_leaves_the_model_as_it_was(mine, tokenizer, split, tiny, bits):
    sharpen, before = attackers()["sharpen"](), bits.weights(tiny)
    found = attack(sharpen, tiny, tokenizer, split.forget[:8], split.retain[:4])
    assert found.held_out.effort == (0, 1, 2, 3)
    assert len(set(found.evidence)) == 4
    assert bits.same(bits.weights(tiny), before)
    settings = {"verb": "attack", "method": "sharpen", "model": "arithmetic-tiny", "factors": [1.5], "forget": "task:tables/forget"}
    assert from_config(settings).attacker == type(sharpen)(factors=(1.5,))


def test_its_recipe_is_listed_and_can_be_planned(mine, capsys):
    assert main(["run"]) == 0
    assert "tables" in capsys.readouterr().out
    assert main(["run", "tables", "--plan"]) == 0
    assert "A times table" in capsys.readouterr().out


@pytest.mark.slow
def test_its_recipe_runs_in_worker_processes(mine, capsys):
    assert main(["run", "tables", "--workers", "2", "--json"]) == 0
    arms = json.loads(capsys.readouterr().out.splitlines()[-1])["arms"]
    assert set(arms) == {"base", "gold", "unlikely"}


def broken(place, **files: str) -> None:
    install(place, "broken", "sluicegate_broken", {f"sluicegate_broken/{name}.py": text for name, text in files.items()})
    registry.forget()


@pytest.mark.parametrize("words", [["--help"], ["runs", "ls", "--root", "."], ["unlearn", "--method", "none"]], ids=" ".join)
def test_one_that_cannot_be_imported_is_named_and_left_out(place, capsys, words):
    broken(place, __init__="import no_such_thing\n")
    status = main(words)
    said = capsys.readouterr()
    assert said.err.count("left out the plug-in broken (sluicegate_broken): ModuleNotFoundError: No module named 'no_such_thing'") == 1
    assert status == (2 if words[0] == "unlearn" else 0)
    assert not [word for word in ("Traceback", "left out") if word in said.out]


def test_a_file_of_it_that_cannot_be_imported_is_named_and_the_others_stay(place, capsys):
    texts = documented()
    broken(place, __init__="", objectives="1 / 0\n", lengths_stage=texts["sluicegate_mine/lengths_stage.py"])
    assert "lengths" in stages()
    assert main(["unlearn", "--method", "unlikelihood", "--model", "arithmetic-tiny", *ROWS]) == 2
    said = capsys.readouterr().err
    assert said.count("left out the plug-in broken (sluicegate_broken.objectives): ZeroDivisionError") == 1
    assert "no method 'unlikelihood'" in said


def test_of_two_things_with_one_name_the_first_stays_and_the_other_is_named(place, capsys):
    text = documented()["sluicegate_mine/objectives.py"]
    broken(place, __init__="", objectives=text.replace('"unlikelihood"', '"npo"'))
    assert methods()["npo"].__module__.startswith("sluicegate.")
    assert main(["unlearn", "--method", "npo", "--model", "no-such-model", *ROWS[:0]]) == 2
    assert "the name 'npo' is taken" in capsys.readouterr().err


def test_an_installed_program_goes_on_without_it(place):
    broken(place, __init__="raise RuntimeError('not today')\n")
    command = [sys.executable, "-m", "sluicegate", "runs", "ls", "--root", "."]
    done = subprocess.run(command, env={"PYTHONPATH": str(place)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no runs here yet" in done.stdout
    assert done.stderr.startswith("warning: left out the plug-in broken (sluicegate_broken): RuntimeError: not today")
