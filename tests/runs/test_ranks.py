import json

import pytest
import torch

from architectures import learner
from sluicegate import app as cli
from sluicegate.engine.encoding import encode
from sluicegate.engine.sampling import Mixture
from sluicegate.engine.training import CrossEntropy, fit
from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.execution.jobs import Job, run_jobs
from sluicegate.execution.local import LocalPool
from sluicegate.execution.torchrun import _what_happened
from sluicegate.runs.directory import RunContext, open_run
from sluicegate.runs.ranks import ALONE, Ranks, _buckets, launched, processes
from sluicegate.runs.stage import Stage, from_config
from sluicegate.unlearning.objectives.rmu import RMU
from sluicegate.values.schedule import Schedule
from tiny_stages import material, settings_of_verbs


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_MIXED_PRECISION", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)


def surround(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_one_process_is_a_plain_loop_bitwise(tokenizer, mixed_items):
    """What `fit` adds for several processes may not move a bit of what one does, accumulation included."""
    rows = encode(tokenizer, mixed_items)
    draw, fitted, plain = Mixture(rows, 5, 3), learner(), learner()
    fit(
        fitted,
        CrossEntropy(),
        lambda step: {"train": draw(step)},
        Schedule(steps=4, lr=1e-2, batch=5, accumulate=2),
        seed=0,
        run=RunContext(),
    )
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    plain.train()
    for step in range(4):
        for part in draw(step).split(2):
            CrossEntropy()(plain, {"train": part}).value.backward()
        torch.nn.utils.clip_grad_norm_([p for p in plain.parameters() if p.grad is not None], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert all(torch.equal(a, b) for a, b in zip(fitted.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize(("rows", "world", "accumulate"), [(7, 2, 1), (7, 3, 2), (8, 2, 2), (5, 5, 1)])
def test_every_row_goes_to_one_process_and_counts_are_the_batchs(tokenizer, mixed_items, rows, world, accumulate):
    encoded = encode(tokenizer, mixed_items)
    batch = Mixture(encoded, rows, 0)(0)
    own = [piece["train"] for rank in range(world) for piece in Ranks(rank, world).pieces({"train": batch}, accumulate)]
    assert torch.equal(torch.cat([b.index for b in own]), batch.index)
    assert max(len(b.index) for b in own) - min(len(b.index) for b in own) <= 1
    assert {b.total("answer") for b in own} == {batch.total("answer")}
    assert {b.total("rows") for b in own} == {float(rows)}


def test_a_batch_too_small_for_everybody(tokenizer, mixed_items):
    batch = Mixture(encode(tokenizer, mixed_items), 3, 0)(0)
    with pytest.raises(
        UserError, match=r"the batch 'train' has 3 rows, which cannot be divided among 2 processes in 2 parts each. Raise --batch to 4"
    ):
        Ranks(0, 2).pieces({"train": batch}, 2)
    assert ALONE.pieces({"train": batch}, 1)[0]["train"] is batch


def test_buckets_hold_everything_in_order_and_one_kind_each(monkeypatch):
    monkeypatch.setattr("sluicegate.runs.ranks._BUCKET", 5)
    tensors = [torch.zeros(n) for n in (2, 2, 2, 9, 1)] + [torch.zeros(1, dtype=torch.float64)]
    found = list(_buckets(tensors))
    assert [[t.numel() for t in bucket] for bucket in found] == [[2, 2], [2], [9], [1], [1]]
    assert list(_buckets([])) == []


# ------------------------------------------------------------------------------- who started us


def test_nobody_started_us():
    assert launched() is None
    assert (processes(0), processes(1), processes(3)) == (1, 1, 3)
    with pytest.raises(UserError, match="--procs is -1; it is a number of processes"):
        processes(-1)


def test_torchrun_is_recognised_and_must_agree(monkeypatch):
    surround(monkeypatch, RANK="1", WORLD_SIZE="2")
    assert launched() == (1, 2)
    assert processes(0) == processes(2) == 2
    with pytest.raises(UserError, match=r"--procs is 4, but the launcher \(torchrun\?\) started 2 \(WORLD_SIZE\)"):
        processes(4)
    with pytest.raises(UserError, match="--procs is 1, but"):
        processes(1)


@pytest.mark.parametrize("said", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "2"}, {"WORLD_SIZE": "two", "RANK": "0"}], ids=str)
def test_an_environment_that_cannot_be(monkeypatch, said):
    surround(monkeypatch, **said)
    with pytest.raises(UserError, match="which cannot be"):
        processes(0)


def test_accelerate_that_starts_one_process_is_not_taken_for_several(monkeypatch):
    surround(monkeypatch, ACCELERATE_MIXED_PRECISION="no")
    assert processes(0) == processes(1) == 1  # accelerate launch --num_processes 1
    with pytest.raises(UserError, match="--procs is 2, but accelerate launch started one"):
        processes(2)
    surround(monkeypatch, MASTER_ADDR="127.0.0.1")
    with pytest.raises(UserError, match="several processes were asked for, but accelerate launch started one"):
        processes(0)


def test_mpirun_is_not_taken_for_one_process(monkeypatch):
    surround(monkeypatch, OMPI_COMM_WORLD_SIZE="2")
    with pytest.raises(UserError, match="mpirun started 2 processes"):
        processes(0)


# ------------------------------------------------------------------------------- what cannot be


def test_what_one_process_has_to_do_alone(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(RMU, "SHARDS", False, raising=False)  # as an objective of a user's may say
    own = settings_of_verbs(material(tmp_path / "own"))
    train, rmu = from_config(own["train"]), from_config(own["rmu"])
    score = from_config({"verb": "score", "model": own["train"]["model"], "forget": own["train"]["forget"]})
    with pytest.raises(
        UserError, match=r"score runs in one process, and here there would be 2\. Several can work together on: distill, relearn"
    ):
        execute(score, tmp_path / "score", procs=2)
    with pytest.raises(UserError, match="--shard divides a model among processes, and there is one"):
        execute(train, tmp_path / "train", shard=True)
    with pytest.raises(UserError, match="the method 'rmu' swaps whole weights in"):
        execute(rmu, tmp_path / "rmu", procs=2, shard=True)
    assert not any((tmp_path / name).exists() for name in ("score", "train", "rmu"))
    assert cli.main(["run", "undo-arithmetic", "--procs", "2"]) == 2
    assert "a recipe runs its stages side by side" in capsys.readouterr().err
    surround(monkeypatch, RANK="0", WORLD_SIZE="2")
    assert cli.main(["demo"]) == 2
    assert "demo runs in one process, and a launcher started 2" in capsys.readouterr().err
    with pytest.raises(UserError, match="a launcher started 2 processes"):
        run_jobs([Job("a", (), lambda done: Stage(), tmp_path)], LocalPool())


def test_the_number_of_processes_is_recorded_and_not_in_the_hash(tmp_path):
    def sit(world):
        with open_run(tmp_path, digest="d", config={}, parents={}, environment={"world_size": world}, title="t"):
            pass

    for world in (1, 1, 2, 1):
        sit(world)
    assert json.loads((tmp_path / "env.json").read_text()) == {"world_size": 1, "world_sizes": [1, 2, 1]}


# ------------------------------------------------------------------------------- what is said when some died


def reports(folder, **by_rank):
    for number, (error, mistake) in by_rank.items():
        (folder / f"rank-{number[1:]}.json").write_text(json.dumps({"error": error, "mistake": mistake, "time": float(number[1:])}))
    return folder


def test_a_mistake_is_said_once_and_before_all_else(tmp_path):
    reports(tmp_path, r0=("no such site.", True), r1=("no such site.", True))
    assert _what_happened(tmp_path, 2, {0: 2, 1: 2}) == "no such site."


def test_a_killed_process_is_named_and_not_the_one_that_missed_it(tmp_path):
    reports(tmp_path, r0=("RuntimeError: Connection closed by peer", False))
    said = _what_happened(tmp_path, 2, {0: 2, 1: -9})
    assert said.startswith("process 1 of 2 was killed by SIGKILL (out of memory?), and the others were ended. Finished stages")
    assert "\n" not in said


def test_a_process_that_failed_is_named_with_its_error(tmp_path):
    reports(tmp_path, r1=("ValueError: no", False))
    assert _what_happened(tmp_path, 2, {0: -15, 1: 2}).startswith("process 1 of 2 failed, and the others were ended: ValueError: no")
    assert "it ended with status 3" in _what_happened(tmp_path / "none", 2, {1: 3})
