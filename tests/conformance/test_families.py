"""What holds for families that are not routed: experts, states, other ways of telling positions."""

import copy
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from architectures import OTHERS, build, round_trip
from sluicegate.audit.adapter import add_adapter
from sluicegate.engine.encoding import encode
from sluicegate.engine.forward import Meter, logits, matrices
from sluicegate.engine.scoring import score
from sluicegate.unlearning.objectives import methods
from sluicegate.unlearning.unlearn import unlearn
from sluicegate.values.edits import Noise
from sluicegate.values.schedule import Schedule

pytestmark = pytest.mark.parametrize("name", OTHERS)


@pytest.fixture
def model(name):
    return build(name).eval()


def test_loading_and_saving_keep_every_weight_bitwise(name, model, tokenizer, tmp_path, bits):
    round_trip(model, tokenizer, tmp_path, bits)


def test_a_batch_of_mixed_lengths_scores_like_its_rows_alone(name, model, tokenizer, mixed_items):
    together = score(model, encode(tokenizer, mixed_items))
    for i, item in enumerate(mixed_items):
        alone = score(model, encode(tokenizer, [item]))
        torch.testing.assert_close(together.loss[i], alone.loss[0], atol=1e-5, rtol=1e-5)


def test_the_padding_is_never_seen(name, model, tokenizer, mixed_items):
    rows = encode(tokenizer, mixed_items)
    other = copy.deepcopy(rows)
    other.ids[torch.arange(rows.ids.shape[1]) >= rows.lengths[:, None]] = 77
    batch, noisy = (one.batch(range(len(rows))) for one in (rows, other))
    with torch.no_grad():
        torch.testing.assert_close(logits(model, batch)[batch.real], logits(model, noisy)[batch.real], atol=1e-6, rtol=1e-6)


def test_flops_are_those_that_torch_counts_or_of_the_experts_in_use(name, model, tokenizer, mixed_items):
    batch = encode(tokenizer, mixed_items).batch(range(len(mixed_items)))
    counted = Meter(model)(batch)
    if any(weight.dim() == 3 for *_, weight in matrices(model)):  # torch does not count products of a whole stack
        model.config.num_experts_per_tok = 4
        more = Meter(model)(batch) - counted
        experts = sum(2 * weight.numel() / 4 * 2 for *_, weight in matrices(model) if weight.dim() == 3)  # two more of the four
        assert more == pytest.approx(experts * batch.ids.numel())
        return
    if name != "mamba":  # it has no attention to choose
        model.set_attn_implementation("eager")  # torch counts half of a fused causal attention
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits(model, batch)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_an_adapter_goes_on_every_matrix_and_learns(name, model, tokenizer, mixed_items):
    batch = encode(tokenizer, mixed_items).batch(range(len(mixed_items)))
    head, plain = model.get_output_embeddings(), logits(model, batch).detach()
    wanted = sum(module is not head for _, module, *_ in matrices(model))
    add_adapter(model, 2, seed=0)
    torch.testing.assert_close(logits(model, batch).detach(), plain)
    logits(model, batch).logsumexp(-1).sum().backward()
    trained = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in key for key in trained)
    seconds = [grad for key, grad in trained.items() if "lora_B" in key]
    assert len(seconds) == wanted
    assert all(grad is not None and bool(grad.any()) for grad in seconds)


def test_one_step_of_unlearning(name, model, tokenizer, split, bits):
    before = bits.weights(model)
    done = unlearn(model, tokenizer, split, methods()["maxent"](), Schedule(steps=1, lr=1e-3, batch=4), in_place=True)[0]
    assert all(bool(p.isfinite().all()) for p in done.parameters())
    assert not bits.same(bits.weights(done), before)


def test_noise_is_drawn_for_each_matrix_alone(name, model):
    Noise(alpha=1.0, beta=1.0, seed=3).bake(model)
    for _, _, key, weight in matrices(model):
        each = weight.detach() if weight.dim() == 3 else weight.detach()[None]
        bound = math.sqrt(6 / sum(each.shape[1:]))
        assert all(0.9 * bound < float(matrix.abs().max()) <= bound for matrix in each), key
