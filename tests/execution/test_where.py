"""--on chooses where stages run, and options that do not go together are named before anything is."""

import importlib.util
import json

import pytest
import tomli_w

from ray_pretended import pretend
from sluicegate.app import main
from sluicegate.errors import UserError
from sluicegate.execution.local import LocalPool
from sluicegate.execution.ray.cluster import OnRay
from sluicegate.execution.ray.resources import Need, Resources
from sluicegate.execution.where import Where
from sluicegate.runs.directory import result_of
from tiny_stages import material, settings_of_verbs


def test_this_machine_unless_told_else():
    assert Where().executor() == LocalPool(0)
    assert Where(workers=3).executor() == LocalPool(3)


def test_a_cluster_with_what_stages_take_up():
    asked = Where("ray", "head:6379", ("undo.gpus=1",), 4)
    assert asked.executor() == OnRay("head:6379", 4, Resources(Need(), {"undo": Need(gpus=1)}))


@pytest.mark.parametrize("options", [{"address": "head:6379"}, {"resources": ("cpus=2",)}])
def test_options_of_a_cluster_ask_for_one(options):
    with pytest.raises(UserError, match=r"--(address|resources) \S+ is about a cluster.*--on ray"):
        Where(**options).executor()


def test_workers_below_zero_are_named():
    with pytest.raises(UserError, match="--workers is -1"):
        Where(workers=-1).executor()


@pytest.mark.parametrize("words", [["sweep", "undo-arithmetic", "--over", "undo_0.6.alpha=[0.5]"], ["run", "undo-arithmetic"]])
def test_a_cluster_that_is_not_there_is_told_in_a_line(words, tmp_path, capsys):
    pytest.importorskip("ray")
    assert main([*words, "--out", str(tmp_path / "out"), "--on", "ray", "--address", "127.0.0.1:1"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "no Ray cluster answers at 127.0.0.1:1" in said
    assert "Traceback" not in said


def test_without_ray_the_extra_is_named(tmp_path, capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else real(name, *more))
    assert main(["run", "undo-arithmetic", "--out", str(tmp_path / "out"), "--on", "ray"]) == 2
    assert "pip install 'sluicegate[ray]'" in " ".join(capsys.readouterr().err.split())


def test_a_single_stage_has_no_processes_of_this_machine_on_a_cluster(tmp_path, capsys):
    config = tmp_path / "config.toml"
    config.write_text('verb = "train"\nmodel = "arithmetic-tiny"\nretain = "task:arithmetic/retain"\n')
    assert main(["run", str(config), "--on", "ray", "--procs", "2"]) == 2
    assert "--on ray runs each stage in one" in " ".join(capsys.readouterr().err.split())


def test_a_single_stage_runs_on_a_cluster_too(tmp_path, monkeypatch, capsys):
    ray = pretend(monkeypatch)
    settings = settings_of_verbs(material(tmp_path / "material"), steps=1)["train"]
    (tmp_path / "config.toml").write_text(tomli_w.dumps(settings))
    out = tmp_path / "out"
    assert main(["run", str(tmp_path / "config.toml"), "--on", "ray", "--resources", "cpus=0.5", "--out", str(out), "--json"]) == 0
    assert [options["num_cpus"] for options in ray.asked] == [0.5]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result_of(out)
