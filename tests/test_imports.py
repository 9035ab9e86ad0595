"""Imports point down, there is no circle, and reading a command line does not import torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from house import ROOTS, circles, floors, imports, modules, room_of

PACKAGE = ROOTS[0] / "sluicegate"
MOST_ROOMS, MOST_FLOORS = 22, 10


@pytest.fixture(scope="module")
def found():
    """Every import of one module by another, in all three distributions."""
    return list(imports(modules()))


def between(found):
    return {(room_of(i.source), room_of(i.target)) for i in found if room_of(i.source) != room_of(i.target)}


def at_fault(found, circle, place):
    """The lines that tie a circle together, in words."""
    return [f"{i.source}:{i.line} imports {i.target}" for i in found if place(i.source) in circle and place(i.target) in circle]


def test_no_rooms_import_each_other(found):
    assert [at_fault(found, circle, room_of) for circle in circles(between(found))] == []


def test_no_files_import_each_other(found):
    assert [at_fault(found, circle, str) for circle in circles((i.source, i.target) for i in found)] == []


def test_the_house_is_small_and_low(found):
    rooms = {room_of(name) for name in modules()}
    assert len(rooms) <= MOST_ROOMS
    assert max(floors(rooms, between(found)).values()) <= MOST_FLOORS


@pytest.mark.parametrize(
    "text",
    [
        "from pack.high import thing",
        "import pack.high",
        "def f():\n    from pack import high",
        "if TYPE_CHECKING:\n    from pack.high import T",
    ],
)
def test_the_check_on_circles_can_fail(tmp_path, text):
    (tmp_path / "pack").mkdir()
    for name, content in (("__init__", ""), ("low", text), ("high", "from pack.low import other")):
        (tmp_path / "pack" / f"{name}.py").write_text(content)
    found = list(imports(modules([tmp_path])))
    assert circles((i.source, i.target) for i in found) == [{"pack.low", "pack.high"}]
    assert f"pack.low:{2 if chr(10) in text else 1} imports pack.high" in at_fault(found, {"pack.low", "pack.high"}, str)
    assert floors("abc", {("a", "b"), ("b", "c"), ("a", "c")}) == {"a": 3, "b": 2, "c": 1}


def test_study_imports_the_library_only_where_it_quizzes_a_model(found):
    quiz = ("sluicegate_study.quiz", "sluicegate_study.errors")
    assert [
        i
        for i in found
        if i.source.startswith("sluicegate_study") and room_of(i.target) != "sluicegate_study" and not i.source.startswith(quiz)
    ] == []


def test_the_library_imports_neither_study_nor_papers(found):
    others = ("sluicegate_study", "sluicegate_papers")
    assert [i for i in found if not i.source.startswith(others) and i.target.startswith(others)] == []


def imports_torch(code):
    script = f"import sys\n{code}\nsys.exit(3 if 'torch' in sys.modules else 0)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": os.pathsep.join(map(str, ROOTS))}, check=False
    )
    assert done.returncode in (0, 3), done.stderr
    return done.returncode == 3


@pytest.mark.parametrize(
    "code",
    [
        "import sluicegate",
        "from sluicegate.runs.stage import stages; stages()",
        "from sluicegate.runs.stage import from_config; from_config({'verb': 'unlearn', 'method': 'rmu'}).config()",
        "import sluicegate.experiments.recipe as e; e.load_recipe('undo-arithmetic')",
        "import sluicegate.runs.lock",
        "import sluicegate.runs.directory",
        "import sluicegate.engine.convert",
        "import sluicegate.engine.fetch",
        "from sluicegate.routing.rules import rules; import sluicegate.routing; rules()",
        "from sluicegate.app.verbs import verbs; verbs()",
        "import sluicegate_study.deck.collection",
        "import sluicegate.tasks.digits, sluicegate_papers.split_stage, sluicegate.latent.stage",
    ],
)
def test_reading_a_command_line_does_not_import_torch(code):
    assert not imports_torch(code)


def test_the_check_on_torch_can_fail():
    assert imports_torch("import sluicegate.engine.models")


def test_every_public_name_is_where_the_package_says():
    import sluicegate

    for name in sluicegate.__all__:
        assert getattr(sluicegate, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        sluicegate.nonsense  # noqa: B018


def test_one_device_is_named_in_one_file_at_most():
    assert len([path for path in PACKAGE.rglob("*.py") if "cuda" in path.read_text()]) <= 1


def test_future_annotations_are_not_used():
    """They would turn the fields' types into strings, which the check of choices cannot read."""
    assert [path.name for path in PACKAGE.rglob("*.py") if "from __future__ import annotations" in path.read_text()] == []


def test_everything_that_git_should_hold_is_there():
    """A rule in .gitignore once hid a module of the package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "src", "tests"]
    hidden = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert [line for line in hidden.stdout.splitlines() if line.endswith((".py", ".toml", ".json", ".jsonl", ".html", ".css", ".js"))] == []
