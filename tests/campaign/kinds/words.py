"""Words on the command line: options with wild values, verbs without what they need."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from campaign.inputs import Case
from campaign.kinds.configs import _finite
from campaign.kinds.rows import GOOD, RETAIN

NUMBERS = [
    "-1",
    "0",
    "99999999999999999999",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "",
    "abc",
    "1.5",
    "0x10",
    "\u0661",
    "-0.0",
    "1e-320",
    "--",
    "-5",
    "１",
]
TEXTS = [
    *(
        "",
        "\u202e",
        "a\nb",
        "../../x",
        "\x1b[31mx",
        "-",
        "--",
        "@x",
        "é" * 200,
        "a" * 5000,
        "*",
        "[",
        "task:x",
        "task:arithmetic/nope",
        "hub:x/y",
    ),
    *(
        "/dev/null",
        "/dev/zero",
        "/proc/self/mem",
        "~",
        "~nobody/x",
        ".",
        "/",
        ",",
        ",,",
        ":",
        "texts:",
        "texts:/etc/passwd",
        "\udc80",
        "[/x]",
    ),
]
_DATA = ["--model", "arithmetic-tiny", "--forget", "f.jsonl", "--retain", "r.jsonl"]
_SMALL = ["--steps", "1", "--batch", "4"]
VERBS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "train": (
        [*_DATA, *_SMALL],
        [
            "--steps",
            "--lr",
            "--batch",
            "--accumulate",
            "--warmup",
            "--final",
            "--beta2",
            "--weight-decay",
            "--clip",
            "--max-length",
            "--seed",
            "--check-every",
        ],
        ["--sites", "--model", "--forget", "--retain", "--out", "--decay", "--learn"],
    ),
    "unlearn": ([*_DATA, *_SMALL], ["--lr", "--sam", "--retain-weight", "--seed"], ["--method", "--sites", "--out"]),
    "undo": (
        ["--model", "arithmetic-tiny", "--retain", "r.jsonl", "--unlabelled", "r.jsonl", *_SMALL],
        ["--alpha", "--beta", "--budget", "--stop-at", "--check-every", "--small", "--match-hidden", "--seed"],
        ["--noise-sites", "--aim", "--student"],
    ),
    "relearn": (
        [*_DATA, "--steps", "2", "--checkpoints", "1", "--lrs", "1e-3"],
        ["--lrs", "--steps", "--checkpoints", "--batch", "--probe", "--lora-rank", "--keep-retain", "--round-bits"],
        ["--kind", "--measure"],
    ),
    "route": ([*_DATA, "--steps", "1", "--units", "4"], ["--units", "--labelled"], ["--tokens", "--joint", "--form"]),
    "score": (_DATA, ["--max-length", "--seed"], ["--model", "--forget", "--retain", "--out"]),
    "audit": ([*_DATA, "--steps", "2"], ["--seeds", "--workers"], ["--reference", "--out"]),
    "buzz": ([], ["--tossups", "--tick", "--known", "--bonus", "--seed"], ["--opponent", "--rules"]),
    "deck": (["review", "d.md", "--plain"], ["--new", "--limit", "--retention", "--now"], ["--learner", "--log", "--unlink"]),
    "quiz": (["arithmetic-tiny", "--draws", "2"], ["--threshold", "--level", "--draws"], ["--deck", "--frame", "--kind", "--out"]),
    "runs": ([], [], ["--root"]),
    "report": ([], [], ["--out"]),
    "run": (["digits-split", "--plan"], ["--seeds", "--seed"], ["--set", "--out", "--on", "--address", "--resources"]),
    "sweep": (["digits-split", "--over", "routed.code=[]"], ["--seeds"], ["--over", "--out"]),
    "oversight": (["--set", "updates=1", "episodes=8", "--share", "0.1", "--seeds", "1"], ["--share"], ["--arms", "--zzz"]),
    "doctor": ([], [], ["--model"]),
    "fetch": (["zzz"], [], ["--source"]),
    "team": ([], [], []),
    "play": (["tossups", "--plain"], ["--seed"], ["--log"]),
    "lecture": ([], [], []),
    "latent": (["page", "x"], [], ["--out"]),
    "steer": (
        ["apply", "x", "3", "--model", "arithmetic-tiny"],
        ["--index", "--dose", "--kl", "--new-tokens"],
        ["--module", "--tokens", "--save"],
    ),
    "bench": (["zzz"], [], []),
    "zzz": ([], [], []),
    "": ([], [], []),
}


def cases(rng: random.Random, place: Path) -> Iterator[Case]:
    (place / "f.jsonl").write_text(GOOD)
    (place / "r.jsonl").write_text(RETAIN)
    (place / "d.md").write_text("Q: What is 2+2?\nA: 4\n")
    while True:
        verb = rng.choice(list(VERBS))
        words, numbers, texts = list(VERBS[verb][0]), *VERBS[verb][1:]
        if words and rng.random() < 0.12:
            words.pop(rng.randrange(len(words)))
        for _ in range(rng.randint(1, 2)):
            if numbers and (rng.random() < 0.6 or not texts):
                words += [rng.choice(numbers), rng.choice(NUMBERS)]
            elif texts:
                words += [rng.choice(texts), rng.choice(TEXTS)]
            else:
                words += [rng.choice(TEXTS)]
        for old in list(place.iterdir()):
            if old.name not in ("f.jsonl", "r.jsonl", "d.md"):
                shutil.rmtree(old, ignore_errors=True) if old.is_dir() and not old.is_symlink() else old.unlink()
        yield Case([verb, *words], "words", lambda ended: _why(place))


def _why(place: Path) -> str:
    """Whether nothing that it wrote holds a number that is none."""
    for file in place.rglob("*.json*"):
        if file.name in ("result.json", "metrics.jsonl", "audit.json"):
            text = file.read_text()
            if not all(_finite(json.loads(line)) for line in (text.splitlines() if file.suffix == ".jsonl" else [text])):
                return ""
    return "it did what the words say, and every number that it wrote is finite"
