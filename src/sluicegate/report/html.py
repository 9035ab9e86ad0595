"""The pages: fill a template, and write one file that needs nothing else and opens from disk."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.report import formatting
from sluicegate.report.formatting import written
from sluicegate.runs.directory import write_atomic

if TYPE_CHECKING:
    from markupsafe import Markup


def render(template: str, package: str = "sluicegate", **content: Any) -> str:
    """Fill a template, named by its path in `package` (or in this one); everything handed in is escaped but what is
    `|safe` there."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader(name, "") for name in dict.fromkeys((package, "sluicegate"))])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    own: dict[str, Any] = {kind: partial(written, kind=kind) for kind in ("share", "plain", "times", "flops", "count", "measure")}
    environment.filters.update(own, size=formatting.flops, breakable=breakable)
    return environment.get_template(template).render(**content)


def breakable(name: str) -> "Markup":
    """A name that may go on in the next line after its punctuation."""
    from markupsafe import Markup, escape

    return Markup("").join(Markup("{}<wbr>").format(part) if part in "_-./" else escape(part) for part in name)


@dataclasses.dataclass(frozen=True)
class Link:
    """Another page that a page names at its end."""

    href: str
    """Where it is, from the page's own folder."""
    title: str
    about: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The answer to one question, as pages and terminals show it."""

    question: str
    arms: str
    """The arm it is about, or those that are compared."""
    verdict: str
    numbers: tuple[str, ...] = ()
    """What it rests on, each number with its name."""

    def __str__(self) -> str:
        arms = f"{self.arms}: " if self.arms else ""
        return f"{self.question} {arms}{self.verdict}." + (f" ({'; '.join(self.numbers)})" if self.numbers else "")


def write_page(path: Path, page: str) -> Path:
    """Write a page to `path`, making the folders above it, and return `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
    return path
