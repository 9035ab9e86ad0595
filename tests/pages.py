"""What stands on the pages of the documentation: blocks of code, commands, and lines of prose."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
EXCUSE = re.compile(r"<!-- (not run|slow)(?:: ([^\n]*?))? -->\n+\Z")
FILE = re.compile(r"# ([\w./-]+\.(?:py|toml|jsonl|csv|txt|md))$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""
    """``not run`` or ``slow``, where an HTML comment right above the block says so."""
    reason: str = ""

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"

    @property
    def file(self) -> str:
        """The name of the file that the block shows, where its first line is a comment with nothing but that name."""
        found = FILE.match(self.text.partition("\n")[0])
        return found[1] if found else ""

    def commands(self) -> list[list[str]]:
        """The words of every line that calls ``sluicegate``; comments are left out, and lines that end in a backslash
        joined."""
        if self.language not in ("", "sh", "bash", "console"):
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        starts = re.compile(r"(?:\$ )?(?:\S*/)?sluicegate(?:-study)? (?=-|[a-z]+\b)")
        parts = [part.strip() for line in lines for part in line.split(" && ")]
        return [shlex.split(part.removeprefix("$ "), comments=True) for part in parts if starts.match(part)]


def name(page: Path) -> str:
    """The page's path from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


def pages() -> list[Path]:
    """Every page of the repository."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        excuse = EXCUSE.search(text, 0, match.start())
        mark, reason = (excuse[1], excuse[2] or "") if excuse else ("", "")
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match["language"].strip(), match["text"], mark, reason))
    return found


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page that are neither code nor rows of a table, with their numbers."""
    inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside and not line.lstrip().startswith("|"):
            yield number, line


PAGES = pages()
