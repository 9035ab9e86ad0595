from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sluicegate.audit.attackers.full import Full

if TYPE_CHECKING:
    from sluicegate.audit.target import Target
    from sluicegate.engine.encoding import Rows


@dataclass(frozen=True)
class Mixed(Full):
    """Fine-tune all weights on owned facts and on as many retain rows, so that the model stays useful."""

    NAME = "mixed"
    NEEDS: ClassVar[tuple[str, ...]] = ("retain",)

    def rows(self, target: "Target", owned: "Rows") -> "Rows":
        return target.encoded([*owned.items, *target.retain.items[: len(owned)]])  # type: ignore[union-attr]
