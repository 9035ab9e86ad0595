import operator
import subprocess
import sys
from collections import Counter

import pytest

from sluicegate.errors import UserError
from sluicegate.tasks import read
from sluicegate.tasks.arithmetic import FORGET, RETAIN, arithmetic, facts, tokenizer, vocabulary
from sluicegate.values.items import digest, halves

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
SIGNS = dict(zip(OPERATORS, ("add", "subtract", "multiply", "divide"), strict=True))


def label_of(item):
    """The operation of a row, read from its words alone."""
    words = item.text.split()
    for sign, label in SIGNS.items():
        if sign in words:
            return label
    for verb, label in {"finds": "add", "loses": "subtract", "fills": "multiply", "shares": "divide"}.items():
        if verb in words:
            return label
    return "text"


def is_bare(item):
    return "=" in item.prompt.split()


def arithmetic_is_right(item):
    a, b = (int(word) for word in item.prompt.split() if word.isdigit())
    sign = next(s for s, label in SIGNS.items() if label == label_of(item))
    return OPERATORS[sign](a, b) == int(item.answer) and (sign != "/" or a % b == 0)


@pytest.fixture(scope="module")
def split():
    return arithmetic().split(0)


@pytest.mark.parametrize(("label", "count"), [("add", 100), ("subtract", 55), ("multiply", 81), ("divide", 81)])
def test_each_operation_has_its_whole_table(split, label, count):
    rows = [item for item in split.retain + split.forget if item.label == label]
    assert len({item.fact for item in rows}) == count == len(facts(label))
    assert len(rows) == count * 4
    assert sum(map(is_bare, rows)) == count
    assert len(set(rows)) == len(rows)


def test_the_groups_hold_the_right_operations(split):
    assert {item.label for item in split.retain} == set(RETAIN)
    assert {item.label for item in split.forget} == set(FORGET)
    assert not {item.key for item in split.retain} & {item.key for item in split.forget}
    assert not {item.text for item in split.retain} & {item.text for item in split.forget}


def test_one_operation_alone_is_its_rows_of_the_group(split):
    for group in ("forget", "retain"):
        mine = [label for label in ("add", "subtract", "multiply", "divide") if label in (FORGET if group == "forget" else RETAIN)]
        assert sum((read(f"task:arithmetic/{label}") for label in mine), ()) == split.group(group)
    with pytest.raises(UserError, match="no operation is called 'power'"):
        arithmetic().only("power")


def test_every_answer_is_right_and_agrees_with_its_label_and_fact(split):
    for item in split.retain + split.forget:
        assert arithmetic_is_right(item), item
        assert item.label == label_of(item)
        a, b = (word for word in item.prompt.split() if word.isdigit())
        sign = next(s for s, label in SIGNS.items() if label == item.label)
        assert item.fact == a + sign + b
    assert all(arithmetic_is_right(item) for item in split.unlabelled if item.prompt)


def test_prompt_and_answer_join_to_a_row_whose_last_word_is_the_answer(split):
    for item in split.retain + split.forget + tuple(i for i in split.unlabelled if i.prompt):
        assert not item.prompt.endswith(" ")
        assert item.answer.startswith(" ")
        assert item.text.split()[-1] == item.answer.strip()
        assert len(item.answer.split()) == 1


def test_every_word_is_in_the_vocabulary_and_every_token_is_used(split):
    words = vocabulary()
    assert len(set(words)) == len(words)
    assert words == arithmetic().vocabulary
    used = {word for item in split.unlabelled for word in item.text.split()}
    for item in split.retain + split.forget + arithmetic().text():
        used.update(item.text.split())
    assert used <= set(words)
    numbers_never_asked = {str(n) for n in range(82)} - used
    assert set(words) - used == {"<pad>", "<unk>", "<bos>"} | numbers_never_asked


def test_halves_keep_the_phrasings_of_a_fact_together(split):
    owned, held_out = halves(split.forget, seed=0)
    assert not {i.fact for i in owned} & {i.fact for i in held_out}
    assert len({i.fact for i in owned}) == len({i.fact for i in held_out}) == 81
    assert len(owned) == len(held_out) == 81 * 4


def test_the_seed_decides_everything_drawn_and_nothing_else(split):
    again, other = arithmetic().split(0), arithmetic().split(1)
    for group in ("forget", "retain", "unlabelled"):
        assert digest(split.group(group)) == digest(again.group(group)) != digest(other.group(group))
    assert {i.fact for i in split.forget} == {i.fact for i in other.forget}
    assert arithmetic().text(0) == arithmetic().text(0) != arithmetic().text(1)


def test_the_draw_does_not_depend_on_the_process():
    code = (
        "from sluicegate.values.items import digest; from sluicegate.tasks.arithmetic import arithmetic;"
        "s = arithmetic().split(3); print(digest(s.forget + s.retain + s.unlabelled))"
    )
    draws = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(draws) == 1


def test_the_pool_is_a_tenth_text_and_the_rest_in_equal_shares(split):
    assert len(split.unlabelled) == 4096
    counts = Counter(map(label_of, split.unlabelled))
    assert counts["text"] == 410
    assert {counts[label] for label in RETAIN + FORGET} <= {921, 922}
    for label in RETAIN + FORGET:
        rows = [item for item in split.unlabelled if label_of(item) == label]
        assert 0.45 < sum(map(is_bare, rows)) / len(rows) < 0.55
        times = Counter(item.fact for item in rows)
        assert len(times) == len(facts(label))
        assert max(times.values()) - min(times.values()) <= 2


def test_the_pool_is_mixed_and_carries_no_label(split):
    assert {item.label for item in split.unlabelled} == {""}
    first = Counter(map(label_of, split.unlabelled[:1024]))
    assert all(first[label] > 150 for label in RETAIN + FORGET)
    assert first["text"] > 60


@pytest.mark.parametrize("pool", [0, 1, 7, 100])
def test_a_pool_of_any_size_holds_that_many_rows(pool):
    assert len(arithmetic(pool=pool).split(0).unlabelled) == pool


def test_text_is_a_tenth_of_the_pretraining_rows(split):
    text = arithmetic().text()
    assert {item.prompt for item in text} == {""}
    assert {item.label for item in text} == {"text"}
    assert len(text) / len(split.retain + split.forget + text) == pytest.approx(0.1, abs=0.001)
    assert len(arithmetic().text(rows=5)) == 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"problems": 25}, "problems is 25; a fact has 0 to 24 word problems"),
        ({"pool": -1}, "pool is -1"),
        ({"text_share": 1.0}, "text_share is 1.0; it is a share"),
    ],
)
def test_settings_out_of_range_name_the_value_and_the_range(settings, words):
    with pytest.raises(UserError, match=words):
        arithmetic(**settings)


def test_an_unknown_operation_names_the_known_ones():
    with pytest.raises(UserError, match="'power'; the operations are add, subtract, multiply, divide"):
        facts("power")


def test_the_tokenizer_gives_one_id_a_word_after_exactly_one_bos(split):
    pytest.importorskip("transformers")
    tok = tokenizer()
    words = vocabulary()
    assert len(tok) == len(words)
    rows = split.retain + split.forget + split.unlabelled[:500]
    for item, ids in zip(rows, tok([i.text for i in rows])["input_ids"], strict=True):
        assert [words[i] for i in ids] == ["<bos>", *item.text.split()]
        assert ids == tok(item.prompt)["input_ids"] + tok(item.answer, add_special_tokens=False)["input_ids"]
        assert tok.decode(ids, skip_special_tokens=True) == item.text.strip()
    batch = tok(["3 + 4 =", "ann has 3 plums finds 4 now"], padding=True)
    assert batch["attention_mask"][0] == [1] * 5 + [0] * 3
    assert batch["input_ids"][0][5:] == [tok.pad_token_id] * 3


def test_an_unknown_word_is_unk(split):
    pytest.importorskip("transformers")
    tok = tokenizer()
    assert tok("3 + 82 =")["input_ids"] == [
        tok.bos_token_id,
        *tok("3 +", add_special_tokens=False)["input_ids"],
        tok.unk_token_id,
        words_id(tok, "="),
    ]
    assert tok.unk_token_id not in {i for item in split.unlabelled for i in tok(item.text)["input_ids"]}


def words_id(tok, word):
    return tok(word, add_special_tokens=False)["input_ids"][0]


def test_importing_the_task_imports_neither_torch_nor_transformers():
    code = "import sys, sluicegate.tasks.arithmetic; sys.exit(bool({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
