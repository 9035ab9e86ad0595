"""Sources of items: names such as ``task:arithmetic/forget`` (packaged, or a plug-in's), files, and the hub."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from sluicegate.errors import UserError, nearest
from sluicegate.registry import from_elsewhere, modules
from sluicegate.tasks.texts import PREFIX
from sluicegate.tasks.texts import read as read_text
from sluicegate.values import items
from sluicegate.values.items import Item


def sources() -> dict[str, Callable[[], tuple[Item, ...]]]:
    """Items by the name that stands for a file, as every module in a folder ``tasks`` offers by `sources`."""
    found: dict[str, Callable[[], tuple[Item, ...]]] = {}
    for module in modules("tasks"):
        if module.__name__ != __name__ and callable(own := vars(module).get("sources")) and own.__module__ == module.__name__:
            found |= own()
    return found


def read(source: str, label: str = "", columns: str | Mapping[str, str] = "") -> tuple[Item, ...]:
    """Read items from a packaged source, a file (``texts:FILE``: in passages) or the hub; several are joined by commas.

    `columns` says what is read from which column (see `items.read`). Raises `UserError` for a name that is none of
    them, and for malformed rows.
    """
    named = tuple(items.columns_of(columns).items())
    return tuple(item for name in source.split(",") for item in _read_one(name.strip(), label, named, _stamp(name)))


def _stamp(name: str) -> tuple[str, int, int] | None:
    """Which file this is and in which state; None where there is none to look at, as reading it will say."""
    try:
        path = Path(name.strip().removeprefix(PREFIX).strip()).expanduser().absolute()
        return str(path), path.stat().st_size, path.stat().st_mtime_ns
    except (OSError, ValueError, RuntimeError):
        return None


@lru_cache(maxsize=16)
def _read_one(name: str, label: str, columns: tuple[tuple[str, str], ...], stamp: tuple[str, int, int] | None) -> tuple[Item, ...]:
    """One source, once a process while its file has this `stamp`: stages that share it do not read it again."""
    if name.startswith("task:"):
        known = sources()
        if name not in known:
            where = from_elsewhere("task", name.removeprefix("task:").partition("/")[0])
            raise UserError(f"no packaged source {name!r}.{where} Nearest: {nearest(name, sorted(known), most=8)}.")
        return known[name]()
    if name.startswith(PREFIX):
        return read_text(name, label)
    return items.read(name, label, dict(columns))
