"""Small damage to bytes and to tables of settings."""

import copy
import random
import re
from typing import Any

INSERTED = [
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", "\u202e".encode(), b"\r", b"\x1b[31m", b'"', b"{", b"]", b"\\", b"NaN", b"-1", b"1e999"),
    *(b"null", b"<script>", b"[/x]", b"\t", b"=" * 40),
]
NUMBERS = [b"-1", b"0", b"1e400", b"99999999999999999999", b"NaN", b"true", b'"x"', b"0.5", b"[]", b"{}", b"-0.0", b"inf"]
STRINGS = [b'""', b"5", b"null", b'["a"]', b'"../../x"', b'"@base"', b'"\\u0000"', b"true", b'"<script>alert(1)</script>"']
VALUES: list[Any] = [
    *(-1, 0, 1, 2**70, -(2**70), 1e308, float("nan"), float("inf"), -0.5, 1.5, 1e-30, 1e30, 3, True, False, "", "x", "@base", "@nobody"),
    *("../../etc", "a/b", "\u0000", "<script>", "é" * 300, [], [1], ["a"], [[]], {}, {"a": 1}, "task:arithmetic/forget", "hub:x/y", "*"),
]
KEYS = ["zzz", "../x", "a b", "", "seeds", "arms", "model", "verb", "méthod", "attack seed 0", "x" * 500]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes after one to four small damages: a byte, a cut, a gap, an insertion, a copy, a number, a string, a
    line."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        kind, n = rng.randrange(8), len(content)
        if kind == 0 and n:
            content[rng.randrange(n)] = rng.randrange(256)
        elif kind == 1 and n:
            del content[rng.randrange(n) :]
        elif kind == 2 and n:
            start = rng.randrange(n)
            del content[start : start + rng.randint(1, 20)]
        elif kind == 3:
            start = rng.randint(0, n)
            content[start:start] = rng.choice(INSERTED)
        elif kind == 4 and n:
            start, other = rng.randrange(n), rng.randrange(n)
            content[start:start] = content[other : other + rng.randint(1, 40)]
        elif kind == 5:
            _swap(content, rb"-?\d+(\.\d+)?", NUMBERS, rng)
        elif kind == 6:
            _swap(content, rb'"[^"\n]*"', STRINGS, rng)
        else:
            lines = bytes(content).split(b"\n")
            if rng.random() < 0.3:
                rng.shuffle(lines)
            else:
                lines.pop(rng.randrange(len(lines)))
            content = bytearray(b"\n".join(lines))
    return bytes(content)


def _swap(content: bytearray, pattern: bytes, others: list[bytes], rng: random.Random) -> None:
    found = list(re.finditer(pattern, bytes(content[:100_000])))
    if found:
        place = rng.choice(found)
        content[place.start() : place.end()] = rng.choice(others)


def damaged_table(table: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The table after one to three changes at random places: a value, a key gone, a key more, a copy."""
    table = copy.deepcopy(table)
    for _ in range(rng.randint(1, 3)):
        place: Any = table
        while keys := list(place) if isinstance(place, dict) else list(range(len(place))):
            key = rng.choice(keys)
            if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.75:
                place = place[key]
                continue
            kind = rng.randrange(6)
            if kind <= 2:
                place[key] = copy.deepcopy(rng.choice(VALUES))
            elif kind == 3:
                del place[key]
            elif isinstance(place, dict):
                place[rng.choice(KEYS) if kind == 4 else rng.choice(keys)] = copy.deepcopy(rng.choice([*VALUES, place[key]]))
            break
    return table
