"""Without this distribution, a name of it says what to install; the table of its names is what it brings."""

from functools import partial

import pytest

from sluicegate import registry
from sluicegate.app import main
from sluicegate.engine.models import locate, packaged
from sluicegate.errors import UserError
from sluicegate.experiments.recipe import Recipe, load_recipe, packaged_recipes
from sluicegate.runs.stage import from_config, stages
from sluicegate.tasks import read
from sluicegate.tasks.sources import sources

TABLE = registry.ELSEWHERE["sluicegate-papers"]


def place_of(thing):
    return getattr(thing.func if isinstance(thing, partial) else thing, "__module__", "")


def test_the_table_is_what_papers_brings():
    theirs = [module.__name__ for module in registry.modules("cli") if module.__name__.startswith("sluicegate_papers")]
    assert set(TABLE["verb"]) == {
        v.name for m in theirs for v in vars(__import__(m, fromlist=["x"])).values() if isinstance(v, registry.Verb)
    }
    assert set(TABLE["stage"]) == {verb for verb, cls in stages().items() if place_of(cls).startswith("sluicegate_papers")}
    assert set(TABLE["recipe"]) == {name for name, path in packaged_recipes().items() if "sluicegate_papers" in path.parts}
    named = {
        name.removeprefix("task:").partition("/")[0] for name, own in sources().items() if place_of(own).startswith("sluicegate_papers")
    }
    assert set(TABLE["task"]) == named
    assert set(TABLE["model"]) == {name for name, path in packaged().items() if "sluicegate_papers" in path.parts}


def test_the_table_names_the_verbs_of_study():
    theirs = {name for name, verb in registry.verbs().items() if verb.group == "study"}
    assert set(registry.ELSEWHERE["sluicegate-study"]["verb"]) == theirs


@pytest.fixture
def alone(monkeypatch):
    """The library without its other distributions."""
    own = [entry for entry in registry._entries() if entry.value == registry.OWN]
    monkeypatch.setattr(registry, "_entries", lambda: own)
    registry.forget()
    yield
    monkeypatch.undo()
    registry.forget()


SAID = r"It comes with sluicegate-papers: pip install sluicegate-papers\."


@pytest.mark.parametrize("name", TABLE["recipe"])
def test_a_recipe_says_what_to_install(alone, name):
    with pytest.raises(UserError, match=rf"no recipe '{name}'.*{SAID}"):
        load_recipe(name)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: from_config({"verb": "lora"}),
        lambda: Recipe(name="mine", arms={"a": {"verb": "split"}}, attack={}),
        lambda: read("task:biographies-city/forget"),
        lambda: locate("biographies-tiny"),
    ],
)
def test_a_stage_a_task_and_a_model_say_what_to_install(alone, ask):
    with pytest.raises(UserError, match=SAID):
        ask()


def test_a_verb_says_what_to_install_and_an_unknown_name_does_not(alone, capsys):
    assert main(["bench"]) == 2
    assert main(["deck"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "pip install sluicegate-papers" in said
    assert "pip install sluicegate-study" in said
    for ask in (lambda: load_recipe("lorra"), lambda: read("task:nobody/forget"), lambda: locate("nobody-tiny")):
        with pytest.raises(UserError) as error:
            ask()
        assert "pip install" not in str(error.value)
