"""Several accepted answers, and choices scored as lm-evaluation-harness scores them, against values worked out by
hand."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from architectures import build, learner
from sluicegate.engine.choices import _listing, choose, score_any
from sluicegate.engine.encoding import encode
from sluicegate.engine.generation import generate
from sluicegate.engine.scoring import score
from sluicegate.engine.train import train
from sluicegate.engine.training import Ledger
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule

KNOWN = (Item("3 * 4 =", " 12"), Item("5 + 5 =", " 10"), Item("9 + 9 =", " 18"))


@pytest.fixture(scope="module")
def learnt(tokenizer):
    model = learner()
    train(model, tokenizer, KNOWN, Schedule(steps=60, lr=1e-2, batch=4))
    return model


def log_p(model, tokenizer, item):
    """The log-probability of an answer, by one pass over it alone."""
    rows = encode(tokenizer, [item])
    with torch.no_grad():
        out = model.eval()(input_ids=rows.ids).logits[0].double().log_softmax(-1)
    return sum(float(out[t - 1, rows.ids[0, t]]) for t in range(int(rows.starts[0]), int(rows.lengths[0])))


def test_any_accepted_answer_counts(learnt, tokenizer):
    encoded = partial(encode, tokenizer)
    longer = f" {generate(learnt, tokenizer, KNOWN[:1], max_new_tokens=2)[0]}"  # the likeliest that begins with " 12"
    assert math.exp(log_p(learnt, tokenizer, Item("3 * 4 =", longer))) > 1e-3
    items = [Item("3 * 4 =", " 11", also=(" 12", longer)), Item("5 + 5 =", " 11"), Item("", "the old fox")]
    rows, ledger = encoded(items), Ledger()
    plain, found = score(learnt, rows), score_any(learnt, rows, encoded, ledger)
    assert plain.exact.tolist() == [0, 0, 0]
    assert found.exact.tolist() == [1, 0, 0]
    for name in ("exact", "argmax", "probability", "loss"):
        assert torch.equal(getattr(found, name)[1:], getattr(plain, name)[1:])
    # `longer` begins with " 12": whatever begins so is in that answer's probability already.
    by_hand = sum(math.exp(log_p(learnt, tokenizer, Item("3 * 4 =", text))) for text in (" 11", " 12"))
    assert float(found.probability[0]) == pytest.approx(by_hand, abs=1e-5)
    assert float(found.loss[0]) == pytest.approx(-log_p(learnt, tokenizer, KNOWN[0]), abs=1e-4)
    assert ledger.evaluation > 0
    assert score_any(learnt, rows.select([1, 2]), encoded).mean() == score(learnt, rows.select([1, 2])).mean()


def test_an_answer_that_is_told_twice_counts_once(learnt, tokenizer):
    encoded = partial(encode, tokenizer)
    item = Item("3 * 4 =", " 12", also=("  12",))
    rows = encoded([item])
    if torch.equal(rows.ids, encoded([replace(item, answer="  12")]).ids):
        assert float(score_any(learnt, rows, encoded).probability[0]) == pytest.approx(float(score(learnt, rows).probability[0]))
    else:
        pytest.fail("the tokenizer tells the two apart")


def test_choices_are_told_apart_by_their_log_probability(tokenizer):
    """The likeliest text, the likeliest by its characters and the likeliest by its tokens are three different ones."""
    encoded, texts = partial(encode, tokenizer), (" 12", " 3 4 5 6", " 11 12", " 7 plums", " coins")
    model = next(model for model in (build("llama", seed) for seed in range(200)) if len({*best_of(model, tokenizer, texts)}) == 3)
    whole, per_character, _ = best_of(model, tokenizer, texts)
    items = [Item("3 * 4 =", texts[n], wrong=texts[:n] + texts[n + 1 :], place=n) for n in range(5)]
    for n, item in enumerate(items):
        found = choose(model, [item, Item("5 + 5 =", " 10")], encoded)
        assert (found["acc"], found["acc_norm"], found["chance"]) == (float(n == whole), float(n == per_character), 0.2)
    assert choose(model, items, encoded)["acc"] == 0.2


def best_of(model, tokenizer, texts):
    """The number of the best text by its log-probability, by that over its characters, and over its tokens."""
    sums = [log_p(model, tokenizer, Item("3 * 4 =", text)) for text in texts]
    for lengths in ([1] * len(texts), [len(text.strip()) for text in texts], [len(text.split()) for text in texts]):
        values = [value / length for value, length in zip(sums, lengths, strict=True)]
        yield values.index(max(values))


def test_choices_of_one_model_that_knows(learnt, tokenizer, caplog):
    items = [replace(item, wrong=(" 7", " 8")) for item in KNOWN]
    found = choose(learnt, items, partial(encode, tokenizer))
    assert found == {"acc": 1, "acc_norm": 1, "chance": pytest.approx(1 / 3)}
    assert "by letters is left out" in caplog.text  # this tokenizer knows no letters
    wrong = [replace(item, answer=" 7", wrong=(item.answer, " 8")) for item in KNOWN]
    assert choose(learnt, wrong, partial(encode, tokenizer))["acc"] == 0
    assert choose(learnt, KNOWN, partial(encode, tokenizer)) == {}


def test_letters_are_scored_under_a_list(monkeypatch):
    item = Item("Which?", " red", wrong=(" blue", " green"), place=1)
    listed = _listing(item, [" blue", " red", " green"])
    assert listed.prompt == "Which?\nA. blue\nB. red\nC. green\nAnswer:"
    talk = (("system", "Be brief."), ("user", "Which?"))
    assert _listing(replace(item, turns=talk), [" x"]).turns == (talk[0], ("user", "Which?\nA. x\nAnswer:"))
    from sluicegate.engine import choices

    class Encoded:
        lengths, starts = torch.tensor([2] * 3), torch.tensor([1] * 3)

        def __init__(self, items):
            self.items = items

    def pretended(model, rows, ledger):
        liked = {" B": 0.1, " green": 0.1}
        return type("Found", (), {"loss": torch.tensor([liked.get(i.answer, 1.0) for i in rows.items])})

    monkeypatch.setattr(choices, "score", pretended)
    assert choose(None, [item], Encoded) == {"acc": 0, "acc_norm": 0, "acc_letters": 1, "chance": pytest.approx(1 / 3)}


def test_more_choices_than_letters_are_scored_by_their_texts(tokenizer, caplog):
    found = choose(build("llama"), [Item("1 + 1 =", " 2", wrong=tuple(f" {n}" for n in range(3, 31)))], partial(encode, tokenizer))
    assert set(found) == {"acc", "acc_norm", "chance"}
    assert "more than 26 choices" in caplog.text
