"""What a model writes: the same in a batch as alone, and the same as its exact answers; and what is counted of it."""

import dataclasses
import sys

import pytest
import torch
from transformers import GenerationConfig

from architectures import CONFIGS, OTHERS, build, learner
from sluicegate.engine.encoding import encode
from sluicegate.engine.forward import Meter
from sluicegate.engine.generation import WRITTEN, compare, generate, match, normalise, rouge_l
from sluicegate.engine.scoring import score
from sluicegate.engine.train import train
from sluicegate.engine.training import Ledger
from sluicegate.errors import UserError
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule

ITEMS = (
    Item("3 * 4 =", " 12"),
    Item("ann fills 3 bags 4 plums total", " 12"),
    Item("5 + 5 =", " 11 12"),
    Item("bo has 9 coins finds 9 now", " 1"),
)


@pytest.mark.parametrize("name", [*CONFIGS, *OTHERS])
def test_a_text_is_the_same_in_a_batch_as_alone(name, tokenizer):
    model = build(name)
    together = generate(model, tokenizer, ITEMS, max_new_tokens=6)
    assert together == [generate(model, tokenizer, [item], max_new_tokens=6)[0] for item in ITEMS]
    assert all(together)
    assert len(set(together)) > 1


def test_exact_answers_are_what_is_written(tokenizer, bits):
    model = learner()
    known = (*ITEMS[:2], Item("5 + 5 =", " 11 13"), Item("bo has 9 coins finds 9 now", " 18"))
    train(model, tokenizer, known, Schedule(steps=60, lr=1e-2, batch=4))
    rows, before, settings = encode(tokenizer, ITEMS), bits.weights(model), model.generation_config
    settings.repetition_penalty = 5.0  # what a model folder brings changes nothing
    model.train()
    wanted = [bool(exact) for exact in score(model, rows).exact]
    assert wanted == [True, True, False, False]
    for n, item in enumerate(ITEMS):
        length = int(rows.lengths[n] - rows.starts[n])
        written = generate(model, tokenizer, [item], max_new_tokens=length)
        assert (written[0] == item.answer.strip()) == wanted[n]
    assert model.training
    assert model.generation_config is settings
    assert bits.same(bits.weights(model), before)
    ledger = Ledger()
    texts = generate(model, tokenizer, ITEMS, ledger=ledger)
    assert 0 < ledger.evaluation < 8 * Meter(model)(rows.batch(range(4)))
    assert ledger.total == 0
    assert [match(text, item.answer) for text, item in zip(texts, ITEMS, strict=True)] == [1, 1, 0, 0]
    # One and a half times the longest answer's two tokens, and eight.
    assert {len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts} <= set(range(12))


def test_it_stops_at_the_end_token(tokenizer, monkeypatch):
    model = build("llama")
    plain = tokenizer(generate(model, tokenizer, ITEMS[:1], max_new_tokens=8)[0], add_special_tokens=False)["input_ids"]
    stop = plain[3]
    model.generation_config = GenerationConfig(eos_token_id=[stop])
    ended = tokenizer(generate(model, tokenizer, ITEMS[:1], max_new_tokens=8)[0], add_special_tokens=False)["input_ids"]
    assert ended[: plain.index(stop)] == plain[: plain.index(stop)]
    assert len(ended) <= plain.index(stop) + 1 < len(plain)


def test_samples_come_from_the_seed(tokenizer):
    model = build("llama")
    how = {"max_new_tokens": 6, "temperature": 1.0}
    state = torch.random.get_rng_state()
    first = generate(model, tokenizer, ITEMS, **how, seed=1)
    assert first == generate(model, tokenizer, ITEMS, **how, seed=1)
    assert first != generate(model, tokenizer, ITEMS, **how, seed=2)
    assert first != generate(model, tokenizer, ITEMS, max_new_tokens=6)
    assert torch.equal(state, torch.random.get_rng_state())
    assert generate(model, tokenizer, ITEMS, max_new_tokens=6, temperature=1e-4) == generate(model, tokenizer, ITEMS, max_new_tokens=6)


def test_samples_follow_the_softmax(tokenizer):
    model, n = build("llama"), 400
    item = Item("3 * 4 =", " 12")
    with torch.no_grad():
        rows = encode(tokenizer, [item])
        odds = model.eval()(input_ids=rows.ids[:, : int(rows.starts[0])]).logits[0, -1].softmax(-1)
    best = int(odds.argmax())
    texts = generate(model, tokenizer, [item] * n, max_new_tokens=1, temperature=1.0, size=n)
    share = sum(text == tokenizer.decode([best], skip_special_tokens=True).strip() for text in texts) / n
    assert abs(share - float(odds[best])) < 4 * (float(odds[best]) * (1 - float(odds[best])) / n) ** 0.5


def test_memory_that_runs_out_halves_the_batch(tokenizer, monkeypatch):
    model = build("llama")
    wanted, real, sizes, told = generate(model, tokenizer, ITEMS, max_new_tokens=3), model.generate, [], []

    def narrow(ids, **how):
        sizes.append(len(ids))
        if len(ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(ids, **how)

    monkeypatch.setattr(model, "generate", narrow)
    most = 1
    assert generate(model, tokenizer, ITEMS, max_new_tokens=3, progress=lambda *step: told.append(step[:3])) == wanted
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert told == [("write", n, 4) for n in range(1, 5)]
    most = 0
    with pytest.raises(UserError, match="memory ran out on one row"):
        generate(model, tokenizer, ITEMS, max_new_tokens=3)


def test_what_cannot_be_asked_is_refused(tokenizer):
    model = build("llama")
    with pytest.raises(UserError, match="running text asks nothing"):
        generate(model, tokenizer, [*ITEMS, Item("", "the old fox")])
    with pytest.raises(UserError, match="more than the 64 allowed"):
        generate(model, tokenizer, [Item("1 + " * 40 + "=", " 2")])


def test_the_end_of_a_turn_stops_where_there_is_a_template(tokenizer, monkeypatch):
    talking = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    talking.chat_template = "{% for m in messages %}{{ m['content'] }}<pad> {% endfor %}"
    asked = []
    model = build("llama")
    real = model.generate
    monkeypatch.setattr(model, "generate", lambda ids, **how: asked.append(how["generation_config"].eos_token_id) or real(ids, **how))
    for template in (True, False):
        generate(model, talking, ITEMS[:1], max_new_tokens=1, template=template)
    assert asked == [[tokenizer.pad_token_id], None]


def test_rouge_and_matches_by_hand():
    # Of the 6 words, cat, on, the and mat stand in that order in the text.
    assert rouge_l("a cat on the big mat", "the cat sat on the mat") == pytest.approx(4 / 6)
    assert rouge_l("It was Paris, as everyone knows.", "Paris") == 1
    assert rouge_l("he was walking", "he walked") == 1  # by their stems
    assert rouge_l("", "Paris") == 0
    assert normalise(" The Eiffel-Tower,  in a PARIS!") == "eiffeltower in paris"
    assert [match(text, "the Louvre") for text in ("Louvre.", "The louvre, in Paris", "In the Louvre", "Louvres")] == [1, 1, 0, 0]
    assert [WRITTEN["written"](text, " 12") for text in ("12", "12 ", "12 3")] == [1, 1, 0]
    assert [match(text, "!") for text in ("!", "a")] == [1, 0]


def test_the_best_of_the_accepted_answers_counts():
    item = Item("Who?", " Ann Lee", also=(" A. Lee", " Lee"))
    assert compare(["Lee", "nobody"], [item, dataclasses.replace(item, also=())]) == {"rouge": 0.5, "match": 0.5, "written": 0.5}


def test_rouge_without_its_package_is_one_line(monkeypatch):
    from sluicegate.engine import generation

    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    generation._scorer.cache_clear()
    with pytest.raises(UserError, match=r"needs the package rouge-score: pip install 'sluicegate\[eval\]'"):
        rouge_l("a", "a")
    generation._scorer.cache_clear()
