"""The decks that come with the package, and where a deck that a user names is: in the working folder, or among
these."""

import os
from importlib import resources
from pathlib import Path

from sluicegate_study.errors import UserError, nearest


def list_decks() -> list[str]:
    """The names of the decks that come with the package, in alphabetical order."""
    return sorted(entry.name for entry in _folder().iterdir() if any(entry.glob("*.md")))


def path(name: str) -> Path:
    """The folder of a deck that comes with the package; it is read, never written to. Raises `UserError` for a name
    that none has."""
    if name not in list_decks():
        raise UserError(f"no deck called {name!r} comes with the program: expected one of {nearest(name, list_decks())}.")
    return _folder() / name


def find_deck(deck: str | Path) -> Path:
    """Where a deck is: `deck` as a path where something is there, else the deck of that name that comes with the
    package."""
    place = Path(deck)
    return path(str(deck)) if not place.exists() and str(deck) in list_decks() else place


def find_log(deck: str | Path) -> Path:
    """Where a deck's log is: log.jsonl in its folder, or next to its one file.

    The log of a deck that comes with the package is the user's own: ``sluicegate/decks/NAME/log.jsonl`` in
    `$XDG_DATA_HOME`, else in ``~/.local/share``."""
    place = find_deck(deck)
    folder = place if place.is_dir() else place.parent
    inside, package = folder.resolve(), _folder().resolve()
    return (_own() / inside.relative_to(package) if inside.is_relative_to(package) else folder) / "log.jsonl"


def _folder() -> Path:
    return Path(str(resources.files("sluicegate_study") / "decks"))


def _own() -> Path:
    """The user's own folder for what is kept of the decks that come with the package."""
    shared = Path(os.environ.get("XDG_DATA_HOME", "")).expanduser()
    # The XDG rule: a relative path there counts as unset.
    return (shared if shared.is_absolute() else Path.home() / ".local" / "share") / "sluicegate" / "decks"
