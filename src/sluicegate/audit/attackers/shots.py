from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluicegate.audit.attackers import Attacker, CannotAttack
from sluicegate.values.ranges import Count

if TYPE_CHECKING:
    from sluicegate.audit.target import Target, Trace
    from sluicegate.values.items import Item


@dataclass(frozen=True)
class Shots(Attacker):
    """Put facts that the attacker owns into the prompt, before the question.

    With a chat template they are earlier turns, else lines of text. An owned fact is asked with other facts before it.
    """

    NAME = "shots"
    UNIT = "shots"
    SUITE = "quick"
    SOURCE = "2606.17168"

    shots: tuple[Count, ...] = (1, 4, 16)
    """m: facts in the prompt; 0 is always tried as well."""
    draws: Count = 2
    """Draws of the facts, whose recall is averaged."""

    def traces(self, target: "Target") -> "Iterator[Trace]":
        import random

        from sluicegate.audit.target import Trace
        from sluicegate.errors import UserError

        trace = Trace("")
        trace.add(0.0, target.read())
        for m in sorted(self.shots):
            readings = []
            for number in range(self.draws):
                draw = random.Random(f"{target.seed} {m} {number}")
                try:
                    groups = [
                        target.encoded([self._asked(item, target, m, draw) for item in rows.items])
                        for rows in (target.owned, target.held_out)
                    ]
                except UserError as error:  # too long for the model
                    target.notes.append(f"{m} shots: {str(error).rpartition(': ')[2]}")
                    break
                readings.append(target.read(groups[0], groups[1]))
            if len(readings) < self.draws:
                break
            trace.add(float(m), {key: _mean([reading[key] for reading in readings]) for key in readings[0]})
        if len(trace.effort) == 1:
            raise CannotAttack(f"no shot fits into a prompt: {target.notes[-1]}")
        yield trace

    def _asked(self, item: "Item", target: "Target", m: int, draw: "random.Random") -> "Item":  # type: ignore[name-defined]  # noqa: F821
        from dataclasses import replace

        others = [row for row in target.owned.items if row.key != item.key]
        shown = draw.sample(others, min(m, len(others)))
        if target.encoded.keywords.get("template"):  # type: ignore[attr-defined]
            turns = [turn for row in shown for turn in (("user", row.prompt), ("assistant", row.answer))]
            return replace(item, turns=(*turns, *(item.turns or (("user", item.prompt),))))
        between = "" if item.text.endswith("\n") else target.between
        return replace(item, prompt="".join(row.text + between for row in shown) + item.prompt)

    def passes(self, owned: int, held_out: int) -> float:
        return (owned + held_out) * (1.0 + self.draws * sum(1 + m for m in self.shots))


def _mean(values: "list[float] | list[list[float]]") -> "float | list[float]":
    if isinstance(values[0], list):
        return [sum(own) / len(own) for own in zip(*values, strict=True)]
    return sum(values) / len(values)
