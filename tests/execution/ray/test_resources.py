import pytest

from sluicegate.errors import UserError
from sluicegate.execution.ray.resources import Need, Resources, read_resources


def test_one_core_unless_told_else():
    assert read_resources([]) == Resources()
    assert read_resources([]).of("train") == Need(1.0, 0.0)


def test_a_kind_of_stage_has_its_own_and_else_what_every_stage_has_in_any_order():
    for words in (["cpus=2", "gpus=0.5", "undo.gpus=1"], ["undo.gpus=1", "gpus=0.5", "cpus=2"]):
        found = read_resources(words)
        assert found.of("train") == Need(2, 0.5)
        assert found.of("undo") == Need(2, 1)


@pytest.mark.parametrize("word", ["cpus", "memory=1", "undo.memory=1", "=1", "undo=1"])
def test_what_is_no_resource_is_named(word):
    with pytest.raises(UserError, match=rf"--resources has '{word}'; expected cpus=N, gpus=N"):
        read_resources([word])


def test_a_verb_that_there_is_not_is_named():
    with pytest.raises(UserError, match=r"verb 'undoo', which there is not. Nearest: undo"):
        read_resources(["undoo.gpus=1"])


@pytest.mark.parametrize("value", ["many", "", "-1", "1.5", "inf", "nan"])
def test_an_amount_that_ray_cannot_give_is_named(value):
    with pytest.raises(UserError, match="an amount is 0 or more, and whole where it is more than 1"):
        read_resources([f"cpus={value}"])
