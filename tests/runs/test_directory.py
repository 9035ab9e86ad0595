import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import safetensors.torch
import torch

from sluicegate.engine import models
from sluicegate.errors import UserError
from sluicegate.execution.execute import execute, identity
from sluicegate.runs import directory as module
from sluicegate.runs.directory import FORMAT, open_run, read_identity, result_of
from sluicegate.runs.lock import Busy
from sluicegate.runs.stage import from_config
from tiny_stages import SRC, material, outcome, settings_of_verbs

DIGEST = "d" * 64


def opened(path, digest=DIGEST, **settings):
    identity = {"digest": digest, "config": {"verb": "test"}, "parents": {"forget": "f"}, "environment": {"device": "cpu"}}
    return open_run(path, **identity, title="t", **settings)


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """The settings of a small stage, and what it gives when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    settings = settings_of_verbs(material(folder / "material"))["train"]
    return settings, outcome(execute(from_config(settings), folder / "run", exact=True))


@pytest.fixture(autouse=True)
def _keep_at_every_step(monkeypatch):
    monkeypatch.setenv("SLUICEGATE_KEEP_SECONDS", "0")


class Stop(Exception):
    pass


def interrupt(settings, folder, at):
    def stop(title, step, total, numbers):
        if step == at:
            raise Stop

    with pytest.raises(Stop):
        execute(from_config(settings), folder, exact=True, progress=stop)
    assert not (folder / "DONE").exists()


# ------------------------------------------------------------------------------------------ the folder


def test_a_finished_folder_holds_what_the_page_says_and_no_more(train, tmp_path):
    settings, _ = train
    folder = execute(from_config(settings), tmp_path)
    own, parents = identity(from_config(settings))
    assert folder.name == f"train-{own[:8]}"
    found = {path.name for path in folder.iterdir()}
    assert found == {"config.toml", "parents.json", "env.json", "metrics.jsonl", "result.json", "seconds.json", "model", "lock", "DONE"}
    assert json.loads((folder / "parents.json").read_text()) == {"format": FORMAT, "hash": own, "parents": parents}
    environment = json.loads((folder / "env.json").read_text())
    assert set(environment) == {"versions", "git", "machine", "device", "threads", "world_size", "argv"}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]


def test_the_surroundings_do_not_leak_into_the_folder(train, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hf_abcdefgh")
    folder = execute(from_config(train[0]), tmp_path)
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"hf_abcdefgh" not in path.read_bytes(), path


def test_a_finished_run_is_not_run_again(train, tmp_path):
    folder = execute(from_config(train[0]), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert execute(from_config(train[0]), tmp_path, progress=lambda *_: pytest.fail("it ran")) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_opening_a_finished_run_loses_nothing(train, tmp_path):
    """What happens when another process finishes it between looking for DONE and taking the lock."""
    folder = execute(from_config(train[0]), tmp_path)
    before = outcome(folder)
    with opened(folder, identity(from_config(train[0]))[0]):
        pass
    assert outcome(folder) == before


def test_two_sittings_of_the_same_stage_are_bitwise_alike(train, tmp_path):
    assert outcome(execute(from_config(train[0]), tmp_path)) == train[1]


def test_done_is_written_last(train, tmp_path, monkeypatch):
    written = []
    write, rmtree = module.write_atomic, shutil.rmtree

    def spy(path, text):
        if path.name == "DONE":
            assert {"result.json", "model", "state"} <= {p.name for p in path.parent.iterdir()}
        assert path.name == "DONE" or not (path.parent / "DONE").exists() or path.name == "seconds.json"
        written.append(path.name)
        write(path, text)

    monkeypatch.setattr(module, "write_atomic", spy)
    monkeypatch.setattr(module.shutil, "rmtree", lambda path, **k: (written.append(f"drop {path.name}"), rmtree(path, **k)))
    execute(from_config(train[0]), tmp_path)
    assert written[-4:] == ["result.json", "DONE", "drop state", "seconds.json"]


def test_every_file_is_on_the_disk_before_done(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(module.os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    with opened(tmp_path / "run") as run:
        run.log({"step": 1})
        run.save_checkpoint("part", {"steps": 1}, {"x": torch.ones(2)}, finished=False)
        run.finish({})
    names = [os.path.basename(path).lstrip(".").split(".json")[0].split(".safe")[0].split(".jsonl")[0] for path in synced]
    order = [name for name in names if name.startswith(("part", "metrics", "index", "result", "DONE"))]
    assert order[:3] == ["part-1", "metrics", "index"]
    assert order[3:5] == ["metrics", "result"]
    assert sorted(order[5:-1]) == ["metrics", "result"], "and all files of the run once more, those of its model too"
    assert order[-1].startswith("DONE")


# --------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("at", [1, 3, 6])
def test_an_interrupted_run_resumes_to_the_same_files(train, tmp_path, at):
    settings, wanted = train
    interrupt(settings, tmp_path / "run", at)
    steps = []
    execute(from_config(settings), tmp_path / "run", exact=True, progress=lambda title, step, *_: steps.append(step))
    assert steps == list(range(at, 7)), "what had been done was done again, or not all of it"
    assert outcome(tmp_path / "run") == wanted


def test_without_a_resume_point_it_starts_over(train, tmp_path, monkeypatch):
    settings, wanted = train
    monkeypatch.setenv("SLUICEGATE_KEEP_SECONDS", "1000")
    interrupt(settings, tmp_path / "run", 4)
    execute(from_config(settings), tmp_path / "run", exact=True)
    assert outcome(tmp_path / "run") == wanted


@pytest.mark.parametrize("tail", [b'{"part": "train", "st', b'{"part": "train", "step": 99, "loss": 1.0}\n', b"\0\0\0\0"])
def test_what_was_logged_after_the_resume_point_is_cut_off(train, tmp_path, tail):
    settings, wanted = train
    interrupt(settings, tmp_path / "run", 4)
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    execute(from_config(settings), tmp_path / "run", exact=True)
    assert outcome(tmp_path / "run") == wanted


class FullDisk:
    """Fails from the n-th call on, until it is emptied."""

    def __init__(self, monkeypatch, owner, name, after):
        self.calls, self.after, self.full, self.real = 0, after, True, getattr(owner, name)
        monkeypatch.setattr(owner, name, self)

    def __call__(self, *arguments, **settings):
        self.calls += 1
        if self.full and self.calls > self.after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real(*arguments, **settings)


@pytest.mark.parametrize(
    ("place", "name", "after"),
    [
        ("tensors", "save_file", 0),
        ("tensors", "save_file", 3),
        ("room", "sync", 2),
        ("room", "write_atomic", 0),
        ("room", "write_atomic", 1),
        ("room", "write_atomic", 2),
        ("room", "write_atomic", 6),
        ("room", "write_atomic", 10),  # result.json
        ("room", "write_atomic", 11),  # DONE
        ("models", "save", 0),
    ],
)
def test_a_full_disk_leaves_a_folder_that_resumes(train, tmp_path, monkeypatch, place, name, after):
    settings, wanted = train
    owner = {"tensors": safetensors.torch, "room": module, "models": models}[place]
    disk = FullDisk(monkeypatch, owner, name, after)
    with pytest.raises(OSError, match="No space left"):
        execute(from_config(settings), tmp_path / "run", exact=True)
    assert disk.calls > after
    assert not (tmp_path / "run" / "DONE").exists()
    with pytest.raises(OSError, match="No space left"):
        execute(from_config(settings), tmp_path / "run", exact=True)  # still full
    disk.full = False
    execute(from_config(settings), tmp_path / "run", exact=True)
    assert outcome(tmp_path / "run") == wanted


def test_metrics_that_cannot_be_flushed_leave_a_folder_that_resumes(train, tmp_path, monkeypatch):
    settings, wanted = train
    real, left = module.RunDirectory.save_checkpoint, [2]

    def keep(self, *arguments, **k):
        left[0] -= 1
        if left[0] < 0:
            self._metrics.flush = lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
        real(self, *arguments, **k)

    class Opened(type(open(os.devnull, "ab"))):  # noqa: SIM115
        """A buffered writer whose methods can be replaced."""

    init = module.RunDirectory.__init__

    def start(self, *arguments):
        init(self, *arguments)
        raw = self._metrics
        offset = raw.tell()
        self._metrics = Opened(raw.detach())
        self._metrics.seek(offset)

    monkeypatch.setattr(module.RunDirectory, "__init__", start)
    monkeypatch.setattr(module.RunDirectory, "save_checkpoint", keep)
    with pytest.raises(OSError, match="No space left"):
        execute(from_config(settings), tmp_path / "run", exact=True)
    monkeypatch.undo()
    execute(from_config(settings), tmp_path / "run", exact=True)
    assert outcome(tmp_path / "run") == wanted


@pytest.mark.parametrize("left", [".config.toml.4711", ".env.json.4711", ".parents.json.4711"])
def test_a_process_killed_while_it_made_the_folder_leaves_one_that_starts(train, tmp_path, left):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / left).write_text("verb = ")
    (folder / "lock").write_text("process 4711 on elsewhere")
    execute(from_config(train[0]), folder, exact=True)
    assert outcome(folder) == train[1]
    assert not (folder / left).exists()


def test_what_a_killed_process_left_half_written_is_cleared_away(train, tmp_path):
    settings, wanted = train
    interrupt(settings, tmp_path / "run", 3)
    (tmp_path / "run" / ".model-4711").mkdir()
    (tmp_path / "run" / ".model-4711" / "model.safetensors").write_text("half")
    (tmp_path / "run" / ".result.json.4711").write_text("{")
    execute(from_config(settings), tmp_path / "run", exact=True)
    assert not list((tmp_path / "run").glob(".*"))
    assert outcome(tmp_path / "run") == wanted


def test_a_resume_point_replaces_the_one_before_it(tmp_path):
    with opened(tmp_path / "run") as run:
        for step in (1, 2, 3):
            run.save_checkpoint("lr 0.1/x", {"steps": step}, {"x": torch.full((2,), float(step))}, finished=False)
        run.save_checkpoint("other", {"steps": 7}, {}, finished=True)
    assert len(list((tmp_path / "run" / "state").glob("*.safetensors"))) == 1
    with opened(tmp_path / "run") as run:
        found = run.load_checkpoint("lr 0.1/x")
        assert (found.values, found.finished) == ({"steps": 3}, False)
        assert found.tensors["x"].tolist() == [3, 3]
        assert run.load_checkpoint("other").finished
        assert run.load_checkpoint("never") is None


def test_resume_points_come_at_their_interval(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with opened(tmp_path / "run", interval=20.0) as run:
        now[0] = 19.0
        assert not run.checkpoint_due()
        now[0] = 20.0
        assert run.checkpoint_due()
        run.save_checkpoint("part", {"steps": 1}, {}, finished=False)
        assert not run.checkpoint_due()


# ------------------------------------------------------------------------------------------ whose folder


HOLD = """
import sys, time
from pathlib import Path
from sluicegate.runs.directory import open_run
with open_run(Path(sys.argv[1]), digest="d" * 64, config={"verb": "test"}, parents={"forget": "f"}, environment={}, title="t"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
    surroundings = os.environ | {"PYTHONPATH": str(SRC)}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, env=surroundings)
    try:
        assert holder.stdout.readline() == b"held\n"
        told = f"in use by another process \\(process {holder.pid} on {os.uname().nodename}"
        with pytest.raises(UserError, match=told), opened(tmp_path):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with opened(tmp_path):  # the kernel has let go of it
            assert str(os.getpid()) in (tmp_path / "lock").read_text()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_another_run_in_the_folder_is_refused_and_untouched(train, tmp_path):
    settings, _ = train
    interrupt(settings, tmp_path / "run", 3)
    before = snapshot(tmp_path / "run")
    for finished in (False, True):
        with pytest.raises(UserError, match=r"holds another run \(\w{8}; this command would be \w{8}\).*left as it is"):
            execute(from_config(settings | {"lr": 0.5}), tmp_path / "run", exact=True)
        assert snapshot(tmp_path / "run") == before
        if not finished:
            execute(from_config(settings), tmp_path / "run", exact=True)
            before = snapshot(tmp_path / "run")


def test_another_version_of_the_layout_is_refused_and_untouched(train, tmp_path):
    settings, _ = train
    interrupt(settings, tmp_path / "run", 3)
    file = tmp_path / "run" / "parents.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": FORMAT + 1}))
    before = snapshot(tmp_path / "run")
    with pytest.raises(UserError, match=f"another version \\(layout {FORMAT + 1}, this one writes {FORMAT}\\)"):
        execute(from_config(settings), tmp_path / "run", exact=True)
    assert snapshot(tmp_path / "run") == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"hash": "x"}'])
def test_a_damaged_identity_is_named(tmp_path, content):
    (tmp_path / "parents.json").write_text(content)
    with pytest.raises(UserError, match=r"parents\.json' is damaged"):
        read_identity(tmp_path)


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(UserError, match=r"not empty and holds no run of ours \(found 'thesis\.tex'\)"), opened(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "all my work"


def test_the_config_in_the_folder_gives_the_same_run(train, tmp_path):
    folder = execute(from_config(train[0]), tmp_path)
    again = from_config(tomllib.loads((folder / "config.toml").read_text()))
    assert execute(again, tmp_path, progress=lambda *_: pytest.fail("it ran")) == folder


def test_only_a_finished_run_has_a_result(train, tmp_path):
    interrupt(train[0], tmp_path / "run", 2)
    with pytest.raises(UserError, match=r"not a finished run.*it resumes"):
        result_of(tmp_path / "run")
    execute(from_config(train[0]), tmp_path / "run", exact=True)
    assert result_of(tmp_path / "run")["steps"] == 6


def test_the_seconds_of_every_sitting_add_up(tmp_path):
    def burn():
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    for sitting in (1, 2):
        with opened(tmp_path / "run"):
            burn()
        assert json.loads((tmp_path / "run" / "seconds.json").read_text())["cpu"] >= 0.05 * sitting


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "x.json"
    module.write_atomic(file, "old")
    monkeypatch.setattr(module.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        module.write_atomic(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_an_attack_with_a_rate_that_breaks_the_model_resumes_to_the_same_files(train, tmp_path):
    own = {name: train[0][name] for name in ("model", "forget", "retain")}
    settings = own | {"verb": "relearn", "lrs": [1e-2, 1e30, 1e-3], "steps": 5, "batch": 8, "checkpoints": [2]}
    wanted = outcome(execute(from_config(settings), tmp_path / "whole", exact=True))
    assert b"broke the model at step 2" in wanted["result.json"]

    def stop(title, step, *_):
        if "0.001" in title and step == 1:  # the broken rate has been met, and nothing has been kept since
            raise Stop

    with pytest.raises(Stop):
        execute(from_config(settings), tmp_path / "run", exact=True, progress=stop)
    assert outcome(execute(from_config(settings), tmp_path / "run", exact=True)) == wanted


def test_a_disk_that_is_full_is_an_os_error_whoever_meets_it(tmp_path, monkeypatch):
    """safetensors writes the files itself and has an error of its own for what the system told it."""

    class SafetensorError(Exception):
        pass

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with opened(tmp_path / "run") as run, pytest.raises(OSError, match="No space left on device") as caught:
        run.save_checkpoint("part", {"steps": 1}, {"weight": torch.ones(2)}, finished=False)
    assert caught.value.errno == errno.ENOSPC


# ------------------------------------------------------------------------------------------ two at once


def test_who_comes_second_takes_nothing_away(train, tmp_path, monkeypatch):
    """Both have seen that there is no folder: the first one makes it, and the second one is told and leaves it."""
    exists = module.Path.exists
    folder = tmp_path / "run"
    with opened(folder) as run:
        run.log({"step": 1})
        # As it looked when the second one began.
        monkeypatch.setattr(module.Path, "exists", lambda path: path != folder and exists(path))
        with pytest.raises(Busy, match="in use by another process"), opened(folder):
            pass
        monkeypatch.undo()
        assert {"parents.json", "config.toml", "state"} <= {path.name for path in folder.iterdir()}
        run.finish({})
    assert result_of(folder) == {}


def test_a_mistake_takes_away_the_folder_that_it_made_and_no_other(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        with pytest.raises(UserError, match="mistake"), opened(tmp_path / name):
            raise UserError("a mistake")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_folder_that_vanishes_while_it_is_locked_is_one_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr("sluicegate.runs.lock.FileLock.acquire", lambda lock: (_ for _ in ()).throw(FileNotFoundError))
    with pytest.raises(Busy), module.hold(tmp_path / "gone"):
        pass


@pytest.mark.parametrize("seconds", ["", "0", "1.5"])
def test_the_time_between_resume_points_is_a_number(train, tmp_path, monkeypatch, seconds):
    monkeypatch.setenv("SLUICEGATE_KEEP_SECONDS", seconds)
    execute(from_config(train[0]), tmp_path)
    for wrong in ("abc", "-1", "nan"):
        monkeypatch.setenv("SLUICEGATE_KEEP_SECONDS", wrong)
        with pytest.raises(UserError, match=f"SLUICEGATE_KEEP_SECONDS is '{wrong}'; it must be a number of seconds"):
            execute(from_config(train[0] | {"seed": 1}), tmp_path)


def test_what_killed_processes_left_is_cleared_and_what_live_ones_write_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process in (dead.pid, os.getppid()):
        (tmp_path / f".page.html.{process}").write_text("half")
    (tmp_path / f".other.html.{dead.pid}").write_text("of another file")
    module.write_atomic(tmp_path / "page.html", "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f".other.html.{dead.pid}", f".page.html.{os.getppid()}", "page.html"])


def test_what_a_killed_launch_left_is_removed_by_the_same_command_even_where_the_run_was_finished(train, tmp_path, monkeypatch):
    folder = execute(from_config(train[0]), tmp_path / "runs")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"sluicegate-ranks-{dead.pid}-x1"
    (left / "logs").mkdir(parents=True)
    live = tmp_path / f"sluicegate-ranks-{os.getppid()}-x1"
    live.mkdir()
    assert execute(from_config(train[0]), tmp_path / "runs", procs=2) == folder
    assert (left.exists(), live.exists()) == (False, True)


def test_what_is_measured_between_two_parts_is_logged_once_however_often_it_is_come_to(tmp_path):
    def work(run, stop):
        run.save_checkpoint("first", {"steps": 1}, {}, finished=True)
        run.log_once("between", ({"n": n} for n in range(3)))
        run.save_checkpoint("second", {"steps": 1}, {}, finished=False)
        run.log({"lost": True})
        if stop:
            raise Stop
        run.finish({})

    for stop in (True, True, False):
        with contextlib.suppress(Stop), opened(tmp_path / "r") as run:
            work(run, stop)
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"n": 0}, {"n": 1}, {"n": 2}, {"lost": True}]


def test_the_shares_of_several_processes_are_put_together_checked_and_replaced(tmp_path):
    whole = {"weight/a": torch.arange(10.0).view(5, 2), "adamw/step/a": torch.tensor(3.0)}
    with opened(tmp_path / "run") as run:
        state = run.path / "state"
        cut = [{k: t[own] if t.dim() else t for k, t in whole.items()} for own in (slice(0, 3), slice(3, 5), slice(5, 5))]
        written = [module._write_tensors(state / f"a-3-{rank}-of-3.safetensors", own) for rank, own in enumerate(cut)]
        run._note("a", {"steps": 3}, written, False, time.monotonic())
    with opened(tmp_path / "run") as run:
        found = run.load_checkpoint("a")
        assert (found.values, found.finished, found.own) == ({"steps": 3}, False, False)
        assert set(found.tensors) == set(whole)
        assert all(torch.equal(found.tensors[name], t) for name, t in whole.items())
        safetensors.torch.save_file({"weight/a": torch.zeros(2, 2)}, state / written[1][0])
        with pytest.raises(UserError, match=r"1-of-3.* is damaged"):
            run.load_checkpoint("a")
        run.save_checkpoint("a", {"steps": 4}, whole, finished=False)
        assert sorted(p.name for p in state.iterdir()) == ["a-4.safetensors", "index.json"]


def test_a_resume_point_of_an_earlier_version_is_read(tmp_path):
    with opened(tmp_path / "run") as run:
        run.save_checkpoint("a", {"steps": 4}, {"weight/a": torch.ones(2)}, finished=False)
        entry = run._index["parts"]["a"]
        (name, told), values = entry["files"][0], entry["values"]
        for old in ({"sum": told}, {}):  # before there were checksums, none
            run._index["parts"]["a"] = {"values": values, "tensors": name, "finished": False, **old}
            assert torch.equal(run.load_checkpoint("a").tensors["weight/a"], torch.ones(2))
        run._index["parts"]["a"] = {"values": values, "tensors": None, "finished": True, "sum": None}
        assert run.load_checkpoint("a").tensors == {}
