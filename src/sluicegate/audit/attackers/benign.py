from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sluicegate.audit.attackers.full import Full

if TYPE_CHECKING:
    from sluicegate.audit.target import Target
    from sluicegate.engine.encoding import Rows


@dataclass(frozen=True)
class Benign(Full):
    """Fine-tune all weights on harmless rows: text of the user's at some distance from the facts, or retain rows.

    It is shown none of the facts, so what comes back was there.
    """

    NAME = "benign"
    SOURCE = "2406.13356, 2506.15699"
    NEEDS: ClassVar[tuple[str, ...]] = ("retain",)

    text: str = ""
    """Rows to train on, in any format that data is read in; empty: the retain rows."""

    def contents(self) -> dict[str, str]:
        from sluicegate.tasks import read
        from sluicegate.values.items import digest

        return {"text": digest(read(self.text))} if self.text else {}

    def rows(self, target: "Target", owned: "Rows") -> "Rows":
        from sluicegate.tasks import read

        return target.encoded(read(self.text)) if self.text else target.retain  # type: ignore[return-value]
