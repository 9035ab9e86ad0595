"""Runs and their sources travel as bytes, and a run that comes home is as good as one made there."""

import json
import os

import pytest

from sluicegate.errors import UserError
from sluicegate.execution.ray.transfer import local_sources, name_of, pack, rename_sources, store_run, unpack
from sluicegate.runs.directory import FORMAT, check_finished
from sluicegate.runs.lock import held
from sluicegate.runs.stage import from_config


def run_in(folder, digest="abc", **files):
    folder.mkdir(parents=True)
    (folder / "parents.json").write_text(json.dumps({"format": FORMAT, "hash": digest, "parents": {}}))
    for name in ("config.toml", "env.json", "metrics.jsonl", "result.json", "DONE"):
        (folder / name).write_text(files.get(name.split(".")[0], ""))
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_bytes(b"\x00\xff")
    (folder / "lock").write_text("process 1")
    return folder


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in ("lock", "DONE")}


def test_a_folder_and_a_file_arrive_under_their_names(tmp_path):
    run = run_in(tmp_path / "a" / "run-1")
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "a" / "link").symlink_to(run)
    for path in (run, tmp_path / "rows.jsonl", tmp_path / "a" / "link"):
        unpack(pack(path), tmp_path / "b")
    assert content(tmp_path / "b" / "run-1") == content(run)
    assert not (tmp_path / "b" / "run-1" / "lock").exists()
    assert (tmp_path / "b" / "rows.jsonl").read_text() == "{}"
    assert name_of(tmp_path / "a" / "link") == "run-1"


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_nothing_is_written_outside(tmp_path, name):
    with pytest.raises(ValueError, match="outside"):
        unpack({name: b""}, tmp_path / "in")
    assert not (tmp_path / "x").exists()


def test_a_run_comes_home_whole(tmp_path):
    run, home = run_in(tmp_path / "away" / "run-1", result="7"), tmp_path / "runs" / "run-1"
    store_run(pack(run), home, "abc")
    assert content(home) == content(run)
    check_finished(home)
    (home / "metrics.jsonl").write_text("altered")
    with pytest.raises(UserError, match=r"metrics\.jsonl' is damaged"):
        check_finished(home)
    assert sorted(p.name for p in home.iterdir() if p.name.startswith(".")) == []


def test_what_was_half_done_is_replaced_and_what_is_done_is_kept(tmp_path):
    run, home = run_in(tmp_path / "away" / "run-1", result="7"), run_in(tmp_path / "runs" / "run-1", result="old")
    (home / "DONE").unlink()
    (home / "state").mkdir()
    (home / "state" / "index.json").write_text("{}")
    store_run(pack(run), home, "abc")
    assert content(home) == content(run)
    assert (home / "DONE").exists()
    (home / "result.json").write_text("ours")
    store_run(pack(run), home, "abc")
    assert (home / "result.json").read_text() == "ours"


def test_a_crash_on_arrival_leaves_a_folder_that_is_not_done(tmp_path, monkeypatch):
    run, home = run_in(tmp_path / "away" / "run-1"), tmp_path / "runs" / "run-1"
    monkeypatch.setattr("sluicegate.execution.ray.transfer.write_done", lambda path: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        store_run(pack(run), home, "abc")
    assert not (home / "DONE").exists()
    monkeypatch.undo()
    store_run(pack(run), home, "abc")
    assert content(home) == content(run)


def test_folders_of_others_are_left_as_they_are(tmp_path):
    files = pack(run_in(tmp_path / "away" / "run-1"))
    other = run_in(tmp_path / "runs" / "run-1", digest="other")
    with pytest.raises(UserError, match="holds another run"):
        store_run(files, other, "abc")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(UserError, match="'letter'"):
        store_run(files, tmp_path / "mine", "abc")
    with pytest.raises(UserError, match="a worker made another run"):
        store_run(files, tmp_path / "new" / "run-1", "abd")
    assert not (tmp_path / "new" / "run-1" / "DONE").exists()


def test_a_folder_that_another_process_holds_is_not_written(tmp_path):
    files, home = pack(run_in(tmp_path / "away" / "run-1")), tmp_path / "runs" / "run-1"
    home.mkdir(parents=True)
    with held(home / "lock", "it is in use", "Wait."), pytest.raises(UserError, match=f"in use.*process {os.getpid()}"):
        store_run(files, home, "abc")


def test_sources_are_what_is_on_this_machine_and_several_in_one_setting_are_told_apart(tmp_path):
    (tmp_path / "keep.jsonl").write_text("")
    (tmp_path / "book.txt").write_text("")
    (tmp_path / "model").mkdir()
    rows = f"task:arithmetic/retain, {tmp_path}/keep.jsonl,texts:{tmp_path}/book.txt"
    stage = from_config({"verb": "train", "model": str(tmp_path / "model"), "retain": rows, "forget": "task:arithmetic/forget"})
    assert local_sources(stage) == [f"{tmp_path}/model", f"{tmp_path}/keep.jsonl", f"{tmp_path}/book.txt"]
    moved = rename_sources(stage, lambda name: name.replace(str(tmp_path), "/elsewhere"))
    assert moved["model"] == "/elsewhere/model"
    assert moved["retain"] == "task:arithmetic/retain,/elsewhere/keep.jsonl,texts:/elsewhere/book.txt"
    assert moved["forget"] == "task:arithmetic/forget"
    packaged = from_config({"verb": "train", "model": "arithmetic-tiny", "retain": "task:arithmetic/retain"})
    assert local_sources(packaged) == []
