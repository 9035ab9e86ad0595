"""Folders of runs, finished and half done, with one file altered."""

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from campaign.bounded import Ended, run
from campaign.inputs import Case
from campaign.kinds.rows import GOOD, RETAIN
from campaign.mutate import damaged

VOUCHED = ("result.json", "config.toml", "parents.json", "env.json")
"""What `runs` shows of a finished run and its checksums vouch for; not the seconds that it took."""
TRAIN = ["train", "--model", "arithmetic-tiny", "--forget", "f.jsonl", "--retain", "r.jsonl", "--steps", "12", "--batch", "4", "--out", "r"]
SCORE = ["score", "--model", "r", "--forget", "f.jsonl", "--retain", "r.jsonl", "--out", "sc"]
OTHERS = [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"hash":5,"format":1}', b'{"cpu":"x"}', b'verb="x"']


def cases(rng: random.Random, place: Path) -> Iterator[Case]:
    (place / "f.jsonl").write_text(GOOD)
    (place / "r.jsonl").write_text(RETAIN)
    half, done = place.parent / "half", place.parent / "done"
    if not done.exists():
        _prepare(place, half, done)
    whole = _snapshot(done)
    number = 0
    while True:
        for old in ("r", "sc", "runs"):
            shutil.rmtree(place / old, ignore_errors=True)
        base = half if number % 2 else done
        shutil.copytree(base, place / "r")
        if not (place / "other").exists():
            shutil.copytree(done, place / "other")
        files = [p for p in sorted((place / "r").rglob("*")) if p.is_file() and p.stat().st_size]
        file = rng.choice(files)
        note = f"{'half done' if base == half else 'finished'}, {file.relative_to(place / 'r')} {_alter(file, place, rng)}"
        verbs = [
            ["runs", "ls", "--root", "."],
            ["runs", "show", "r"],
            ["runs", "diff", "r", "other"],
            TRAIN,
            TRAIN,
            SCORE,
            ["run", "r/config.toml"],
        ]
        words = TRAIN if base == half else rng.choice(verbs)
        before = _snapshot(place / "r")
        yield Case(words, note, lambda ended, words=words, before=before: _why(place, words, whole, before, ended))
        number += 1


def _prepare(place: Path, half: Path, done: Path) -> None:
    """A finished run, and one that was killed with a resume point."""
    if (ended := run(TRAIN, place)).kind != "accepted":
        raise RuntimeError(f"the run to alter did not end: {ended.text}")
    shutil.move(place / "r", done)
    for _ in range(100):
        child = os.fork()
        if not child:
            os.chdir(place)
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            from sluicegate.app import main

            os._exit(main(TRAIN))
        index, until = place / "r" / "state" / "index.json", time.monotonic() + 20
        while not index.exists() and time.monotonic() < until and not (place / "r" / "DONE").exists():
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if index.exists() and not (place / "r" / "DONE").exists():
            shutil.move(place / "r", half)
            return
        shutil.rmtree(place / "r")
    raise RuntimeError("no run was caught half done")


def _alter(file: Path, place: Path, rng: random.Random) -> str:
    content = file.read_bytes()
    kind = rng.choice(["gone", "cut", "other", "damaged", "flipped", "a folder", "a link", "swapped"])
    if kind == "gone":
        file.unlink()
    elif kind == "cut":
        file.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "other":
        file.write_bytes(rng.choice(OTHERS))
    elif kind == "damaged":
        file.write_bytes(damaged(content, rng))
    elif kind == "flipped":
        changed = bytearray(content)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(changed))
    elif kind == "swapped":
        file.write_bytes(rng.choice([p.read_bytes() for p in sorted((place / "other").rglob("*")) if p.is_file()]))
    else:
        file.unlink()
        if kind == "a folder":
            file.mkdir()
        else:
            file.symlink_to("nowhere")
    return kind


def _snapshot(folder: Path) -> dict[str, Any]:
    """What a finished run vouches for: its result, metrics, settings and weights."""
    kept = ("result.json", "metrics.jsonl", "config.toml", "model/model.safetensors", "model/config.json", "model/tokenizer.json")
    return {name: (folder / name).read_bytes() if (folder / name).is_file() else None for name in kept}


def _why(place: Path, words: list[str], whole: dict[str, Any], before: dict[str, Any], ended: Ended) -> str:
    """Whether the run is the sound one in the end; whether what only looks shows what there is; whether a damaged
    model was scored."""
    if words[0] == "runs" and re.search(r"^\W*r\W+damaged\b", ended.text, re.M):
        return "it says that this run is damaged"
    if words[0] == "runs":
        sound = all(_same(place / "r" / name, place.parent / "done" / name) for name in VOUCHED)
        return "all that it shows is what the sound run wrote" if sound else ""
    if words is SCORE:
        sound = all(before[name] == whole[name] for name in whole if name.startswith("model/"))
        return "it reads the model alone, which is sound" if sound else ""
    if words[0] == "run":
        return "a config.toml that still is one; its run lies in a folder of its own" if _is_toml(before["config.toml"]) else ""
    return "result, metrics, settings and weights equal the sound run's" if _snapshot(place / "r") == whole else ""


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and one.read_bytes() == other.read_bytes()


def _is_toml(content: bytes | None) -> bool:
    import tomllib

    try:
        return content is not None and "verb" in tomllib.loads(content.decode())
    except ValueError:
        return False
