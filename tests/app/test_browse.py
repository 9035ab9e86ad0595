import json
import os
import subprocess
import sys

import pytest

from sluicegate.app import main
from sluicegate.runs.directory import open_run


def run_in(folder, result=None):
    """A finished run folder that took no training."""
    identity = {"digest": "d" * 64, "config": {"verb": "test"}, "parents": {}, "environment": {}}
    with open_run(folder, **identity, title="t") as run:
        (folder / "vector.safetensors").write_text("a file of the stage's own")
        run.finish(result or {"scores": {"forget": {"exact": 0.5}}})
    return folder


def said(capsys, *words):
    status = main(list(words))
    told = capsys.readouterr()
    return status, " ".join((told.out + told.err).split())


def test_a_run_that_a_process_is_at_work_on_is_not_removed(tmp_path, capsys):
    program = f"""
import time
from pathlib import Path
from sluicegate.runs.lock import held
with held(Path({str(tmp_path / "run" / "lock")!r}), "x", "y"):
    print("held", flush=True)
    time.sleep(60)
"""
    folder = run_in(tmp_path / "run")
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        before = sorted(folder.rglob("*"))
        status, told = said(capsys, "runs", "rm", str(folder))
        assert (status, f"in use by another process (process {holder.pid}" in told) == (2, True), told
        assert sorted(folder.rglob("*")) == before
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert said(capsys, "runs", "rm", str(folder))[0] == 0
    assert not folder.exists()


def test_files_of_yours_are_named_and_left(tmp_path, capsys):
    folder = run_in(tmp_path / "run")
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("precious")
    (folder / "link").symlink_to(tmp_path)
    run_in(folder / "another")
    status, told = said(capsys, "runs", "rm", str(folder))
    assert status == 2
    assert all(repr(str(folder / name)) in told for name in ("notes", "link", "another")), told
    assert sorted(p.name for p in folder.iterdir()) == ["another", "link", "notes"]
    assert (folder / "notes" / "mine.txt").read_text() == "precious"
    assert (folder / "another" / "DONE").exists()


def test_links_are_not_followed(tmp_path, capsys):
    folder, elsewhere = run_in(tmp_path / "run"), run_in(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(elsewhere)
    status, told = said(capsys, "runs", "rm", str(folder), str(tmp_path / "link"))
    assert (status, "is a link, which is not followed" in told) == (2, True)
    (folder / "DONE").unlink()
    (folder / "model").symlink_to(elsewhere)
    (folder / "state").symlink_to(elsewhere)
    (folder / "vector.safetensors").unlink()
    assert said(capsys, "runs", "rm", str(folder)) == (0, f"removed {folder}")
    assert (elsewhere / "DONE").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"scores": 3}', '{"owned": {}}', '{"measures": {"x": "y"}}', "\0", "[" * 99_999])
@pytest.mark.parametrize("name", ["result.json", "parents.json", "DONE"])
def test_a_run_that_cannot_be_read_is_a_row_that_says_so(tmp_path, capsys, name, content):
    run_in(tmp_path / "good")
    (run_in(tmp_path / "bad") / name).write_text(content)
    assert main(["runs", "ls", "--root", str(tmp_path), "--json"]) == 0
    found = {os.path.basename(row["run"]): row for row in json.loads(capsys.readouterr().out.splitlines()[-1])["found"]}
    assert found["good"]["scores"] == {"forget": 0.5}
    assert found["bad"]["state"] == ("done" if name == "DONE" and not content else "damaged")  # empty: from before there were sums


@pytest.mark.parametrize("name", ["result.json", "env.json", "seconds.json", "config.toml"])
def test_a_file_that_cannot_be_read_is_named_where_its_run_is_shown(tmp_path, capsys, name):
    folder, other = run_in(tmp_path / "run"), run_in(tmp_path / "other")
    (folder / name).write_bytes(b"\xff[[")
    for words in (["show", str(folder)], ["diff", str(other), str(folder)]):
        status, told = said(capsys, "runs", *words)
        assert (status, f"{name}' is damaged" in told) == (2, True), told


def test_names_are_shown_as_they_are_and_move_no_cursor(tmp_path, capsys):
    run_in(tmp_path / "[bold]z[" / "x]", {"scores": {"[/nope]\x1b[31m": {"exact": 0.5}}})
    assert main(["runs", "ls", "--root", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "[bold]z[" in told.replace("\n", "")
    assert "[/nope]\\x1b[31m 0.500" in told
    assert "\x1b" not in told


def test_a_closed_output_ends_no_command(tmp_path):
    run_in(tmp_path / "run")
    program = f"import os, sys; from sluicegate.app import main; sys.exit(main(['runs', 'ls', '--root', {str(tmp_path)!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", program], preexec_fn=lambda: (os.close(0), os.close(1)), stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
