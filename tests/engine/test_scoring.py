import math

import pytest
import torch

from architectures import build, learner
from sluicegate.engine.encoding import encode
from sluicegate.engine.forward import Meter
from sluicegate.engine.scoring import score, single_score
from sluicegate.engine.train import train
from sluicegate.engine.training import Ledger, NotFinite
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule


@pytest.fixture(scope="module")
def learnt(tokenizer):
    """A model that knows three of these five rows by heart."""
    items = (
        Item("3 * 4 =", " 12"),
        Item("ann fills 3 bags 4 plums total", " 12"),
        Item("", "the old fox sees the red plums today"),
        Item("5 + 5 =", " 11 12"),
        Item("bo has 9 coins finds 9 now", " 1"),
    )
    model = learner()
    known = (*items[:2], Item("5 + 5 =", " 11 13"), Item("bo has 9 coins finds 9 now", " 18"))
    train(model, tokenizer, known, Schedule(steps=60, lr=1e-2, batch=4))
    return model, items


def by_hand(model, tokenizer, item):
    """Score one row without padding, one forward pass a token."""
    rows = encode(tokenizer, [item])
    ids = rows.ids[0, : int(rows.lengths[0])].tolist()
    losses, hits = [], []
    for t in range(max(int(rows.starts[0]), 1), len(ids)):
        out = model(input_ids=torch.tensor([ids[:t]])).logits[0, -1].double()
        losses.append(float(out.logsumexp(-1) - out[ids[t]]))
        hits.append(float(int(out.argmax()) == ids[t]))
    return float(all(hits)), sum(hits) / len(hits), math.exp(-sum(losses)), sum(losses) / len(losses)


def test_scores_equal_those_worked_out_token_by_token(learnt, tokenizer):
    model, items = learnt
    model.eval()
    scores = score(model, encode(tokenizer, items))
    with torch.no_grad():
        wanted = torch.tensor([by_hand(model, tokenizer, item) for item in items])
    torch.testing.assert_close(torch.stack([scores.exact, scores.argmax, scores.probability, scores.loss], 1), wanted, atol=1e-4, rtol=1e-4)
    assert scores.exact.tolist() == [1, 1, 0, 0, 0]
    assert scores.argmax.tolist()[3:] == [0.5, 0]
    assert scores.mean()["exact"] == pytest.approx(0.4)


def test_greedy_decoding_writes_exactly_the_exact_answers(learnt, tokenizer):
    model, items = learnt
    rows = encode(tokenizer, items)
    exact = score(model, rows).exact.tolist()
    for i, item in enumerate(items[:2] + items[3:]):
        i = i if i < 2 else i + 1
        start, end = int(rows.starts[i]), int(rows.lengths[i])
        ids = rows.ids[i : i + 1, :start]
        with torch.no_grad():
            for _ in range(end - start):
                ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
        assert torch.equal(ids[0], rows.ids[i, :end]) == bool(exact[i]), item


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_size_of_a_batch_does_not_change_the_scores(learnt, tokenizer, size):
    model, items = learnt
    rows = encode(tokenizer, items)
    whole, cut = score(model, rows), score(model, rows, size=size)
    torch.testing.assert_close(cut.loss, whole.loss, atol=1e-5, rtol=1e-5)
    assert torch.equal(cut.exact, whole.exact)


def test_scoring_leaves_the_mode_the_weights_and_the_training_account_alone(learnt, tokenizer, bits):
    model, items = learnt
    before = bits.weights(model)
    for training in (True, False):
        model.train(training)
        ledger = Ledger()
        rows = encode(tokenizer, items)
        score(model, rows, ledger)
        assert model.training == training
        assert ledger.total == 0
        assert ledger.evaluation == Meter(model)(rows.batch(range(len(rows))))
    assert bits.same(bits.weights(model), before)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_dropout_is_off_while_scoring(tokenizer, split):
    model = build("gpt2").train()
    rows = encode(tokenizer, split.forget)
    assert torch.equal(score(model, rows).loss, score(model, rows).loss)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_has_no_score_and_the_row_is_named(tiny, tokenizer, value):
    rows = encode(tokenizer, [Item("3 * 4 =", " 12"), Item("5 + 5 =", " 10")])
    with torch.no_grad():
        tiny.get_input_embeddings().weight[rows.ids[1, int(rows.starts[1]) - 1]] = value
        tiny.get_input_embeddings().weight[rows.ids[1, 1]] = value
    for scored in (score, single_score):
        with pytest.raises(NotFinite, match=r"the loss on '5 \+ 5 = 10' is nan: the model's outputs are not finite"):
            scored(tiny, rows.select([1]))
