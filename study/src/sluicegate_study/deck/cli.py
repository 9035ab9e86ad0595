"""sluicegate deck: begin a deck, check it, review it, and say what is in it."""

import dataclasses
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from sluicegate.cli.command import print_json, several
from sluicegate.errors import UserError
from sluicegate_study.deck.shipped import names
from sluicegate_study.formatting import visible
from sluicegate_study.review.cli import Review, moment, you
from sluicegate_study.review.refit_cli import Refit


@dataclass(frozen=True)
class Check:
    """Name what is wrong with a deck, and what to look at.

    Errors are left out of the deck and give exit status 1. Findings of the lint are things to look at, never a score."""

    deck: Positional[str]
    """Folder of Markdown files, one file, or the name of a deck that comes with sluicegate."""
    no_lint: bool = False
    """Leave out the things to look at (one inferential step, symbols, angles)."""
    json: bool = False
    """Print problems and findings as the last line."""

    def run(self) -> int:
        from sluicegate_study.deck.collection import load_deck
        from sluicegate_study.deck.lint import lint

        deck = load_deck(self.deck)
        findings = [] if self.no_lint else lint(deck)
        for said in [*map(str, deck.problems), *map(str, findings)]:
            print(visible(said).replace("\n", " "))
        errors = sum(problem.severity == "error" for problem in deck.problems)
        told = f"{_count(errors, 'error')}, {_count(len(deck.problems) - errors, 'warning')}, {_count(len(findings), 'thing')} to look at"
        print(f"{_contents(deck)}: {told}")
        if self.json:
            print_json(
                {
                    **_counts(deck),
                    "problems": [vars(problem) for problem in deck.problems],
                    "findings": [{**vars(found), "hint": found.hint, "more_than_one_step": found.more_than_one_step} for found in findings],
                }
            )
        return 1 if errors else 0


@dataclass(frozen=True)
class New:
    """Begin a deck: write a small one with an entry of every kind, to be changed."""

    folder: Positional[str]
    """Folder to write deck.md into; made where it is missing. A deck.md that is there is left as it is."""
    json: bool = False
    """Print the file's place as the last line."""

    def run(self) -> int:
        from sluicegate_study.deck.starter import STARTER

        folder = Path(self.folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{self.folder!r} is a file: expected a folder, there or not. Choose another name.")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "deck.md"
        name = json.dumps(folder.resolve().name)[1:-1]
        try:
            with path.open("x", encoding="utf-8") as out:
                out.write(STARTER.replace("{name}", name).replace("{folder}", str(folder)))
        except FileExistsError:
            raise UserError(f"{str(path)!r} is there already and is left as it is. Choose another folder.") from None
        print(f"{path}\nnext: sluicegate deck check {folder}")
        if self.json:
            print_json({"path": str(path)})
        return 0


@dataclass(frozen=True)
class Stats:
    """Say what a deck holds, by topic and by category, and how far a learner is."""

    deck: Positional[str]
    """Folder of Markdown files, one file, or the name of a deck that comes with sluicegate."""
    learner: str = ""
    """Whose memory; default: person: and your login name."""
    log: str = ""
    """File of the reviews; default: log.jsonl with the deck."""
    now: str = ""
    """Look at this time, as 2026-11-22T19:00:00Z, instead of now."""
    json: bool = False
    """Print the numbers as the last line."""

    def run(self) -> int:
        from sluicegate_study.deck.collection import load_deck
        from sluicegate_study.review.progress import progress, stated
        from sluicegate_study.review.sitting import Sitting, log_of

        deck = load_deck(self.deck)
        topics = Counter(card.topic or "(none)" for card in deck.cards)
        categories = Counter(entry.category or deck.head_of(entry).category or "(none)" for entry in deck.entries)
        numbers: dict[str, Any] = {**_counts(deck), "topics": dict(topics.most_common()), "categories": dict(categories.most_common())}
        print(_contents(deck))
        for title, counted in (("topic", topics), ("category", categories)):
            for name, count in counted.most_common():
                print(f"  {title} {visible(name)}: {count}")
        path = Path(self.log) if self.log else log_of(self.deck)
        if path.exists():
            sitting = Sitting(deck, path, self.learner or you(), root=self.deck)
            numbers["progress"] = progress(sitting, moment(self.now))
            print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in numbers["progress"].items() if name != "slow"))
            numbers["calibration"] = _calibration(stated(sitting))
            for key, seconds in numbers["progress"]["slow"]:
                print(f"  slow: {visible(key)} takes {seconds:.0f} s (median): more than one step?")
        if self.json:
            print_json(numbers)
        return 0


@dataclass(frozen=True)
class Export:
    """Write a deck for another program: .tsv, .apkg (Anki), .jsonl (for training), .json (everything)."""

    deck: Positional[str]
    """Folder of Markdown files, one file, or the name of a deck that comes with sluicegate."""
    out: Positional[str]
    """File to write; its ending says the format."""
    force: bool = False
    """Write over a file that is there."""
    json: bool = False
    """Print the file's place and the number of questions as the last line."""

    def run(self) -> int:
        from sluicegate_study.deck.collection import load_deck
        from sluicegate_study.deck.exporting import export

        deck = load_deck(self.deck)
        path = export(deck, Path(self.out), force=self.force)
        count = len(deck.questions())
        if errors := sum(problem.severity == "error" for problem in deck.problems):
            print(f"{_count(errors, 'error')} in the deck, left out: sluicegate deck check {self.deck}")
        print(f"{path}: {_count(count, 'question')}")
        if self.json:
            print_json({"path": str(path), "questions": count})
        return 0


@dataclass(frozen=True)
class Import:
    """Read a deck of another program into Markdown: an Anki package (.apkg, .colpkg), or a saved qbreader file (.json)."""

    file: Positional[str]
    """File to read. What is not safe or not whole is refused, and nothing written."""
    folder: Positional[str]
    """Folder to write into, as NAME.md; a file that is there is left as it is."""
    json: bool = False
    """Print what was written as the last line."""

    def run(self) -> int:
        from sluicegate_study.deck.collection import save_file
        from sluicegate_study.deck.importing import read_foreign

        source, folder = Path(self.file), Path(self.folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{self.folder!r} is a file: expected a folder, there or not. Choose another name.")
        got = read_foreign(source)
        if not got.file.entries:
            raise UserError(f"{self.file!r} holds nothing that could become an entry ({got.skipped} skipped); nothing was written.")
        path = folder / f"{source.stem}.md"
        save_file(got.file, path)
        print(f"{visible(str(path))}: {len(got.file.entries)} entries; {got.skipped} skipped (empty, or there twice)")
        print(f"next: sluicegate deck check {folder}")
        if self.json:
            print_json({"path": str(path), "entries": len(got.file.entries), "skipped": got.skipped})
        return 0


def _calibration(said: list[Any]) -> dict[str, Any]:
    """Print how far stated confidence can be trusted, in all and by category; the numbers, nothing where none was stated."""
    from sluicegate_study.judge.calibration import by_category, calibration

    if not said:
        return {}
    parts = by_category(said)
    found = {"all": calibration(said), **({f"category {name or '(none)'}": part for name, part in parts.items()} if len(parts) > 1 else {})}
    for name, c in found.items():
        between = "" if math.isnan(c.over.low) else f" (95 %: {c.over.low:+.2f} to {c.over.high:+.2f})"
        told = f"confidence less share right {c.over.value:+.2f}{between}, Brier {c.brier.value:.3f}"
        print(f"calibration, {visible(name)}: {c.verdict}; {told}, {_count(c.questions, 'question')}")
    return {name: _plain(dataclasses.asdict(c)) for name, c in found.items()}


def _plain(value: Any) -> Any:
    """The same with null for what is no number, as JSON wants it."""
    if isinstance(value, dict):
        return {key: _plain(inside) for key, inside in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _counts(deck: Any) -> dict[str, int]:
    counts = {"files": len(deck.files), "cards": len(deck.cards), "questions": len(deck.questions())}
    return {**counts, "tossups": len(deck.tossups), "bonuses": len(deck.bonuses)}


def _contents(deck: Any) -> str:
    words = {"files": "file", "cards": "card", "questions": "question", "tossups": "tossup", "bonuses": "bonus"}
    return ", ".join(_count(number, words[name]) for name, number in _counts(deck).items())


def _count(number: int, word: str) -> str:
    return f"{number} {word if number == 1 else word + ('es' if word.endswith('s') else 's')}"


ACTIONS: dict[str, type[Any]] = {
    "new": New,
    "check": Check,
    "review": Review,
    "stats": Stats,
    "refit": Refit,
    "export": Export,
    "import": Import,
}


DECK = several(
    "deck",
    "Begin, check and review a deck of flash cards and tossups",
    "study",
    ACTIONS,
    lambda: f"decks that come with sluicegate: {', '.join(names())}",
)
