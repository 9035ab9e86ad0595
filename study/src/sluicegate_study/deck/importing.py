"""Decks from other programs: Anki packages, and the JSON of qbreader and QANTA. Nothing that is read is trusted.

An archive is refused where a name in it leads elsewhere or where it unpacks to too much; its database is read in
memory, tables only, and for so long. HTML becomes plain text, in time that grows as the text does. Nothing is written
before everything was read. What cannot become an entry is named, one by one.
"""

import hashlib
import html
import json
import re
import sqlite3
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from sluicegate_study.deck.cards import LONGEST, MARK, Bonus, Card, DeckFile, Entry, Head, Part, Tossup, find_deletions
from sluicegate_study.errors import UserError, first_line
from sluicegate_study.files import read_text
from sluicegate_study.formatting import replace_spans
from sluicegate_study.judge.answerline import mark_required

LARGEST = 256 * 2**20
"""Bytes that an archive's database may have, and that all it holds may unpack to times four."""
STEPS = 50_000_000
"""Steps of SQLite's machine after which a database is refused."""
NEW_FORM = "collection.anki21b"
NEWER = 'export it again with the box "Support older Anki versions" ticked'


@dataclass(frozen=True)
class Imported:
    """What was read, and what of it could not become an entry: which it is, and why. `lost` is said of the whole."""

    file: DeckFile
    left_out: tuple[str, ...] = ()
    lost: str = ""

    @property
    def skipped(self) -> int:
        return len(self.left_out)


def read_foreign(path: Path) -> Imported:
    """Read a file of another program, by its ending: .apkg or .colpkg (Anki), .json (qbreader, one value or one a line;
    QANTA).

    Raises `UserError`, which says why, for everything that cannot be read or is not safe to."""
    if not path.is_file():
        raise UserError(f"no file {str(path)!r}: expected an Anki package (.apkg) or a saved qbreader file (.json).")
    if path.suffix.lower() in (".apkg", ".colpkg"):
        return _anki(path)
    if path.suffix.lower() == ".json":
        return _qbreader(path)
    raise UserError(f"cannot import {str(path)!r}: expected a file ending in .apkg, .colpkg or .json. A hashcards folder needs no import.")


# --------------------------------------------------------------------------------------- Anki


def _anki(path: Path) -> Imported:
    rows, cloze, back, lost = _notes(_database(path), path)
    entries: dict[str, Entry] = {}
    left_out: list[str] = []
    for number, guid, model, tags, fields in rows:
        first = _OPENS.search(fields.split("\x1f", 1)[0])
        is_cloze = str(model) in cloze or bool(first)
        name = "anki-" + hashlib.sha256(guid.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        try:
            if name in entries:
                raise UserError("it is there twice")
            if len(fields) > LONGEST:
                raise UserError(f"{len(fields):,} characters, expected {LONGEST:,} at most")
            texts = [strip_html(field) for field in fields.split("\x1f")]
            made = _cards(texts, name, next(iter(tags.split()), ""), cloze=is_cloze, back=number in back)
        except UserError as error:
            words = " ".join(strip_html(fields[:200].replace("\x1f", " ")).split())[:40]
            left_out.append(f"note {guid[:20]} ({words or 'no text'}): {error}")
        else:
            entries |= {card.id: card for card in made}
    head = Head(deck=path.stem, source=f"Anki package {path.name}")
    return Imported(DeckFile(head, tuple(entries.values())), tuple(left_out), lost)


def _cards(texts: list[str], name: str, topic: str, *, cloze: bool, back: bool = False) -> list[Card]:
    """The cards of a note: one, and one the other way round where it has such a card (`back`).

    Deletions within each other cannot be asked in one text: then there is a text for each number."""
    if cloze:
        return [
            Card(text, kind="cloze", id=f"{name}-c{number}" if number else name, topic=topic) for number, text in _cloze_texts(texts[0])
        ]
    if len(texts) < 2 or not texts[0].strip() or not texts[1].strip():
        raise UserError("no text in the first field or in the second (pictures and sound are left out)")
    card = Card(texts[0].strip(), texts[1].strip(), id=name, topic=topic)
    return [card, replace(card, question=card.answer, answer=card.question, id=f"{name}-back")] if back else [card]


_OPENS = re.compile(r"\{\{c(\d[\d,]{0,99})::")
_TOKEN = re.compile(rf"{_OPENS.pattern}|::|\}}\}}|(?<!\\)[\[\]]|image-occlusion:")


def _cloze_texts(field: str) -> list[tuple[int, str]]:
    """A field of Anki's cloze kind as texts with [deletions], each with its number (0: one text holds them all).

    Raises `UserError` for deletions that are empty or never close."""
    parts: list[str | tuple[str, frozenset[int]]] = []
    open_: list[frozenset[int]] = []
    hint = nested = False
    place = 0
    for found in _TOKEN.finditer(field):
        parts += [] if hint else [field[place : found.start()]]
        place, token = found.end(), found[0]
        if token == "image-occlusion:":
            raise UserError("image occlusion, which needs its picture")
        if found[1]:
            nested = nested or bool(open_)
            open_.append(frozenset(int(number) % 10**6 for number in found[1].split(",") if number))
            parts.append(("[", open_[-1]))
        elif token == "}}" and open_:
            parts.append(("]", open_.pop()))
            hint = False
        elif token == "::" and open_:
            hint = True
        elif not hint:
            parts.append(f"\\{token}" if token in "[]" else token)
    if open_:
        raise UserError("a deletion {{c1:: that never closes")
    parts.append(field[place:])
    numbers = sorted({number for part in parts if isinstance(part, tuple) for number in part[1]}) if nested else [0]
    if len(numbers) * len(field) > 50 * LONGEST:
        raise UserError(f"{len(numbers)} deletions within each other in a long text")
    made = []
    for number in numbers:
        shown = "".join(part if isinstance(part, str) else part[0] if not number or number in part[1] else "" for part in parts)
        find_deletions(shown)
        made.append((number, shown.strip()))
    return made


def _database(path: Path) -> bytes:
    """The bytes of the collection in an archive that is safe to read."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            for info in infos:
                pure = PurePosixPath(info.filename.replace("\\", "/"))
                if pure.is_absolute() or ".." in pure.parts or re.match(r"[A-Za-z]:", info.filename):
                    raise UserError(f"{str(path)!r} is refused: {info.filename!r} in it leads outside of it, which no Anki package does.")
            total, packed = sum(info.file_size for info in infos), path.stat().st_size
            if total > 4 * LARGEST or total > 100 * packed + 2**24:
                raise UserError(f"{str(path)!r} is refused: {packed} bytes would unpack to {total}, more than any deck needs.")
            names = {info.filename for info in infos}
            # A package of the newer form also holds a collection.anki2, whose one note asks for a newer Anki.
            name = next((name for name in (NEW_FORM, "collection.anki21", "collection.anki2") if name in names), "")
            if not name:
                raise UserError(f"{str(path)!r} is no Anki package: expected collection.anki2 in it.")
            if path.stat().st_size > 64 * LARGEST:
                raise UserError(f"{str(path)!r} is refused: it is larger than {64 * LARGEST // 2**30} GiB.")
            with archive.open(name) as source:
                content = source.read(LARGEST + 1)  # what the archive says of sizes may be a lie
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
    ) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{str(path)!r} cannot be read as an archive ({first_line(error)}): expected an Anki package, which is a zip file."
        ) from None
    except Exception as error:  # zlib, lzma and bz2 raise their own
        raise UserError(f"{str(path)!r} cannot be unpacked ({first_line(error)}): export it again.") from None
    if len(content) > LARGEST:
        raise UserError(f"{str(path)!r} is refused: its collection unpacks to more than {LARGEST} bytes.")
    return _decompress(content, path) if name == NEW_FORM else content


def _decompress(content: bytes, path: Path) -> bytes:
    """The database of a package of the newer form, which is compressed by Zstandard."""
    try:
        import pyarrow
    except ImportError:
        need = "which needs pyarrow: pip install 'sluicegate-study[anki]'"
        raise UserError(f"{str(path)!r} is an Anki package of the newer form, {need}. Or {NEWER}.") from None
    if not pyarrow.Codec.is_available("zstd"):
        raise UserError(f"{str(path)!r} is an Anki package of the newer form, which this pyarrow cannot unpack: {NEWER}.")
    most = min(LARGEST, 100 * len(content) + 2**24)
    try:
        with pyarrow.input_stream(pyarrow.BufferReader(content), compression="zstd") as source:
            database: bytes = source.read(most + 1)
    except (OSError, MemoryError) as error:
        raise UserError(f"{str(path)!r} has a broken database ({first_line(error)}): export it again; if that fails, {NEWER}.") from None
    if len(database) > most:
        raise UserError(f"{str(path)!r} is refused: its collection of {len(content)} bytes would unpack to more than {most}.")
    return database


def _notes(content: bytes, path: Path) -> tuple[list[tuple[Any, str, Any, str, str]], set[str], set[Any], str]:
    """The notes of a collection as (id, guid, model, tags, fields), which models are of the cloze kind, which notes are
    asked the other way round too, and what of the collection is not read."""
    if not content.startswith(b"SQLite format 3\0"):
        raise UserError(f"{str(path)!r} has a broken database (it does not begin as one): export it again.")
    if content[18:20] == b"\x02\x02":  # kept with a write-ahead log, which a database in memory has no use for
        content = content[:18] + b"\x01\x01" + content[20:]
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(content)
        connection.execute("pragma trusted_schema = off")
        connection.execute("pragma query_only = on")
        left = [STEPS // 1000]

        def tired() -> int:
            left[0] -= 1
            return int(left[0] < 0)

        connection.set_progress_handler(tired, 1000)
        kinds = dict(connection.execute("select name, type from sqlite_master").fetchall())
        if kinds.get("notes") != "table" or kinds.get("col") != "table":
            raise UserError(f"{str(path)!r} is no Anki package: its database has no tables notes and col. If it is a newer one, {NEWER}.")
        rows = connection.execute("select id, guid, mid, tags, flds from notes order by id").fetchall()
        tables = {name for name, kind in kinds.items() if kind == "table"}
        models = connection.execute("select models from col").fetchone()
        types = connection.execute("select id, config from notetypes").fetchall() if "notetypes" in tables else []
        names = connection.execute("select ntid, ord, name from fields").fetchall() if "fields" in tables else []
        sides = connection.execute("select ntid, config from templates where ord = 1").fetchall() if "templates" in tables else []
        cards = connection.execute("select nid, ord, queue from cards").fetchall() if "cards" in tables else []
        reviews = connection.execute("select count(*) from revlog").fetchone()[0] if "revlog" in tables else 0
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise UserError(f"{str(path)!r} has a broken database ({first_line(error)}): export it again.") from None
    finally:
        connection.close()
    if not all(isinstance(text, str) for row in rows for text in (row[1], row[3], row[4])):
        raise UserError(f"{str(path)!r} has a broken database (a note that is not text): export it again.")
    # The newer form has a table of kinds; a cloze kind's settings, a protobuf message, begin with field 1 = 1.
    cloze = {str(number) for number, config in types if isinstance(config, bytes) and config.startswith(b"\x08\x01")}
    # A template's protobuf message begins with its question side, field 1: a text of so many bytes.
    asks = {str(n): side[2 : 2 + side[1]].decode("utf-8", "replace") for n, side in sides if isinstance(side, bytes) and side[:1] == b"\n"}
    fields = {(str(n), place): str(name) for n, place, name in names}
    try:
        known = json.loads(models[0]) if models and models[0] else {}
        cloze |= {key for key, model in known.items() if model.get("type") == 1}
        asks |= {key: model["tmpls"][1]["qfmt"] for key, model in known.items() if len(model.get("tmpls", ())) > 1}
        fields |= {(key, n): field["name"] for key, model in known.items() for n, field in enumerate(model.get("flds", ()))}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        pass
    first = {key: fields.get((key, 0)) for key in asks}
    turned = {key for key, side in asks.items() if f"{{{{{fields.get((key, 1))}}}}}" in str(side) and str(first[key]) not in str(side)}
    second = {note for note, place, _ in cards if place == 1}
    basic = {row[0]: str(row[2]) in turned for row in rows if str(row[2]) not in cloze and row[0] in second}
    counts = (
        (reviews, "review"),
        (sum(queue == -1 for _, _, queue in cards), "suspension"),
        (sum("<img" in row[4] or "[sound:" in row[4] for row in rows), "note's media", "notes' media"),
        (sum(len(row[3].split()) > 1 for row in rows), "note's further tags", "notes' further tags"),
        (sum(not known for known in basic.values()), "note's second card", "notes' second cards"),
    )
    lost = ", ".join(f"{count} {words[0] if count == 1 else words[-1] + 's' * (len(words) == 1)}" for count, *words in counts if count)
    return rows, cloze, {note for note, known in basic.items() if known}, lost


def strip_html(text: str) -> str:
    """The text of a field of HTML: lines kept, cells of a table between bars, formulas between dollars, everything else
    that is markup left out."""
    text = replace_spans(text, "<!--", "-->", lambda inside: "")
    text = re.sub(r"(?is)<(script|style)\b.*?(?:</\1\s*+>|$)", "", text)
    text = replace_spans(text, "[sound:", "]", lambda inside: "")
    text = re.sub(r"(?i)</(?:div|p)\s*+>\s*+<(?:div|p)\b[^<>]*+>", "\n", text)
    text = re.sub(r"(?i)</t[dh]\s*+>\s*+<t[dh]\b[^<>]*+>", " | ", text)
    text = re.sub(r"(?i)<br\s*+/?>|<(?:div|p)\b[^<>]*+>|</(?:div|p|li|tr|h[1-6])\s*+>", "\n", text)
    text = re.sub(r"(?i)<li\b[^<>]*+>", "- ", text)
    text = re.sub(r"(?i)\[/?\$\$\]", "$$", re.sub(r"(?i)\[/?(?:\$|latex)\]|</?anki-mathjax\b[^<>]*+>", "$", text))
    text = re.sub(r"<[!/a-zA-Z][^<>]*+>", "", text)
    text = html.unescape(re.sub(r"&#\d{8,}+;?", "\ufffd", text))
    text = replace_spans(text, "\\(", "\\)", lambda inside: f"${' '.join(inside.split())}$")
    text = replace_spans(text, "\\[", "\\]", lambda inside: f"$${inside}$$")
    lines = [line.strip() for line in text.replace("\xa0", " ").replace("\r", "").split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


# ------------------------------------------------------------------------------------ qbreader


def _qbreader(path: Path) -> Imported:
    try:
        text = read_text(path, "the file")
        try:
            content = json.loads(text)
        except ValueError as error:
            if "Extra data" not in str(error):
                raise
            content = [json.loads(line) for line in text.split("\n") if line.strip()]  # a value a line
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{str(path)!r} is not JSON ({first_line(error)}): expected what qbreader's API answers, saved as a file."
        ) from None
    found = _questions(content, 4)
    if not found:
        raise UserError(
            f"{str(path)!r} holds no tossup (question, answer) and no bonus (leadin, parts, answers): expected qbreader's JSON."
        )
    entries: dict[str, Entry] = {}
    left_out: list[str] = []
    for number, row in enumerate(found, 1):
        try:
            made = _bonus(row) if "parts" in row else _tossup(_of_qanta(row) if "question" not in row else row)
            if made.key in entries:
                raise UserError("it is there twice")
        except UserError as error:
            words = " ".join(str(row.get("question") or row.get("leadin") or row.get("text") or "")[:40].split())
            left_out.append(f"question {number} ({words or 'no text'}): {error}")
        else:
            entries[made.key] = made
    source = "QANTA" if "question" not in found[0] and "text" in found[0] else "qbreader"
    return Imported(DeckFile(Head(deck=path.stem, source=source), tuple(entries.values())), tuple(left_out))


def _questions(content: Any, depth: int) -> list[dict[str, Any]]:
    if isinstance(content, dict):
        qanta = isinstance(content.get("text"), str) and ("answer" in content or "page" in content)
        if isinstance(content.get("question"), str) or "parts" in content or qanta:  # whole or not: what is none is named
            return [content]
        content = list(content.values())
    if isinstance(content, list) and depth:
        return [row for part in content for row in _questions(part, depth - 1)]
    return []


def _of_qanta(row: dict[str, Any]) -> dict[str, Any]:
    """A row of QANTA as one of qbreader: the title of the answer's page, in which _ is a space, is an answer too."""
    page = re.sub(r"\([^()]*+\)$", "", str(row.get("page") or "").replace("_", " ")).strip()
    answer = str(row.get("answer") or page)
    more = f" [or {page}]" if page and "[" not in page and not re.search(rf"\b{re.escape(page)}\b", answer, re.I) else ""
    name = f"qanta{row['qanta_id']}" if isinstance(row.get("qanta_id"), int) else ""
    return {**row, "question": row["text"], "answer": f"{answer}{more}", "_id": name}


def _tossup(row: dict[str, Any]) -> Tossup:
    text, answer = _flat(row["question"]).replace("|", "\\|"), _answer(row.get("answer"))
    if text.count(MARK) > 1 or not answer or not text.replace(MARK, "").strip():
        raise UserError("no text, no answer, or two power marks")
    return Tossup(text, answer, **_common(row))


def _bonus(row: dict[str, Any]) -> Bonus:
    texts, answers = row["parts"], row.get("answers")
    if not isinstance(texts, list) or not isinstance(answers, list) or len(texts) != len(answers) or not texts:
        raise UserError("not one answer for each part")
    values, levels = row.get("values"), row.get("difficultyModifiers")
    parts = []
    for n, (text, answer) in enumerate(zip(map(_flat, texts), map(_answer, answers), strict=True)):
        value = values[n] if isinstance(values, list) and n < len(values) else 10
        level: Any = levels[n] if isinstance(levels, list) and n < len(levels) and levels[n] in ("e", "m", "h") else ""
        if not text or not answer:
            raise UserError("a part without text or answer")
        parts.append(Part(text, answer, value if isinstance(value, int) and 0 <= value <= 100 else 10, level))
    return Bonus(_flat(row.get("leadin", "")), tuple(parts), **_common(row))


def _common(row: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in (row.get("category"), row.get("subcategory")) if isinstance(name, str) and name]
    found = row.get("_id")
    known = isinstance(found, str) and re.fullmatch(r"[A-Za-z0-9]{1,40}", found)
    return {"category": _flat("/".join(dict.fromkeys(names))), "id": f"qb-{found}" if known else ""}


def _flat(text: Any) -> str:
    if isinstance(text, str) and len(text) > LONGEST:
        raise UserError(f"{len(text):,} characters, expected {LONGEST:,} at most")
    return " ".join(strip_html(text).split()) if isinstance(text, str) else ""


def _answer(text: Any) -> str:
    """An answer line with its required words in Markdown's bold."""
    if not isinstance(text, str):
        return ""
    if len(text) > LONGEST:
        raise UserError(f"an answer of {len(text):,} characters, expected {LONGEST:,} at most")
    return " ".join(mark_required(text).replace("\x02", "**").replace("\x03", "**").split())
