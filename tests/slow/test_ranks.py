"""Several processes train what one trains; what becomes of them when they disagree, die, or are interrupted."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from rank_pair import pair
from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.runs.stage import from_config
from tiny_stages import SRC, material, settings_of_verbs, start

pytestmark = pytest.mark.slow
CASES = ["train", "accumulated", "maxent", "npo", "rmu", "distill", "undo", "relearn", "gate", "protect", "params"]


@pytest.fixture(scope="module")
def verbs(tmp_path_factory):
    own = material(tmp_path_factory.mktemp("material"))
    verbs = settings_of_verbs(own)
    route = {name: own[name] for name in ("model", "forget", "retain")} | {"verb": "route", "units": 16, "steps": 6, "lr": 1e-3}
    verbs |= {
        "accumulated": verbs["train"] | {"accumulate": 3, "batch": 9},
        "gate": route | {"batch": 9},
        "protect": route | {"batch": 9, "form": "protect"},
        "params": verbs["train"] | {"params": "model.layers.*.mlp.*"},
    }
    verbs["train"] |= {"batch": 9}  # one process has a row more than the other
    return verbs


@pytest.fixture(scope="module")
def together(verbs, tmp_path_factory):
    """Every case by one process, by two, and by two that divide the weights; two processes do all of theirs."""
    place = tmp_path_factory.mktemp("together")
    jobs = [{"settings": verbs[name], "out": str(place / f"{name}-two")} for name in CASES]
    jobs += [{"settings": verbs[name], "out": str(place / f"{name}-sharded"), "shard": True} for name in CASES]
    said = pair([jobs, jobs])
    assert said == [[job["out"] for job in jobs]] * 2
    return place


def furthest(one, two):
    """Largest difference of a weight of two models."""
    own, other = (load_file(run / "model" / "model.safetensors") for run in (one, two))
    assert set(own) == set(other)
    return max(float((own[name] - other[name]).abs().max()) for name in own)


def alike(one, two, most=lambda: 1e-6):
    """Whether two runs are one stage, with the same result up to rounding."""
    kept = [json.loads((run / "parents.json").read_text()) for run in (one, two)]
    assert kept[0] == kept[1]
    results = [json.loads((run / "result.json").read_text()) for run in (one, two)]
    assert results[0].get("steps") == results[1].get("steps")
    assert results[0]["flops"] == pytest.approx(results[1]["flops"], rel=1e-12)
    logs = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)]
    assert [sorted(record) for record in logs[0]] == [sorted(record) for record in logs[1]]
    for own, other in zip(*logs, strict=True):
        assert {k: v for k, v in own.items() if k != "part"} == pytest.approx({k: v for k, v in other.items() if k != "part"}, abs=1e-4)
    if (one / "model").exists():
        assert (apart := furthest(one, two)) < 1e-6 or apart < most()
    else:
        assert results[0]["owned"] == results[1]["owned"]


@pytest.mark.parametrize(("name", "kind"), [(n, kind) for n in CASES for kind in ("two", "sharded")])
def test_two_processes_train_what_one_does(together, verbs, name, kind):
    one = execute(from_config(verbs[name]), together / f"{name}-one", exact=True)
    two = together / f"{name}-{kind}"

    def rounding():
        """What cutting the batch in two does within one process: where a gradient is 0 but for rounding, AdamW makes a
        step of it."""
        cut = verbs[name] | {"accumulate": 2 * verbs[name].get("accumulate", 1)}
        return 1.5 * furthest(one, execute(from_config(cut), together / f"{name}-cut", exact=True))

    alike(one, two, rounding)
    environment = json.loads((two / "env.json").read_text())
    assert environment["world_size"] == 2
    assert environment.get("shard", False) == (kind == "sharded")
    assert not (two / "state").exists()
    assert not list(two.glob(".model*"))


def test_processes_that_disagree_are_told_in_what(verbs, tmp_path):
    folder = str(tmp_path / "run")
    other = tmp_path / "rows.jsonl"
    other.write_text('{"prompt": "1 + 1 =", "answer": " 2"}\n' * 4)
    train = verbs["train"]
    jobs = [
        [{"settings": train, "out": folder}] * 4,
        [
            {"settings": train | {"seed": 1}, "out": folder},
            {"settings": train | {"retain": str(other)}, "out": folder},
            {"settings": train | {"retain": str(tmp_path / "none.jsonl")}, "out": folder},
            {"settings": train, "out": folder, "shard": True},
        ],
    ]
    first, second = pair(jobs)
    assert first == second
    for said, expected in zip(
        first,
        [
            "the processes do not agree: seed is 0 in process 0 and 1 in process 1.",
            "the processes do not agree: what --retain names holds other content in process 0 than in process 1.",
            "process 1 of 2: ",
            "the processes do not agree: shard is False in process 0 and True in process 1.",
        ],
        strict=True,
    ):
        assert said.startswith(f"UserError: {expected}")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------- our own launcher


def test_resumed_with_another_number_of_processes(verbs, tmp_path):
    """One process is killed, two go on; two are, divided, and one goes on; each ends as if nobody had disturbed it."""
    settings = verbs["train"] | {"steps": 40}
    whole = execute(from_config(settings), tmp_path / "whole", exact=True)
    process = start(settings, tmp_path / "grown")
    for _ in range(10):
        process.stdout.readline()
    process.kill()
    process.communicate()
    grown = execute(from_config(settings), tmp_path / "grown", exact=True, procs=2, shard=True)
    alike(whole, grown, most=lambda: 1e-5)
    assert json.loads((grown / "env.json").read_text())["world_sizes"] == [1, 2]
    assert len((grown / "metrics.jsonl").read_text().splitlines()) == 40


@pytest.mark.parametrize("then", [2, 1])
def test_divided_resume_points_lie_in_shares_and_are_put_together_by_any_number(verbs, tmp_path, then):
    # Moments in bfloat16 are rounded at random, share by share: only as many processes end with the same weights.
    settings = verbs["train"] | {"steps": 40, "optimizer": "adamw-bf16" if then == 2 else "adamw"}
    whole = execute(from_config(settings), tmp_path / "whole", exact=True, procs=2, shard=True)
    folder = tmp_path / "run"
    process, children = running(words_of(settings, "--procs", "2", "--shard"), folder)
    for child in children:
        os.kill(child, signal.SIGKILL)
    process.communicate(timeout=100)
    index = json.loads((folder / "state" / "index.json").read_text())["parts"]["train"]
    assert 0 < index["values"]["steps"] < 40
    assert [name.split("-of-")[0][-1] for name, _ in index["files"]] == ["0", "1"]
    shares = [load_file(folder / "state" / name) for name, _ in index["files"]]
    for name, first in shares[0].items():  # each has a half, and none the whole
        rows = first.shape[0] + shares[1][name].shape[0] if first.dim() else 0
        assert not first.dim() or first.shape[0] == -(-rows // 2)
    resumed = execute(from_config(settings), folder, exact=True, procs=then, shard=then == 2)
    if then == 2:
        assert furthest(whole, resumed) == 0
    else:
        alike(whole, resumed, most=lambda: 1e-5)


def running(words, folder, **more):
    """Start the command line with two processes; return it and, once they have kept a resume point, their process
    numbers."""
    surroundings = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "SLUICEGATE_KEEP_SECONDS": "0"} | more
    restore = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731  # a shell's background job ignores it
    process = subprocess.Popen(
        [sys.executable, "-m", "sluicegate", *words, "--out", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings, preexec_fn=restore,
    )  # fmt: skip
    end = time.monotonic() + 200
    while not (folder / "state" / "index.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    return process, sorted(map(int, children))


def words_of(settings, *more):
    flat = [(f"--{name.replace('_', '-')}", str(value)) for name, value in settings.items() if name != "verb"]
    return [settings["verb"], *(word for two in flat for word in two), *more]


def gone(numbers):
    end = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{n}") for n in numbers):
        assert time.monotonic() < end
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("what", ["a process", "the user"])
def test_one_dies_or_the_user_interrupts_and_all_end_with_one_line(verbs, tmp_path, what):
    settings = verbs["train"] | {"steps": 400}
    folder = tmp_path / "run"
    process, children = running(words_of(settings, "--procs", "2"), folder)
    if what == "a process":
        os.kill(children[-1], signal.SIGKILL)
    else:
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == (2 if what == "a process" else 130)
    errors = " ".join(line.strip() for line in said[said.index("error: ") :].splitlines())
    if what == "a process":
        assert "of 2 was killed by SIGKILL (out of memory?), and the others were ended." in errors
    else:
        assert errors.startswith("error: interrupted.")
    assert "Traceback" not in said
    assert gone(children)
    steps = json.loads((folder / "state" / "index.json").read_text())["parts"]["train"]["values"]["steps"]
    assert 0 < steps < 400


def test_the_command_line_says_how_many_and_answers_once(verbs, tmp_path):
    surroundings = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    words = words_of(verbs["train"] | {"steps": 2}, "--out", str(tmp_path / "run"), "--json")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sluicegate"]
    done = subprocess.run([*launcher, *words], capture_output=True, text=True, env=surroundings, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("processes: 2") == 1
    assert json.loads(done.stdout.splitlines()[-1])["world_size"] == 2
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "sluicegate"]
    done = subprocess.run([*accelerate, *words], capture_output=True, text=True, env=surroundings, timeout=200, check=False)
    assert done.returncode != 0
    assert "several processes were asked for, but accelerate launch started one" in " ".join(done.stderr.split())


def test_a_mistake_in_all_processes_is_said_once(verbs, tmp_path):
    with pytest.raises(UserError, match=r"^the batch 'train' has 2 rows, which cannot be divided among 3 processes"):
        execute(from_config(verbs["train"] | {"batch": 2}), tmp_path / "run", exact=True, procs=3)
    assert not (tmp_path / "run").exists()


def test_the_benchmark_says_what_it_compared():
    from sluicegate_papers.benchmarks import ranks

    found = ranks.run(quick=True)
    assert found.world_size == 2
    assert max(found.difference, found.sharded) < max(1e-6, 1.5 * found.control) < 1e-5 < 1e-3 < found.moved
    assert torch.isfinite(torch.tensor(list(ranks.summary(found).values()))).all()
