"""sluicegate papers: the pages of reproductions, made from measured results."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from sluicegate.cli.command import several
from sluicegate.errors import UserError


@dataclass(frozen=True)
class Pages:
    """Make docs/papers from papers/results and papers/pages."""

    root: str = ""
    """The repository; default: the checkout that this package is installed from."""
    check: bool = False
    """Write nothing; fail where a page is not what the results give."""

    def run(self) -> int:
        from sluicegate_papers.pages import ROOT, pages

        root = Path(self.root) if self.root else ROOT
        folder = root / "docs" / "papers"
        stale = []
        for name, content in pages(root).items():
            path = folder / name
            if path.is_file() and path.read_text(encoding="utf-8") == content:
                continue
            stale.append(str(path))
            if not self.check:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
                print(path)
        if self.check and stale:
            raise UserError(f"not what the results give: {', '.join(stale)}. Run `sluicegate papers pages`.")
        return 0


@dataclass(frozen=True)
class Record:
    """Write papers/results/NAME.json from the folder of a finished experiment."""

    folder: Positional[str]
    """Folder of the experiment (the one with experiment.json)."""
    name: str = ""
    """Name of the result; default: the recipe's."""
    root: str = ""
    """The repository; default: the checkout that this package is installed from."""

    def run(self) -> int:
        from sluicegate_papers.pages import ROOT, load, record

        root = Path(self.root) if self.root else ROOT
        load(root)  # so that a wrong place is named before anything is written
        print(record(Path(self.folder), self.name, root))
        return 0


def _list() -> str:
    from sluicegate_papers.pages import ROOT

    titles = [path.read_text(encoding="utf-8").partition("\n")[0] for path in sorted((ROOT / "papers" / "pages").glob("*.md"))]
    return "\n".join(["papers:", *(f"  {title.removeprefix('# ')}" for title in titles)]) if titles else ""


PAPERS = several(
    "papers", "Make the pages of reproductions from measured results", "runs and recipes", {"pages": Pages, "record": Record}, _list
)
