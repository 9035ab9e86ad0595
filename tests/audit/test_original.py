"""An attack trains the model itself: what it goes back to, what it leaves, and what it holds meanwhile."""

import dataclasses
import gc
import os

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig

from architectures import CONFIGS, OTHERS, build
from sluicegate.audit import relearn as module
from sluicegate.audit.attack import Attack
from sluicegate.audit.original import Original, left_as_it_was
from sluicegate.audit.relearn import relearn
from sluicegate.audit.stage import Relearn
from sluicegate.engine import models
from sluicegate.engine.encoding import Rows
from sluicegate.errors import UserError
from sluicegate.values.items import Item

SHORT = Attack(lrs=(1e-2, 3e-2), steps=2, checkpoints=(0, 2), batch=4, probe=4)
KINDS = [{}, {"lora_rank": 2}, {"round_bits": 4}, {"lora_rank": 2, "round_bits": 4}]


def state(model):
    """All that an attack might leave changed."""
    modules = [(name, id(m), type(m), m.training, list(vars(m)), len(m._forward_hooks)) for name, m in model.named_modules()]
    weights = [(name, id(p), p.requires_grad, p.grad, p.detach().clone()) for name, p in model.named_parameters()]
    return modules, weights, [(name, id(b), b.clone()) for name, b in model.named_buffers()]


def unchanged(before, after):
    assert before[0] == after[0]
    for one, other in zip(before[1] + before[2], after[1] + after[2], strict=True):
        assert one[:-1] == other[:-1]
        assert torch.equal(one[-1], other[-1]), one[0]


@pytest.mark.parametrize("name", [*CONFIGS, *OTHERS])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_of_model_is_left_as_it_was(name, kind, split, tokenizer):
    model = build(name)
    model.get_input_embeddings().weight.requires_grad_(False)
    before = state(model)
    relearn(model, tokenizer, split.forget, attack=dataclasses.replace(SHORT, lrs=(1e-2,), **kind))
    unchanged(before, state(model))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("error", [RuntimeError("inside"), KeyboardInterrupt(), UserError("diverged")])
def test_an_error_in_the_middle_leaves_it_too(kind, error, split, tokenizer, tiny, monkeypatch):
    fit, before, done = module.fit, state(tiny), []

    def broken(model, *arguments, **settings):
        done.append(fit(model, *arguments, **settings))
        if len(done) == 2:
            raise error

    monkeypatch.setattr(module, "fit", broken)
    with pytest.raises(type(error)):
        relearn(tiny, tokenizer, split.forget, attack=dataclasses.replace(SHORT, **kind))
    assert len(done) == 2
    unchanged(before, state(tiny))


def test_a_rate_that_breaks_the_weights_leaves_it_too(split, tokenizer, tiny):
    before = state(tiny)
    assert relearn(tiny, tokenizer, split.forget, attack=dataclasses.replace(SHORT, lrs=(1e30, 1e-2))).diverged
    unchanged(before, state(tiny))


def test_ctrl_c_while_it_is_put_back(tiny, bits):
    before, pressed = bits.weights(tiny), []

    class Slow(Original):
        def put_back(self):
            if not pressed:
                pressed.append(True)
                raise KeyboardInterrupt
            super().put_back()

    def changed():
        with left_as_it_was(tiny) as kept:
            kept.append(Slow(tiny, list(before)))
            damaged(tiny)

    with pytest.raises(KeyboardInterrupt):
        changed()
    assert bits.same(bits.weights(tiny), before)


def test_gradients_of_the_users_are_kept(tiny, split, tokenizer):
    tiny.lm_head.weight.grad = torch.ones_like(tiny.lm_head.weight)
    relearn(tiny, tokenizer, split.forget, attack=SHORT)
    assert bool((tiny.lm_head.weight.grad == 1).all())


def test_an_attack_that_was_broken_off_lets_go_of_the_model(split, tokenizer, tiny, monkeypatch, tmp_path):
    models.save(tiny, tokenizer, tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "{i.prompt}", "answer": "{i.answer}"}}\n' for i in split.forget))
    stage = Relearn(model=str(tmp_path / "model"), forget=str(rows), attack=SHORT)
    kept, _ = models.load_once(stage.model)
    stage.run(module.RunContext())
    assert models.load_once(stage.model)[0] is kept

    def broken(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "fit", broken)
    with pytest.raises(KeyboardInterrupt):
        stage.run(module.RunContext())
    assert models.load_once(stage.model)[0] is not kept


# ----------------------------------------------------------------------------------------- from the disk


def damaged(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "neox"])  # the last two are saved under other names
def test_what_lies_on_the_disk_is_not_copied(name, tokenizer, tmp_path, bits):
    models.save(build(name), tokenizer, tmp_path / "model")
    model = models.load_model(str(tmp_path / "model"))
    before = bits.weights(model)
    original = Original(model, list(before))
    assert (original.copied == 0) == (name in ("llama", "gpt2"))
    assert original.copied < sum(p.nbytes for p in model.parameters())
    damaged(model)
    original.put_back()
    assert bits.same(bits.weights(model), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_dtype_is_read_as_it_was_loaded(dtype, tokenizer, tmp_path, bits, tiny):
    models.save(tiny, tokenizer, tmp_path / "model")
    model = models.load_model(str(tmp_path / "model")).to(dtype)
    before = bits.weights(model)
    original = Original(model, list(before))
    assert original.copied == 0
    damaged(model)
    original.put_back()
    assert bits.same(bits.weights(model), before)


def test_what_was_changed_since_is_copied(tokenizer, tmp_path, bits, tiny):
    models.save(tiny, tokenizer, tmp_path / "model")
    model = models.load_model(str(tmp_path / "model"))
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 3.0
        model.model.norm.weight.mul_(-0.0)  # equal to nothing but itself, bit for bit
        models.save(model, tokenizer, tmp_path / "zero")
        model.model.norm.weight.abs_()
    before = bits.weights(model)
    original = Original(model, list(before))
    assert original.copied == model.lm_head.weight.nbytes + model.model.norm.weight.nbytes
    damaged(model)
    original.put_back()
    assert bits.same(bits.weights(model), before)
    model.name_or_path = str(tmp_path / "zero")
    assert Original(model, ["model.norm.weight"]).copied, "a zero of the other sign"


def test_a_file_that_changed_meanwhile_is_refused(tokenizer, tmp_path, tiny):
    models.save(tiny, tokenizer, tmp_path / "model")
    model = models.load_model(str(tmp_path / "model"))
    original = Original(model, ["lm_head.weight"])
    os.utime(tmp_path / "model" / "model.safetensors", ns=(1, 1))
    with pytest.raises(UserError, match="was changed while its model was attacked"):
        original.put_back()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_curve_is_that_of_a_copy(kind, split, tokenizer, tmp_path, tiny):
    models.save(tiny, tokenizer, tmp_path / "model")
    model = models.load_model(str(tmp_path / "model"))
    attack = dataclasses.replace(SHORT, **kind)
    found = [relearn(m, tokenizer, split.forget, split.retain, attack).to_json() for m in (model, tiny)]
    assert found[0] == found[1]


# ------------------------------------------------------------------------------------------- what is held


def most_held(job):
    """The most bytes that were allocated at once during `job`."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        job()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


LOW = {"optimizer": "adamw-bf16", "step_in_backward": True}
AIMS = [
    ({}, torch.float32, 3.2),
    ({"round_bits": 4}, torch.float32, 3.2),
    ({"lora_rank": 4}, torch.float32, 0.3),
    (LOW, torch.bfloat16, 2.2),
    (LOW | {"optimizer": "adafactor"}, torch.bfloat16, 1.3),
]


@pytest.mark.parametrize(("kind", "dtype", "aim"), AIMS, ids=str)
def test_how_much_an_attack_holds_beside_the_weights(kind, dtype, aim, tokenizer, tmp_path, monkeypatch):
    config = LlamaConfig(hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4, vocab_size=132)
    models.save(models.fresh(config, 0).to(dtype), tokenizer, tmp_path / "model")
    model = models.load_model(str(tmp_path / "model")).to(dtype)
    weights = sum(p.nbytes for p in model.parameters())
    ids = torch.arange(24).reshape(8, 3)
    items = tuple(Item("", str(n)) for n in range(8))
    lengths, ones = torch.full((8,), 3), torch.ones(8, dtype=torch.long)
    monkeypatch.setattr(module, "encode", lambda t, chosen, **_: Rows(ids, lengths, ones, items).select(range(len(chosen))))
    monkeypatch.setattr("sluicegate.engine.optimizers.UPDATED", 2**14)  # as small beside this model as it is beside a large one
    attack = Attack(lrs=(1e30, 1e-3), steps=1, batch=2, checkpoints=(1,), **kind)
    held = most_held(lambda: relearn(model, tokenizer, items, attack=attack)) / weights  # a file that is mapped counts whole
    assert held <= aim


# ---------------------------------------------------------------------------------------- in parts


def test_what_saves_memory_alone_is_the_same_attack(split, tokenizer, tiny):
    whole = relearn(tiny, tokenizer, split.forget, attack=SHORT)
    for kind in ({"accumulate": 2}, {"part_tokens": 20}, {"checkpointing": True}):
        found = relearn(tiny, tokenizer, split.forget, attack=dataclasses.replace(SHORT, **kind))
        assert found.owned.attack == whole.owned.attack
        assert found.owned.recall == whole.owned.recall
    for kind in ({"step_in_backward": True}, {"optimizer": "adafactor"}, {"rounding": "nearest"}):
        other = Attack(**kind)
        assert other.identity(64) == Attack().identity(64) | kind
        assert dataclasses.replace(other.schedule(1.0), clip=1.0, step_in_backward=False) == dataclasses.replace(
            Attack().schedule(1.0), **{k: v for k, v in kind.items() if k != "step_in_backward"}
        )
    assert Attack(step_in_backward=True).schedule(1.0).clip == 0


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UserError, match="accumulate is 2, but a step in the backward pass"):
        Attack(step_in_backward=True, accumulate=2)
    with pytest.raises(UserError, match="accumulate is 9, but a batch of 8"):
        Attack(batch=8, accumulate=9)


def test_an_attack_that_ran_out_of_memory_says_so(split, tokenizer, tiny, monkeypatch):
    real, calls = module.CrossEntropy.__call__, []

    def small(self, model, batches):
        if len(batches["train"].ids) > 2:
            calls.append(1)
            raise torch.OutOfMemoryError("out of memory")
        return real(self, model, batches)

    monkeypatch.setattr(module.CrossEntropy, "__call__", small)
    found = relearn(tiny, tokenizer, split.forget, attack=SHORT)
    assert len(calls) == len(SHORT.lrs)
    assert found.to_json()["notes"] == [f"lr {rate}: memory ran out at step 1: rows a part 4 -> 2" for rate in ("0.01", "0.03")]
