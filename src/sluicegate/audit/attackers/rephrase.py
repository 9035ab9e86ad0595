from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
    """File with a way to ask a line, with {prompt} in it once or more; empty: six for English prose."""
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
        lines = [line.strip() for line in read_text(Path(self.templates)).splitlines() if line.strip()]
        for line in lines or [""]:
            if PLACE not in line:
                raise UserError(
                    f"{self.templates}: {short(line)} has no {PLACE} where the question goes. Write a template a line, with it."
                )
        return tuple(dict.fromkeys(lines))

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
                if any(_unknown(target, more) > _unknown(target, groups[name]) for name, more in rows.items()):
                    raise UserError("the tokenizer cannot represent it.")
            except UserError as error:  # too long for the model, for example
                target.notes.append(f"{label} is left out: {error}")
                continue
            for name, more in rows.items():
                found = score_any(target.model, more, target.encoded, target.ledger)
                best[name] = _better(best[name], found, [n for n, _ in asked[name]])
            trace.add(float(len(trace.effort)), target.reading(best, groups))
        if len(trace.effort) == 1:
            raise CannotAttack(f"no way to ask is left of {len(ways)}: {' '.join(target.notes) or 'running text asks nothing.'}")
        yield trace

    def _asked(self, target: "Target") -> "Mapping[str, Callable[[Item], list[Item]]]":
        """What turns a row into other rows that ask for its fact, by what it is called."""
        from sluicegate.tasks import read

        facts, others = {item.key for rows in (target.owned, target.held_out) for item in rows.items}, defaultdict(list)
        ways: dict[str, Any] = {}
        if any(item.prompt for item in target.owned.items):  # running text asks nothing
            ways |= {f"the way {short(way)}": partial(_reworded, way) for way in self.ways()}
        for row in read(self.also) if self.also else ():
            if row.prompt and row.fact in facts:
                others[row.fact].append(row)
        if self.also and not others:
            raise UserError(f"no row of --also {self.also} asks for a fact of the forget set: give rows the 'fact' that they ask for.")
        for k in range(max(map(len, others.values()), default=0)):
            ways[f"row {k + 1} of a fact in {self.also}"] = lambda item, k=k: others[item.key][k : k + 1]
        return ways

    def passes(self, owned: int, held_out: int) -> float:
        return (owned + held_out) * (1.0 + len(self.ways()))


def _reworded(way: str, item: "Item") -> "list[Item]":
    """The row with its question in the template; of a conversation, its last turn."""
    turns = tuple((role, way.replace(PLACE, said) if n == len(item.turns) else said) for n, (role, said) in enumerate(item.turns, 1))
    return [replace(item, prompt=way.replace(PLACE, item.prompt), turns=turns)] if item.prompt else []


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
