"""Stages on a cluster: in place where the worker sees the folder, else by their content; what is wrong with a cluster
is named.

The cluster is pretended; `tests/slow/test_ray.py` has a real one.
"""

import importlib
import json
import os
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from ray_pretended import Ray, pretend
from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.execution.jobs import Job, run_jobs
from sluicegate.execution.ray import cluster
from sluicegate.execution.ray import worker as remote
from sluicegate.execution.ray.cluster import OnRay
from sluicegate.execution.ray.resources import Need, Resources
from sluicegate.runs.lock import held
from sluicegate.runs.stage import from_config
from tiny_stages import material, outcome, settings_of_verbs


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return settings_of_verbs(material(tmp_path_factory.mktemp("material")), steps=2)


@pytest.fixture(scope="module")
def plainly(stages, tmp_path_factory):
    """The runs of `chain`, made by nothing but `execute`."""
    out = tmp_path_factory.mktemp("plain")
    base = execute(from_config(stages["train"]), out)
    return {"base": base, "maxent": execute(from_config(stages["maxent"] | {"model": str(base)}), out)}


def chain(stages, out):
    return [
        Job("base", (), lambda done: from_config(stages["train"]), out),
        Job("maxent", ("base",), lambda done: from_config(stages["maxent"] | {"model": str(done["base"])}), out),
    ]


def without_paths(folder):
    found = outcome(folder)
    found.pop("config.toml")
    return found


@pytest.mark.parametrize("sees", [True, False])
def test_runs_are_the_same_seen_or_sent(stages, plainly, tmp_path, monkeypatch, sees):
    ray = pretend(monkeypatch, sees=sees)
    told = []
    found = run_jobs(chain(stages, tmp_path / "runs"), OnRay(), lambda *message: told.append(message[:3]))
    for key, folder in found.items():
        assert folder == tmp_path / "runs" / plainly[key].name
        assert without_paths(folder) == without_paths(plainly[key])
        assert {p.name for p in folder.iterdir()} - {"lock"} == {p.name for p in plainly[key].iterdir()} - {"lock"}
    assert f'model = "{found["base"]}"' in (found["maxent"] / "config.toml").read_text()
    assert [title for title, done, total in told if done == total and title != "all stages"] == ["base train", "maxent unlearn"]
    assert [p.name for p in (tmp_path / "runs").iterdir() if p.name.startswith(".")] == []
    assert bool(ray.put_in) != sees


def test_what_is_finished_is_not_sent_again_and_what_is_begun_goes_along(stages, tmp_path, monkeypatch):
    ray = pretend(monkeypatch, sees=False)
    found = run_jobs(chain(stages, tmp_path), OnRay())
    asked = len(ray.asked)
    (found["maxent"] / "DONE").unlink()
    assert run_jobs(chain(stages, tmp_path), OnRay()) == found
    # One to learn that these workers are blind, whose stage turns out to be finished, and the one that is not.
    assert len(ray.asked) - asked == 2
    assert any(f"{found['maxent'].name}/metrics.jsonl" in files for files in ray.put_in)


def test_paths_are_relative_to_the_driver(stages, tmp_path, monkeypatch):
    pretend(monkeypatch)
    own = {k: os.path.relpath(v, tmp_path) if k in ("model", "forget", "retain", "unlabelled") else v for k, v in stages["train"].items()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "chdir", chdir := Chdir())
    run_jobs([Job("base", (), lambda done: from_config(own), tmp_path / "runs")], OnRay())
    assert chdir.to == [str(tmp_path)]


class Chdir:
    def __init__(self):
        self.to = []

    def __call__(self, path):
        self.to.append(path)
        return nullcontext()


def test_each_kind_of_stage_asks_for_its_own(stages, tmp_path, monkeypatch):
    ray = pretend(monkeypatch, nodes=((4.0, 1.0), (1.0, 0.0)))
    run_jobs(chain(stages, tmp_path), OnRay(resources=Resources(Need(cpus=2), {"unlearn": Need(gpus=0.5)})))
    assert [(o["num_cpus"], o["num_gpus"], o["name"]) for o in ray.asked] == [(2, 0, "base"), (1, 0.5, "maxent")]
    assert all(o["max_retries"] == cluster.LOST for o in ray.asked)


def test_what_no_machine_has_is_not_waited_for(stages, tmp_path, monkeypatch):
    ray = pretend(monkeypatch, nodes=((4.0, 0.0), (1.0, 2.0)))
    with pytest.raises(UserError, match=r"has 2 CPUs and 1 GPUs, which.*There are: 4 CPUs, 0 GPUs; 1 CPUs, 2 GPUs\. Ask for less"):
        run_jobs(chain(stages, tmp_path), OnRay(resources=Resources(Need(2, 1))))
    assert ray.asked == []


def test_a_mistake_stops_what_needs_it_and_no_others(stages, tmp_path, monkeypatch):
    pretend(monkeypatch)
    jobs = [
        Job("broken", (), lambda done: from_config(stages["train"] | {"model": str(tmp_path / "nowhere")}), tmp_path),
        Job("good", (), lambda done: from_config(stages["train"]), tmp_path),
    ]
    with pytest.raises(UserError, match=r"1 of 2 stages did not finish.*\n  broken: no model"):
        run_jobs(jobs, OnRay())
    assert len(list(tmp_path.glob("train-*/DONE"))) == 1
    assert not list(tmp_path.glob(".seen-*"))


def test_an_error_nobody_foresaw_keeps_its_cause(stages, tmp_path, monkeypatch):
    pretend(monkeypatch)
    monkeypatch.setattr("sluicegate.execution.execute.execute", lambda *a, **k: (_ for _ in ()).throw(ZeroDivisionError("oh")))
    with pytest.raises(UserError, match="base: ZeroDivisionError: oh") as error:
        run_jobs(chain(stages, tmp_path), OnRay())
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_a_stage_that_loses_every_worker_is_given_up(stages, tmp_path, monkeypatch):
    pretend(monkeypatch, lost=True)
    with pytest.raises(UserError, match=r"base: it lost its worker 6 times, the last time so: the worker died"):
        run_jobs(chain(stages, tmp_path), OnRay())


def test_a_worker_of_another_version_ends_it_and_nothing_finished_is_lost(stages, tmp_path, monkeypatch):
    pretend(monkeypatch)
    run_jobs(chain(stages, tmp_path)[:1], OnRay())
    monkeypatch.setattr(cluster, "package_version", lambda: "99.0")
    with pytest.raises(UserError, match=r"has sluicegate .*, and this one is 99\.0\. Install the same .* Finished stages are kept"):
        run_jobs(chain(stages, tmp_path), OnRay())
    assert len(list(tmp_path.glob("train-*/DONE"))) == 1


@pytest.mark.parametrize("missing", ["sluicegate", "sluicegate.execution.ray.worker"])
def test_a_worker_without_the_package_ends_it(stages, tmp_path, monkeypatch, missing):
    pretend(monkeypatch)
    real = importlib.import_module

    def import_module(name, *more):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(UserError, match=rf"a worker cannot run stages: the machine .* cannot import {missing}: No module named"):
        run_jobs(chain(stages, tmp_path), OnRay())


def test_a_folder_that_a_lost_worker_still_holds_is_waited_for(stages, tmp_path, monkeypatch):
    pretend(monkeypatch)
    done = run_jobs(chain(stages, tmp_path)[:1], OnRay())["base"]
    (done / "DONE").unlink()
    holds = held(done / "lock", "in use", "Wait.")
    holds.__enter__()
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        holds.__exit__(None, None, None)

    monkeypatch.setattr(remote, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    assert run_jobs(chain(stages, tmp_path)[:1], OnRay()) == {"base": done}
    assert len(waited) == 1
    monkeypatch.setattr(remote, "PATIENCE", -1.0)
    (done / "DONE").unlink()
    with held(done / "lock", "in use", "Wait."), pytest.raises(UserError, match=r"base: .*in use by another process"):
        run_jobs(chain(stages, tmp_path)[:1], OnRay())


def test_the_record_names_the_drivers_command_and_not_rays(stages, tmp_path, monkeypatch):
    pretend(monkeypatch)
    monkeypatch.setattr(remote.sys, "argv", ["/opt/sluicegate", "sweep", "small"])
    done = run_jobs(chain(stages, tmp_path)[:1], OnRay())["base"]
    assert json.loads((done / "env.json").read_text())["argv"] == ["sluicegate", "sweep", "small"]


def test_an_interrupt_ends_what_the_workers_do(stages, tmp_path, monkeypatch):
    ray = pretend(monkeypatch)
    monkeypatch.setattr(Ray, "wait", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_jobs(chain(stages, tmp_path), OnRay())
    assert len(ray.cancelled) == 1
    assert not list(tmp_path.glob(".seen-*"))


def test_few_messages_cross_the_network_and_the_last_of_each_part_does(monkeypatch):
    told, now = [], [100.0]
    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=lambda: now[0]))
    progress = remote._limit_messages(lambda *message: told.append(message))
    for step in range(1, 101):
        now[0] += 0.01
        progress("base train", step, 100, {"loss": 1.0})
    assert len(told) <= 5
    assert told[-1] == ("base train", 100, 100, {"loss": 1.0})
