"""The tree of tests mirrors the tree of code: what tests a module lies in a folder named like the module's."""

from pathlib import Path

from house import ROOTS, modules

TESTS = Path(__file__).parent
OTHERS = {"browser", "campaign", "conformance", "docs", "finished", "slow"}
"""Folders of tests that are about more than one room, and of what tests need."""
DISTRIBUTIONS = {"study": ROOTS[1] / "sluicegate_study", "papers": ROOTS[2] / "sluicegate_papers"}


def test_every_folder_of_tests_is_a_folder_of_code():
    for folder in sorted({path.parent for path in TESTS.rglob("test_*.py")} - {TESTS}):
        first, *rest = folder.relative_to(TESTS).parts
        home = DISTRIBUTIONS.get(first, ROOTS[0] / "sluicegate" / first)
        assert first in OTHERS or home.joinpath(*rest).is_dir(), f"{folder} mirrors no folder of code"


def test_every_room_of_the_library_is_tested_in_its_own_folder():
    rooms = {name.split(".")[1] for name in modules(ROOTS[:1]) if name.count(".") > 1}
    assert [room for room in sorted(rooms) if not list((TESTS / room).rglob("test_*.py"))] == []
