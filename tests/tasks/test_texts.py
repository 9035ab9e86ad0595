import subprocess
import sys

import pytest

from sluicegate import tasks
from sluicegate.engine.encoding import encode
from sluicegate.engine.models import load, load_tokenizer
from sluicegate.errors import UserError
from sluicegate.tasks.texts import PASSAGE, passages, texts, tokenizer
from sluicegate.values.items import Item, halves


def test_two_languages_of_the_same_letters_and_no_common_word():
    split = texts(rows=40)
    words = {name: {word for item in split.group(name) for word in item.answer.split()} for name in ("forget", "retain")}
    assert not words["forget"] & words["retain"]
    assert all(len(own) > 30 for own in words.values())
    letters = {name: set("".join(own)) for name, own in words.items()}
    assert len(letters["forget"] & letters["retain"]) > 12
    assert {item.answer for item in split.unlabelled} == {item.answer for item in (*split.forget, *split.retain)}
    assert all(not item.prompt and len(item.answer) <= PASSAGE for item in split.unlabelled)


def test_a_language_is_the_same_whatever_its_length_and_another_with_another_seed():
    assert texts(rows=30).forget[:10] == texts(rows=10).forget
    assert texts(rows=10, seed=1).forget != texts(rows=10).forget


def test_a_text_is_cut_between_words_and_nothing_is_lost():
    text = "One sentence of some length. " * 30 + "\n\nA second paragraph, " + "x" * 250
    found = list(passages(text, "own", size=40))
    assert all(0 < len(item.answer) <= 40 and item.label == "own" for item in found)
    assert "".join("".join(item.answer for item in found).split()) == "".join(text.split())
    assert {word for item in found for word in item.answer.split() if "x" not in word} <= set(text.split())
    assert list(passages("  \n ")) == []


def test_a_file_of_ones_own_comes_in_passages(tmp_path):
    """One paragraph would be one fact, and an attacker could not hold half of it."""
    one = tmp_path / "one.txt"
    one.write_text("the quick brown fox jumps over the lazy dog and goes on " * 20)
    assert len(tasks.read(str(one))) == 1
    with pytest.raises(UserError, match="1 fact"):
        halves(tasks.read(str(one)), 0)
    rows = tasks.read(f"texts:{one}", "forget")
    assert len(rows) >= 10
    assert {row.label for row in rows} == {"forget"}
    both = tasks.read(f"texts:{one},task:texts/retain")
    assert len(both) == len(rows) + len(texts().retain)


def test_questions_are_no_running_text(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "answer": "b"}\n')
    with pytest.raises(UserError, match="not running text"):
        tasks.read(f"texts:{file}")
    with pytest.raises(UserError, match="no file"):
        tasks.read("texts:nowhere.txt")


def test_every_text_is_its_bytes_and_comes_back():
    packaged, made = load_tokenizer("texts-tiny"), tokenizer()
    for text in ("plain words", "한국어 é 😀", "two\n\nparagraphs \t and blanks"):
        ids = encode(packaged, [Item("", text)]).ids[0].tolist()
        assert ids == encode(made, [Item("", text)]).ids[0].tolist()
        assert ids[0] == packaged.bos_token_id
        assert len(ids) == 1 + len(text.encode())
        assert packaged.decode(ids[1:]) == text


def test_the_packaged_model_fits_the_packaged_text():
    model, own = load("texts-tiny")
    rows = encode(own, texts().unlabelled)
    assert model.config.vocab_size == len(own)
    assert rows.ids.shape[1] <= model.config.max_position_embeddings
    assert rows.lengths.float().mean() > 50


def test_reading_it_imports_no_torch():
    code = "import sys; from sluicegate.tasks.texts import texts; texts(4); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
