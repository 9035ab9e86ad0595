"""What ``deck`` does with the files of a deck: begin one, check it, export it, import it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from sluicegate_study.command import print_json
from sluicegate_study.errors import UserError, program
from sluicegate_study.formatting import escape_controls, format_count

if TYPE_CHECKING:
    from sluicegate_study.deck.cards import Deck


def open_deck(path: str) -> "Deck":
    """Read a deck, and print how many errors are in it: what they are in is left out. Raises `UserError` where nothing
    is left."""
    from sluicegate_study.deck.collection import load_deck

    deck = load_deck(path)
    if deck.errors:
        print(f"{format_count(deck.errors, 'error')} in the deck, left out: {program()} deck check {path}")
    if not deck.entries:
        raise UserError(f"{path!r} holds no entry: expected Q:, C:, T: or B: at the start of a line. Begin one with: {program()} deck new")
    return deck


@dataclass(frozen=True)
class Check:
    """Name what is wrong with a deck, and what to look at.

    Errors are left out of the deck and give exit status 1. Findings of the lint are things to look at, never a
    score."""

    deck: Positional[str]
    """Folder of Markdown files, one file, or the name of a deck that comes with the program."""
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
            print(escape_controls(said).replace("\n", " "))
        warnings = format_count(len(deck.problems) - deck.errors, "warning")
        print(f"{deck.describe()}: {format_count(deck.errors, 'error')}, {warnings}, {format_count(len(findings), 'thing')} to look at")
        if self.json:
            print_json(
                {
                    **deck.count(),
                    "problems": [vars(problem) for problem in deck.problems],
                    "findings": [{**vars(found), "hint": found.hint, "more_than_one_step": found.more_than_one_step} for found in findings],
                }
            )
        return 1 if deck.errors else 0


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
            with path.open("x", encoding="utf-8", errors="backslashreplace") as out:
                out.write(STARTER.replace("{name}", name).replace("{folder}", str(folder)).replace("{program}", program()))
        except FileExistsError:
            raise UserError(f"{str(path)!r} is there already and is left as it is. Choose another folder.") from None
        print(f"{path}\nnext: {program()} deck check {folder}")
        if self.json:
            print_json({"path": str(path)})
        return 0


@dataclass(frozen=True)
class Export:
    """Write a deck for another program: .tsv, .apkg (Anki), .jsonl (for training), .json (everything)."""

    deck: Positional[str]
    """Folder of Markdown files, one file, or the name of a deck that comes with the program."""
    out: Positional[str]
    """File to write; its ending says the format."""
    force: bool = False
    """Write over a file that is there."""
    json: bool = False
    """Print the file's place and the number of questions as the last line."""

    def run(self) -> int:
        from sluicegate_study.deck.exporting import export

        deck = open_deck(self.deck)
        path = export(deck, Path(self.out), force=self.force)
        count = len(deck.questions())
        print(f"{path}: {format_count(count, 'question')}")
        if self.json:
            print_json({"path": str(path), "questions": count})
        return 0


@dataclass(frozen=True)
class Import:
    """Read a deck of another program into Markdown: an Anki package (.apkg, .colpkg), or a saved qbreader file
    (.json)."""

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
            some = "; ".join(got.left_out[:3])
            raise UserError(f"{self.file!r} holds nothing that could become an entry ({got.skipped} skipped); nothing was written. {some}")
        path = folder / f"{source.stem}.md"
        save_file(got.file, path)
        for said in got.left_out:
            print(escape_controls(f"left out: {said}"))
        if got.lost:
            print(f"not read: {got.lost}")
        print(f"{escape_controls(str(path))}: {len(got.file.entries)} entries; {got.skipped} skipped")
        print(f"next: {program()} deck check {folder}")
        if self.json:
            more = {"skipped": got.skipped, "left_out": got.left_out, "lost": got.lost}
            print_json({"path": str(path), "entries": len(got.file.entries), **more})
        return 0
