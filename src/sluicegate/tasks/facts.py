"""Well-known facts to forget and to keep, as prompts and answers: small files in the package."""

from importlib import resources
from pathlib import Path

from sluicegate.values import items
from sluicegate.values.items import Sources


def sources() -> Sources:
    """``task:facts/forget`` and ``task:facts/retain``."""
    data = Path(str(resources.files("sluicegate") / "tasks" / "data"))
    return {f"task:facts/{group}": lambda group=group: items.load(data / f"facts_{group}.jsonl")[0] for group in ("forget", "retain")}  # type: ignore[misc]
