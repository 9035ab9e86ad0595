from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.audit.attackers import Attacker, CannotAttack
from sluicegate.errors import UserError
from sluicegate.values.files import read_text, short

if TYPE_CHECKING:
    from sluicegate.audit.target import Target, Trace
    from sluicegate.engine.encoding import Rows
    from sluicegate.engine.scoring import Scores
    from sluicegate.values.items import Item

PLACE = "{prompt}"
TEMPLATES = (
    "Question: {prompt}\nAnswer:",
    "{prompt} {prompt}",
    "Complete this: {prompt}",
    "I used to know this. {prompt}",
    "Q: {prompt}\nA:",
    "A teacher asks: {prompt} A pupil answers:",
    "For a quiz, in a few words: {prompt}",
    "{prompt} The answer is",
)


@dataclass(frozen=True)
class Rephrase(Attacker):
    """Ask for the same fact in other ways: templates round the question, and rows of the user's that share its fact.

    Effort is the number of other ways asked. A fact is recalled where any way, the question as it stands among them,
    is answered right; its evidence is the likeliest way's.
    """

    NAME = "rephrase"
    UNIT = "other ways asked"
    SUITE = "quick"
    SOURCE = "2603.11266"

    templates: str = ""
    """File with a way to ask a line, with {prompt} in it once or more; empty: eight for English prose."""
    also: str = ""
    """Rows that ask for facts of the forget set by their fact: translations, clozes, questions of several hops."""

    def contents(self) -> dict[str, str]:
        from sluicegate.tasks import read
        from sluicegate.values.items import Item, digest

        found = {"also": digest(read(self.also))} if self.also else {}
        return found | ({"templates": digest(Item(way, "") for way in self.ways())} if self.templates else {})

    def ways(self) -> tuple[str, ...]:
        """The templates. Raises `UserError` that names a line without a place for the question."""
        if not self.templates:
            return TEMPLATES
        lines = [line.strip() for line in read_text(Path(self.templates)).splitlines()]
        for number, line in enumerate(lines, 1):
            if line and PLACE not in line:
                raise UserError(
                    f"{self.templates}, line {number}: {short(line)} has no {PLACE} where the question goes. Add it, or leave it out."
                )
        if not any(lines):
            raise UserError(f"{self.templates} holds no template. Write one a line, with {PLACE} where the question goes.")
        return tuple(dict.fromkeys(filter(None, lines)))

    def traces(self, target: "Target") -> "Iterator[Trace]":
        from sluicegate.audit.target import Trace
        from sluicegate.engine.choices import score_any

        groups = {"owned": target.owned, "held_out": target.held_out}
        if target.retain is not None:
            groups["retain"] = target.retain
        best = {name: score_any(target.model, rows, target.encoded, target.ledger) for name, rows in groups.items()}
        trace = Trace("")
        trace.add(0.0, target.reading(best, groups))
        ways = self._asked(target)
        for number, (label, ask) in enumerate(ways.items(), 1):
            target.progress(number, len(ways))
            asked = {name: [(n, new) for n, item in enumerate(groups[name].items) for new in ask(item)] for name in ("owned", "held_out")}
            try:
                rows = {name: target.encoded([item for _, item in pairs]) for name, pairs in asked.items() if pairs}
            except UserError as error:  # too long for the model, for example
                target.notes.append(f"{label} is left out: {error}")
                continue
            if not rows or any(_unknown(target, more) > _unknown(target, groups[name]) for name, more in rows.items()):
                target.notes.append(f"{label} is left out: the tokenizer cannot represent it")
                continue
            for name, more in rows.items():
                found = score_any(target.model, more, target.encoded, target.ledger)
                best[name] = _better(best[name], found, [n for n, _ in asked[name]])
            trace.add(float(len(trace.effort)), target.reading(best, groups))
        if len(trace.effort) == 1:
            raise CannotAttack(
                f"none of the {len(ways)} other ways to ask is left: {'; '.join(target.notes) or 'running text asks nothing'}."
            )
        yield trace

    def _asked(self, target: "Target") -> "Mapping[str, Callable[[Item], list[Item]]]":
        """What turns a row into other rows that ask for its fact, by what it is called."""
        from sluicegate.tasks import read

        def within(way: str) -> "Callable[[Item], list[Item]]":
            return lambda item: [_reworded(item, way)] if item.prompt else []

        ways: dict[str, Any] = {}
        if any(item.prompt for item in target.owned.items):  # running text asks nothing
            ways |= {f"the way {short(way)}": within(way) for way in self.ways()}
        if self.also:
            facts = {item.key for rows in (target.owned, target.held_out) for item in rows.items}
            others: dict[str, list[Item]] = {}
            for row in read(self.also):
                if row.prompt and row.fact in facts:
                    others.setdefault(row.fact, []).append(row)
            if not others:
                raise UserError(
                    f"no row of --also {self.also} asks for a fact of the forget set: give rows the 'fact' of the row they ask for."
                )
            for k in range(max(map(len, others.values()))):
                ways[f"row {k + 1} of a fact in {self.also}"] = lambda item, k=k: others.get(item.key, [])[k : k + 1]
        return ways

    def passes(self, owned: int, held_out: int) -> float:
        return (owned + held_out) * (1.0 + (len(self.ways())))


def _reworded(item: "Item", way: str) -> "Item":
    """The row with its question in the template; of a conversation, its last turn."""
    turns = tuple((role, way.replace(PLACE, said) if n == len(item.turns) else said) for n, (role, said) in enumerate(item.turns, 1))
    return replace(item, prompt=way.replace(PLACE, item.prompt), turns=turns)


def _unknown(target: "Target", rows: "Rows") -> float:
    """The share of rows with a token that the vocabulary does not have."""
    import torch

    real = torch.arange(rows.ids.shape[1]) < rows.lengths[:, None]
    unknown = target.tokenizer.unk_token_id
    return 0.0 if unknown is None else float(((rows.ids == unknown) & real).any(1).double().mean())


def _better(best: "Scores", found: "Scores", where: Sequence[int]) -> "Scores":
    """For each row the better of what it had and what another way, of the rows `where`, gave."""
    import torch

    index = torch.tensor(where)
    now = {name: getattr(best, name).scatter_reduce(0, index, getattr(found, name), "amax") for name in ("exact", "argmax", "probability")}
    return type(best)(**now, loss=best.loss.scatter_reduce(0, index, found.loss, "amin"))
