import dataclasses
import os

import pytest

# Before torch is imported: two cores are shared by every worker of the suite.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import torch

from architectures import learner
from sluicegate import registry, tasks
from sluicegate.engine import models
from sluicegate.values.items import Item, Split

torch.set_num_threads(1)
# A deadline an example is a flaky test on a busy machine.
hypothesis.settings.register_profile("sluicegate", deadline=None)
hypothesis.settings.load_profile("sluicegate")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take more than a few seconds")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):  # not item.keywords, which holds the names of folders too
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(scope="session")
def tokenizer():
    return models.load_tokenizer("arithmetic-tiny")


@pytest.fixture(scope="session")
def split() -> Split:
    """A slice of the arithmetic task that a test can train on in a moment."""
    whole = tasks.arithmetic(problems=0, pool=96).split()
    return Split(forget=whole.forget[::9], retain=whole.retain[::9], unlabelled=whole.unlabelled)


@pytest.fixture
def tiny():
    """A newly initialised model with one layer of width 64."""
    return learner()


@pytest.fixture(scope="session")
def mixed_items() -> tuple[Item, ...]:
    """Rows of several lengths, so that every batch is padded."""
    return (
        Item("3 * 4 =", " 12", "3*4"),
        Item("ann fills 3 bags 4 plums total", " 12", "3*4"),
        Item("bo shares 12 shells among 4 each", " 3 4 5", "12/4"),
        Item("", "the old fox sees the red plums today"),
        Item("1 + 1 =", " 2 = 2", "1+1"),
    )


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@dataclasses.dataclass
class Helpers:
    weights = staticmethod(weights)
    same = staticmethod(same)


@pytest.fixture(scope="session")
def bits() -> Helpers:
    """Bitwise comparison of weights: `bits.weights(model)`, `bits.same(before, after)`."""
    return Helpers()


@pytest.fixture(autouse=True)
def _look_again(request):
    """What a test has installed or taken away is not remembered for the next one."""
    yield
    if "monkeypatch" in request.fixturenames:
        registry.forget()
