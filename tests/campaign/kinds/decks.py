"""Decks in Markdown."""

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from campaign.bounded import Ended
from campaign.inputs import Case
from campaign.mutate import damaged

PARTS = [
    *(
        "Q: ",
        "A: ",
        "C: ",
        "T: ",
        "B: ",
        "ANSWER: ",
        "[10e] ",
        "needs: a,b",
        "id: x",
        "id: x y",
        "---",
        "+++",
        'deck = "x"',
        "[deletion]",
        "[[",
    ),
    *(
        "]]",
        "\\[",
        "(*)",
        "why: ",
        "accept: a or b",
        "prompt: ",
        "reject: ",
        "category: History",
        "cards: a",
        "allow: x",
        "{{c1::x}}",
        "\t",
    ),
    *("<script>alert(1)</script>", "\x1b[2J", "é́\u202e", "\x00", "needs: x", "tags: a", "Q :", "q: ", "```", "D: "),
]
SPECIAL = [
    *("Q: " + "[" * 50_000 + "\nA: x\n", "C: " + "[a]" * 5_000 + "\n", "T: " + "a (*) " * 3_000 + "\nANSWER: " + "(a or " * 3_000),
    "\n".join(f"Q: q{j}\nA: a\nid: k{j}\nneeds: k{j + 1}\n" for j in range(3_000)),
    *(
        "T: clue\nANSWER: " + "[" * 20_000 + "accept x; " * 2_000 + "]" * 20_000 + "\n",
        "Q: a\nA: b\nid: a\nneeds: a\n",
        "",
        "no cards here\n",
    ),
    *(
        "T: clue\nANSWER: a" + " " * 5_000 + "b\n",
        "Q: a\nA: " + "`" * 20_000,
        "C: " + "[" * 20_000 + "a" + "]" * 20_000,
        "Q: a\nA: b\n\n" * 3_000,
    ),
]
VERBS = [
    *(
        ["check", "d.md"],
        ["check", "d.md", "--json"],
        ["check", "d.md", "--json"],
        ["export", "d.md", "o.json"],
        ["export", "d.md", "o.tsv"],
    ),
    *(["export", "d.md", "o.jsonl"], ["export", "d.md", "o.apkg"], ["stats", "d.md"], ["review", "d.md", "--plain", "--log", "o.log"]),
]


def cases(rng: random.Random, place: Path) -> Iterator[Case]:
    import sluicegate_study

    shipped = [path.read_bytes() for path in sorted((Path(sluicegate_study.__file__).parent / "decks").rglob("*.md"))]
    number = 0
    while True:
        if number < 2 * len(SPECIAL):
            data, verb = SPECIAL[number // 2].encode(), VERBS[1] if number % 2 else ["stats", "d.md"]
        elif rng.random() < 0.5:
            data, verb = damaged(rng.choice(shipped)[: rng.randint(100, 6000)], rng), rng.choice(VERBS)
        else:
            lines = (
                rng.choice(PARTS) + rng.choice(["", "text", " ", "1"]) + rng.choice(["\n", "\n\n", ""]) for _ in range(rng.randint(1, 25))
            )
            data, verb = "".join(lines).encode(), rng.choice(VERBS)
        for old in place.glob("o*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        (place / "d.md").write_bytes(data)
        yield Case(["deck", *verb], f"{len(data):,} bytes", lambda ended, data=data, verb=verb: _why(data, verb, ended))
        number += 1


def _why(data: bytes, verb: list[str], ended: Ended) -> str:
    """Whether it is text, and every opener of a card became a card or was named."""
    if re.search(r"^\d+ errors? in the deck, left out: ", ended.text, re.M):
        return "the number of errors is said first, and where they are named; the rest goes on"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""
    if verb[-1] != "--json":
        return (
            "UTF-8 text with at least one card"
            if re.search(r"^(Q|C|T|B|D):", text, re.M) or re.search("no card|0 cards", ended.text)
            else ""
        )
    said = json.loads(ended.text.strip().splitlines()[-1])
    openers = len(re.findall(r"^(?:Q|C|T|B): *\S", text, re.M))
    if said["problems"] or said["findings"] or openers <= said["cards"] + said["tossups"] + said["bonuses"]:
        return "every line that opens a card became one, or was named"
    return ""
