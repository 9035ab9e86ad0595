"""What holds for every architecture: in place, with the weights as Hugging Face holds them."""

import copy
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from architectures import CONFIGS, TIED, build, round_trip
from sluicegate.audit.attack import Attack
from sluicegate.audit.relearn import relearn
from sluicegate.engine.encoding import encode
from sluicegate.engine.forward import Meter, logits
from sluicegate.engine.models import load, save
from sluicegate.engine.scoring import score
from sluicegate.engine.train import train
from sluicegate.unlearning.distill import distill, undo
from sluicegate.unlearning.objectives import methods
from sluicegate.unlearning.unlearn import unlearn
from sluicegate.values.schedule import Schedule

pytestmark = pytest.mark.parametrize("name", CONFIGS)
SHORT = Schedule(steps=3, lr=1e-3, batch=8)


@pytest.fixture
def model(name):
    return build(name)


def test_loading_and_saving_keep_every_weight_bitwise(name, model, tokenizer, tmp_path, bits):
    round_trip(model, tokenizer, tmp_path, bits)
    again, _ = load(str(tmp_path / "ours"))
    assert bits.same(bits.weights(again), bits.weights(model))
    assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == (name in TIED)


def test_a_batch_of_mixed_lengths_scores_like_its_rows_alone(name, model, tokenizer, mixed_items):
    together = score(model, encode(tokenizer, mixed_items))
    for i, item in enumerate(mixed_items):
        alone = score(model, encode(tokenizer, [item]))
        for what in ("loss", "probability", "exact", "argmax"):
            torch.testing.assert_close(getattr(together, what)[i], getattr(alone, what)[0], atol=1e-5, rtol=1e-5)


def test_the_padding_is_never_seen(name, model, tokenizer, mixed_items):
    rows = encode(tokenizer, mixed_items)
    batch = rows.batch(range(len(rows)))
    other = copy.deepcopy(rows)
    other.ids[torch.arange(rows.ids.shape[1]) >= rows.lengths[:, None]] = 77
    noisy = other.batch(range(len(rows)))
    assert not torch.equal(batch.ids, noisy.ids)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(model, batch)[batch.real], logits(model, noisy)[batch.real], atol=1e-6, rtol=1e-6)


def test_exactly_one_bos(name, model, tokenizer, mixed_items, tmp_path):
    save(model, tokenizer, tmp_path / "model")
    _, own = load(str(tmp_path / "model"))
    rows = encode(own, mixed_items)
    assert (rows.ids == own.bos_token_id).sum(1).tolist() == [1] * len(rows)
    assert (rows.ids[:, 0] == own.bos_token_id).all()


def test_flops_are_those_that_torch_counts(name, model, tokenizer, mixed_items):
    model.set_attn_implementation("eager")  # torch counts half of a fused causal attention
    for rows in (encode(tokenizer, mixed_items), encode(tokenizer, mixed_items[:1])):
        batch = rows.batch(range(len(rows)))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            logits(model, batch)
        assert Meter(model)(batch) == pytest.approx(counter.get_total_flops(), rel=0.01)


def finite(model):
    return all(bool(p.isfinite().all()) for p in model.parameters())


def test_training_runs_in_place(name, model, tokenizer, split, bits):
    before, parameters = bits.weights(model), list(model.parameters())
    done = train(model, tokenizer, split.retain, SHORT)
    assert done.steps == 3
    assert all(p is q for p, q in zip(parameters, model.parameters(), strict=True))
    changed = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    # A key's bias moves every score of a query alike, so softmax gives it a gradient of rounding errors at most.
    assert {n for n in before if n not in changed} <= {n for n in before if "k_proj.bias" in n}
    assert finite(model)


@pytest.mark.parametrize("method", methods())
def test_every_objective_unlearns(name, model, tokenizer, split, bits, method):
    before = bits.weights(model)
    student, done = unlearn(model, tokenizer, split, methods()[method](), SHORT)
    assert bits.same(bits.weights(model), before), "the model handed in was changed"
    assert not bits.same(bits.weights(student), before)
    assert done.steps == 3
    assert finite(student)
    assert done.ledger.student > 0
    assert (done.ledger.teacher > 0) == (method in ("npo", "repnoise", "rmu"))
    again, _ = unlearn(model, tokenizer, split, methods()[method](), SHORT, in_place=True)
    assert again is model
    assert bits.same(bits.weights(again), bits.weights(student))


@pytest.mark.parametrize("cached", [False, True])
def test_distilling_onto_a_fresh_model(name, model, tokenizer, split, bits, cached):
    before = bits.weights(model)
    done = distill(model, tokenizer, split.unlabelled, SHORT, cache_teacher=cached)
    assert bits.same(bits.weights(model), before), "the teacher was changed"
    assert type(done.student) is type(model)
    assert not bits.same(bits.weights(done.student), before)
    assert math.isfinite(done.divergence)
    assert done.divergence > 0
    assert finite(done.student)
    assert done.reached


def test_undo(name, model, tokenizer, split, bits):
    before = bits.weights(model)
    done = undo(model, tokenizer, split.unlabelled, SHORT, alpha=0.5)
    assert bits.same(bits.weights(model), before), "the teacher was changed"
    assert finite(done.student)
    assert math.isfinite(done.divergence)


def test_the_relearning_attack(name, model, tokenizer, split, bits):
    before = bits.weights(model)
    found = relearn(model, tokenizer, split.forget, split.retain, Attack(lrs=(1e-3, 1e-2), steps=3, checkpoints=(1,), batch=8))
    assert bits.same(bits.weights(model), before), "the model under attack was changed"
    assert found.owned.effort == (0, 1, 3)
    assert all(0 <= r <= 1 for curve in (found.owned, found.held_out) for r in curve.recall[0])
    assert set(found.by_rate) == {"0.001", "0.01"}
