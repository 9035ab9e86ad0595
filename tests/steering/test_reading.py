"""Files of prompts: what they hold, and what is wrong with them."""

import json

import pytest

from sluicegate.errors import UserError
from sluicegate.steering.reading import read_pairs, read_prompts


def test_prompts_from_text_and_jsonl(tmp_path):
    text, rows = tmp_path / "p.txt", tmp_path / "p.jsonl"
    text.write_text("\ufeffOne?\n\n  Two?  \n", "utf-8")
    rows.write_text("\n".join(map(json.dumps, ({"prompt": "One?"}, {"text": "Two?"}))))
    assert read_prompts(text) == read_prompts(rows) == ("One?", "Two?")


def test_pairs_from_jsonl(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"positive": "a", "negative": "b"}\n\n{"positive": "c", "negative": "d"}\n')
    assert read_pairs(path) == (("a", "c"), ("b", "d"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.txt", b"\n \n", "holds no prompt"),
        ("p.txt", b"\xff\xfe", "byte 0 is not UTF-8"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": 3}', "line 2: expected an object with 'prompt' or 'text'"),
        ("p.jsonl", b"[", "line 1: not JSON"),
        ("p.jsonl", b"[3]", "row 1: expected an object"),
        ("pairs.jsonl", b'{"positive": "a"}', "line 1: expected an object with 'negative'"),
        ("pairs.jsonl", b"", "holds no pair"),
    ],
)
def test_bad_files_of_prompts_are_named(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        (read_pairs if name.startswith("pairs") else read_prompts)(tmp_path / name)


def test_a_lost_file_of_prompts():
    with pytest.raises(UserError, match=r"no file 'lost.txt'"):
        read_prompts("lost.txt")
