import copy
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig

from architectures import learner
from sluicegate.engine.encoding import encode
from sluicegate.engine.forward import Meter
from sluicegate.engine.models import fresh
from sluicegate.engine.sampling import seed_of
from sluicegate.engine.scoring import score
from sluicegate.engine.train import train
from sluicegate.engine.training import Ledger
from sluicegate.errors import UserError
from sluicegate.unlearning import distill as module
from sluicegate.unlearning.distill import Matching, StopRule, distill, undo
from sluicegate.values.edits import Noise
from sluicegate.values.schedule import Schedule

SHORT = Schedule(steps=3, lr=3e-3, batch=8)


@pytest.fixture(scope="module")
def teacher(tokenizer, split):
    model = learner()
    train(model, tokenizer, split.retain, Schedule(steps=80, lr=1e-2, batch=len(split.retain)))
    assert score(model, encode(tokenizer, split.retain)).mean()["exact"] > 0.9
    return model


@pytest.fixture
def rows(tokenizer, split):
    return encode(tokenizer, split.unlabelled[:16])


@pytest.mark.parametrize("cached", [False, True])
def test_the_loss_is_the_forward_kl_a_token(teacher, tiny, rows, cached):
    batch = rows.batch([3, 0, 9, 12])
    found = Matching(teacher, rows, Ledger(), cached=cached)(tiny, {"pool": batch}).value
    logs = [m.eval()(input_ids=batch.ids, attention_mask=batch.attention.long()).logits[:, :-1][batch.real] for m in (tiny, teacher)]
    wanted = F.kl_div(logs[0].log_softmax(-1), logs[1].log_softmax(-1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(found, wanted)
    assert float(found.detach()) > 0


def test_a_model_matches_itself(teacher, rows):
    loss = Matching(teacher, rows, Ledger(), cached=False)(copy.deepcopy(teacher), {"pool": rows.batch(range(8))})
    assert abs(float(loss.value.detach())) < 1e-6


def test_a_cached_teacher_is_the_live_one(teacher, tokenizer, split, bits):
    live, cached = (distill(teacher, tokenizer, split.unlabelled[:40], SHORT, cache_teacher=c) for c in (False, True))
    for (name, p), q in zip(live.student.named_parameters(), cached.student.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name, atol=1e-4, rtol=1e-3)
    rows = encode(tokenizer, split.unlabelled[:40])
    batch = rows.batch([31, 2, 2])
    store, ask = (Matching(teacher, rows, Ledger(), cached=c) for c in (True, False))
    torch.testing.assert_close(store(live.student, {"pool": batch}).value, ask(live.student, {"pool": batch}).value)


def test_the_teachers_forward_passes_are_in_the_ledger(teacher, tokenizer, split):
    pool = split.unlabelled[:24]
    rows = encode(tokenizer, pool)
    live, cached = (distill(teacher, tokenizer, pool, SHORT, cache_teacher=c).fitted.ledger for c in (False, True))
    assert live.teacher == pytest.approx(live.student / 3)
    assert cached.teacher == Meter(teacher)(rows.batch(range(len(rows))))
    assert cached.student == live.student


def test_a_cache_that_is_too_large_is_refused(teacher, tokenizer, split, monkeypatch):
    monkeypatch.setattr(module, "CACHE_LIMIT", 1000)
    with pytest.raises(UserError, match=r"caching the teacher's outputs would take.*--cache-teacher"):
        distill(teacher, tokenizer, split.unlabelled, SHORT, cache_teacher=True)


def test_it_stops_when_the_student_has_its_share_of_the_teachers_score(teacher, tokenizer, split):
    student = copy.deepcopy(teacher)
    schedule, stop = Schedule(steps=9, lr=1e-5, batch=8), StopRule(split.retain, 0.9, 2)
    done = distill(teacher, tokenizer, split.unlabelled, schedule, student=student, stop=stop)
    assert (done.fitted.steps, done.reached, done.fitted.stopped) == (2, True, True)
    assert done.teacher_score == pytest.approx(score(teacher, encode(tokenizer, split.retain)).mean()["exact"])
    assert done.student is student
    assert done.fitted.ledger.evaluation > 0


def test_a_student_that_does_not_get_there_is_said_so(teacher, tokenizer, split):
    done = distill(teacher, tokenizer, split.unlabelled, Schedule(steps=5, lr=1e-5, batch=8), stop=StopRule(split.retain, 0.9, 2))
    assert (done.fitted.steps, done.reached, done.fitted.stopped) == (5, False, False)
    assert [record["step"] for record in done.fitted.records] == [2, 4, 5]


def test_reaching_it_at_the_last_step_counts(teacher, tokenizer, split):
    schedule, stop = Schedule(steps=3, lr=1e-6, batch=8), StopRule(split.retain, 0.9, 20)
    done = distill(teacher, tokenizer, split.unlabelled, schedule, student=copy.deepcopy(teacher), stop=stop)
    assert (done.fitted.steps, done.reached) == (3, True)


def test_without_a_stop_rule_every_step_is_run(teacher, tokenizer, split):
    for stop in (None, StopRule(split.retain, 0.0, 1)):
        done = distill(teacher, tokenizer, split.unlabelled, SHORT, stop=stop)
        assert (done.fitted.steps, done.reached) == (3, True)
        assert math.isnan(done.teacher_score)


def test_distilling_brings_the_student_nearer(teacher, tokenizer, split):
    ends = [distill(teacher, tokenizer, split.unlabelled, Schedule(steps=n, lr=6e-3, batch=32)).divergence for n in (1, 30)]
    assert ends[1] < 0.5 * ends[0]


def test_the_fresh_student_follows_the_seed(teacher, tokenizer, split, bits):
    ends = [bits.weights(distill(teacher, tokenizer, split.unlabelled, SHORT, seed=seed).student) for seed in (0, 0, 1)]
    assert bits.same(ends[0], ends[1])
    assert not bits.same(ends[0], ends[2])


def test_the_teacher_is_handed_back_as_it_was(teacher, tokenizer, split, bits):
    teacher.train()
    before = bits.weights(teacher)
    distill(teacher, tokenizer, split.unlabelled, SHORT)
    undo(teacher, tokenizer, split.unlabelled, SHORT, alpha=0.5)
    assert bits.same(bits.weights(teacher), before)
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters()), "training it afterwards would do nothing"


def test_different_vocabularies_are_refused(teacher, tokenizer, split):
    other = fresh(LlamaConfig(vocab_size=140, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16), 0)
    with pytest.raises(UserError, match="132 and 140 tokens"):
        distill(teacher, tokenizer, split.unlabelled, SHORT, student=other)


def test_an_empty_pool_is_refused(teacher, tokenizer):
    with pytest.raises(UserError, match="--unlabelled"):
        distill(teacher, tokenizer, (), SHORT)


def starts_at(monkeypatch, bits, run):
    """Weights of the student when distilling starts."""
    seen = []
    fit = module.fit
    monkeypatch.setattr(module, "fit", lambda student, *a, **k: (seen.append(bits.weights(student)), fit(student, *a, **k))[1])
    run()
    return seen[0]


def test_undo_without_noise_starts_at_the_teacher(teacher, tokenizer, split, bits, monkeypatch):
    first = starts_at(monkeypatch, bits, lambda: undo(teacher, tokenizer, split.unlabelled, SHORT, alpha=0.0))
    assert bits.same(first, bits.weights(teacher))


def test_undo_noises_the_sites_that_were_asked_for(teacher, tokenizer, split, bits, monkeypatch):
    noise = {"alpha": 0.7, "beta": 0.2, "params": "*.mlp.*", "seed": 3}
    first = starts_at(monkeypatch, bits, lambda: undo(teacher, tokenizer, split.unlabelled, SHORT, **noise))
    wanted = copy.deepcopy(teacher)
    Noise(0.7, 0.2, seed_of(3, "noise"), "*.mlp.*").bake(wanted)
    assert bits.same(first, bits.weights(wanted))
    assert not bits.same(first, bits.weights(teacher))


def test_more_noise_is_further_from_the_teacher(teacher, tokenizer, split):
    gaps = [undo(teacher, tokenizer, split.unlabelled, Schedule(steps=1, lr=1e-9, batch=8), alpha=a).divergence for a in (0.0, 0.4, 0.8)]
    assert gaps[0] < 1e-5 < gaps[1] < gaps[2]
