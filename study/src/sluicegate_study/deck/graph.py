"""Prerequisites: which card needs which, in what order cards can be introduced, and what is wrong with the edges."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

from sluicegate_study.deck.cards import Card, Problem


class Cycle(NamedTuple):
    """Cards that need each other in a ring, in the order of their needs; the first is named again at the end."""

    keys: tuple[str, ...]

    def __str__(self) -> str:
        keys = self.keys if len(self.keys) <= 20 else (*self.keys[:10], "...", *self.keys[-5:])
        return " -> ".join(keys)


class Graph:
    """The edges between cards that can be obeyed: those to unknown cards, and those within a ring, are left out and
    reported."""

    def __init__(self, cards: Iterable[Card]) -> None:
        self.cards: dict[str, Card] = {card.key: card for card in cards}
        named = {key: [need for need in card.needs if need in self.cards] for key, card in self.cards.items()}
        self._part = _strong_parts(named)
        self.needs: dict[str, list[str]] = {
            key: [need for need in needs if need != key and self._part[need] != self._part[key]] for key, needs in named.items()
        }
        self._named = named

    @cached_property
    def problems(self) -> list[Problem]:
        """Unknown needs, and one problem for each ring of needs."""
        found: list[Problem] = []
        for key, card in self.cards.items():
            for need in card.needs:
                if need not in self.cards:
                    message = f"card {key!r} needs {need!r}, which no card of the deck has as its id; the edge is ignored"
                    # To look for near ones takes as long as the deck is.
                    near = f"one of the ids {_near(need, self.cards)}" if len(found) < 20 else "an id of the deck"
                    found.append(Problem(card.path, card.line, f"{message}: expected {near}"))
        for cycle in self.cycles():
            card = self.cards[cycle.keys[0]]
            message = f"cards need each other in a ring, {cycle}; these edges are ignored: expected one of them to need none of the others"
            found.append(Problem(card.path, card.line, message))
        return found

    def cycles(self) -> list[Cycle]:
        """One shortest ring for each group of cards that need each other."""
        rings: list[Cycle] = []
        done: set[int] = set()
        for key in self.cards:
            part = self._part[key]
            inside = [need for need in self._named[key] if self._part[need] == part]
            if part not in done and inside:
                done.add(part)
                rings.append(Cycle(self._ring(key)))
        return rings

    def _ring(self, start: str) -> tuple[str, ...]:
        came_from: dict[str, str] = {start: ""}
        for key in (queue := [start]):
            for need in self._named[key]:
                if need == start:
                    path = [start]
                    while key:
                        path.append(key)
                        key = came_from[key]
                    return tuple(reversed(path))
                if need not in came_from and self._part[need] == self._part[start]:
                    came_from[need] = key
                    queue.append(need)
        raise AssertionError("no ring through a card of a strongly connected part")

    @cached_property
    def order(self) -> list[str]:
        """All cards, each after what it needs; otherwise in the order of the deck."""
        done: dict[str, None] = {}
        for key in self.cards:
            stack = [key]
            while stack:
                waiting = [need for need in self.needs[stack[-1]] if need not in done]
                if waiting:
                    stack += reversed(waiting)
                else:
                    done.setdefault(stack.pop())
        return list(done)

    def ancestors(self, key: str) -> list[str]:
        """Everything that a card needs, directly or not, the nearest first."""
        found: dict[str, None] = {}
        queue = [key]
        for current in queue:
            for need in self.needs[current]:
                if need not in found:
                    found[need] = None
                    queue.append(need)
        return list(found)


def _near(name: str, known: Mapping[str, object]) -> str:
    from sluicegate_study.errors import nearest

    return nearest(name, list(known)) or "(there are none)"


def _strong_parts(edges: Mapping[str, list[str]]) -> dict[str, int]:
    """A number for each node, the same for nodes that reach each other (Kosaraju 1978), without recursion."""
    finished: list[str] = []
    seen: set[str] = set()
    for root in edges:
        stack = [(root, iter(edges[root]))] if root not in seen else []
        seen.add(root)
        while stack:
            node, rest = stack[-1]
            after = next((n for n in rest if n not in seen), None)
            if after is None:
                finished.append(node)
                stack.pop()
            else:
                seen.add(after)
                stack.append((after, iter(edges[after])))
    back: dict[str, list[str]] = {node: [] for node in edges}
    for node, targets in edges.items():
        for target in targets:
            back[target].append(node)
    part: dict[str, int] = {}
    for number, root in enumerate(reversed(finished)):
        queue = [root] if root not in part else []
        for node in queue:
            if node not in part:
                part[node] = number
                queue += back[node]
    return part
