"""A teacher's top words, and its weights in host memory."""

import copy

import pytest
import torch

from architectures import learner
from sluicegate.engine.encoding import encode
from sluicegate.engine.forward import Meter
from sluicegate.engine.training import Ledger
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext, open_run
from sluicegate.unlearning import teacher as module
from sluicegate.unlearning.distill import Matching, distill
from sluicegate.unlearning.teacher import TopWords, divergence_of_top, in_host_memory
from sluicegate.values.schedule import Schedule


@pytest.fixture
def rows(mixed_items, tokenizer):
    return encode(tokenizer, mixed_items)


def test_the_divergence_is_that_of_top_words_and_one_word_for_the_rest():
    torch.manual_seed(0)
    theirs, mine = torch.randn(2, 4, 9, dtype=torch.float64).log_softmax(-1)
    logs, words = theirs.topk(3)
    for row in range(4):
        p, q = theirs[row].exp(), mine[row].exp()
        inside = [int(w) for w in words[row]]
        outside = [v for v in range(9) if v not in inside]
        pairs = [(float(p[v]), float(q[v])) for v in inside] + [(float(p[outside].sum()), float(q[outside].sum()))]
        wanted = sum(a * torch.log(torch.tensor(a / b, dtype=torch.float64)) for a, b in pairs)
        torch.testing.assert_close(divergence_of_top(mine, logs, words)[row], wanted)
    whole = (theirs.exp() * (theirs - mine)).sum(-1)
    assert (divergence_of_top(mine, logs, words) < whole).all()
    assert divergence_of_top(theirs, logs, words).abs().max() < 1e-9


def test_nearly_all_words_give_the_loss_of_all(tiny, rows):
    teacher, batch = learner(seed=3), rows.batch([3, 0, 2])
    whole, most = (Matching(teacher, rows, Ledger(), cached=True, top=top) for top in (0, 131))
    values = [matching(tiny, {"pool": batch}).value for matching in (whole, most)]
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-4)
    gradients = [torch.autograd.grad(value, tiny.lm_head.weight)[0] for value in values]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-3)
    assert most.top.held > 0.99
    assert 0.02 < Matching(teacher, rows, Ledger(), cached=True, top=8).top.held < 0.9
    for wrong in ({"cached": True, "top": 132}, {"cached": False, "top": 8}):
        with pytest.raises(UserError, match="teacher_top is"):
            Matching(teacher, rows, Ledger(), **wrong)


def test_top_words_lie_in_the_runs_state_and_are_not_computed_again(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("sluicegate.engine.losses.STATES", 2 * rows.ids.shape[1] * 64)  # two rows a portion
    teacher, paid = learner(), Ledger()
    opened = {"digest": "x", "config": {"verb": "x"}, "parents": {}, "environment": {}, "title": "x"}
    with open_run(tmp_path / "run", **opened) as run:
        first = TopWords(teacher, rows, 5, paid, run, "distill")
        files = sorted((tmp_path / "run" / "state").glob("distill-teacher-*.safetensors"))
        assert len(files) == 3
        files[1].write_bytes(b"broken")
    asked = []
    real = module.reduce_logits
    monkeypatch.setattr(
        module, "reduce_logits", lambda model, batch, *rest: asked.append(batch.index.tolist()) or real(model, batch, *rest)
    )
    with open_run(tmp_path / "run", **opened) as run:
        again = TopWords(teacher, rows, 5, Ledger(), run, "distill")
    assert asked == [[2, 3]]
    plain = TopWords(teacher, rows, 5, Ledger(), RunContext(), "distill")
    for batch in (rows.batch([4, 1, 1]), *rows.batch([0, 2, 3]).split(2)):
        logs, words = plain.of(batch)
        assert logs.shape == (int(batch.real.sum()), 5)
        for found in (again.of(batch), TopWords.of(first, batch) if batch.index[0] == 4 else again.of(batch)):
            assert all(map(torch.equal, found, (logs, words)))
        out = teacher(input_ids=batch.ids, attention_mask=batch.attention.long()).logits[:, :-1][batch.real].log_softmax(-1)
        torch.testing.assert_close(logs, out.topk(5).values)
    assert paid.teacher == pytest.approx(sum(Meter(teacher)(rows.batch(i)) for i in ([0, 1], [2, 3], [4])))


def test_weights_in_host_memory_give_the_same_numbers_and_come_back(rows, bits):
    teacher, batch = learner(), rows.batch(range(5))
    before, wanted = bits.weights(teacher), teacher(input_ids=batch.ids).logits
    student = copy.deepcopy(teacher)
    with in_host_memory(teacher, True, torch.device("cpu")):
        assert {p.device.type for p in teacher.parameters()} == {"meta"}
        assert torch.equal(teacher(input_ids=batch.ids).logits, wanted)
        assert float(Matching(teacher, rows, Ledger(), cached=False)(student, {"pool": batch}).value.detach()) < 1e-6
    assert bits.same(bits.weights(teacher), before)


def test_distilling_takes_both(tokenizer, split):
    teacher = learner()
    schedule = Schedule(steps=3, lr=3e-3, batch=8)
    done = distill(teacher, tokenizer, split.unlabelled[:24], schedule, cache_teacher=True, teacher_top=20, teacher_on="host")
    assert 0 < done.held < 1
    assert done.divergence > 0
    assert done.fitted.ledger.teacher == pytest.approx(done.fitted.ledger.student / 3, rel=0.1)
