"""What is measured of a model: tokens, texts and letters, and what is set beside a reference."""

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sluicegate.engine.encoding import encode
from sluicegate.errors import UserError
from sluicegate.tasks.metrics import subject as measured
from sluicegate.tasks.metrics.measure import compare, letters, measure, privleak
from sluicegate.tasks.metrics.subject import LOGP, Subject, of_tokens
from sluicegate.tasks.texts import tokenizer as of_bytes


def small(positions=4096):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=259, max_position_embeddings=positions, eos_token_id=None, **shape)).eval()


def numbered(rows):
    return [(f"row {n}", row) for n, row in enumerate(rows)]


def test_the_numbers_of_a_token():
    # Two tokens, 3/4 and 1/4; the mean of their log-probabilities is 3/4 ln 3/4 + 1/4 ln 1/4, and the standard
    # deviation sqrt(3/4 * 1/4) ln 3.
    logits = torch.tensor([[0.75, 0.25], [0.75, 0.25]]).log()
    found = of_tokens(logits, torch.tensor([0, 1]))
    mean, sd = 0.75 * math.log(0.75) + 0.25 * math.log(0.25), math.sqrt(3 / 16) * math.log(3)
    assert found[0].tolist() == pytest.approx([math.log(0.75), mean, sd, 1])
    assert found[1].tolist() == pytest.approx([math.log(0.25), mean, sd, 0])
    ruled_out = of_tokens(torch.tensor([[0.0, -math.inf]]), torch.tensor([0]))
    assert ruled_out[0].tolist() == pytest.approx([0, 0, 0, 1])


def test_tokens_are_those_of_the_answer_however_rows_are_put_together():
    model, pairs = small(32), [("ab", "cde"), ("", "x" * 100), ("abcd ", "e")]
    found = Subject(model, of_bytes()).tokens(pairs, "test", size=2)
    assert [len(each) for each in found] == [4, 100, 1]  # a blank is put before an answer, and a long text is cut and joined
    alone = [Subject(model, of_bytes()).tokens([pair], "test")[0] for pair in pairs]
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(found, alone, strict=True))
    assert np.all(np.concatenate(found)[:, LOGP] < 0)


def test_a_broken_model_is_refused():
    model = small()
    model.lm_head.weight.data.fill_(math.nan)
    with pytest.raises(UserError, match=r"not finite"):
        Subject(model, of_bytes()).losses([("a", "b")], "test")


def test_rouge_is_recall_or_f1_and_says_where_texts_say_nothing(monkeypatch):
    texts = iter([["a b c d\nand on", "x"], ["", "x"], ["x", "x"]])
    monkeypatch.setattr(measured, "generate", lambda *args, **how: next(texts))
    subject, pairs = Subject(None, None), [("?", "a b"), ("?", "y")]
    # Of the first line "a b c d" against "a b": recall 1, precision 1/2, F1 2/3; of "x" against "y": 0.
    assert subject.written(pairs, "part", line=True, f1=True) == pytest.approx(1 / 3)
    assert subject.warnings == []
    assert subject.written(pairs, "part") == 0
    assert subject.warnings[-1].startswith("part: 1 of 2 texts are empty")
    subject.written(pairs, "part")
    assert subject.warnings[-1].startswith("part: 2 of 2 texts are the same")


def test_letters_stand_below_the_question_as_published(monkeypatch):
    rows = numbered([{"question": "Which? ", "choices": ["x", "y", "z"], "answer": 1}] * 2)
    seen = []
    subject = Subject(small(), of_bytes())
    monkeypatch.setattr(Subject, "encoded", lambda self, items: seen.extend(items) or encode(self.tokenizer, items))
    found = letters(subject, rows, "bio")
    assert {*found} == {"acc_letters", "acc", "acc_norm", "chance"}
    assert found["chance"] == pytest.approx(1 / 3)
    head = "The following are multiple choice questions (with answers) about biology.\n\nWhich?"
    assert (seen[-3].prompt, seen[-3].answer) == (f"{head}\nA. x\nB. y\nC. z\nAnswer:", " A")


def test_a_reference_gives_forget_quality_and_privleak():
    subject, few, many = Subject(None, None), np.arange(3.0), np.arange(30.0)
    assert compare("tofu:forget10", subject, many, many) == {"forget_quality": pytest.approx(1)}
    assert subject.warnings == []
    assert compare("tofu:forget10", subject, few, few + 10) == {"forget_quality": pytest.approx(0.1)}
    assert "rests on 3 rows" in subject.warnings[-1]
    assert privleak(np.array([0.25]), np.array([0.5])) == pytest.approx(-50)  # 100 (0.25 - 0.5) / 0.5
    assert compare("muse:news", subject, np.array([0.3]), np.array([0.0])) == {}
    assert "no value" in subject.warnings[-1]
    assert compare("wmdp:bio", subject, few, few) == {}


def test_muse_looks_at_writing_and_at_what_is_familiar(monkeypatch):
    asked = []
    monkeypatch.setattr(measured, "generate", lambda model, tokenizer, items, **how: asked.extend(items) or ["a b"] * len(items))
    texts = {name: numbered([{"text": text * 4} for text in words]) for name, words in (("forget", "abc"), ("holdout", "xyz"))}
    groups = {
        "examples-forget": numbered([{"question": "e?", "answer": "e"}]),
        "verbmem": numbered([{"prompt": "begin", "gt": "a b c d"}]),
        "knowmem_forget": numbered([{"question": "q?", "answer": "a b"}]),
        **texts,
    }
    numbers, compared = measure("muse:news", Subject(small(), of_bytes()), groups)
    assert numbers["verbmem"] == pytest.approx(2 / 3)  # "a b" of "a b c d": precision 1, recall 1/2
    assert numbers["knowmem_forget"] == 1
    assert asked[1].prompt == "Question: e?\nAnswer: e\n\nQuestion: q?\nAnswer:"
    assert compared.tolist() == [numbers["unfamiliar"]]
    assert {f"auc_{name}" for name in ("loss", "zlib", "min_k", "min_k_pp", "blind")} < {*numbers}
