"""Packages of Anki: zip files with an SQLite collection."""

import contextlib
import io
import random
import shutil
import sqlite3
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from campaign.bounded import Ended
from campaign.inputs import Case
from campaign.mutate import damaged


def cases(rng: random.Random, place: Path) -> Iterator[Case]:
    from sluicegate_study.app import main

    (place / "d.md").write_text("Q: What is 2+2?\nA: 4\n\nQ: Capital?\nA: Paris\n\nC: The [sky] is blue\n")
    with contextlib.redirect_stdout(io.StringIO()):
        failed = main(["deck", "export", str(place / "d.md"), str(place / "good.apkg")])
    if failed:
        raise RuntimeError("the deck to damage could not be exported")
    good = (place / "good.apkg").read_bytes()
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        name = next(n for n in archive.namelist() if n.startswith("collection"))
        base = archive.read(name)
    special = list(_special(name, base, place))
    number = 0
    while True:
        if number < len(special):
            note, data = special[number]
        elif rng.random() < 0.5:
            note, data = "a damaged zip", damaged(good, rng)
        else:
            content = bytearray(base)
            for _ in range(rng.randint(1, 30)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            cut = content[: rng.randrange(len(content))] if rng.random() < 0.2 else content
            note, data = "a damaged collection", _zipped([(name, bytes(cut))])
        shutil.rmtree(place / "o", ignore_errors=True)
        (place / "x.apkg").write_bytes(data)
        yield Case(["deck", "import", "x.apkg", "o"], note, lambda ended: _why(place, ended))
        number += 1


def _zipped(members: list[tuple[Any, bytes]], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    whole = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name are meant
        with zipfile.ZipFile(whole, "w", packing) as archive:
            for name, content in members:
                archive.writestr(name, content)
    return whole.getvalue()


def _special(name: str, base: bytes, place: Path) -> Iterator[tuple[str, bytes]]:
    def changed(statement: str, *values: Any) -> bytes:
        file = place / "t.db"
        file.write_bytes(base)
        connection = sqlite3.connect(file)
        connection.execute(statement, values)
        connection.commit()
        connection.close()
        return _zipped([(name, file.read_bytes())])

    link = zipfile.ZipInfo("link" if name != "link" else "other")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    yield "a bomb beside the collection", _zipped([(name, base), ("0", b"\0" * 300 * 2**20)])
    yield "a collection that is a bomb", _zipped([(name, b"SQLite format 3\0" + b"\0" * 300 * 2**20)])
    for outside in ("../../x", "/tmp/x", "..\\..\\x", "C:x", "a\0b"):
        yield f"a member called {outside!r}", _zipped([(name, base), (outside, b"x")])
    yield "a link", _zipped([(name, base), (link, b"/etc/passwd")])
    yield "two collections", _zipped([(name, b"junk"), (name, base)])
    yield "nothing", b""
    yield "no collection", _zipped([("media", b"{}")])
    yield "60,000 members", _zipped([(name, base), *((f"m{i}", b"") for i in range(60_000))])
    fields = "update notes set flds=?"
    for opener, times in (
        ("{{c1::", 20_000),
        ("<", 200_000),
        ("[sound:", 60_000),
        ("{{c1::a::", 8_000),
        ("<style>", 50_000),
        ("<!--", 50_000),
    ):
        yield f"a field of {opener!r}", changed(fields, opener * times + "\x1fb")
    yield "a field of ampersands", changed(fields, "&" * 300_000 + "\x1f" + "&#" * 100_000 + "\\(" * 50_000)
    yield "a field of 30 MB", changed(fields, "x" * 30_000_000 + "\x1fy")
    yield "cards within a field", changed(fields, "q\n\nQ: injected\nA: evil\n---\x1fans\nid: x\nneeds: y\n\\A: b")
    yield "bytes for text", changed(fields, b"\xff\xfe\x00")
    yield "text that is not UTF-8", changed("update notes set flds=cast(? as text)", b"\xff\xfe\x1f\xed\xa0\x80")
    yield "note types nested deeply", changed("update col set models=?", "[" * 100_000)
    yield "note types that are a list", changed("update col set models=?", "[1]")
    yield "Zstandard that is none", _zipped([("collection.anki21b", b"\x28\xb5\x2f\xfd" + b"\xff" * 100)])


def _why(place: Path, ended: Ended) -> str:
    """Whether the notes that SQLite finds are as many as were imported or named, and nothing lies outside."""
    if sorted(p.name for p in place.iterdir()) not in (
        [*sorted(["d.md", "good.apkg", "o", "x.apkg"])],
        sorted(["d.md", "good.apkg", "o", "t.db", "x.apkg"]),
    ):
        return ""
    return "SQLite reads the collection, and what was imported lies in its folder" if list((place / "o").glob("*.md")) else ""
