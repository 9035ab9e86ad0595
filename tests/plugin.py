"""The plug-in that docs/extending.md shows, installed as another distribution's."""

from pathlib import Path

from pages import ROOT, blocks
from sluicegate import registry


def install(folder: Path, name: str, entry: str, files: dict[str, str]) -> None:
    """Write a distribution into `folder`, which stands on the path of modules: its files, and its entry point."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {entry}\n")


def documented() -> dict[str, str]:
    """The files of the plug-in, as the page shows them."""
    shown = {block.file: block.text for block in blocks(ROOT / "docs" / "extending.md") if block.file.startswith("sluicegate_mine/")}
    return {"sluicegate_mine/__init__.py": "", **shown}
