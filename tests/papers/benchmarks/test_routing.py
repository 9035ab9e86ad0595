"""The benchmark measures what it says; timings themselves are no test."""

import dataclasses

import pytest
import torch

from sluicegate_papers.benchmarks import routing
from sluicegate_papers.benchmarks.routing import Case, Measured, Ratio, _kept, _median, _passes, markdown, summary


@pytest.fixture
def case():
    make = lambda: torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))  # noqa: E731
    return Case("small", "*", "", 8, 2, make, lambda: torch.randn(8, 8))


def test_every_case_has_every_variant(case):
    found = routing.measure("small", case, seconds=0.05)
    assert tuple(found.ratios) == ("gate", "protect", "mixture", "two_pass")
    assert found.repetitions >= 3
    assert set(summary({"small": found})["small"]) == set(found.ratios)
    assert set(routing.cases()) == {"block_256", "block_512", "linear_6"}


def test_a_case_of_ones_own_is_measured_alone(case, monkeypatch):
    monkeypatch.setattr(routing, "measure", lambda name, case, **given: (name, case.what, given["seconds"]))
    assert routing.run(quick=True, wanted={"mine": case}) == {"mine": ("mine", "small", 4.0)}


def gradients(once, holder):
    once()
    return {name: p.grad.clone() for name, p in holder.named_parameters()}


@pytest.mark.parametrize("mixed", [False, True])
def test_the_variants_train_what_they_say(case, mixed):
    """Two passes and the parameter form give one gradient; a gate and the usual mixture give one gradient."""
    gate, protect, mixture, plain, two = _by_name(_passes(dataclasses.replace(case, mixed=mixed)))
    same = lambda a, b: all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)  # noqa: E731
    assert same(gate, mixture)
    assert same(protect, two)
    assert not same(gate, plain)
    assert not same(protect, plain)


def _by_name(passes):
    found = []
    for name in ("gate", "protect", "mixture", "plain", "two_pass"):
        once = passes[name]
        model = next(c.cell_contents for c in once.__closure__ if isinstance(c.cell_contents, torch.nn.Module))
        found.append(gradients(once, model))
    return found


def test_memory_counts_a_storage_once_and_no_parameters():
    x = torch.randn(100, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(100))
    assert _kept(lambda: (x.exp() * weight).sum().backward()) == 400  # the exponential: kept twice, one storage


def test_the_interval_of_a_median_encloses_it():
    assert _median([float(i) for i in range(101)]) == (50.0, 40.0, 60.0)
    assert _median([1.0, 2.0, 3.0]) == (2.0, 1.0, 3.0)


def test_the_table_has_a_row_a_case():
    ratios = dict.fromkeys(routing.VARIANTS, Ratio(1.01, 1.0, 1.02, 2**20))
    lines = markdown({"small": Measured("what", 0.01, 2**20, 7, ratios)}).splitlines()
    assert lines[2].startswith("| small: what | 10.0 ms, 1.0 MiB, 7 times | 1.010 [1.000, 1.020], +1.00 MiB |")
