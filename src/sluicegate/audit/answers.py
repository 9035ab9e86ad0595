"""Every held-out fact after every attack, one row each, as a Parquet file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.values.items import Item

if TYPE_CHECKING:
    from sluicegate.audit.target import Attacked

COLUMNS = ("model", "attacker", "seed", "fact", "question", "answer", "effort", "before", "evidence", "exact")
"""before, evidence: how likely the fact is before the attack and at that effort, in nats a token or the attacker's own
measure; exact: the share of its questions that are then answered exactly, null where the attacker does not say."""


def rows_of(attacked: "Mapping[str, Mapping[str, Sequence[Attacked]]]", forget: Sequence[Item]) -> list[tuple[Any, ...]]:
    """The rows, as `COLUMNS` names their entries: all models at the effort at which the audited one recalls most."""
    first = {item.key: item for item in reversed(forget)}
    found: list[tuple[Any, ...]] = []
    for arm, by_attacker in attacked.items():
        for name, each in by_attacker.items():
            top = attacked.get("model", {}).get(name, each)
            means = [sum(column) for column in zip(*(one.held_out.recall[0] for one in top), strict=True)]
            at = means.index(max(means))
            for one in each:
                exact = one.exact[at] if one.exact else [None] * len(one.facts)
                for fact, before, evidence, right in zip(one.facts, one.evidence[0], one.evidence[at], exact, strict=True):
                    item = first[fact]
                    found.append(
                        (arm, name, one.held_out.seeds[0], fact, item.prompt, item.answer, one.held_out.effort[at], before, evidence, right)
                    )
    return found


def write_answers(attacked: "Mapping[str, Mapping[str, Sequence[Attacked]]]", forget: Sequence[Item], path: Path) -> None:
    """Write the rows to `path`."""
    import pyarrow
    import pyarrow.parquet

    columns = list(zip(*rows_of(attacked, forget), strict=True)) or [()] * len(COLUMNS)
    pyarrow.parquet.write_table(pyarrow.table(dict(zip(COLUMNS, map(list, columns), strict=True))), path)
