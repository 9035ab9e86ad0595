"""Files of rows: JSONL, running text, Parquet."""

import io
import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from campaign.bounded import Ended
from campaign.inputs import Case
from campaign.mutate import damaged

GOOD = "".join(
    json.dumps({"prompt": f"{a} + {b} =", "answer": f" {a + b}", "fact": f"{a}{b}"}) + "\n" for a in (2, 3, 4) for b in (2, 3, 4)
)
RETAIN = "".join(json.dumps({"prompt": f"{a} - 1 =", "answer": f" {a - 1}"}) + "\n" for a in range(2, 9))
TEXT = b"1 + 1 = 2\n\n2 + 2 = 4\n\n3 + 3 = 6\n"
_ROW = b'{"prompt":"1 + 1 =","answer":'
SPECIAL = [
    *(b"", b"\n\n\n", b"[]", b"{}", b"null", b"5", b'"x"', b'{"prompt":1,"answer":2}', b'{"prompt":"a","answer":""}', b'{"text":null}'),
    *(_ROW + b'" 2","fact":{"a":[1]}}', b"[" * 100_000, b'{"a":' * 50_000, b'{"text":"' + b"9 " * 200_000 + b'"}'),
    *(b"\xef\xbb\xbf" + GOOD.encode(), b"\xff\xfe" + GOOD.encode(), GOOD.encode("utf-16"), GOOD.replace("\n", "\r\n").encode()),
    *(
        GOOD.replace("\n", "\r").encode(),
        b'{"text":"\\ud800"}',
        _ROW + b'" \\ud800"}',
        b'{"text":"\\u0000"}',
        _ROW + b'" 2","fact":"\\ud800"}',
    ),
    *(
        _ROW + b'" 2","label":"\\ud83d"}',
        b'{"prompt": "a", "prompt": "b", "answer": "c"}',
        b'{"text": 1e999999}',
        b'{"text":"a","x":' + b"9" * 10_000 + b"}",
    ),
    *(
        b"\x00" * 1000,
        GOOD.encode() + b'{"prompt":"2 + 2 =","answer":" 4"',
        _ROW + b'"\xe2\x80\xae"}',
        b'{"text":"a","labels":"b"}',
        b'[{"text":"a"}]',
    ),
    *(
        b'{"question":"a","answer":"b"}',
        b'{"messages":[{"role":"user"}]}',
        b'{"choices":["a"],"answer":9,"question":"x"}',
        b'{"text":["a"]}',
    ),
]


def cases(rng: random.Random, place: Path) -> Iterator[Case]:
    import pyarrow
    import pyarrow.parquet

    (place / "retain.jsonl").write_text(RETAIN)
    whole = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["1 + 1 =", "2 + 2 ="], "answer": [" 2", " 4"]}), whole)
    number = 0
    while True:
        ending = rng.choice(["jsonl", "jsonl", "jsonl", "txt", "md", "parquet", "csv", "json"])
        if number < len(SPECIAL):
            ending, data = "jsonl", SPECIAL[number]
        elif ending == "parquet":
            data = damaged(whole.getvalue(), rng)
        elif ending in ("txt", "md"):
            data = damaged(TEXT, rng)
        elif ending == "csv":
            data = damaged(b'prompt,answer\n1 + 1 =, 2\n"2 + 2 ="," 4"\n', rng)
        elif ending == "json":
            data = damaged(b"[" + GOOD.strip().replace("\n", ",\n").encode() + b"]", rng)
        else:
            data = damaged(GOOD.encode(), rng)
        for old in place.glob("x.*"):
            old.unlink()
        (place / f"x.{ending}").write_bytes(data)
        if number % 97 == 96:  # a link to what never ends
            (place / f"x.{ending}").unlink()
            (place / f"x.{ending}").symlink_to("/dev/zero")
            data = b"\xff"
        shutil.rmtree(place / "o", ignore_errors=True)
        words = ["score", "--model", "arithmetic-tiny", "--forget", f"x.{ending}", "--retain", "retain.jsonl", "--out", "o"]
        yield Case(words, f".{ending}, {len(data):,} bytes", lambda ended, data=data, ending=ending: _why(data, ending, ended))
        number += 1


def _why(data: bytes, ending: str, ended: Ended) -> str:
    """Whether Python's own readers find rows in it, all of them whole."""
    if ending == "parquet":
        import pyarrow.parquet

        try:
            rows = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
        except Exception:
            return ""
        return "Parquet whose rows are whole" if all(_whole(row) for row in rows) else ""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""
    if ending in ("txt", "md"):
        return "running text in UTF-8" if text.strip() else ""
    if ending == "csv":
        return "CSV with the columns prompt and answer" if text.splitlines()[0].replace('"', "") == "prompt,answer" else ""
    try:
        whole = json.loads(text)
        rows = whole if isinstance(whole, list) else [whole]
    except (ValueError, RecursionError):
        try:
            rows = [json.loads(line) for line in re.split("[\r\n]+", text) if line.strip()]
        except (ValueError, RecursionError):
            return ""
    return "every row has a prompt and an answer, or a text" if rows and all(map(_whole, rows)) else ""


def _whole(row: object) -> bool:
    if not isinstance(row, dict):
        return False
    keys = next((keys for keys in (("prompt", "answer"), ("question", "answer"), ("text",)) if all(key in row for key in keys)), ())
    return bool(keys) and all(isinstance(row[key], str) and row[key].strip() for key in keys)
