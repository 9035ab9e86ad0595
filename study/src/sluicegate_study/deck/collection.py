"""A deck on the disk: a folder of Markdown files, or one file."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from sluicegate_study.deck.appending import open_locked
from sluicegate_study.deck.cards import Card, Deck, DeckFile, Entry, Head, Problem
from sluicegate_study.deck.graph import Graph
from sluicegate_study.deck.markdown import read_markdown, write_markdown
from sluicegate_study.deck.shipped import find_deck, list_decks
from sluicegate_study.errors import UserError, program
from sluicegate_study.files import read_file


def load_deck(path: str | Path) -> Deck:
    """Read every .md file under a folder (hidden ones aside), or one file; or a deck that comes with the package, by
    its name.

    What cannot be read is left out and named in `Deck.problems`, with prerequisites that are unknown or go round in a
    ring. Raises `UserError` where there is nothing at `path`, or no Markdown file in it."""
    root = find_deck(path)
    if root.is_dir():
        paths = [
            p for p in sorted(root.rglob("*.md")) if p.is_file() and not any(part.startswith(".") for part in p.relative_to(root).parts)
        ]
        if not paths:
            raise UserError(
                f"no deck in {str(root)!r}: expected Markdown files (*.md) in this folder. A first one: {program()} deck new {root}"
            )
    elif root.is_file():
        paths = [root]
    else:
        expected = f"expected a folder of Markdown files, one file, or a deck that comes with the program ({', '.join(list_decks())})"
        raise UserError(f"no deck {str(root)!r}: {expected}. To begin one: {program()} deck new {root}")
    files: list[DeckFile] = []
    problems: list[Problem] = []
    for found in paths:
        text, wrong = _decode(found)
        file, more = read_markdown(text, str(found))
        files.append(file)
        problems += [*wrong, *more]
    if not problems and not any(file.entries for file in files):
        expected = "expected lines that begin with Q:, C:, T: or B:. Another program's file: deck import"
        problems.append(Problem(files[0].path, 1, f"no entry {'in it' if len(files) == 1 else 'in any file'}: {expected}", "warning"))
    return make_deck(root.stem if root.is_file() else root.resolve().name, files, problems)


def make_deck(name: str, files: list[DeckFile], problems: list[Problem] | None = None) -> Deck:
    """A deck of files: entries with an id or a text that was there before are left out, and prerequisites are
    checked."""
    found = list(problems or [])
    kept: list[DeckFile] = []
    first: dict[str, Entry] = {}
    for file in files:
        entries = []
        for entry in file.entries:
            other = first.setdefault(entry.key, entry)
            if other is entry:
                entries.append(entry)
            elif entry.id:
                message = f"the id {entry.id!r} is taken by {other.path}:{other.line}; this entry is left out: expected another id"
                found.append(Problem(entry.path, entry.line, message))
            else:
                message = f"the same text as {other.path}:{other.line}; this one is left out: expected each text once"
                found.append(Problem(entry.path, entry.line, message, "warning"))
        kept.append(dataclasses.replace(file, entries=tuple(entries)))
    deck = Deck(name, tuple(kept))
    found += Graph(deck.cards).problems
    cards = {card.key for card in deck.cards}
    for tossup in deck.tossups:
        for need in tossup.cards:
            if need not in cards:
                message = f"cards: names {need!r}, which no card of the deck has as its id: expected the id of a card"
                found.append(Problem(tossup.path, tossup.line, message, "warning"))
    places = {file.path: n for n, file in enumerate(files)}
    found.sort(key=lambda problem: (places.get(problem.path, 0), problem.line))
    return dataclasses.replace(deck, problems=tuple(found))


def save_file(file: DeckFile, path: Path) -> None:
    """Write one file of a deck, never over another. Raises `UserError` where `path` is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
            out.write(write_markdown(file))
    except FileExistsError:
        raise UserError(f"{str(path)!r} is there already and is left as it is. Choose another place, or move it away first.") from None


def add_cards(path: Path, head: Head, choose: Callable[[list[Entry]], Sequence[Card]]) -> int:
    """Add cards to the end of a deck file, and return how many; a new file begins with `head`. What is there is left as
    it is.

    `choose` gets the entries that are there and returns the cards to add; no other program adds any meanwhile."""
    with open_locked(path) as file:
        file.seek(0)
        before = file.read().decode("utf-8", "replace")
        cards = choose(list(read_markdown(before)[0].entries))
        if cards:
            gap = "" if not before or before.endswith("\n\n") else "\n" if before.endswith("\n") else "\n\n"
            text = gap + write_markdown(DeckFile(Head() if before.strip() else head, tuple(cards)))
            file.write(text.encode("utf-8", "backslashreplace"))
        return len(cards)


def _decode(path: Path) -> tuple[str, list[Problem]]:
    content = read_file(path, "the deck's file")
    try:
        return content.decode("utf-8"), []
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        problem = Problem(
            str(path), line, f"byte {content[error.start]:#04x} is not UTF-8 and is shown as \ufffd: expected a file saved as UTF-8"
        )
        return content.decode("utf-8", "replace"), [problem]
