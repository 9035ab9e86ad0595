import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jsonl import write_jsonl
from sluicegate.errors import UserError
from sluicegate.values.items import Item, Split, digest, halves, read

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
items = st.builds(Item, st.one_of(st.just(""), words), words, names, names)


@given(rows=st.lists(items, min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
def test_write_then_read_gives_the_same_items(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    write_jsonl(rows, path)
    assert read(path) == tuple(rows)
    assert digest(read(path)) == digest(rows)


def test_the_label_of_the_file_fills_in_only_where_a_row_has_none(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl([Item("a", "b"), Item("c", "d", label="own")], path)
    assert [item.label for item in read(path, "forget")] == ["forget", "own"]


GOOD = '{"prompt": "1 + 1 =", "answer": " 2"}'


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("not json", "not JSON"),
        ('{"prompt": "a"}', "'answer' is missing"),
        ('{"prompt": "a", "answer": 3}', "'answer' is '3'"),
        ('{"prompt": "a", "answer": "  "}', "'answer'"),
        ('{"text": ""}', "'text'"),
        ('{"question": "a"}', "found the keys ['question']"),
        ("[1, 2]", "expected an object"),
        ("null", "expected an object"),
    ],
)
def test_a_malformed_row_names_the_file_and_the_line(tmp_path, row, said):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{GOOD}\n\n{row}\n{GOOD}\n")
    with pytest.raises(UserError) as error:
        read(path)
    assert f"{path}, line 3" in str(error.value)
    assert said in str(error.value)


def test_bytes_that_are_not_utf8_name_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\xff\n")
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2 is not UTF-8 text"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("gone.jsonl", None, "no file"), ("rows.xls", "a", "unknown ending '.xls'"), ("empty.jsonl", "\n", "holds no rows")],
)
def test_a_source_that_cannot_be_read_says_what_can(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=said) as error:
        read(path)
    assert "*.jsonl" in str(error.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path)


def test_text_gives_one_item_a_paragraph(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("one\ntwo\n\n\n\n  three \n\n", encoding="utf-8-sig")
    assert read(path) == (Item("", "one\ntwo"), Item("", "three"))


def test_parquet_reads_like_jsonl(tmp_path):
    rows = [{"prompt": "1 + 1 =", "answer": " 2", "fact": "1+1", "label": None}, {"prompt": "a", "answer": "b", "fact": None, "label": "x"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet", "forget") == (Item("1 + 1 =", " 2", "1+1", "forget"), Item("a", "b", "", "x"))


def test_a_malformed_parquet_row_names_the_file_and_the_row(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"text": "a"}, {"text": None}]), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"rows\.parquet, row 2"):
        read(tmp_path / "rows.parquet")
    (tmp_path / "broken.parquet").write_text("no")
    with pytest.raises(UserError, match=r"broken\.parquet: not a readable Parquet"):
        read(tmp_path / "broken.parquet")


def test_a_row_on_both_sides_is_refused():
    both = Item("3 * 4 =", " 12")
    with pytest.raises(UserError, match=r"share 1 row.*3 \* 4 =  12"):
        Split(forget=(both, Item("a", "b")), retain=(Item(both.prompt, both.answer, "other", "label"),))
    Split(forget=(both,), retain=(Item(both.prompt, " 13"),))


def test_an_unknown_group_lists_the_groups():
    with pytest.raises(UserError, match="forget, retain, unlabelled, adjacent"):
        Split().group("keep")


@given(
    facts=st.lists(st.integers(0, 30), min_size=4, max_size=60).filter(lambda f: len(set(f)) >= 4),
    seed=st.integers(0, 1000),
)
def test_halves_cover_everything_once_and_keep_a_fact_together(facts, seed):
    rows = tuple(Item(f"phrasing {n} of {fact}", "x", f"fact {fact}") for n, fact in enumerate(facts))
    mine, theirs = halves(rows, seed)
    assert sorted(mine + theirs, key=str) == sorted(rows, key=str)
    assert not {item.fact for item in mine} & {item.fact for item in theirs}
    assert abs(len({i.fact for i in mine}) - len({i.fact for i in theirs})) <= 1
    assert halves(rows, seed) == (mine, theirs)


def test_halves_depend_on_the_seed_and_not_on_the_order_of_rows():
    rows = tuple(Item(str(n), "x") for n in range(40))
    assert halves(rows, 0) != halves(rows, 1)
    assert set(halves(rows, 0)[0]) == set(halves(rows[::-1], 0)[0])


def test_too_few_facts_to_split():
    rows = tuple(Item(f"phrasing {n}", "x", f"fact {n % 3}") for n in range(30))
    with pytest.raises(UserError, match=r"3 fact\(s\).*at least 4"):
        halves(rows, 0)


def test_the_digest_sees_every_field_and_the_order():
    row = Item("p", "a", "f", "l")
    others = [Item("pa", "", "f", "l"), Item("q", "a", "f", "l"), Item("p", "b", "f", "l")]
    others += [Item("p", "a", "g", "l"), Item("p", "a", "f", "m")]
    assert len({digest([i]) for i in [row, *others]}) == 6
    assert digest([row, others[0]]) != digest([others[0], row])


def test_written_jsonl_is_one_object_a_line_even_with_odd_line_ends(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [Item("a\nb\u2028c\r\nd", "e\x85f"), Item("", "g\rh")]
    write_jsonl(rows, path)
    assert [sorted(json.loads(line)) for line in path.read_text().split("\n")[:-1]] == [["answer", "prompt"], ["text"]]
    assert read(path) == tuple(rows)
