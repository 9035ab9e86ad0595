"""Decks from other programs: Anki packages, and saved qbreader JSON. Nothing that is read is trusted.

An archive is refused where a name in it leads elsewhere or where it unpacks to too much; its database is read in
memory, tables only, and for so long. HTML becomes plain text. Nothing is written before everything was read.
"""

import hashlib
import html
import json
import re
import sqlite3
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sluicegate_study.deck.cards import MARK, Bonus, Card, DeckFile, Entry, Head, Part, Tossup, find_deletions
from sluicegate_study.errors import UserError, first_line
from sluicegate_study.judge.answerline import mark_required

LARGEST = 256 * 2**20
"""Bytes that an archive's database may have, and that all it holds may unpack to times four."""
STEPS = 50_000_000
"""Steps of SQLite's machine after which a database is refused."""
NEW_FORM = "collection.anki21b"
NEWER = 'export it again with the box "Support older Anki versions" ticked'


@dataclass(frozen=True)
class Imported:
    """What was read, and how much of it could not become an entry."""

    file: DeckFile
    skipped: int


def read_foreign(path: Path) -> Imported:
    """Read a file of another program, by its ending: .apkg or .colpkg (Anki), .json (qbreader).

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
    rows, cloze = _notes(_database(path), path)
    entries: dict[str, Entry] = {}
    skipped = 0
    for guid, model, tags, fields in rows:
        texts = [strip_html(field) for field in fields.split("\x1f")]
        topic = next(iter(tags.split()), "")
        name = "anki-" + hashlib.sha256(guid.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        made = _card(texts, name, topic, cloze=str(model) in cloze or bool(re.search(r"\{\{c\d+::", texts[0])))
        if made is None or name in entries:
            skipped += 1
        else:
            entries[name] = made
    return Imported(DeckFile(Head(deck=path.stem, source=f"Anki package {path.name}"), tuple(entries.values())), skipped)


def _card(texts: list[str], name: str, topic: str, *, cloze: bool) -> Card | None:
    if cloze:
        bare = re.sub(r"(?<!\\)([\[\]])", r"\\\1", texts[0])
        text = re.sub(r"\{\{c\d+::(.*?)(?:::[^{}]*?)?\}\}", lambda found: f"[{found[1].strip()}]", bare, flags=re.S)
        try:
            find_deletions(text)
        except UserError:
            return None
        return Card(text.strip(), kind="cloze", id=name, topic=topic)
    if len(texts) < 2 or not texts[0].strip() or not texts[1].strip():
        return None
    return Card(texts[0].strip(), texts[1].strip(), id=name, topic=topic)


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


def _notes(content: bytes, path: Path) -> tuple[list[tuple[str, Any, str, str]], set[str]]:
    """The notes of a collection as (guid, model, tags, fields), and which models are of the cloze kind."""
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
        rows = connection.execute("select guid, mid, tags, flds from notes order by id").fetchall()
        models = connection.execute("select models from col").fetchone()
        types = connection.execute("select id, config from notetypes").fetchall() if kinds.get("notetypes") == "table" else []
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise UserError(f"{str(path)!r} has a broken database ({first_line(error)}): export it again.") from None
    finally:
        connection.close()
    if not all(isinstance(text, str) for row in rows for text in (row[0], row[2], row[3])):
        raise UserError(f"{str(path)!r} has a broken database (a note that is not text): export it again.")
    # The newer form has a table of kinds; a cloze kind's settings, a protobuf message, begin with field 1 = 1.
    cloze = {str(number) for number, config in types if isinstance(config, bytes) and config.startswith(b"\x08\x01")}
    try:
        known = json.loads(models[0]) if models and models[0] else {}
        return rows, cloze | {key for key, model in known.items() if model.get("type") == 1}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return rows, cloze


def strip_html(text: str) -> str:
    """The text of a field of HTML: lines kept, formulas between dollars, everything else that is markup left out."""
    text = re.sub(r"(?is)<(script|style)\b.*?(?:</\1\s*>|$)", "", text)
    text = re.sub(r"\[sound:[^\]]*\]", "", text)
    text = re.sub(r"(?i)</(?:div|p)\s*>\s*<(?:div|p)\b[^>]*>", "\n", text)
    text = re.sub(r"(?i)<br\s*/?>|<(?:div|p)\b[^>]*>|</(?:div|p|li|tr|h[1-6])\s*>", "\n", text)
    text = re.sub(r"(?i)<li\b[^>]*>", "- ", text)
    text = html.unescape(re.sub(r"<[!/a-zA-Z][^<>]*>", "", text))
    text = re.sub(r"\\\((.+?)\\\)", r"$\1$", text)
    text = re.sub(r"\\\[(.+?)\\\]", r"$$\1$$", text, flags=re.S)
    lines = [line.strip() for line in text.replace("\xa0", " ").replace("\r", "").split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


# ------------------------------------------------------------------------------------ qbreader


def _qbreader(path: Path) -> Imported:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{str(path)!r} is not JSON ({first_line(error)}): expected what qbreader's API answers, saved as a file."
        ) from None
    found = list(_questions(content, 4))
    if not found:
        raise UserError(
            f"{str(path)!r} holds no tossup (question, answer) and no bonus (leadin, parts, answers): expected qbreader's JSON."
        )
    entries: dict[str, Entry] = {}
    skipped = 0
    for row in found:
        made = _bonus(row) if "parts" in row else _tossup(row)
        if made is None or made.key in entries:
            skipped += 1
        else:
            entries[made.key] = made
    return Imported(DeckFile(Head(deck=path.stem, source="qbreader"), tuple(entries.values())), skipped)


def _questions(content: Any, depth: int) -> list[dict[str, Any]]:
    if isinstance(content, dict):
        if isinstance(content.get("question"), str) or "parts" in content:  # whole or not: what cannot be an entry is counted
            return [content]
        content = list(content.values())
    if isinstance(content, list) and depth:
        return [row for part in content for row in _questions(part, depth - 1)]
    return []


def _tossup(row: dict[str, Any]) -> Tossup | None:
    text, answer = _flat(row["question"]).replace("|", "\\|"), _answer(row.get("answer"))
    if text.count(MARK) > 1 or not answer or not text.replace(MARK, "").strip():
        return None
    return Tossup(text, answer, **_common(row))


def _bonus(row: dict[str, Any]) -> Bonus | None:
    texts, answers = row["parts"], row.get("answers")
    if not isinstance(texts, list) or not isinstance(answers, list) or len(texts) != len(answers) or not texts:
        return None
    values, levels = row.get("values"), row.get("difficultyModifiers")
    parts = []
    for n, (text, answer) in enumerate(zip(map(_flat, texts), map(_answer, answers), strict=True)):
        value = values[n] if isinstance(values, list) and n < len(values) else 10
        level: Any = levels[n] if isinstance(levels, list) and n < len(levels) and levels[n] in ("e", "m", "h") else ""
        if not text or not answer:
            return None
        parts.append(Part(text, answer, value if isinstance(value, int) and 0 <= value <= 100 else 10, level))
    return Bonus(_flat(row.get("leadin", "")), tuple(parts), **_common(row))


def _common(row: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in (row.get("category"), row.get("subcategory")) if isinstance(name, str) and name]
    found = row.get("_id")
    known = isinstance(found, str) and re.fullmatch(r"[A-Za-z0-9]{1,40}", found)
    return {"category": _flat("/".join(dict.fromkeys(names))), "id": f"qb-{found}" if known else ""}


def _flat(text: Any) -> str:
    return " ".join(strip_html(text).split()) if isinstance(text, str) else ""


def _answer(text: Any) -> str:
    """An answer line with its required words in Markdown's bold."""
    if not isinstance(text, str):
        return ""
    return " ".join(mark_required(text).replace("\x02", "**").replace("\x03", "**").split())
