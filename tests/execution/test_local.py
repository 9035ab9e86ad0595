import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sluicegate.errors import UserError
from sluicegate.execution import local
from sluicegate.execution.execute import execute
from sluicegate.execution.jobs import Job, run_jobs
from sluicegate.execution.local import LocalPool
from sluicegate.runs.stage import from_config
from tiny_stages import SRC, material, outcome, settings_of_verbs


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    own = material(tmp_path_factory.mktemp("material"))
    return settings_of_verbs(own, steps=2)["train"]


def job(key, needs, settings, out):
    return Job(key, needs, lambda done: from_config(settings(done) if callable(settings) else settings), out)


def test_a_job_waits_for_those_it_needs_gets_their_folders_and_tells_how_far_it_is(train, tmp_path):
    asked, told = [], []

    def second(done):
        asked.append(dict(done))
        return train | {"model": str(done["first"]), "seed": 1}

    jobs = [job("second", ("first",), second, tmp_path), job("first", (), train, tmp_path)]
    done = run_jobs(jobs, LocalPool(1), progress=lambda *message: told.append(message[:3]))
    of_stages = [message for message in told if not message[0].startswith("all stages")]
    assert of_stages == [(f"{name} train", step, 2) for name in ("first", "second") for step in (1, 2)]
    assert [message[1:] for message in told if message[0].startswith("all stages")] == [(0, 2), (1, 2), (2, 2)]
    assert set(done) == {"first", "second"}
    assert asked == [{"first": done["first"]}]
    assert all((folder / "DONE").exists() for folder in done.values())


@pytest.mark.parametrize(("asked", "devices", "places"), [(0, 2, 2), (8, 2, 2), (1, 2, 1), (3, 0, 3)])
def test_there_is_one_worker_a_device_and_never_more(asked, devices, places, monkeypatch):
    monkeypatch.setattr(local, "_devices", lambda: devices)
    with LocalPool(asked).open_workers(9, None) as workers:
        assert workers.places == places


def test_every_worker_has_a_device_of_its_own(monkeypatch):
    taken, free = [], iter(range(2))
    monkeypatch.setattr(local, "_devices", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "set_device_index", taken.append)
    for _ in range(2):
        local._take_device(SimpleNamespace(get=lambda: next(free)))
    assert taken == [0, 1]


def test_a_failing_job_stops_those_that_need_it_and_no_others(train, tmp_path):
    broken = train | {"model": str(tmp_path / "nowhere")}
    jobs = [
        job("broken", (), broken, tmp_path),
        job("after broken", ("broken",), train, tmp_path),
        job("after that", ("after broken",), train, tmp_path),
        job("good", (), train, tmp_path),
        job("after good", ("good",), train | {"seed": 3}, tmp_path),
    ]
    with pytest.raises(UserError) as error:
        run_jobs(jobs, LocalPool(2))
    said = str(error.value)
    assert "3 of 5 stages did not finish; the others are kept" in said
    assert "broken: no model" in said
    assert "after broken: not run: it needs broken" in said
    assert "after that: not run: it needs after broken" in said
    assert "good" not in said.replace("after good", "")
    assert len(list(tmp_path.glob("train-*/DONE"))) == 2


def test_an_error_nobody_foresaw_stops_no_others_either_and_keeps_its_trace(train, tmp_path):
    (tmp_path / "file").write_text("")
    jobs = [job("bad place", (), train, tmp_path / "file"), job("good", (), train, tmp_path / "good")]
    with pytest.raises(UserError, match=r"1 of 2 stages.*\n  bad place: (NotADirectory|FileExists)Error") as error:
        run_jobs(jobs, LocalPool(1))
    assert isinstance(error.value.__cause__, OSError)
    assert len(list(tmp_path.glob("good/train-*/DONE"))) == 1


def test_jobs_of_one_stage_share_its_folder(train, tmp_path):
    done = run_jobs([job(name, (), train, tmp_path) for name in "abc"], LocalPool(2))
    assert set(done) == {"a", "b", "c"}
    assert len(set(done.values())) == 1


def test_jobs_that_wait_for_one_another_are_named_and_not_waited_for(train, tmp_path):
    jobs = [job("a", ("b",), train, tmp_path), job("b", ("a",), train, tmp_path), job("c", ("gone",), train, tmp_path)]
    with pytest.raises(UserError, match=r"3 of 3 stages") as error:
        run_jobs(jobs, LocalPool(1))
    assert "a: not run: it waits for a stage that waits for it, or that is not there" in str(error.value)


def test_nothing_to_do():
    assert run_jobs([], LocalPool()) == {}


def test_a_killed_worker_is_reported_and_the_next_time_the_rest_is_done(train, tmp_path, monkeypatch):
    monkeypatch.setenv("SLUICEGATE_KEEP_SECONDS", "0.1")
    long = train | {"steps": 400, "seed": 1}
    jobs = [job("short", (), train, tmp_path), job("long", ("short",), long, tmp_path)]  # one after the other: neither can overtake

    def finished():
        return list(tmp_path.glob("train-*/DONE"))

    def kill():
        """End the worker that holds the long run, once there is something to resume from."""
        assert until(lambda: finished() and any(not (i.parents[1] / "DONE").exists() for i in tmp_path.glob("train-*/state/index.json")))
        holder = next(folder for folder in tmp_path.glob("train-*") if not (folder / "DONE").exists())
        os.kill(int((holder / "lock").read_text().split()[1]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(UserError, match=r"a worker process was killed from outside.*run the same command again"):
        run_jobs(jobs, LocalPool(2))
    killer.join()
    assert len(finished()) == 1
    done = run_jobs(jobs, LocalPool(1))
    assert outcome(done["long"]) == outcome(execute(from_config(long), tmp_path / "undisturbed"))


INTERRUPTED = """
import json, signal, sys
from pathlib import Path
from sluicegate.execution.jobs import Job, run_jobs
from sluicegate.execution.local import LocalPool
from sluicegate.execution.execute import execute
from sluicegate.runs.stage import from_config

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it as ignored
    settings = json.loads(sys.argv[1])
    job = Job("long", (), lambda done: from_config(settings), Path(sys.argv[2]))
    run_jobs([job], LocalPool(1), progress=lambda *a: print("step", flush=True))
"""


def test_an_interrupt_ends_the_workers_at_once(train, tmp_path):
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    command = [sys.executable, str(script), json.dumps(train | {"steps": 100_000}), str(tmp_path)]
    surroundings = os.environ | {"PYTHONPATH": str(SRC), "SLUICEGATE_KEEP_SECONDS": "0.2"}
    caller = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=surroundings, text=True)
    try:
        assert caller.stdout.readline() == "step\n"
        (folder,) = tmp_path.glob("train-*")
        worker = int((folder / "lock").read_text().split()[1])
        assert alive(worker)
        caller.send_signal(signal.SIGINT)
        _, said = caller.communicate(timeout=60)
    finally:
        caller.kill()
        caller.wait()
    assert "KeyboardInterrupt" in said
    assert until(lambda: not alive(worker))
    assert not (folder / "DONE").exists()


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_workers_end_with_a_parent_that_was_killed(train, tmp_path):
    """Else they would go on holding their run folders, and the same command could not resume."""
    program = """
import json, sys
from pathlib import Path
from sluicegate.execution.jobs import Job, run_jobs
from sluicegate.execution.local import LocalPool
from sluicegate.runs.stage import from_config
if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    job = Job("long", (), lambda done: from_config(settings), Path(sys.argv[2]))
    run_jobs([job], LocalPool(1), progress=lambda *m: print("step", flush=True))
"""
    script = tmp_path / "parent.py"
    script.write_text(program)
    surroundings = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "SLUICEGATE_KEEP_SECONDS": "0"}
    settings = train | {"steps": 100_000}
    parent = subprocess.Popen(
        [sys.executable, str(script), json.dumps(settings), str(tmp_path / "runs")], stdout=subprocess.PIPE, text=True, env=surroundings
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "step\n"
        [lock] = (tmp_path / "runs").glob("*/lock")
        worker = int(lock.read_text().split()[1])
        assert worker != parent.pid
    finally:
        parent.kill()
        parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent by 10 seconds")


def test_a_worker_takes_no_more_threads_than_the_user_allows():
    script = "import torch; from sluicegate.execution.local import _start_worker; _start_worker(None, {}); print(torch.get_num_threads())"
    surroundings = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "2"}
    for share, expected in ((1, "1"), (8, "2")):
        done = subprocess.run([sys.executable, "-c", script.format(share)], capture_output=True, text=True, env=surroundings, check=True)
        assert done.stdout.strip() == expected
