"""What a stage is said to hold in memory: by hand, beside what autograd keeps, and what is refused before it starts."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, MambaConfig, MixtralConfig

from architectures import llama
from sluicegate.app import main
from sluicegate.audit.adapter import add_adapter
from sluicegate.engine import memory
from sluicegate.engine.memory import KINDS, Plan, advice, available, estimate, shape
from sluicegate.engine.models import fresh
from sluicegate.errors import UserError

ROWS = ["--forget", "task:arithmetic/forget", "--retain", "task:arithmetic/retain"]


def kept(model, length):
    """Bytes a token that autograd keeps of the layers: every storage that it saves, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = (storage.nbytes(), tensor)  # holding on, or another would get its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=torch.randint(0, 100, (4, length)))
    return sum(size for size, _ in held.values()) / (4 * length)


@pytest.mark.parametrize("rank", [0, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [llama(128, layers=3, keys=4), llama(96, layers=5)])
def test_activations_are_what_autograd_keeps(config, dtype, rank):
    model = fresh(config, 0).to(getattr(torch, dtype)).train()
    if rank:
        add_adapter(model, rank, 0)
    found = estimate(shape(config), "relearn", dtype=dtype, lora_rank=rank, rows=1, length=16)
    assert found.activations / 16 == pytest.approx(kept(model, 16), rel=0.06)


def test_checkpointing_keeps_a_width_a_layer():
    model = shape(llama(64, layers=12))
    plain, again = (estimate(model, "train", rows=4, length=16, checkpointing=on).activations for on in (False, True))
    layer = estimate(shape(llama(64, layers=1)), "train", rows=4, length=16).activations
    assert again == pytest.approx(layer + 12 * 4 * 64 * 64)
    assert plain > 5 * again


def test_a_shape_is_the_models():
    config = llama(64, layers=3)
    found, model = shape(config), fresh(config, 0)
    assert found == replace(shape(model), forward=found.forward)
    assert found.parameters == found.trained == sum(p.numel() for p in model.parameters())
    assert found.layer == sum(p.numel() for p in model.model.layers[0].parameters())
    assert found.apart == found.parameters - 3 * found.layer
    assert (found.queries, found.keys, found.inner, found.largest, found.tied) == (64, 32, 192, 64 * 192, False)
    assert found.factors == 2 * (132 + 64) + 3 * (2 * 128 + 2 * 96 + 3 * 256) + 7 * 64
    add_adapter(model, 4, 0)
    assert 4 * found.targets == sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    head = shape(config, params="lm_head*")
    assert (head.trained, head.parameters) == (132 * 64, found.parameters)


@pytest.mark.parametrize("config", [GPT2Config(n_layer=2), MambaConfig(num_hidden_layers=2), MixtralConfig(num_hidden_layers=1)])
def test_another_architecture_has_a_shape(config):
    found = shape(config)
    assert found.inner > found.width
    assert estimate(found, "train").most > 16 * found.parameters
    if config.model_type == "mixtral":  # of eight experts a token sees two
        assert found.inner == pytest.approx(2 * config.intermediate_size, rel=0.001)


def test_bytes_of_weights_gradients_and_moments():
    model = shape(llama(64))
    n, few = model.parameters, {"rows": 1, "length": 1}
    parts = lambda **how: tuple(getattr(estimate(model, "train", **few, **how), name) for name in ("weights", "gradients", "moments"))  # noqa: E731
    assert parts() == (4 * n, 4 * n, 8 * n)
    assert parts(dtype="bfloat16") == (2 * n, 2 * n, 8 * n)
    assert parts(dtype="bfloat16", optimizer="adamw-bf16") == (2 * n, 2 * n, 4 * n)
    assert parts(dtype="bfloat16", optimizer="adamw-bf16", rounding="master") == (2 * n, 2 * n, 8 * n)
    assert parts(optimizer="adafactor") == (4 * n, 4 * n, 4 * model.factors)
    assert parts(optimizer="adafactor", step_in_backward=True) == (4 * n, 4 * model.largest, 4 * model.factors)
    assert parts(devices=4, shard=True) == (n, n, 2 * n)
    assert parts(devices=4) == parts()


def test_other_models_and_copies():
    model = shape(llama(64))
    few = {"rows": 1, "length": 1}
    assert estimate(model, "undo", **few).others == estimate(model, "undo", **few, devices=2, shard=True).others == 4 * model.parameters
    host = estimate(model, "distill", **few, teacher="host")
    assert (host.others, host.host) == (4 * model.layer, 4 * model.parameters)
    assert estimate(model, Plan("unlearn", **few, copies=1)).others == 4 * model.parameters
    full, adapter = (estimate(model, "relearn", **few, lora_rank=rank) for rank in (0, 2))
    assert full.most == 16 * model.parameters
    assert adapter.most < 1.3 * adapter.weights


def test_a_batch_in_parts():
    model = shape(llama(64))
    whole, cut, by_tokens = (estimate(model, "train", rows=8, length=64, **how) for how in ({}, {"accumulate": 4}, {"part_tokens": 128}))
    assert whole.activations == 4 * cut.activations
    assert cut == by_tokens
    assert cut.most == cut.weights + cut.moments + cut.gradients + cut.activations + max(cut.logits, 4 * 132 * 64)
    assert estimate(model, "unlearn", rows=8, length=64).activations == 2 * whole.activations
    assert estimate(model, "train", rows=8, length=64, devices=4).activations == cut.activations


def test_a_large_vocabulary_is_taken_in_pieces():
    found = [estimate("8B", "score", dtype="bfloat16", rows=rows) for rows in (32, 3200)]
    assert found[0].most == found[1].most
    assert found[0].most - found[0].weights < 600e6


def test_what_was_aimed_at_for_8b():
    model, lean = shape("8B"), {"dtype": "bfloat16", "optimizer": "adamw-bf16", "checkpointing": True}
    assert estimate(model, "audit", dtype="bfloat16", checkpointing=True, lora_rank=16).most < 30e9
    assert estimate(model, "audit", **lean, step_in_backward=True).most < 78e9
    assert estimate(model, "undo", **lean, devices=2, shard=True).most < 78e9


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "score"])
def test_advice_fits_and_takes_no_more_than_it_must(kind):
    model, plan = shape("1B"), Plan(kind, rows=8)
    most = estimate(model, plan).most
    assert advice(model, plan, most) == ""
    said = advice(model, plan, 0.9 * most)
    assert len([word for word in said.split() if word.startswith("--")]) == 1, said
    hard = advice(model, plan, 7e9)
    assert hard.count("--") > 1
    assert "--procs" not in hard  # more devices only where settings are not enough
    assert advice(model, plan, 1e6) == ""
    assert "--lora-rank" not in advice(model, replace(plan, kind="train"), 7e9)


def test_more_devices_are_the_last_resort():
    model, plan = shape("8B"), Plan("train", rows=64)
    assert "--procs" not in advice(model, plan, 32e9)
    assert advice(model, plan, 17e9).startswith("--procs 64 --shard")
    assert advice(model, plan, 17e9, together=False) == ""
    assert advice(model, replace(plan, optimizer="adafactor"), 17e9) == ""  # which --shard cannot take


def test_the_devices_memory(monkeypatch):
    assert available(free=False) > available() * 0.5 > 0
    monkeypatch.setenv("SLUICEGATE_MEMORY", "80")
    assert available() == 80e9
    monkeypatch.setenv("SLUICEGATE_MEMORY", "much")
    with pytest.raises(UserError, match="SLUICEGATE_MEMORY is 'much'"):
        available()


def test_a_stage_that_will_not_fit_is_refused_before_it_starts(monkeypatch, tmp_path, capsys):
    words = ["unlearn", "--model", "arithmetic-tiny", *ROWS, "--steps", "1", "--out", str(tmp_path / "run")]
    monkeypatch.setenv("SLUICEGATE_MEMORY", "0.0012")
    assert main(words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "unlearn of 'arithmetic-tiny' would hold about" in said
    assert "It would fit with: --" in said
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("SLUICEGATE_MEMORY", "0.1")
    assert main(words) == 0
    assert "would hold" not in capsys.readouterr().err


def test_rows_are_as_long_as_they_are_and_a_tenth_is_warned_of(monkeypatch, tmp_path, capsys):
    """The rows have 5 tokens, and may have 256; by their own length the stage fits, or nearly."""
    words = ["score", "--model", "arithmetic-tiny", "--forget", "task:arithmetic/forget", "--out", str(tmp_path / "run")]
    seen = []
    real = memory.estimate
    monkeypatch.setattr(memory, "estimate", lambda of, plan: seen.append(real(of, plan)) or seen[-1])
    monkeypatch.setenv("SLUICEGATE_MEMORY", "0.000001")
    assert main(words) == 2
    short = seen[1].most
    assert short < seen[0].most
    capsys.readouterr()
    monkeypatch.setenv("SLUICEGATE_MEMORY", str(short / 1.05 / 1e9))
    assert main(words) == 0
    assert "warning: score of 'arithmetic-tiny' would hold" in capsys.readouterr().err


def test_doctor_says_what_fits(capsys):
    assert main(["doctor", "8B", "--for", "audit", "--memory", "80", "--checkpointing", "--dtype", "bfloat16", "--json"]) == 0
    out = capsys.readouterr().out
    rows = json.loads(out.splitlines()[-1])["rows"]
    fits = {(row["stage"], row["optimizer"]): row["fits"] for row in rows}
    assert fits == {
        ("audit (LoRA 16)", "adamw"): True,
        ("audit", "adamw"): False,
        ("audit", "adamw-bf16"): True,
        ("audit", "adafactor"): True,
    }
    assert all(row["most"] >= row["weights"] + row["others"] + row["moments"] for row in rows)
    assert "audit, bfloat16, adamw: fits with --optimizer adamw-bf16" in out


def test_doctor_takes_every_stage_and_a_models_name(capsys):
    assert main(["doctor", "arithmetic-tiny", "--for", "all", "--devices", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["stage"].split()[0] for row in found["rows"]} == set(KINDS) - {"relearn"}
    assert all(row["fits"] for row in found["rows"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--for", "audit"], "name one"),
        (["9B", "--for", "audit"], "no model '9B'"),
        (["8B", "--model", "1B"], "two models"),
        (["8B", "--for", "audit", "--lora-rank", "-1"], "lora_rank is -1"),
    ],
)
def test_doctor_refuses(words, said, capsys):
    assert main(["doctor", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_mistakes():
    with pytest.raises(UserError, match="devices is 0"):
        estimate("1B", "train", devices=0)
    with pytest.raises(UserError, match="optimizer is 'sgd'"):
        estimate("1B", "train", optimizer="sgd")
    with pytest.raises(UserError, match="quantised"):
        estimate(shape(llama(quantization_config={"quant_method": "awq", "bits": 4})), "score")
