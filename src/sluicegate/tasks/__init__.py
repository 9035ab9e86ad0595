"""Tasks: packaged sources of items, and `read`, which takes them and the user's files alike."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from sluicegate import items
from sluicegate.errors import UserError, nearest
from sluicegate.items import Item
from sluicegate.tasks.arithmetic import Arithmetic, arithmetic
from sluicegate.tasks.biographies import ANGLES, Biographies, biographies
from sluicegate.tasks.texts import PREFIX, texts
from sluicegate.tasks.texts import read as read_text

__all__ = ["Arithmetic", "Biographies", "arithmetic", "biographies", "read", "sources", "texts"]


def sources() -> dict[str, Callable[[], tuple[Item, ...]]]:
    """The packaged sources, by the name that stands for a file: ``task:arithmetic/forget``."""
    data = Path(str(resources.files("sluicegate") / "tasks" / "data"))
    found: dict[str, Callable[[], tuple[Item, ...]]] = {
        "task:arithmetic/forget": lambda: arithmetic().split().forget,
        "task:arithmetic/retain": lambda: arithmetic().split().retain,
        "task:arithmetic/unlabelled": lambda: arithmetic().split().unlabelled,
        "task:arithmetic/text": lambda: arithmetic().text(),
    }
    for label in ("add", "subtract", "multiply", "divide"):
        found[f"task:arithmetic/{label}"] = lambda label=label: arithmetic().only(label)  # type: ignore[misc]
    for group in ("forget", "retain", "unlabelled"):
        found[f"task:biographies/{group}"] = lambda group=group: biographies().split().group(group)  # type: ignore[misc]
    for count in (6, 48):
        for group in ("forget", "retain"):
            found[f"task:biographies-{count}/{group}"] = lambda count=count, group=group: biographies(count=count).split().group(group)  # type: ignore[misc]
    for group in ("forget", "retain", "adjacent"):
        found[f"task:biographies-city/{group}"] = lambda group=group: biographies("city").split().group(group)  # type: ignore[misc]
    for angle in ANGLES:
        found[f"task:biographies/angle-{angle}"] = lambda angle=angle: biographies().angle(angle)  # type: ignore[misc]
    found["task:biographies/text"] = lambda: biographies().text()
    for group in ("forget", "retain", "unlabelled"):
        found[f"task:texts/{group}"] = lambda group=group: texts().group(group)  # type: ignore[misc]
    for group in ("forget", "retain"):
        path = data / f"facts_{group}.jsonl"
        found[f"task:facts/{group}"] = lambda path=path: items.read(path)  # type: ignore[misc]
    return found


def read(source: str, label: str = "") -> tuple[Item, ...]:
    """Read items from a packaged source, a file or the hub; several are joined by commas. ``texts:FILE`` is a file in passages.

    Raises `UserError` for a name that is none of them, and for malformed rows.
    """
    rows: list[Item] = []
    for name in source.split(","):
        name = name.strip()
        if name.startswith("task:"):
            known = sources()
            if name not in known:
                raise UserError(f"no packaged source {name!r}. Nearest: {nearest(name, sorted(known), most=8)}.")
            rows += known[name]()
        elif name.startswith(PREFIX):
            rows += read_text(name, label)
        else:
            rows += items.read(name, label)
    return tuple(rows)
