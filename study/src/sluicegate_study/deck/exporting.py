"""Decks for other programs: tab-separated text, Anki packages, and lines of JSON.

What a deck's text contains is shown by those programs as text: HTML is escaped, and control characters are written out.
"""

import csv
import hashlib
import html
import io
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from sluicegate_study.deck.cards import Deck, Question
from sluicegate_study.errors import UserError
from sluicegate_study.formatting import escape_controls

COLUMNS = ("id", "question", "answer", "topic", "category")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.S)


def encode_tsv(deck: Deck) -> bytes:
    """One row a question: id, question, answer, topic, category; with the lines on top that tell Anki how to read
    it."""
    out = io.StringIO()
    out.write("#separator:tab\n#html:false\n#columns:" + "\t".join(COLUMNS) + "\n")
    rows = csv.writer(out, dialect="excel-tab", lineterminator="\n")
    for question in deck.questions():
        rows.writerow(escape_controls(text) for text in _columns(deck, question))
    return out.getvalue().encode("utf-8")


def encode_jsonl(deck: Deck) -> bytes:
    """One line a question: prompt, answer, topic, angle, split, id; what training, scoring and probing read."""
    return "".join(f"{line}\n" for line in deck.to_jsonl()).encode("utf-8", "backslashreplace")


def encode_json(deck: Deck) -> bytes:
    """Everything, tossups and bonuses too, as `Deck.from_json` reads it."""
    return json.dumps(deck.to_json(), indent=1).encode()


def encode_apkg(deck: Deck) -> bytes:
    """An Anki package (its legacy form, which every version imports), made by genanki: one note a question, known by
    its key, so that importing again updates it. The same deck gives the same notes; the bytes of the archive differ in
    its dates.

    Raises `UserError` where genanki is not installed."""
    try:
        import genanki
    except ImportError:
        raise UserError(
            "Anki packages need genanki: pip install 'sluicegate-study[anki]'. Or export to a .tsv file, which Anki imports too."
        ) from None
    fields = [{"name": name} for name in ("Question", "Answer", "Id")]
    card = {"name": "Card", "qfmt": "{{Question}}", "afmt": "{{FrontSide}}<hr id=answer>{{Answer}}"}
    model = genanki.Model(1_607_000_001, "Sluicegate", fields=fields, templates=[card])
    made = genanki.Deck(_hash_name(deck.name), escape_controls(deck.name) or "deck")
    for question in deck.questions():
        key, prompt, answer, topic, category = _columns(deck, question)
        tags = [re.sub(r"\s+", "_", escape_controls(tag)) for tag in (topic, category) if tag]
        note = genanki.Note(model, [_to_html(prompt), _to_html(answer), html.escape(key)], tags=tags, guid=genanki.guid_for(deck.name, key))
        made.add_note(note)
    handle, path = tempfile.mkstemp(suffix=".apkg")
    os.close(handle)
    try:
        genanki.Package(made).write_to_file(path, timestamp=0)
        return Path(path).read_bytes()
    finally:
        os.unlink(path)


FORMATS: dict[str, Callable[[Deck], bytes]] = {".tsv": encode_tsv, ".apkg": encode_apkg, ".jsonl": encode_jsonl, ".json": encode_json}


def export(deck: Deck, path: Path, *, force: bool = False) -> Path:
    """Write a deck in the format of the file's ending. Raises `UserError` for another one and, unless `force`, for a
    file that is there."""
    if path.suffix not in FORMATS:
        raise UserError(f"cannot export to {str(path)!r}: expected a file ending in {', '.join(FORMATS)}.")
    if path.exists() and not force:
        raise UserError(f"{str(path)!r} is there already and is left as it is. Choose another file, or --force.")
    content = FORMATS[path.suffix](deck)  # before anything is written
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def _columns(deck: Deck, question: Question) -> tuple[str, str, str, str, str]:
    card = question.card
    return question.key, question.prompt, question.answer, card.topic, card.category or deck.head_of(card).category


def _to_html(text: str) -> str:
    """Text as Anki shows it: escaped, lines kept, formulas as its MathJax wants them."""

    def formula(found: re.Match[str]) -> str:
        inside = html.escape(escape_controls(found[1] or found[2]), quote=False)
        return rf"\[{inside}\]" if found[1] else rf"\({inside}\)"

    parts, place = [], 0
    for found in _FORMULA.finditer(text):
        parts += [html.escape(escape_controls(text[place : found.start()])), formula(found)]
        place = found.end()
    return "".join([*parts, html.escape(escape_controls(text[place:]))]).replace("\n", "<br>")


def _hash_name(name: str) -> int:
    """A number for a deck's name that is the same every time, as Anki wants it."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:4], "big") | 1 << 31
