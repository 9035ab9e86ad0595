"""Every block of code in the README and the documentation: Python runs as it stands, commands are ones that exist.

A block that cannot run is marked on the page by a comment right above it: ``<!-- not run: reason -->``. One that takes
more than a few seconds is marked ``<!-- slow -->``: it runs with ``--slow`` only, and no block that is fast may need
its names.
"""

import contextlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import tyro

from pages import PAGES, ROOT, Block, blocks, name
from plugin import documented, install
from sluicegate import registry
from sluicegate.app import main
from sluicegate.app.verbs import verbs

BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [pytest.param(b, words, id=f"{b} {' '.join(words)[:60]}") for b in BLOCKS for words in b.commands() if b.mark != "not run"]

NAMES = """
from pathlib import Path
import numpy
import sluicegate as sg
model, tokenizer = sg.load("runs/maxent")
split = sg.tasks.arithmetic().split(seed=0)
teacher = student = model
"""
"""What the pages take as given; docs/index.md says so."""

ARITHMETIC = ["--forget", "task:arithmetic/forget", "--retain", "task:arithmetic/retain"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the runs and files that the pages name, from trainings of two steps."""
    folder = tmp_path_factory.mktemp("prepared")
    with contextlib.chdir(folder):
        for run, learn in (("base", "unlabelled"), ("gold", "retain")):
            rows = ["--unlabelled", "task:arithmetic/unlabelled", "--learn", learn]
            assert main(["train", "--model", "arithmetic-tiny", *rows, *ARITHMETIC, "--steps", "2", "--out", f"runs/{run}"]) == 0
        for method in ("maxent", "npo"):
            words = ["unlearn", "--method", method, "--model", "runs/base", *ARITHMETIC, "--steps", "2", "--out", f"runs/{method}"]
            assert main(words) == 0
        shutil.copytree("runs/maxent", "runs/undo")
        assert main(["deck", "new", "mydeck"]) == 0
        for kind in ("forget", "retain"):
            numbers = range(1, 7) if kind == "forget" else range(7, 13)
            rows = [{"prompt": f"{n} + 1 =", "answer": f" {n + 1}", "fact": str(n)} for n in numbers]
            Path(f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """A copy of the prepared folder for one page, and the working folder."""
    shutil.copytree(prepared, tmp_path / "page")
    monkeypatch.chdir(tmp_path / "page")
    monkeypatch.syspath_prepend(tmp_path / "page")
    for block in BLOCKS:
        if block.file and (block.file.startswith("sluicegate_mine/") or not block.file.endswith(".py")):
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")
    return tmp_path / "page"


def _python(page: Path, marks: set[str]) -> list[Block]:
    return [b for b in blocks(page) if b.language == "python" and b.mark in marks]


FAST = [page for page in PAGES if _python(page, {""})]
SLOW = [
    pytest.param(page, marks=pytest.mark.slow) for page in PAGES if _python(page, {"slow"}) and name(page) != "README.md"
]  # test_readme.py


@pytest.mark.parametrize("page", FAST, ids=name)
def test_the_python_of_a_page_runs_in_one_namespace(page, folder):
    _run(_python(page, {""}))


@pytest.mark.parametrize("page", SLOW, ids=name)
def test_the_python_of_a_page_runs_with_what_is_slow(page, folder):
    _run(_python(page, {"", "slow"}))


def _run(those: list[Block]) -> None:
    torch.set_num_threads(1)
    names = {"__name__": "__main__"}
    exec(NAMES, names)
    for block in those:
        lines = "\n" * block.line + block.text  # so that a traceback names the line on the page
        code = compile(lines, name(block.page), "exec")
        exec(code, {"__name__": block.file.removesuffix(".py")} if block.file else names)


@pytest.fixture
def plugin(block, tmp_path, monkeypatch):
    """Where a page builds a plug-in, what it shows is installed for the commands of that page."""
    if block.page.name == "extending.md":
        install(tmp_path, "mine", "sluicegate_mine", documented())
        monkeypatch.syspath_prepend(tmp_path)
        registry.forget()


@pytest.fixture(autouse=True)
def _forget():
    yield
    for module in [m for m in sys.modules if m.partition(".")[0] == "sluicegate_mine"]:
        del sys.modules[module]


class ParsedError(Exception):
    """The words were read; nothing is run."""


@pytest.mark.parametrize(("block", "words"), COMMANDS)
def test_a_command_of_a_page_is_one_that_exists(block, words, plugin, monkeypatch, capsys):
    real = tyro.cli

    def parse_only(*args, **kwargs):
        real(*args, **kwargs)
        raise ParsedError

    monkeypatch.setattr(tyro, "cli", parse_only)
    if words[1] in ("--help", "--version"):
        return
    with pytest.raises(ParsedError):
        verbs()[words[1]].call(words[2:])


RECIPES = [case for case in COMMANDS if case.values[1][1] == "run" and not case.values[1][2].endswith(".toml")]


@pytest.mark.parametrize(("block", "words"), RECIPES)
def test_a_recipe_of_a_page_can_be_planned_with_these_settings(block, words, folder, plugin, capsys):
    assert main([*words[1:], "--plan"]) == 0


CHEAP = {"doctor", "score", "runs", "report"}
"""Verbs that only look, and take a second on what lies in the prepared folder."""


@pytest.mark.parametrize(("block", "words"), [case for case in COMMANDS if case.values[1][1] in CHEAP])
def test_a_command_that_only_looks_runs(block, words, folder, capsys):
    named = [word for word in words[2:] if word.startswith("runs/") or word in ("smollm2-135m",)]
    if lacking := [word for word in named if not Path(word).exists()]:
        pytest.skip(f"needs {lacking[0]}")
    assert main(words[1:]) == 0


NOT_RUN = [pytest.param(b, id=str(b)) for b in BLOCKS if b.mark == "not run"]


@pytest.mark.parametrize("block", NOT_RUN)
def test_what_is_not_run_says_why(block):
    assert len(block.reason.split()) > 2
    pytest.skip(f"not run: {block.reason}")  # so that the summary lists it


def test_no_block_is_of_a_language_that_nobody_checks():
    assert {b.language for b in BLOCKS} <= {"", "python", "toml", "json", "markdown"}


def test_the_make_targets_of_the_pages_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {word for b in BLOCKS if not b.language for word in re.findall(r"^make ([a-z-]+)", b.text, re.MULTILINE)}
    assert asked
    assert asked <= targets


def test_toml_and_json_of_a_page_can_be_read():
    import tomllib

    for block in BLOCKS:
        if block.mark != "not run" and block.language == "toml":
            tomllib.loads(block.text)
        elif block.mark != "not run" and block.language == "json":
            for line in block.text.splitlines():
                json.loads(line)
