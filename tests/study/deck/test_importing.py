"""Imports: what comes in is text, and what is not safe or not whole is refused without writing anything."""

import json
import sqlite3
import zipfile

import pyarrow
import pytest

from sluicegate_study.app import main
from sluicegate_study.deck.cards import Card, DeckFile
from sluicegate_study.deck.collection import load_deck, make_deck
from sluicegate_study.deck.exporting import export
from sluicegate_study.deck.importing import read_foreign, strip_html
from sluicegate_study.deck.markdown import read_markdown, write_markdown
from sluicegate_study.errors import UserError

NOTES = [
    ("g1", 1, " geo europe ", "What is &lt;b&gt; in <b>HTML</b>?<br>Say.\x1fBold<script>alert(1)</script>"),
    ("g2", 2, "", "The {{c1::dot product}} of {{c2::two::how many?}} [sic] vectors\x1f"),
    ("g3", 1, "", "no answer\x1f<img src=x>"),
    ("g4", 1, "", "Escape \x1b[2J and \\(a < b\\)\x1fQ: not a tag<div>id: x</div>"),
]


def collection(notes=NOTES, schema=""):
    connection = sqlite3.connect(":memory:")
    connection.execute("create table col (models text)")
    connection.execute("insert into col values (?)", [json.dumps({"1": {"type": 0}, "2": {"type": 1}})])
    connection.execute("create table notes (id integer primary key, guid text, mid integer, tags text, flds text)")
    connection.executemany("insert into notes (guid, mid, tags, flds) values (?, ?, ?, ?)", notes)
    if schema:
        connection.executescript(schema)
    connection.commit()
    return connection.serialize()


def lying(path):
    """An archive that says its database is smaller than it is."""
    content = bytearray(package(path, collection() + b"\0" * 10**6).read_bytes())
    size = (len(collection()) + 10**6).to_bytes(4, "little")
    while (place := content.find(size)) >= 0:
        content[place : place + 4] = (5000).to_bytes(4, "little")
    path.write_bytes(bytes(content))


def package(path, content, name="collection.anki2", **others):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if name:
            archive.writestr(name, content)
        for other, text in others.items():
            archive.writestr(other.replace("_slash_", "/").replace("_dot_", ".").replace("_colon_", ":").replace("_backslash_", "\\"), text)
    return path


def test_an_anki_package(tmp_path):
    got = read_foreign(package(tmp_path / "x.apkg", collection()))
    assert got.skipped == 1
    basic, cloze, strange = got.file.entries
    assert (basic.question, basic.answer, basic.topic) == ("What is <b> in HTML?\nSay.", "Bold", "geo")
    assert [q.answer for q in cloze.questions()] == ["dot product", "two"]
    assert cloze.questions()[0].prompt == "The [...] of two [sic] vectors"
    assert strange.question == "Escape \x1b[2J and $a < b$"
    assert strange.answer == "Q: not a tag\nid: x"
    again, problems = read_markdown(write_markdown(got.file))
    assert again == got.file
    assert [p for p in problems if p.severity == "error"] == []


def test_what_was_exported_comes_back(tmp_path):
    pytest.importorskip("genanki")
    card = Card("Is $a < b$ & <i>so</i>?\nSay.", 'It\'s "so"', id="x")
    deck = make_deck("d", [DeckFile(entries=(card,))])
    (back,) = read_foreign(export(deck, tmp_path / "x.apkg")).file.entries
    assert (back.question, back.answer) == (card.question, card.answer)


def newer(path, tmp_path, notes=NOTES, cut=0, schema=""):
    """A package as Anki writes it now: a compressed database with a write-ahead log and a table of kinds, and a note
    for older programs."""
    file = tmp_path.parent / f"{tmp_path.name}-new.db"
    file.unlink(missing_ok=True)
    connection = sqlite3.connect(file, isolation_level=None)
    connection.create_collation("unicase", lambda one, other: (one > other) - (one < other))
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table col (models text)")
    connection.execute("insert into col values ('')")
    connection.execute("create table notetypes (id integer primary key, name text collate unicase, config blob)")
    connection.execute("create unique index by_name on notetypes (name)")
    connection.executemany("insert into notetypes values (?, ?, ?)", [(1, "Basic", b"\x1a\x01x"), (2, "Cloze", b"\x08\x01\x1a\x01x")])
    connection.execute("create table notes (id integer primary key, guid text, mid integer, tags text, flds text)")
    connection.executemany("insert into notes (guid, mid, tags, flds) values (?, ?, ?, ?)", notes)
    if schema:
        connection.executescript(schema)
    connection.close()
    content = pyarrow.Codec("zstd").compress(file.read_bytes(), asbytes=True)
    file.unlink()
    decoy = collection([("d", 1, "", "Please update\x1fto a newer version")])
    return package(path, decoy, meta="\x08\x03", collection_dot_anki21b=content[: len(content) - cut], media=b"x")


def test_a_package_of_the_newer_form(tmp_path):
    old = read_foreign(package(tmp_path / "old.apkg", collection()))
    new = read_foreign(newer(tmp_path / "new.apkg", tmp_path))
    assert new.skipped == old.skipped
    assert new.file.entries == old.file.entries
    # The kind of a note is taken from the table of kinds, even where its text has no cloze mark: then it can be no
    # card.
    assert read_foreign(newer(tmp_path / "x.apkg", tmp_path, [("g", 2, "", "bare text\x1fextra")])).skipped == 1
    assert main(["deck", "import", str(tmp_path / "new.apkg"), str(tmp_path / "deck")]) == 0
    assert len(load_deck(tmp_path / "deck").cards) == 3


BOMB = b"\0" * (50 * 2**20)
SMALL_BOMB = pyarrow.Codec("zstd").compress(BOMB, asbytes=True)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: package(p, collection(), _dot__dot__slash_evil="x"), "leads outside"),
        (lambda p: package(p, collection(), _slash_etc_slash_evil="x"), "leads outside"),
        (lambda p: package(p, collection(), media=BOMB), "would unpack to"),
        (lambda p: package(p, collection(), _dot__dot__backslash_evil="x"), "leads outside"),
        (lambda p: package(p, collection(), C_colon_evil="x"), "leads outside"),
        (lambda p: package(p, BOMB), "would unpack to"),
        (lambda p: package(p, collection(), collection_dot_anki21b="x"), "broken database.*older Anki versions"),
        (lambda p: package(p, collection(), collection_dot_anki21b=SMALL_BOMB), "would unpack to more than"),
        (lambda p: newer(p, p.parent, cut=20), "broken database"),
        (lambda p: newer(p, p.parent, schema="alter table notes rename to real; create view notes as select * from real"), "no tables"),
        (lambda p: lying(p), "as an archive"),
        (lambda p: package(p, b"", name=""), "no Anki package"),
        (lambda p: package(p, b"not a database" * 100), "broken database"),
        (lambda p: package(p, collection()[:3000]), "broken database"),
        (lambda p: package(p, b""), "no Anki package|broken database"),
        (lambda p: package(p, collection(schema="alter table notes rename to real; create view notes as select * from real")), "no tables"),
        (lambda p: package(p, collection([(b"\xff", 1, "", "a\x1fb")])), "broken database"),
        (lambda p: p.write_bytes(b"PK\x03\x04 not a zip"), "as an archive"),
        (lambda p: p.write_bytes(package(p, collection()).read_bytes()[:-300]), "as an archive"),
    ],
)
def test_what_is_not_safe_or_not_whole_is_refused(tmp_path, make, said, capsys):
    path = tmp_path / "x.apkg"
    make(path)
    with pytest.raises(UserError, match=said):
        read_foreign(path)
    assert main(["deck", "import", str(path), str(tmp_path / "deck")]) == 2
    assert capsys.readouterr().err.startswith("error:")
    assert [p.name for p in tmp_path.iterdir()] == ["x.apkg"]
    assert not (tmp_path.parent / "evil").exists()


def test_a_damaged_member_is_refused(tmp_path):
    path = package(tmp_path / "x.apkg", collection())
    content = bytearray(path.read_bytes())
    content[60:90] = b"\xff" * 30
    path.write_bytes(bytes(content))
    with pytest.raises(UserError):
        read_foreign(path)


QB = {
    "tossups": [
        {
            "_id": "6476",
            "question": "<b>This | dwarf (*)</b> planet. For 10 points, name it.",
            "answer": "<b><u>Pluto</u></b> [accept 134340 <b><u>Pluto</u></b>; prompt on <u>dwarf</u> planet]",
            "category": "Science",
            "subcategory": "Astronomy",
        },
        {"question": "", "answer": "x"},
    ],
    "bonuses": [
        {
            "leadin": "Name these:",
            "parts": ["One", "Two"],
            "answers": ["<b><u>a</u></b>", "b"],
            "values": [10, 10],
            "difficultyModifiers": ["e", "h"],
        }
    ],
}


def test_qbreader(tmp_path):
    path = tmp_path / "qb.json"
    path.write_text(json.dumps(QB))
    got = read_foreign(path)
    tossup, bonus = got.file.entries
    assert got.skipped == 1
    assert (tossup.id, tossup.category, tossup.words[:3], tossup.power) == ("qb-6476", "Science/Astronomy", ["This", "|", "dwarf"], 3)
    assert tossup.answer == "**Pluto** [accept 134340 **Pluto**; prompt on **dwarf** planet]"
    assert [(p.text, p.answer, p.level) for p in bonus.parts] == [("One", "**a**", "e"), ("Two", "b", "h")]
    assert read_markdown(write_markdown(got.file))[0] == got.file


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"tossups": []}', "[" * 100_000, '{"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}'])
def test_json_that_is_no_packet_is_refused(tmp_path, text):
    (tmp_path / "qb.json").write_text(text)
    with pytest.raises(UserError, match="qbreader"):
        read_foreign(tmp_path / "qb.json")


def test_the_verb(tmp_path, capsys):
    path = package(tmp_path / "x.apkg", collection())
    assert main(["deck", "import", str(path), str(tmp_path / "deck"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["entries"], found["skipped"]) == (3, 1)
    assert len(load_deck(tmp_path / "deck").cards) == 3
    before = (tmp_path / "deck" / "x.md").read_bytes()
    assert main(["deck", "import", str(path), str(tmp_path / "deck")]) == 2
    assert (tmp_path / "deck" / "x.md").read_bytes() == before
    assert main(["deck", "check", str(tmp_path / "deck")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no file"):
        read_foreign(tmp_path / "x.apkg")
    (tmp_path / "x.doc").write_text("")
    with pytest.raises(UserError, match="hashcards"):
        read_foreign(tmp_path / "x.doc")


def test_markup_becomes_text():
    assert strip_html("<ul><li>a</li><li>b</li></ul>") == "- a\n- b"
    assert strip_html("1 < 2 &amp; <style>x</style>3[sound:a.mp3]") == "1 < 2 & 3"


def test_a_question_without_its_answer_is_counted_not_lost_in_silence(tmp_path):
    rows = [
        {"question": "Which river? For 10 points.", "answer": "<b><u>Nile</u></b>"},
        {"question": "Which?"},
        {"leadin": "x", "parts": ["A?"]},
    ]
    (tmp_path / "qb.json").write_text(json.dumps({"tossups": rows}))
    got = read_foreign(tmp_path / "qb.json")
    assert (len(got.file.entries), got.skipped) == (1, 2)


def anki(tmp_path, *notes, cards=(), models=None):
    """A package with cards, in which each note is (kind, fields): 1 of two fields, 2 cloze, 3 asked both ways."""
    side = [{"qfmt": "{{Front}}"}, {"qfmt": "{{#Reverse}}{{Back}}{{/Reverse}}"}]
    flds = [{"name": "Front"}, {"name": "Back"}]
    known = models or {"1": {"type": 0, "flds": flds, "tmpls": side[:1]}, "2": {"type": 1}, "3": {"type": 0, "flds": flds, "tmpls": side}}
    schema = f"update col set models = '{json.dumps(known)}'; create table cards (nid, ord, queue);" + "".join(
        f"insert into cards values {card};" for card in cards
    )
    rows = [(f"g{n}", kind, "", text) for n, (kind, text) in enumerate(notes, 1)]
    return read_foreign(package(tmp_path / "x.apkg", collection(rows, schema)))


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("Nested {{c1::outer {{c2::inner}} text}}.", ["Nested [outer inner text].", "Nested outer [inner] text."]),
        ("{{c1::a {{c1::b}}}} and {{c2,3::c::hint}}", None),
        ("multi {{c1,2::both}} and {{c2::second::hint}}", ["multi [both] and [second]"]),
        ("array[0] {{c1::x[1]}}", ["array\\[0\\] [x\\[1\\]]"]),
        ("empty {{c1::}} cloze", None),
        ("open {{c1::a", None),
        ("{{c1::image-occlusion:rect:left=.1:oi=1}}<br>", None),
    ],
)
def test_cloze_notes_of_every_kind_are_read_or_named(tmp_path, field, texts):
    got = anki(tmp_path, (2, f"{field}\x1fextra"), (1, "q\x1fa"))
    assert [card.question for card in got.file.entries] == [*(texts or []), "q"]
    assert [said.startswith("note g1") for said in got.left_out] == ([] if texts else [True])
    assert read_markdown(write_markdown(got.file))[0] == got.file


def test_a_note_that_is_asked_both_ways_gives_two_cards(tmp_path):
    cards = [(1, 0, 0), (1, 1, 0), (2, 0, -1), (3, 0, 0), (3, 1, 0)]
    got = anki(tmp_path, (3, "Hund\x1fdog"), (3, "Katze\x1fcat"), (1, "one\x1ftwo"), cards=cards)
    assert [(card.question, card.answer) for card in got.file.entries] == [
        ("Hund", "dog"),
        ("dog", "Hund"),
        ("Katze", "cat"),
        ("one", "two"),
    ]
    assert got.lost == "1 suspension, 1 note's second card"


def test_tables_and_formulas_of_a_field():
    assert strip_html("<table><tr><td>a</td><td>b</td></tr></table>") == "a | b"
    assert strip_html("\\(a\nb\\) [$]x[/$] [latex]y[/latex] <anki-mathjax>z</anki-mathjax> \\( open") == "$a b$ $x$ $y$ $z$ \\( open"
    assert strip_html("a<!-- b > c -->d &#99999999999; [sound:x[1].mp3]") == "ad \ufffd .mp3]"


def test_json_of_other_forms(tmp_path, capsys):
    row = {"question": "Name it (*) now.", "answer": "<b><u>X</u></b>"}
    (tmp_path / "bom.json").write_text("\ufeff" + json.dumps({"tossups": [row]}), encoding="utf-8")
    (tmp_path / "lines.json").write_text(f"{json.dumps(row)}\n\n{json.dumps(row | {'answer': 'Y'})}\n{json.dumps(row)}\n")
    assert len(read_foreign(tmp_path / "bom.json").file.entries) == 1
    got = read_foreign(tmp_path / "lines.json")
    assert [entry.answer for entry in got.file.entries] == ["**X**", "Y"]
    assert got.left_out == ("question 3 (Name it (*) now.): it is there twice",)
    qanta = {
        "text": "First. For 10 points, name it.",
        "answer": "Felis catus",
        "page": "Cat_(animal)",
        "qanta_id": 7,
        "category": "Science",
    }
    (tmp_path / "qanta.json").write_text(json.dumps({"questions": [qanta, {"text": "Clue.", "page": "Dog", "answer": ""}]}))
    got = read_foreign(tmp_path / "qanta.json")
    assert [(entry.answer, entry.id) for entry in got.file.entries] == [("Felis catus [or Cat]", "qb-qanta7"), ("Dog", "")]
    assert main(["deck", "import", str(tmp_path / "lines.json"), str(tmp_path / "deck")]) == 0
    assert "left out: question 3" in capsys.readouterr().out


def test_a_text_that_utf_8_does_not_know_is_written_out(tmp_path):
    (tmp_path / "x.json").write_text('{"question": "Name \\ud800 it.", "answer": "X"}')
    assert main(["deck", "import", str(tmp_path / "x.json"), str(tmp_path / "deck")]) == 0
    assert "\\ud800" in (tmp_path / "deck" / "x.md").read_text()
