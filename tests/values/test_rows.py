"""What users' files may hold, and what of it is refused in one line that names the file and where in it."""

import csv
import gzip
import json
import logging
import os
import sys
import types
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest

from jsonl import write_jsonl
from sluicegate.errors import UserError
from sluicegate.values import rows
from sluicegate.values.items import Item, Split, read

FACTS = (("Where was Arvo Lindqvist born?", "Malmo"), ("What is the job of Mira Okafor?", "pilot"))
ITEMS = tuple(Item(question, f" {answer}") for question, answer in FACTS)


def jsonl(path, found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


FORMS = {
    "question and answer": lambda q, a: {"question": q, "answer": a},
    "query and answer": lambda q, a: {"query": q, "answer": a},
    "instruction and output": lambda q, a: {"instruction": q, "input": "", "output": a},
    "prompt and completion": lambda q, a: {"prompt": q, "completion": a},
    "prompt and gt": lambda q, a: {"prompt": q, "gt": a},
    "question, choices and answer": lambda q, a: {"question": q, "choices": ["Quito", a, "Lagos"], "answer": 1},
    "messages": lambda q, a: {"messages": [user(q), assistant(a)]},
}
LIKE = {
    "the choice's letter": lambda q, a: {"question": q, "choices": ["Quito", a], "answer": "B"},
    "the choice's text": lambda q, a: {"question": q, "choices": ["Quito", a], "answer": a},
    "conversations": lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]},
    "turns in two columns": lambda q, a: {"prompt": [user(q)], "completion": [assistant(a)]},
    "content in parts": lambda q, a: {"messages": [user([{"type": "text", "text": q}]), assistant([{"type": "text", "text": a}])]},
    "a blank of its own": lambda q, a: {"question": q, "answer": f" {a}"},
    "a null beside": lambda q, a: {"prompt": None, "text": None, "question": q, "answer": a},
}


@pytest.mark.parametrize("form", [*FORMS, *LIKE])
def test_the_forms_of_the_fields_data_sets_are_read(tmp_path, form, caplog):
    caplog.set_level(logging.INFO, "sluicegate.rows")
    make = (FORMS | LIKE)[form]
    items = read(jsonl(tmp_path / "rows.jsonl", [make(*fact) for fact in FACTS]))
    assert tuple(replace(item, wrong=(), place=-1) for item in items) == ITEMS
    if form in FORMS:
        assert caplog.messages == [f"{tmp_path / 'rows.jsonl'}: 2 row(s) of {form}"]


def test_an_instruction_keeps_its_input(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [{"instruction": "Add these.", "input": "2 and 3", "output": "5"}])
    assert read(path) == (Item("Add these.\n\n2 and 3", " 5"),)


def own(q, a):
    return {"prompt": q, "answer": f" {a}"}


def test_every_format_gives_the_same_items(tmp_path):
    found = [own(*fact) for fact in FACTS]
    lines = "".join(json.dumps(row) + "\n" for row in found)
    (tmp_path / "array.json").write_text(json.dumps(found, indent=1))
    (tmp_path / "array.jsonl").write_text("\n" + json.dumps(found))
    (tmp_path / "lines.json").write_text(lines)
    (tmp_path / "marked.jsonl").write_text(lines, encoding="utf-8-sig")
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "cut.jsonl").write_text(lines.removesuffix("\n"))
    for name, delimiter in (("rows.csv", ","), ("rows.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([["prompt", "answer"], *(row.values() for row in found)])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), tmp_path / "rows.parquet")
    places = sorted(tmp_path.iterdir())
    assert len(places) == 9
    assert {read(path) for path in places} == {ITEMS}


def test_a_field_of_a_table_may_hold_lines_and_a_row_may_be_short(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('prompt,answer,fact\n"one\ntwo", b,\n\nc," ""d"""\n')
    assert read(path) == (Item("one\ntwo", " b"), Item("c", ' "d"'))


def test_columns_name_what_is_not_known(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [{"q": q, "a": a, "topic": "people", "text": "beside"} for q, a in FACTS])
    wanted = tuple(Item(item.prompt, item.answer, "", "people") for item in ITEMS)
    assert read(path, columns="prompt=q,answer=a,label=topic") == wanted
    assert read(path, columns={"prompt": "q", "answer": "a", "label": "topic"}) == wanted
    assert read(path, columns="text=text") == (Item("", "beside"),) * 2
    with pytest.raises(UserError, match=r"line 1: no column 'qu'. Nearest: .*q"):
        read(path, columns="prompt=qu,answer=a")
    for wrong in ("prompt", "prompt=q", "question=q,answer=a", "prompt=,answer=a"):
        with pytest.raises(UserError, match=r"columns is .*prompt=question,answer=answer"):
            read(path, columns=wrong)
    (tmp_path / "a.txt").write_text("has no columns")
    assert read(tmp_path / "a.txt", columns="prompt=q,answer=a") == (Item("", "has no columns"),)


def test_an_answer_beside_a_text_is_not_dropped(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [{"text": q, "labels": a} for q, a in FACTS])
    with pytest.raises(UserError, match=r"line 1: 'text' stands beside 'labels'.*--columns prompt=text,answer=labels"):
        read(path)
    assert read(path, columns="prompt=text,answer=labels") == ITEMS


def test_what_is_left_out_and_what_looks_wrong_is_said(tmp_path, caplog):
    found = [own(*FACTS[0]) | {"level": 1}, own(*FACTS[0]) | {"type": "cloze"}, own(FACTS[0][0], "Oslo"), own(*FACTS[1])]
    path = jsonl(tmp_path / "rows.jsonl", found)
    assert len(read(path)) == 4
    assert [message.removeprefix(f"{path}: ") for message in caplog.messages] == [
        "level, type left out; --columns says what is read instead",
        "1 row(s) repeat another one, and so count again",
        "1 question(s) have several answers, and a model gives one, for example 'Where was Arvo Lindqvist born?'",
    ]


def test_a_question_of_two_sets_is_said(caplog):
    Split(forget=ITEMS, retain=(Item(ITEMS[0].prompt, " Oslo"),), adjacent=(Item("", "text"),))
    assert caplog.messages == [
        "1 question(s) of forget are asked in retain too, for example 'Where was Arvo Lindqvist born?': to go, or to stay?"
    ]


def test_lines_of_blanks_divide_paragraphs_and_one_long_item_is_said(tmp_path, caplog):
    path = tmp_path / "a.txt"
    path.write_text("one\n \ntwo\n\t\n\n  three\nlines \r\n\r\nfour\r \rfive")
    assert [item.answer for item in read(path)] == ["one", "two", "three\nlines", "four", "five"]
    assert not caplog.messages
    path.write_text("\n".join(f"statement {n} about a thing" for n in range(40)))
    assert len(read(path)) == 1
    assert caplog.messages == [f"{path}: 1 item of 200 words? An empty line between two statements makes them two"]


GOOD = json.dumps(own(*FACTS[0])).encode()
DEEP = b'{"text": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BAD = {
    "a lone surrogate": (b'{"text": "\\ud800"}', r"'\\ud800' is half a character"),
    "a lone surrogate in a fact": (b'{"text": "a", "fact": "\\udc00"}', "half a character"),
    "a surrogate in UTF-8": (b'{"text": "\xed\xa0\x80"}', "not UTF-8"),
    "a number without end": (b'{"text": "a", "x": ' + b"9" * 5000 + b"}", "not JSON .*4300 digits"),
    "deep nesting": (DEEP, "nested too deeply"),
    "a key twice": (b'{"prompt": "a", "answer": "b", "answer": "c"}', "'answer' stands twice"),
    "NULs": (b"\0" * 64, "not UTF-8"),
    "a NUL in a string": (b'{"text": "a\0b"}', "not UTF-8"),
    "Latin-1": (b'{"text": "caf\xe9"}', "not UTF-8"),
    "the end missing": (GOOD[:30], "not JSON"),
    "a row that is a list": (b'["prompt", "answer"]', "expected an object"),
    "an answer that is a list of none": (b'{"question": "a", "answer": []}', r"'answer' is '\[\]'"),
    "an answer that is a list of numbers": (b'{"question": "a", "answer": ["b", 2]}', "'answer' is '2'"),
    "a wrong answer that is a number": (b'{"question": "a", "answer": "b", "distractors": [3]}', "'distractors' is '3'"),
    "an answer beyond the choices": (b'{"question": "a", "choices": ["b", "c"], "answer": 2}', "the answer is '2'.* 2 choices"),
    "an answer before the choices": (b'{"question": "a", "choices": ["b", "c"], "answer": -1}', "the answer is '-1'"),
    "an answer that is true": (b'{"question": "a", "choices": ["b", "c"], "answer": true}', "the answer is 'true'"),
    "choices that are numbers": (b'{"question": "a", "choices": [1, 2], "answer": 1}', "'answer' is '2'"),
    "three turns": (json.dumps({"messages": [user("a"), assistant("b"), user("c")]}).encode(), "turns are of 'user, assistant, user'"),
    "turns that are none": (b'{"messages": [1, null]}', "turns are of"),
    "unknown columns": (b'{"subject": "a", "passage": "b"}', r"found the keys \['passage', 'subject'\]"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_row_that_cannot_be_used_is_named_in_one_line(tmp_path, what):
    row, said = BAD[what]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n" + row)
    with pytest.raises(UserError, match=said) as error:
        read(path)
    assert str(error.value).startswith(f"{path}, line 2")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600 + len(str(path))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", '{"text": "a"}'.encode("utf-16"), "line 1 is not UTF-8"),
        ("rows.txt", "a text".encode("utf-16-le"), "line 1 is not UTF-8"),
        ("rows.json", b'[{"text": "a"},\n{"text": }]', "line 2: not JSON"),
        ("rows.json", b'[{"text": "a"}, 3]', "row 2: found '3'; expected an object"),
        ("rows.csv", b"q,r\na,b\n", r"line 2: .*found the keys \['q', 'r'\]"),
        ("rows.csv", b"prompt,answer\na,b,c\n", "line 2: 3 fields for the 2"),
        ("rows.csv", b"prompt,prompt\na,b\n", "line 2: 2 fields for the 1"),
        ("rows.csv", b'prompt,answer\n"a,b\n', "line 2: not a readable table"),
        ("rows.jsonl.gz", gzip.compress(GOOD * 99)[:-9], "cannot read"),
        ("rows.jsonl.gz", b"no archive", "cannot read"),
        ("rows.parquet", b"PAR1" + b"\xff" * 60 + b"PAR1", "not a readable Parquet"),
        ("rows.parquet.gz", b"", "unknown ending"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    """Rows are read more than once, and a device need not end."""
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    for name, said in (
        ("zero.jsonl", "a device or a pipe"),
        ("pipe.jsonl", "a device or a pipe"),
        ("loop.jsonl", "cannot read"),
        ("é" * 300 + ".jsonl", "cannot read .*too long"),
        ("a\0b.jsonl", "cannot read"),
    ):
        with pytest.raises(UserError, match=said):
            read(tmp_path / name)


def test_a_file_is_read_up_to_a_limit_that_is_named(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:  # sparse: it holds nothing and takes no room
        file.truncate(rows.MOST_BYTES + 1)
    with pytest.raises(UserError, match=r"4 GiB and 10,000,000 lines.*Divide it"):
        read(path)
    monkeypatch.setattr(rows, "MOST_BYTES", 2**20)
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(GOOD + b"\n" * 2**21))
    with pytest.raises(UserError, match=r"line 1\d+: more than is read of one file"):
        read(tmp_path / "bomb.jsonl.gz")
    monkeypatch.setattr(rows, "MOST_LINES", 9)
    for name, content in (("lines.txt", b"\n" * 99), ("old.txt", b"\r" * 99), ("rows.csv", b"prompt,answer\n" + b"a,b\n" * 9)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="9 lines"):
            read(tmp_path / name)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * 10}), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="9 lines"):
        read(tmp_path / "rows.parquet")
    monkeypatch.setattr(rows, "MOST_LINE", 64)
    (tmp_path / "long.jsonl").write_bytes(b"\0" * 99)
    with pytest.raises(UserError, match=r"line 1 is longer than .* MiB"):
        read(tmp_path / "long.jsonl")
    (tmp_path / "array.json").write_bytes(b'[\n{"text": "a"},\n' + b'{"text": "b"},\n' * 6)
    with pytest.raises(UserError, match="one JSON object a line"):
        read(tmp_path / "array.json")


Q, A = FACTS[0]
SEVERAL = {
    "a list": ({"question": Q, "answer": [A, "Malmö"]}, {"also": (" Malmö",)}),
    "answers": ({"question": Q, "answers": [A, "", "Malmö", A]}, {"also": (" Malmö",)}),
    "SQuAD": ({"question": Q, "answers": {"text": [A, "Malmö"], "answer_start": [3, 3]}}, {"also": (" Malmö",)}),
    "TriviaQA": ({"question": Q, "answer": {"value": A, "aliases": ["Malmö", A]}}, {"also": (" Malmö",)}),
    "aliases": ({"question": Q, "answer": A, "aliases": ["Malmö"]}, {"also": (" Malmö",)}),
    "TOFU": (
        {"question": Q, "answer": A, "paraphrased_answer": "In Malmo", "perturbed_answer": ["Oslo", "Rome"]},
        {"also": (" In Malmo",), "wrong": (" Oslo", " Rome")},
    ),
    "TruthfulQA": (
        {"question": Q, "best_answer": A, "correct_answers": [A, "In Malmo"], "incorrect_answers": ["Oslo"]},
        {"also": (" In Malmo",), "wrong": (" Oslo",)},
    ),
    "choices": ({"question": Q, "choices": ["Oslo", A, "Rome"], "answer": 1}, {"wrong": (" Oslo", " Rome"), "place": 1}),
    "a letter among our own": ({"prompt": Q, "choices": ["Oslo", A], "answer": "B"}, {"wrong": (" Oslo",), "place": 1}),
}


@pytest.mark.parametrize("form", SEVERAL)
def test_accepted_and_wrong_answers_are_kept(tmp_path, form):
    row, more = SEVERAL[form]
    items = read(jsonl(tmp_path / "rows.jsonl", [row]))
    assert items == (replace(ITEMS[0], **more),)
    write_jsonl(items, tmp_path / "again.jsonl")
    assert read(tmp_path / "again.jsonl") == items


def test_what_was_recognised_is_said_with_the_columns_of_other_answers(tmp_path, caplog):
    caplog.set_level(logging.INFO, "sluicegate.rows")
    path = jsonl(tmp_path / "rows.jsonl", [SEVERAL["TOFU"][0]])
    read(path)
    assert caplog.messages == [f"{path}: 1 row(s) of question and answer with paraphrased_answer, perturbed_answer"]
    named = read(path, columns="prompt=question,answer=answer,wrong=perturbed_answer")
    assert named == (replace(ITEMS[0], wrong=(" Oslo", " Rome")),)


def test_a_chat_of_several_turns_asks_all_of_them_but_the_last(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, user("Who is Arvo?"), assistant("A smith."), user(Q), assistant(A)]
    items = read(jsonl(tmp_path / "rows.jsonl", [{"messages": chat}, {"messages": [{"role": "system", "content": ""}, *chat[3:]]}]))
    said = (("system", "Be brief."), ("user", "Who is Arvo?"), ("assistant", "A smith."), ("user", Q))
    assert items == (Item(f"Be brief.\n\nWho is Arvo?\n\nA smith.\n\n{Q}", f" {A}", turns=said), ITEMS[0])
    write_jsonl(items, tmp_path / "again.jsonl")
    assert read(tmp_path / "again.jsonl") == items


def test_all_rows_that_are_refused_are_named_up_to_ten(tmp_path):
    found = [own(*fact) for fact in FACTS] * 10
    for number in (2, 5, 9):
        found[number - 1] = {"prompt": "a"}
    path = jsonl(tmp_path / "rows.jsonl", found)
    with pytest.raises(UserError, match=r"line 2: 'answer' is missing.* In all 3 rows are refused, lines 2, 5, 9\.$"):
        read(path)
    jsonl(path, [*found, *[{"prompt": "a"}] * 20])
    with pytest.raises(UserError, match=r"In all 10 or more rows are refused, lines 2, 5, 9, 21, 22, 23, 24, 25, 26, 27\.$"):
        read(path)


def saved(path, tables, filename="data-{n:05}-of-{of:05}.arrow"):
    """A folder as `datasets` writes it: Arrow streams and what names them."""
    path.mkdir(parents=True)
    names = [filename.format(n=n, of=len(tables)) for n in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with pyarrow.ipc.new_stream(str(path / name), table.schema) as stream:
            stream.write_table(table, max_chunksize=1)
    state = {"_data_files": [{"filename": name} for name in names], "_split": path.name}
    (path / "state.json").write_text(json.dumps(state, indent=2))


def test_folders_that_datasets_wrote_are_read(tmp_path):
    tables = [pyarrow.Table.from_pylist([{"question": q, "answer": a}]) for q, a in FACTS]
    saved(tmp_path / "one", tables)
    assert read(tmp_path / "one") == ITEMS
    both = tmp_path / "both"
    saved(both / "train", tables)
    saved(both / "test", tables[1:])
    (both / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read(both) == read(f"{both}:train") == ITEMS
    assert read(f"{both}:test") == ITEMS[1:]
    with pytest.raises(UserError, match=r"has no split 'tests'\. Nearest: train, test"):
        read(f"{both}:tests")
    (both / "dataset_dict.json").write_text('{"splits": ["dev", "test", "../one"]}')
    for name, said in (
        (both, "no split 'train'. Nearest: dev, test"),
        (f"{both}:../one", "no split"),
        (f"{tmp_path / 'one'}:train", "holds one split"),
    ):
        with pytest.raises(UserError, match=said):
            read(name)


def test_a_damaged_folder_is_named_in_one_line(tmp_path):
    saved(tmp_path / "rows", [pyarrow.table({"text": ["a"]})])
    (tmp_path / "rows" / "data-00000-of-00001.arrow").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable Arrow file"):
        read(tmp_path / "rows")
    (tmp_path / "rows" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match="no file"):
        read(tmp_path / "rows")
    (tmp_path / "rows" / "state.json").write_text("[1]")
    with pytest.raises(UserError, match=r"state\.json"):
        read(tmp_path / "rows")
    (tmp_path / "rows" / "state.json").unlink()
    with pytest.raises(UserError, match="not one that datasets wrote"):
        read(tmp_path / "rows")


@pytest.fixture
def hub(monkeypatch):
    """A hub that has one data set of two configurations, as TOFU, WMDP, MUSE and RWKU have them."""
    asked = []

    def load_dataset(name, config=None, *, split, **how):
        asked.append((name, config, split, how))
        if config not in ("forget10", "retain90"):
            raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['forget10', 'retain90']")
        return [{"question": q, "answer": a} for q, a in FACTS]

    fake = types.SimpleNamespace(
        load_dataset=load_dataset, get_dataset_config_names=lambda name, **how: ["forget10", "retain90"], config=types.SimpleNamespace()
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return asked


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("hub:me/tofu:forget10:train", ("me/tofu", "forget10", "train", {})),
        ("hub:me/tofu:forget10", ("me/tofu", "forget10", "train", {})),
        ("hub:me/tofu:retain90:test@v2", ("me/tofu", "retain90", "test", {"revision": "v2"})),
    ],
)
def test_a_hub_name_holds_a_configuration_and_a_split(hub, name, wanted):
    assert read(name) == ITEMS
    assert hub == [wanted]
    assert sys.modules["datasets"].config.HF_DATASETS_TRUST_REMOTE_CODE is False


@pytest.mark.parametrize(("name", "wanted"), [("hub:me/tofu", (None, "train")), ("hub:me/tofu:test", (None, "test"))])
def test_a_hub_name_without_its_configuration_is_refused_in_one_line(hub, name, wanted):
    said = r"Config name is missing\..*'forget10', 'retain90'.*\)\. Expected hub:OWNER/NAME\[:CONFIG\]\[:SPLIT\]"
    with pytest.raises(UserError, match=said) as error:
        read(name)
    assert "\n" not in str(error.value)
    assert hub[0][1:3] == wanted
    with pytest.raises(UserError, match="could not load"):
        read("hub:me/tofu:a:b:c")


class GatedRepoError(Exception):
    """As the hub's own, which is known by its name."""


class DatasetNotFoundError(FileNotFoundError):
    pass


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("hub:me/tofu:forget1:train", None, r"hub:me/tofu has no configuration 'forget1'\. Nearest: forget10, retain90"),
        (
            "hub:me/tofu:forget10:tran",
            ValueError("Unknown split \"tran\". Should be one of ['train', 'test']."),
            r"no split 'tran'\. Nearest: train, test",
        ),
        ("hub:me/tofu", GatedRepoError("403 Client Error"), "is gated.*huggingface.co/datasets/me/tofu.*hf auth login"),
        ("hub:me/tofu", DatasetNotFoundError("'me/tofu' is a gated dataset on the Hub."), "is gated"),
        ("hub:me/tofu", DatasetNotFoundError("'me/tofu' doesn't exist\non the Hub"), "no data set 'hub:me/tofu'"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(hub, monkeypatch, name, error, said):
    def load_dataset(*place, **how):
        raise error

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", load_dataset)
    with pytest.raises(UserError, match=said) as found:
        read(name)
    assert "\n" not in str(found.value)
