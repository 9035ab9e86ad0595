import dataclasses
import json
import math
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.runs.directory import RunContext, result_of
from sluicegate.runs.stage import from_config
from sluicegate_papers.oversight.arms import ARMS, values_of
from sluicegate_papers.oversight.stage import BOARDS, NETS, POLICY, Oversight

SHORT = Oversight(share=0.3, episodes=128, updates=8, look=4, width=16)
FIGURES = {"step", "return", "diamond", "ghost", "timeout", "near", "far", "length"}


def run(**changes):
    return dataclasses.replace(SHORT, **changes).resolved().run(RunContext())


def test_its_arms_are_those_that_there_are():
    (arm,) = [f for f in dataclasses.fields(Oversight) if f.name == "variant"]
    assert set(get_args(arm.type)) == set(ARMS)


def test_it_fills_in_the_boards_own_budget():
    made = Oversight().resolved()
    assert (made.limit, made.episodes, made.updates) == (16, 1024, 500)
    made = Oversight(size=4, updates=7).resolved()
    assert (made.limit, made.episodes, made.updates) == (24, 2048, 7)


def test_a_mixture_measures_what_is_declared_and_a_net_alone_all_but_what_mixtures_have():
    routed, naive = run(), run(variant="naive")
    assert routed["measures"].keys() == Oversight.MEASURES.keys()
    assert naive["measures"].keys() == Oversight.MEASURES.keys() - {"mixture", "ghost_expert", "gate_accuracy"}
    assert all(math.isfinite(v) for v in routed["measures"].values())
    assert run() == routed
    assert run(seed=1)["measures"] != routed["measures"]


def test_its_result_is_json_and_holds_looks_picks_and_references():
    found = json.loads(json.dumps(run(variant="naive_penalty"), allow_nan=False))
    assert [look["step"] for look in found["looks"]] == [0, 4, 8]
    assert found["looks"][0]["seen"] is None  # nothing was played before
    assert all(found["picks"][rule].keys() >= FIGURES for rule in ("last", "seen", "weighted", "peek"))
    assert found["picks"]["last"] == found["looks"][-1]
    assert found["measures"]["peek"] == max(look["return"] for look in found["looks"])
    assert found["measures"]["labelled"] == sum(look["labelled"] for look in found["looks"]) > 0
    assert found["references"].keys() == {"optimal", "random", "nearest", "ceiling"}
    assert found["measures"]["above_ceiling"] == pytest.approx(found["measures"]["true_return"] - 0.694, abs=1e-3)
    assert values_of("naive_penalty_stopped", found) == found["picks"]["seen"]
    assert found["curves"]["overseen"]["x"] == [0, 4, 8]


def test_it_leaves_boards_a_policy_and_nets_in_its_folder(tmp_path):
    folder = execute(SHORT, tmp_path)
    assert result_of(folder)["method"] == "routed"
    boards = load_file(folder / BOARDS)
    shape = (3, len(boards["placements"]), 2, 9)
    assert boards["steps"].tolist() == [0, 4, 8]
    assert {name: tuple(boards[name].shape) for name in ("judged", "diamond", "ghost_expert", "mixture", "gate")} == {
        **dict.fromkeys(("judged", "diamond", "ghost_expert", "mixture"), (*shape, 4)),
        "gate": shape,
    }
    assert torch.equal(boards["judged"].nan_to_num(9), boards["diamond"].nan_to_num(9))  # it is judged by its Diamond expert
    assert load_file(folder / POLICY)["judged"].shape == (2016, 4)
    assert any("experts.ghost" in name for name in load_file(folder / NETS))
    assert load_file(execute(dataclasses.replace(SHORT, variant="naive"), tmp_path) / BOARDS).keys() == {"steps", "placements", "judged"}


def test_a_share_so_small_that_nothing_was_labelled_is_a_warning_and_no_zero():
    found = run(share=1e-9)
    assert len(found["warnings"]) == 3
    assert all(look["seen"] is None for look in found["looks"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "ruoted"}, "variant is 'ruoted'; it must be one of naive, "),
        ({"variant": "naive_stopped"}, "variant is 'naive_stopped'; it must be one of"),
        ({"share": 0.0}, "share is 0.0; it must be a number, more than 0 and at most 1."),
        ({"share": 2}, "share is 2.0"),
        ({"size": 1}, "the board's size is 1; it must be from 2 to 16"),
        ({"limit": -2}, "limit is -2; it must be a whole number, at least 0"),
        ({"episodes": -1}, "episodes is -1; it must be a whole number, at least 0"),
        ({"shares": 0.1}, "oversight has no setting 'shares'. Nearest: share"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(UserError) as caught:
        from_config({"verb": "oversight", **settings}).resolved()
    assert message in str(caught.value)
