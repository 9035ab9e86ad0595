"""Names of the release before still work, and warn."""

import pytest
import torch
from torch import nn

import sluicegate as sg
from routed_nets import BLOCKS, Net
from sluicegate.routing.experts import Experts, Steer
from sluicegate.routing.stage import Route
from sluicegate.routing.watch import watch
from sluicegate.runs.stage import from_config


def test_a_router_takes_them():
    with pytest.warns(DeprecationWarning, match="sites=.*is now modules="):
        router = sg.Router(Net(), sites={"mlp": BLOCKS})
    with pytest.warns(DeprecationWarning, match=r"joint=.*is now joint_params="):
        joint = sg.Router(Net(), {"mlp": BLOCKS}, form="protect", joint="norm.*, rms.*")
    assert joint.joint_params == ("norm.*", "rms.*")
    with pytest.warns(DeprecationWarning, match=r"Router\.sites"):
        assert router.places is router.sites


@pytest.mark.filterwarnings("error::UserWarning")
def test_so_does_all_else_that_names_modules():
    with pytest.warns(DeprecationWarning, match="is now modules="):
        assert sg.expand(Net().float(), sites={"mlp": {"a": 1}}) == {"mlp": {"a": 1}}
    with pytest.warns(DeprecationWarning, match="is now modules="), watch(Net(), sites={"mlp": BLOCKS}) as seen:
        assert [site.name for site, _ in seen.sites] == ["mlp"]
    experts = Experts({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}, nn.Linear(2, 2))
    with pytest.warns(DeprecationWarning, match="is now modules="):
        steer = Steer({"a": 1.0}, sites="")
    x = torch.randn(3, 2)
    with steer(experts):
        assert torch.equal(experts(x), experts.experts["a"](x))


def test_settings_of_a_stage_are_the_same_by_both_names():
    now = Route(model="m", forget="f", retain="r", modules="heads", joint_params="*embed*")
    then = from_config({"verb": "route", "model": "m", "forget": "f", "retain": "r", "places": "heads", "joint": "*embed*"})
    assert then == now
