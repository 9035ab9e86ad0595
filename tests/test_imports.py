"""Imports only ever point down the floors, and reading a command line does not import torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_stages import SRC

PACKAGE = SRC / "sluicegate"
FLOORS = (
    ("errors",),
    ("curves", "edits", "items"),
    ("claims", "runs.sharding"),
    ("schedule", "convert", "runs.disk", "runs.lock", "runs.ranks", "runs.launch"),
    ("fetch", "study"),
    ("models", "runs.room", "runs.identity"),
    ("sampling",),
    ("training",),
    ("scoring",),
    ("tasks",),
    ("routing",),
    ("unlearning", "steering"),
    ("audit", "latent", "oversight"),
    ("stages",),
    ("trials",),
    ("execution",),
    ("runs.jobs", "runs.parcels", "runs.visitor"),
    ("runs.pool", "runs.remote", "runs.resources", "runs.tether"),
    ("runs.cluster",),
    ("recipe",),
    ("experiment",),
    ("inspection", "sweep"),
    ("report",),
    ("bench",),
    ("cli",),
    ("__main__", "runs.member"),
)
"""From the ground up; modules of one floor do not import each other, except inside a package."""


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def home(module):
    """The entry of FLOORS that a module belongs to, and its floor; None for the package itself."""
    if not module:
        return None
    for height, floor in enumerate(FLOORS):
        for entry in floor:
            if module == entry or module.startswith(f"{entry}."):
                return entry, height
    return None


def imported(tree):
    """What a module imports of the package, in functions too, but not what only the type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)
        else:
            yield from imported(node)


def upward(module, text, known):
    """The imports in a module's text that do not point down."""
    mine = home(module)
    for name in imported(ast.parse(text)):
        target = name.removeprefix("sluicegate.")
        if not name.startswith("sluicegate.") or target not in known:
            continue
        theirs = home(target)
        if mine and theirs and mine[0] != theirs[0] and mine[1] <= theirs[1]:
            yield f"{module} imports {target}"


def test_imports_point_down():
    known = {name for name, _ in modules()}
    assert [wrong for name, path in modules() for wrong in upward(name, path.read_text(), known)] == []


def test_every_module_has_a_floor():
    assert [name for name, _ in modules() if name not in ("", "runs") and not home(name)] == []


@pytest.mark.parametrize(
    "text",
    [
        "from sluicegate.stages import execute",
        "import sluicegate.stages",
        "from sluicegate import stages",
        "def f():\n    from sluicegate.stages import execute",
        "class A:\n    if True:\n        import sluicegate.stages",
    ],
)
def test_the_check_on_imports_can_fail(text):
    assert list(upward("models", text, {"stages", "models"})) == ["models imports stages"]
    assert list(upward("cli", text, {"stages", "cli"})) == []
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    " + text.replace("\n", "\n    ")
    assert list(upward("models", guarded, {"stages", "models"})) == []


def imports_torch(code):
    script = f"import sys\n{code}\nsys.exit(3 if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": str(SRC)}, check=False)
    assert done.returncode in (0, 3), done.stderr
    return done.returncode == 3


@pytest.mark.parametrize(
    "code",
    [
        "import sluicegate",
        "import sluicegate.stages",
        "from sluicegate.execution import from_config; from_config({'verb': 'unlearn', 'method': 'rmu'}).config()",
        "import sluicegate.recipe as e; e.load_recipe('undo-arithmetic')",
        "import sluicegate.runs.lock",
        "import sluicegate.runs.room",
        "import sluicegate.convert",
        "import sluicegate.fetch",
        "from sluicegate.routing.rules import rules; import sluicegate.routing; rules()",
        "import sluicegate.cli",
        "import sluicegate.study.collection",
        "import sluicegate.tasks.digits, sluicegate.trials.split, sluicegate.trials.latent",
    ],
)
def test_reading_a_command_line_does_not_import_torch(code):
    assert not imports_torch(code)


def test_the_check_on_torch_can_fail():
    assert imports_torch("import sluicegate.models")


def test_every_public_name_is_where_the_package_says():
    import sluicegate

    for name in sluicegate.__all__:
        assert getattr(sluicegate, name) is not None
    assert set(sluicegate.__all__) == set(sluicegate._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
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
