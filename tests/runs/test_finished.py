"""Runs that were made before the house was turned (commit d5143fc) keep their hashes and are found again by every verb.

`tests/finished` holds what those runs left, without what is large: weights, metrics and pages.
"""

import json
import shutil
from pathlib import Path

import pytest

from sluicegate.app import main
from sluicegate.runs.stage import folder_name, from_config, identities, stages

FINISHED = Path(__file__).parents[1] / "finished"
HASHES = json.loads((FINISHED / "hashes.json").read_text())
ROWS = "--forget task:arithmetic/forget --retain task:arithmetic/retain"
TRAINED = "runs/train/train-fbe0634e"
COMMANDS = {
    "train": f"train --model arithmetic-tiny {ROWS} --steps 2",
    "score": f"score --model {TRAINED} {ROWS}",
    "unlearn": f"unlearn --model {TRAINED} {ROWS} --steps 2",
    "unlearn-sam": f"unlearn --model {TRAINED} {ROWS} --steps 2 --method rmu --sam .01",
    "distill": f"distill --model {TRAINED} --unlabelled task:arithmetic/unlabelled --retain task:arithmetic/retain --steps 2",
    "undo": f"undo --model {TRAINED} {ROWS} --unlabelled task:arithmetic/unlabelled --steps 2 --alpha .5",
    "relearn": f"relearn --model {TRAINED} {ROWS} --steps 2 --lrs .001",
    "route": f"route --model arithmetic-tiny {ROWS} --steps 2 --units 8",
    "ablate": f"ablate --model runs/route/route-gate-95719778 {ROWS}",
    "steer fit": "steer fit --model steer-in/model --pairs steer-in/pairs.jsonl --prompts steer-in/prompts.txt"
    " --behaviour words:plums,bags,shells,12",
    "steer twins": "steer twins runs/steer/steer-fit-meandiff-29a2634f --k 2 --steps 2",
    "steer score": "steer score runs/steer/steer-twins-joint-4b84224c --new-tokens 6 --randoms 2 --means 2 --doses 0 1",
    "oversight": "oversight --seeds 1 --share .3 --arms naive routed --set updates=2",
    "run": "run mini.toml",
    "run trial": "run minitrial.toml",
    "config.toml": f"run {TRAINED}/config.toml --out {TRAINED}",
}


@pytest.mark.parametrize("made", HASHES, ids=lambda made: made["folder"])
def test_every_stage_finds_the_runs_that_were_made_before(made):
    for settings in (made["settings"], made["config"]):  # as a recipe has it, and as config.toml had it
        stage = from_config(settings)
        known = identities(stage, made["parents"])
        assert made["hash"] in known
        assert made["folder"] in [folder_name(stage, digest) for digest in known]


def test_the_runs_that_are_known_are_of_every_stage():
    assert {made["settings"]["verb"] for made in HASHES} >= set(stages()) - {"throwaway", "tofu", "attack", "spike"}  # which came later


def runs_of(folder):
    """Every file of a finished run, with what is in it and when it was written."""
    found = {}
    for done in folder.rglob("DONE"):
        found |= {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in done.parent.rglob("*") if file.is_file()}
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_verb_finds_its_finished_run(name, tmp_path, monkeypatch, capsys):
    shutil.copytree(FINISHED, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sluicegate.steering.cli._page", lambda folder, path: path)
    before = runs_of(tmp_path)
    assert main(COMMANDS[name].split()) == 0, capsys.readouterr().err
    assert runs_of(tmp_path) == before
