import pytest

from sluicegate.errors import UserError
from sluicegate.experiments.recipe import load_recipe
from sluicegate.runs.directory import RunContext
from sluicegate.values.schedule import Schedule
from sluicegate_papers.replay_stage import KINDS, ReplayTrial, _Lesson

SHORT = {"lectures": 4, "facts": 8, "schedule": Schedule(steps=160, lr=5e-3, batch=8, beta2=0.999, clip=0.0)}


def trial(arm, seed=0, **more):
    return ReplayTrial(**SHORT | {"variant": arm, "seed": seed} | more)


def test_every_arm_has_the_same_rows_and_costs_the_same():
    """But for the oracle's looks at the whole buffer, which are counted apart."""
    found = {arm: trial(arm).run(RunContext()) for arm in ("none", "round_robin", "oracle")}
    training = {arm: one["flops"]["total"] / (1 + one["measures"]["extra"]) for arm, one in found.items()}
    assert training["none"] == pytest.approx(training["round_robin"]) == pytest.approx(training["oracle"])
    assert found["none"]["measures"]["extra"] == found["round_robin"]["measures"]["extra"] == 0
    assert found["oracle"]["measures"]["extra"] > 0.1


def test_replayed_rows_are_of_earlier_lectures_only():
    lesson = _Lesson(trial("uniform"), KINDS[0], 3)
    for step in (0, 39, 40, 159):
        items = lesson._batches(step)["train"].items.tolist()
        lecture = step // 40
        new, old = items[: len(items) - (3 if lecture else 0)], items[8:] if lecture else []
        assert len(items) == 11
        assert all(item // 8 == lecture for item in new)
        assert all(item // 8 < lecture for item in old)


def test_replay_keeps_what_would_be_lost():
    none, kept = (trial(arm).run(RunContext())["measures"] for arm in ("none", "round_robin"))
    assert kept["homog_8"] > none["homog_8"] + 0.2
    assert kept["heterog_8"] > none["heterog_8"] + 0.1
    assert kept["easy_8"] + kept["hard_8"] == pytest.approx(2 * kept["heterog_8"])


def test_arms_are_paired_by_seed():
    one, other = _Lesson(trial("none"), KINDS[1], 2), _Lesson(trial("leitner"), KINDS[1], 2)
    assert one.x.equal(other.x)
    assert one.y.equal(other.y)
    assert all(a.equal(b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert one._batches(0)["train"].items.equal(other._batches(0)["train"].items)
    assert not _Lesson(trial("none", 1), KINDS[1], 2).x.equal(one.x)


def test_the_same_seed_gives_the_same_numbers():
    first, again = (trial("half_life").run(RunContext())["measures"] for _ in range(2))
    assert first == again


def test_mistakes():
    with pytest.raises(UserError, match="lectures is 1"):
        trial("none", lectures=1).run(RunContext())
    with pytest.raises(UserError, match="use 156"):
        trial("none", lectures=13).run(RunContext())


def test_the_recipe_holds_the_control():
    recipe = load_recipe("replay")
    assert {"none", "uniform", "round_robin"} <= set(recipe.arms)
    tests = [str(claim["test"]) for claim in recipe.claims]
    assert "leitner.homog_8 - round_robin.homog_8 > 0" in tests
