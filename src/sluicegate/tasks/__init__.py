"""Tasks: packaged sources of items, and `read`, which takes them and the user's files alike."""

from sluicegate.tasks.arithmetic import Arithmetic, arithmetic
from sluicegate.tasks.sources import read, sources
from sluicegate.tasks.texts import texts

__all__ = ["Arithmetic", "arithmetic", "read", "sources", "texts"]
