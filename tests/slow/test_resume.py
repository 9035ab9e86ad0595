"""Killed at any moment and run again, a stage ends with the same bits as one that nobody disturbed."""

import random
import signal
import time

import pytest

from sluicegate.execution.execute import execute
from sluicegate.runs.stage import from_config
from tiny_stages import material, outcome, settings_of_verbs, start

VERBS = ["train", "maxent", "npo", "rmu", "distill", "undo", "relearn"]


@pytest.fixture(scope="module")
def verbs(tmp_path_factory):
    return settings_of_verbs(material(tmp_path_factory.mktemp("material")), steps=40)


def finish(settings, folder, keep=0.0):
    process = start(settings, folder, keep)
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return [int(line) for line in out.split()[:-1]]


def kill_after(settings, folder, steps, pause, keep):
    """Run the stage, and kill it `pause` seconds after it has made so many steps of this sitting."""
    process = start(settings, folder, keep)
    for _ in range(steps):
        if process.stdout.readline() in ("end\n", ""):
            break
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode


def test_a_killed_run_ends_like_one_that_was_not(verbs, tmp_path):
    execute(from_config(verbs["maxent"]), tmp_path / "whole", exact=True)
    assert kill_after(verbs["maxent"], tmp_path / "killed", 7, 0.0, 0) == -signal.SIGKILL
    again = finish(verbs["maxent"], tmp_path / "killed")
    assert 1 < again[0] <= 40, "it started over"
    assert again == list(range(again[0], 41))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0.0, 0.2])
@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_random_moments_every_verb_ends_with_the_same_bits(verbs, tmp_path, verb, keep):
    rng = random.Random(f"{verb} {keep}")
    finish(verbs[verb], tmp_path / "whole", keep)
    killed = 0
    for _ in range(4):
        if (tmp_path / "killed" / "DONE").exists():
            break
        killed += kill_after(verbs[verb], tmp_path / "killed", rng.randint(0, 14), rng.random() * 0.3, keep) == -signal.SIGKILL
    assert killed >= 1
    finish(verbs[verb], tmp_path / "killed", keep)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert not [path.name for path in (tmp_path / "killed").iterdir() if path.name.startswith(".")]
