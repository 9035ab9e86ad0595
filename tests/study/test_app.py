"""The command ``sluicegate-study``: its overview, its exit statuses, and that ``sluicegate`` has the same verbs."""

import errno
import os
import subprocess
import sys

import pytest

from sluicegate import registry
from sluicegate.app import main as library_main
from sluicegate.errors import UserError as LibraryError
from sluicegate_study import app, errors
from sluicegate_study.command import Verb

VERBS = ["buzz", "deck", "lecture", "play", "quiz", "team"]


def test_the_overview_names_every_verb(capsys):
    assert app.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {verb} " in said for verb in VERBS)
    assert "sluicegate-study VERB" in said


def test_the_library_has_the_same_verbs_in_the_group_study():
    assert sorted(app.find_verbs()) == VERBS
    assert sorted(name for name, verb in registry.verbs().items() if verb.group == "study") == VERBS
    for name, verb in app.find_verbs().items():
        assert registry.verbs()[name] is verb


def test_both_mains_catch_the_same_error(capsys):
    assert errors.UserError is LibraryError
    for main in (app.main, library_main):
        assert main(["deck", "check", "nowhere"]) == 2
        assert "error: no deck 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("/usr/bin/sluicegate", "sluicegate"),
        ("sluicegate-study", "sluicegate-study"),
        ("/x/sluicegate/__main__.py", "sluicegate"),
        ("/x/sluicegate_study/__main__.py", "sluicegate-study"),
        ("notebook.py", "sluicegate-study"),
    ],
)
def test_hints_name_the_program_that_was_called(called, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [called, "deck"])
    assert app.main() == 0
    assert f"usage: {name} deck " in capsys.readouterr().out
    assert app.main(["deck", "check", "nowhere"]) == 2
    assert f"{name} deck new nowhere" in " ".join(capsys.readouterr().err.split())


def test_an_unknown_verb_and_the_version(capsys):
    assert app.main(["dekc"]) == 2
    assert "deck" in capsys.readouterr().err
    assert app.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "log.jsonl"), 2, "could not write (log.jsonl): No space left on device"),
    ],
)
def test_what_is_no_mistake_of_the_words(error, status, said, monkeypatch, capsys):
    def fail(words):
        raise error

    monkeypatch.setattr(app, "find_verbs", lambda: {"fail": Verb("fail", "Fail", fail)})
    assert app.main(["fail"]) == status
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_programming_error_is_not_hidden(monkeypatch):
    monkeypatch.setattr(app, "find_verbs", lambda: {"fail": Verb("fail", "Fail", lambda words: len(os.listdir("/no/such/folder")))})
    with pytest.raises(FileNotFoundError):
        app.main(["fail"])


def test_a_reader_that_has_had_enough():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "sluicegate_study", "--help"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
