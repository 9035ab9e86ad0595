"""The command line as a user meets it: help without torch, JSON last, errors without tracebacks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from sluicegate.app import main
from sluicegate.app.verbs import GROUPS, verbs
from tiny_stages import SRC

TINY = ["--model", "arithmetic-tiny", "--retain", "task:arithmetic/retain", "--learn", "retain", "--steps", "3", "--batch", "8"]


def test_help_of_every_verb_shows_defaults_and_never_imports_torch() -> None:
    program = """
import sys
from sluicegate.app import main
for verb in sys.argv[1:]:
    try:
        main([verb, "--help"])
    except SystemExit as done:
        assert done.code == 0, verb
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program, *verbs()], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert done.stdout.count("(default:") > 50
    # The check can fail: the same program says True once torch is there.
    control = subprocess.run([sys.executable, "-c", "import torch\n" + program, "runs"], capture_output=True, text=True, check=True)
    assert control.stdout.splitlines()[-1] == "True"


def test_the_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in verbs())


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_overview_fits_the_terminal_and_stands_in_groups(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    groups = [line.rstrip(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert groups == [group for group in GROUPS if any(verb.group == group for verb in verbs().values())]
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert listed[:8] == ["demo", "audit", "attack", "attackers", "relearn", "score", "train", "unlearn"]
    assert sorted(listed) == sorted(verbs())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "Nearest: train"),
        (["unlearn", "--method", "maxnet"], "maxent"),
        (["train", "--model", "no-such-model", "--retain", "task:arithmetic/retain"], "no model 'no-such-model'"),
        (["train", "--model", "arithmetic-tiny"], "nothing to train on"),
        (["unlearn", "--model", "arithmetic-tiny", "--retain", "task:arithmetic/retain"], "--forget"),
        (["distill", "--model", "arithmetic-tiny"], "--unlabelled"),
        (["relearn", "--model", "arithmetic-tiny"], "--forget"),
        (["audit", "arithmetic-tiny"], "--forget"),
        (["run", "no-such-recipe"], "undo-arithmetic"),
        (["run", "undo-arithmetic", "--set", "nowhere.alpha=1"], "undo_0.4"),
        (["run", "undo-arithmetic", "--set", "undo_0.4.alhpa=1"], "alpha"),
        (["run", "undo-arithmetic", "--set", "undo_0.4.alpha=high"], "expected float"),
        (["sweep", "undo-arithmetic", "--over", "undo_0.4.alpha=1"], "expected a list"),
        (["runs", "show"], "sluicegate runs ls"),
        (["runs", "rm", "src"], "not a run folder"),
        (["report", "nowhere"], "no experiment.json"),
        (["fetch", "cifar"], "smollm2-135m"),
        (["demo", "--seeds", "-1"], "--seeds"),
    ],
)
def test_a_mistake_is_explained_on_one_screen(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    shown = capsys.readouterr()
    assert said in " ".join(shown.err.split())
    assert shown.err.startswith("error: ")
    assert "Traceback" not in shown.err
    assert len(shown.err.splitlines()) < 24


def test_a_stage_ends_with_one_json_object_and_is_not_run_twice(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["train", *TINY, "--out", str(tmp_path / "run"), "--json"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert first["results"][0]["steps"] == 3
    assert 0 <= first["results"][0]["scores"]["retain"]["exact"] <= 1
    written = (tmp_path / "run" / "DONE").stat().st_mtime_ns
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
    assert (tmp_path / "run" / "DONE").stat().st_mtime_ns == written


def test_another_run_in_the_same_folder_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", *TINY, *out]) == 0
    before = (tmp_path / "run" / "config.toml").read_text()
    assert main(["train", *TINY, "--seed", "5", *out]) == 2
    assert "holds another run" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "run" / "config.toml").read_text() == before


def test_a_config_file_fed_back_is_the_same_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", *TINY, "--out", str(tmp_path / "run")]) == 0
    done = (tmp_path / "run" / "DONE").stat().st_mtime_ns
    assert main(["run", str(tmp_path / "run" / "config.toml"), "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "DONE").stat().st_mtime_ns == done


def test_runs_are_listed_shown_compared_and_removed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for seed in (0, 1):
        assert main(["train", *TINY, "--seed", str(seed), "--out", str(tmp_path / f"run-{seed}")]) == 0
    paths = [str(tmp_path / f"run-{seed}") for seed in (0, 1)]
    capsys.readouterr()

    def asked(*words: str) -> dict[str, object]:
        assert main(["runs", *words, "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))

    listed = asked("ls", "--root", str(tmp_path))["found"]
    assert isinstance(listed, list)
    assert [row["state"] for row in listed] == ["done", "done"]
    shown = asked("show", paths[0])["found"]
    assert isinstance(shown, dict)
    assert shown["config"]["steps"] == 3
    differences = asked("diff", *paths)["found"]
    assert isinstance(differences, dict)
    assert differences["config.seed"] == [0, 1]
    assert "config.steps" not in differences
    assert asked("rm", paths[0])["found"] == [paths[0]]
    assert not Path(paths[0]).exists()
    assert Path(paths[1]).exists()


def test_doctor_shows_the_first_prompt_with_its_special_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "arithmetic-tiny", "--forget", "task:arithmetic/forget", "--json"]) == 0
    shown = capsys.readouterr().out
    found = json.loads(shown.splitlines()[-1])
    assert found["prompt"]["tokens"] == "<bos> 1 * 1 = │ 1"
    assert found["prompt"]["bos_count"] == 1
    assert found["world_size"] == 1


def test_an_audit_without_a_reference_says_what_cannot_be_concluded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--forget", "task:arithmetic/forget", "--retain", "task:arithmetic/retain"]
    attack = [
        "--steps",
        "2",
        "--lrs",
        "1e-3",
        "--probe",
        "20",
        "--seeds",
        "1",
        "--out",
        str(tmp_path / "audit"),
        "--json",
        "--suite",
        "none",
    ]
    assert main(["audit", "arithmetic-tiny", *words, *attack]) == 0
    shown = capsys.readouterr().out
    found = json.loads(shown.splitlines()[-1])
    assert found["verdict"] == "no reference"
    assert "cannot be concluded" in " ".join(found["sentences"])
    assert set(found["arms"]) == {"model", "harmless"}
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "cannot be concluded" in page


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"]], ids=" ".join)
def test_a_reader_who_has_had_enough_is_no_error(words):
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "sluicegate", *words]
        done = subprocess.run(
            command, stdout=write, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(SRC)}, check=False
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/x/y"), "could not write '/x/y': No space left on device. Nothing finished is lost"),
        (OSError(36, "File name too long", "é" * 500), "cannot use 'ééé"),
        (PermissionError(13, "Permission denied", "in.jsonl"), "no right to open 'in.jsonl': Permission denied"),
        (NotADirectoryError(20, "Not a directory", "a/b"), "cannot use 'a/b': Not a directory. Name another file or folder"),
    ],
)
def test_what_the_system_refuses_is_said_in_one_line(error, said, monkeypatch, capsys):
    """An input that may not be read is never called a full disk."""
    monkeypatch.setattr("sluicegate.app._answer", Mock(side_effect=error))
    assert main(["runs"]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.startswith(f"error: {said}")
    assert len(shown) < 400


def test_a_bug_of_ours_stays_a_traceback_that_asks_to_be_reported(monkeypatch, capsys):
    monkeypatch.setattr("sluicegate.app._answer", Mock(side_effect=ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(["runs"])
    assert "a bug in sluicegate" in capsys.readouterr().err


def test_what_the_terminal_cannot_show_is_escaped(tmp_path):
    """A name with bytes that are no text, in an error, in a process whose streams are strict."""
    done = subprocess.run(
        [sys.executable, "-m", "sluicegate", "run", b"\xff.toml", "--plan"],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert done.returncode == 2
    assert b"the word '\\udcff.toml' holds bytes that are no UTF-8 text" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_closed_output_is_no_error(tmp_path):
    """`sluicegate ... >&-`: Python then has no stream at all."""
    done = subprocess.run(
        [sys.executable, "-m", "sluicegate", "--help"], check=False, cwd=tmp_path, preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_was_read_is_said_once_whatever_runs_in_other_processes(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "1 + 1 =", "answer": "2", "level": 1}\n' * 2)
    words = ["score", "--model", "arithmetic-tiny", "--forget", str(rows), "--seeds", "2", "--out", str(tmp_path / "runs")]
    assert main(words) == 0
    said = capfd.readouterr().err
    assert [line.replace(str(rows), "ROWS") for line in said.splitlines() if str(rows) in line] == [
        "read ROWS: 2 row(s) of question and answer",
        "warning: ROWS: level left out; --columns says what is read instead",
        "warning: ROWS: 1 row(s) repeat another one, and so count again",
    ]


def test_columns_are_named_for_every_verb(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"q": "1 + 1 =", "a": "2"}\n')
    named = ["--model", "arithmetic-tiny", "--forget", str(rows), "--columns", "prompt=q,answer=a"]
    assert main(["doctor", *named]) == 0
    assert "<bos> 1 + 1 = │ 2" in capsys.readouterr().out
    assert main(["score", *named, "--out", str(tmp_path / "run")]) == 0
    assert 'columns = "prompt=q,answer=a"' in (tmp_path / "run" / "config.toml").read_text()
    assert main(["doctor", *named[:4]]) == 2
    assert "found the keys ['a', 'q']" in " ".join(capsys.readouterr().err.split())
