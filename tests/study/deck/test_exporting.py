"""Exports hold every question, and show what a deck contains as text."""

import csv
import io
import json
import sqlite3
import sys
import zipfile

import pytest

from sluicegate_study.app import main
from sluicegate_study.deck.cards import Deck
from sluicegate_study.deck.collection import load_deck
from sluicegate_study.deck.exporting import export
from sluicegate_study.errors import UserError

DECK = """+++
category = "Science CS"
+++
Q: What is <script>alert("x")</script> & $a < b$?
A: Two\tlines,
with "quotes" \x1b[2J and $$x_1 = 2$$
id: one
topic: some thing

C: [Red] and [blue]
id: two

T: A clue. (*) Another.
ANSWER: **x**
"""


@pytest.fixture
def deck(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.md").write_text(DECK)
    return load_deck(tmp_path / "in")


def test_tsv(deck, tmp_path):
    text = export(deck, tmp_path / "sub" / "x.tsv").read_text()
    assert "\x1b" not in text
    assert text.startswith("#separator:tab\n#html:false\n")
    rows = list(csv.reader(io.StringIO(text.split("\n", 3)[3]), dialect="excel-tab"))
    assert [row[0] for row in rows] == ["one", "two", "two#2"]
    assert rows[0][2] == 'Two lines,\nwith "quotes" \\x1b[2J and $$x_1 = 2$$'
    assert rows[0][3:] == ["some thing", "Science CS"]


def notes(path):
    with zipfile.ZipFile(path) as archive:
        connection = sqlite3.connect(":memory:")
        connection.deserialize(archive.read("collection.anki2"))
        return connection.execute("select guid, flds, tags from notes order by id").fetchall()


def test_anki(deck, tmp_path):
    pytest.importorskip("genanki")
    rows = notes(export(deck, tmp_path / "x.apkg"))
    question, answer, key = rows[0][1].split("\x1f")
    assert key == "one"
    assert question == "What is &lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; \\(a &lt; b\\)?"
    assert answer == "Two lines,<br>with &quot;quotes&quot; \\x1b[2J and \\[x_1 = 2\\]"
    assert rows[0][2].split() == ["some_thing", "Science_CS"]
    assert len(rows) == 3
    # Importing again updates: a note keeps its guid when its text changes.
    (tmp_path / "in" / "x.md").write_text(DECK.replace("Two", "Three"))
    again = notes(export(load_deck(tmp_path / "in"), tmp_path / "y.apkg"))
    assert [row[0] for row in again] == [row[0] for row in rows]
    assert again[0][1] != rows[0][1]


def test_anki_without_genanki(deck, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "genanki", None)
    with pytest.raises(UserError, match="tsv"):
        export(deck, tmp_path / "x.apkg")
    assert not (tmp_path / "x.apkg").exists()


def test_json(deck, tmp_path):
    assert Deck.from_json(json.loads(export(deck, tmp_path / "x.json").read_text())) == deck
    lines = export(deck, tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["one", "two", "two#2"]


def test_lines_of_json_are_items(deck, tmp_path):
    from sluicegate.values.items import read

    items = read(export(deck, tmp_path / "x.jsonl"))
    assert [(item.prompt, item.answer) for item in items][1] == ("[...] and blue", "Red")


def test_the_verb(deck, tmp_path, capsys):
    out = tmp_path / "x.tsv"
    assert main(["deck", "export", str(tmp_path / "in"), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"path": str(out), "questions": 3}
    before = out.read_bytes()
    assert main(["deck", "export", str(tmp_path / "in"), str(out)]) == 2
    assert "left as it is" in " ".join(capsys.readouterr().err.split())  # wherever a long path makes the line break
    assert out.read_bytes() == before
    assert main(["deck", "export", str(tmp_path / "in"), str(out), "--force"]) == 0
    assert main(["deck", "export", str(tmp_path / "in"), "x.doc"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "x.tsv"]
