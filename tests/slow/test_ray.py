"""A Ray cluster of two nodes on this machine: the same folders as the local pool's, also where a node dies or sees no
folder."""

import socket
import threading
import time
import tomllib
from contextlib import ExitStack
from pathlib import Path

import pytest

from sluicegate.errors import UserError
from sluicegate.execution.jobs import Job, run_jobs
from sluicegate.execution.local import LocalPool
from sluicegate.execution.ray import cluster
from sluicegate.execution.ray.cluster import OnRay
from sluicegate.execution.ray.connection import SETTINGS, connected
from sluicegate.execution.ray.resources import Need, Resources
from sluicegate.experiments.recipe import Recipe
from sluicegate.experiments.sweep import combinations, run_sweep
from sluicegate.runs.stage import from_config
from tiny_stages import material, outcome, settings_of_verbs

pytestmark = pytest.mark.slow
PATIENT = {
    "raylet_start_wait_time_s": "600",
    "gcs_server_request_timeout_seconds": "600",
    "worker_register_timeout_seconds": "600",
    "agent_register_timeout_ms": "600000",
    "worker_niceness": "0",
}
"""On a busy machine Ray's processes take long to start, and it would give them up."""


def node():
    """Settings of a node: small, without what nobody looks at, and with ports for its helpers, which it would not wait
    for long."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with ExitStack() as stack:
        servers = {name: stack.enter_context(socket.create_server(("", 0))) for name in names}
        ports = {name: server.getsockname()[1] for name, server in servers.items()}
    return ports | {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_log_monitor": False}


@pytest.fixture(scope="module")
def nodes():
    """The two nodes, and a connection to the first."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PATIENT.items():
            patch.setenv(f"RAY_{name}", value)  # before ray is imported
        for name, value in SETTINGS.items():
            patch.setenv(name, value)  # as `connected` does, which comes after the cluster here
        pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        both = Cluster()
        try:
            both.add_node(wait=False, include_dashboard=False, no_monitor=True, **node())  # `wait` is for half a minute only
            second = both.add_node(wait=False, **node())
            both.wait_for_nodes(timeout=600)
            with connected(both.address):
                yield both, second
        finally:
            both.shutdown()


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return settings_of_verbs(material(tmp_path_factory.mktemp("material")), steps=3)


def chain(stages, out):
    """A model, two that are made from it, and an attack."""

    def on(verb, other):
        return lambda done: from_config(stages[verb] | {"model": str(done[other])})

    return [
        Job("base", (), lambda done: from_config(stages["train"]), out),
        Job("maxent", ("base",), on("maxent", "base"), out),
        Job("twice", ("base",), on("maxent", "base"), out),
        Job("attack", ("maxent",), on("relearn", "maxent"), out),
    ]


def in_scratch(tmp_path, monkeypatch):
    """Let no worker see the folder of the runs."""
    monkeypatch.setattr(cluster._RayWorkers, "_mark", lambda self, task: tmp_path / "not on this machine")


@pytest.fixture(scope="module")
def locally(stages, tmp_path_factory):
    return run_jobs(chain(stages, tmp_path_factory.mktemp("local")), LocalPool(1))


def contents(folder):
    """Names of what a run leaves; its bits, where they do not depend on where it was made from."""
    bits = outcome(folder)
    bits.pop("config.toml")  # names its parents by their paths, which differ from one test's folder to the other's
    return sorted(path.name for path in folder.iterdir()), bits


def test_folders_hashes_and_bits_are_those_of_the_local_pool(nodes, stages, locally, tmp_path):
    told = []
    found = run_jobs(chain(stages, tmp_path), OnRay(), lambda *message: told.append(message[:3]))
    assert {key: folder.name for key, folder in found.items()} == {key: folder.name for key, folder in locally.items()}
    for key in found:
        assert contents(found[key]) == contents(locally[key])
    assert {title.split()[0] for title, _, _ in told} == {"base", "maxent", "attack"}  # the fourth shares a run
    assert not list(tmp_path.glob(".seen-*"))
    environment = (found["base"] / "env.json").read_text()
    assert "raylet" not in environment
    assert "default_worker" not in environment


def test_a_worker_that_sees_no_folder_sends_the_run_back(nodes, stages, locally, tmp_path, monkeypatch):
    in_scratch(tmp_path, monkeypatch)
    found = run_jobs(chain(stages, tmp_path / "runs"), OnRay())
    for key in found:
        assert found[key].parent == tmp_path / "runs"
        assert contents(found[key]) == contents(locally[key])
    config = (found["attack"] / "config.toml").read_text()
    assert f'model = "{found["maxent"]}"' in config  # and not the worker's scratch folder
    before = {key: (folder / "DONE").stat().st_mtime_ns for key, folder in found.items()}
    again = run_jobs(chain(stages, tmp_path / "runs"), OnRay())
    assert {key: (folder / "DONE").stat().st_mtime_ns for key, folder in again.items()} == before


def test_a_mistake_stops_what_needs_it_and_no_others(nodes, stages, tmp_path, monkeypatch):
    jobs = [
        Job("broken", (), lambda done: from_config(stages["train"] | {"model": str(tmp_path / "nowhere")}), tmp_path),
        Job("after", ("broken",), lambda done: from_config(stages["train"]), tmp_path),
        Job("good", (), lambda done: from_config(stages["train"]), tmp_path),
    ]
    with pytest.raises(UserError, match=r"2 of 3 stages did not finish.*\n  broken: no model") as error:
        run_jobs(jobs, OnRay())
    assert "after: not run: it needs broken" in str(error.value)
    assert len(list(tmp_path.glob("train-*/DONE"))) == 1


def test_a_worker_of_another_version_ends_it_at_once(nodes, stages, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "package_version", lambda: "99.0")
    with pytest.raises(UserError, match=r"a worker cannot run stages: the machine .* has sluicegate .*, and this one is 99\.0"):
        run_jobs(chain(stages, tmp_path), OnRay())


def test_what_no_machine_has_is_not_waited_for(nodes, stages, tmp_path):
    with pytest.raises(UserError, match=r"no machine of the Ray cluster has 1 CPUs and 1 GPUs.*1 CPUs, 0 GPUs; 1 CPUs, 0 GPUs"):
        run_jobs(chain(stages, tmp_path), OnRay(resources=Resources(Need(gpus=1))))


def test_a_sweep_gives_the_same_summary(nodes, tmp_path):
    own = material(tmp_path / "material")
    common = {name: own[name] for name in ("forget", "retain")} | {"max_length": 32, "batch": 8, "lr": 1e-2}
    arms = {
        "base": {"verb": "train", "model": own["model"], "steps": 3},
        "maxent": {"verb": "unlearn", "method": "maxent", "model": "@base", "steps": 2},
    }
    recipe, axes = Recipe("small", arms, {}, common), {"maxent.steps": [1, 2]}
    run_sweep(recipe, combinations(axes), tmp_path / "ray", [0], executor=OnRay())
    run_sweep(recipe, combinations(axes), tmp_path / "local", [0], workers=1)
    assert (tmp_path / "ray" / "sweep.json").read_bytes() == (tmp_path / "local" / "sweep.json").read_bytes()


def test_the_stage_of_a_node_that_is_killed_is_resumed_on_the_other(nodes, stages, tmp_path, monkeypatch, capsys):
    """The last test of the file: afterwards there is one node."""
    monkeypatch.setenv("SLUICEGATE_KEEP_SECONDS", "0.1")
    both, second = nodes
    long = {f"seed-{n}": stages["train"] | {"steps": 600, "seed": n} for n in (1, 2)}
    told, killed = [], []

    def kill():
        """Once the second node's worker is in the middle of a stage, has told so, and has something to resume from."""
        raylet = second.all_processes["raylet"][0].process.pid
        deadline = time.monotonic() + 1200
        while time.monotonic() < deadline and not killed:
            held = [f.parents[1] for f in (tmp_path / "ray").glob("*/state/index.json") if parent_of(holder(f.parents[1])) == raylet]
            if held and (f"{seed_of(held[0])} train", 1) in told:
                both.remove_node(second, allow_graceful=False)
                killed.extend(held)
            time.sleep(0.02)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    jobs = {
        where: [Job(key, (), lambda done, s=s: from_config(s), tmp_path / where) for key, s in long.items()] for where in ("ray", "local")
    }
    found = run_jobs(jobs["ray"], OnRay(), lambda *message: told.append(message[:2]))
    killer.join()
    assert len(killed) == 1
    # The first step of each stage was made once: the other node went on from the resume point.
    assert sorted(title for title, step in told if step == 1) == ["seed-1 train", "seed-2 train"]
    assert "raylet" not in capsys.readouterr().out
    local = run_jobs(jobs["local"], LocalPool(1))
    for key in long:
        assert found[key].name == local[key].name
        assert outcome(found[key]) == outcome(local[key])


def seed_of(folder):
    return f"seed-{tomllib.loads((folder / 'config.toml').read_text())['seed']}"


def holder(folder):
    """The process that holds a run folder, 0 where none does."""
    try:
        return int((folder / "lock").read_text().split()[1])
    except (FileNotFoundError, IndexError):
        return 0


def parent_of(process):
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
