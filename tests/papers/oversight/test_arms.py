import pytest

from sluicegate.errors import UserError
from sluicegate_papers.oversight.arms import ABLATIONS, ARMS, AVOIDING, CONTROLS, NAMES, to_train, trained_as, values_of


def test_the_arms_of_the_table_are_the_thirteen():
    assert CONTROLS == (
        "naive", "naive_penalty", "naive_stopped", "naive_penalty_stopped", "filter", "filter_hidden", "moe", "routed_paper", "routed",
        "single", "reward_model", "oracle", "placebo",
    )  # fmt: skip
    assert len(set(NAMES)) == len(NAMES) == len(CONTROLS) + len(ABLATIONS) + len(AVOIDING)


def test_every_arm_is_trained_as_one_and_stopped_arms_share_it():
    assert {trained_as(name)[0] for name in NAMES} == set(ARMS)
    assert trained_as("naive_stopped") == ("naive", "weighted")
    assert trained_as("naive_penalty_stopped") == ("naive_penalty", "seen")
    assert to_train(["naive_stopped", "routed", "naive"]) == ["naive", "routed"]


def test_ablations_change_one_thing():
    changed = {}
    for name in ABLATIONS:
        own, full = vars(ARMS[name]), vars(ARMS["routed"])
        changed[name] = [key for key in own if key != "about" and own[key] != full[key]]
    assert changed == {
        "routed_baseline": ["raw"],
        "routed_unweighted": ["weighted"],
        "routed_flags": ["gate"],
        "routed_constant": ["gate"],
    }
    assert [k for k, v in vars(ARMS["placebo"]).items() if v != vars(ARMS["routed"])[k]] == ["about", "routed"]


def test_an_unknown_arm_is_named_with_its_neighbours():
    with pytest.raises(UserError, match=r"there is no arm 'ruoted'\. Nearest: routed.*All: naive, naive_penalty, "):
        trained_as("ruoted")
    with pytest.raises(UserError, match="there is no arm 'best'"):
        to_train(["routed", "best"])


def test_figures_are_those_of_the_arms_own_rule_or_of_the_one_asked_for():
    result = {"picks": {rule: {"return": i} for i, rule in enumerate(("last", "seen", "weighted", "peek"))}}
    assert [values_of(name, result)["return"] for name in ("naive", "naive_stopped", "naive_penalty_stopped")] == [0, 2, 1]
    assert values_of("naive", result, "peek")["return"] == 3
    with pytest.raises(UserError, match=r"there is no stopping rule 'wieghted'\. Nearest: .*weighted"):
        values_of("naive", result, "wieghted")
