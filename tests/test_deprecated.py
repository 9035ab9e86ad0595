"""What was called otherwise in the release before still works, and warns."""

import importlib
import sys

import pytest

from sluicegate.deprecated import MODULES, TO_PAPERS, alias, renamed


@pytest.mark.parametrize("old", sorted(MODULES))
def test_a_module_is_found_under_its_earlier_name(old):
    sys.modules.pop(f"sluicegate.{old}", None)
    new = importlib.import_module(f"sluicegate.{MODULES[old]}")
    spec = new.__spec__
    with pytest.warns(DeprecationWarning, match=f"sluicegate.{old} is now sluicegate.{MODULES[old]}"):
        assert importlib.import_module(f"sluicegate.{old}") is new
    assert new.__spec__ is spec
    assert new.__name__ == f"sluicegate.{MODULES[old]}"


@pytest.mark.parametrize("old", sorted(TO_PAPERS))
def test_a_module_that_went_to_papers_is_found_or_said_where_to_get(old, monkeypatch):
    now = f"sluicegate_papers.{TO_PAPERS[old]}"
    with pytest.warns(DeprecationWarning, match=f"sluicegate.{old} is now {now}"):
        assert importlib.import_module(f"sluicegate.{old}") is importlib.import_module(now)
    sys.modules.pop(f"sluicegate.{old}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "sluicegate_papers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sluicegate_papers", None)
    with pytest.warns(DeprecationWarning, match=now), pytest.raises(ModuleNotFoundError, match="pip install sluicegate-papers"):
        importlib.import_module(f"sluicegate.{old}")


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="nonsense"):
        importlib.import_module("sluicegate.nonsense")


def test_a_keyword_is_taken_by_its_earlier_name():
    @renamed(room="run")
    def work(x, run=None):
        return x, run

    with pytest.warns(DeprecationWarning, match=r"work\(room=\.\.\.\) is now run="):
        assert work(1, room=2) == (1, 2)
    assert work(1, run=3) == (1, 3)
    with pytest.raises(TypeError, match="twice"):
        work(1, room=2, run=3)


def test_an_attribute_is_found_by_its_earlier_name():
    from sluicegate.runs import directory

    with pytest.warns(DeprecationWarning, match="is now RunContext"):
        assert directory.Room is directory.RunContext
    with pytest.raises(AttributeError, match="no attribute 'Hall'"):
        alias("somewhere", Room="RunContext")("Hall")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("unlearning.suppress.train", "engine.train.train"),
        ("inspection.Inspection", "audit.audit.AuditResult"),
        ("stages.Train", "tasks.train_stage.Train"),
        ("stages.Relearn", "audit.stage.Relearn"),
        ("stages.Score", "tasks.stage.Score"),
        ("stages.Route", "routing.stage.Route"),
        ("stages.Ablate", "routing.stage.Ablate"),
        ("models.encode", "engine.encoding.encode"),
        ("models.Meter", "engine.forward.Meter"),
    ],
)
@pytest.mark.filterwarnings("ignore:sluicegate[.a-z]* is now:DeprecationWarning")  # the module's own move
def test_what_moved_out_of_a_module_is_found_there_too(old, new):
    module, _, name = f"sluicegate.{old}".rpartition(".")
    home, _, own = f"sluicegate.{new}".rpartition(".")
    earlier = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{name} is now .*{own}"):
        assert getattr(earlier, name) is getattr(importlib.import_module(home), own)
