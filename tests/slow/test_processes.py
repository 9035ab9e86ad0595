"""Two processes that train on half of the rows each do what one does on all of them, and hold the same weights back,
bitwise."""

import pytest
import torch

from routed_nets import columns_of
from two_processes import Case, together, trained

pytestmark = pytest.mark.slow
FORMS, KINDS = ["gate", "protect"], ["ddp", "fsdp"]
HOWS = [{}, {"labels": "forget"}, {"labels": "apart"}, {"labels": "forget", "pieces": True}, {"labels": "forget", "late": True}]
CASES = [Case(form, kind, **how) for form in FORMS for kind in KINDS for how in HOWS] + [Case(form, unused=True) for form in FORMS]


forms, kinds = pytest.mark.parametrize("form", FORMS), pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return together(tmp_path_factory.mktemp("pair"), CASES)


def alike(pairs, case):
    """Compare what two processes did with one, and return it."""
    one, two = trained(case), pairs[case]
    torch.testing.assert_close(torch.tensor(two["losses"]), torch.tensor(one["losses"]), rtol=1e-6, atol=1e-8)
    for own, other in zip(two["kept"], one["kept"], strict=True):
        for name in other:
            torch.testing.assert_close(own[name], other[name], rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.equal(two["kept"][0]["mlp.0.weight"], two["kept"][1]["mlp.0.weight"])
    return two


def still(found, form, columns):
    """Whether these columns of every divided parameter keep their bits from the second step on, and the others move."""
    first, *later = found["kept"][1:]
    for name in ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight") if form == "protect" else ("mlp.0.weight", "mlp.0.bias"):
        where = columns_of(name, first[name].shape)
        for column in range(3):
            same = [torch.equal(weights[name][where == column], first[name][where == column]) for weights in later]
            assert same == [column in columns] * len(later), (name, column)


@kinds
@forms
def test_half_of_the_rows_each(pairs, kind, form):
    alike(pairs, Case(form, kind))


@kinds
@forms
def test_what_no_process_may_train_keeps_its_bits(pairs, kind, form):
    found = alike(pairs, Case(form, kind, labels="forget"))
    still(found, form, {0, 2})
    if form == "protect":
        assert torch.equal(found["kept"][1]["embed.weight"], found["kept"][-1]["embed.weight"])


@kinds
@forms
def test_forget_rows_here_and_retain_rows_there(pairs, kind, form):
    """What one process may train is stepped on both, or their copies would part."""
    found = alike(pairs, Case(form, kind, labels="apart"))
    still(found, form, set())


@kinds
@forms
def test_accumulation_that_waits_with_the_exchange(pairs, kind, form):
    still(alike(pairs, Case(form, kind, labels="forget", pieces=True)), form, {0, 2})


@forms
def test_a_parameter_that_one_process_does_not_use(pairs, form):
    """As in plain training, DDP must be told: find_unused_parameters=True."""
    found = alike(pairs, Case(form, unused=True))
    assert not torch.equal(found["kept"][1]["side.weight"], found["kept"][-1]["side.weight"])


@kinds
@forms
def test_a_router_on_a_model_that_is_wrapped_already(pairs, kind, form):
    still(alike(pairs, Case(form, kind, labels="forget", late=True)), form, {0, 2})
