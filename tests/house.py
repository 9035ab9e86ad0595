"""The structure of the code, computed from its imports: rooms, floors, circles. ``python tests/house.py`` prints it.

A room is a folder or a loose module right below `src/sluicegate`, and each of the other distributions. A room stands
one floor above the highest one that it imports from. Imports inside functions count, and those that only the type
checker sees.
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOTS = (ROOT / "src", ROOT / "study" / "src", ROOT / "papers" / "src")


@dataclass(frozen=True)
class Import:
    """One import of one file by another."""

    source: str
    """Module that imports, in dots."""
    target: str
    line: int


def modules(roots: Iterable[Path] = ROOTS) -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(known: Mapping[str, Path]) -> Iterator[Import]:
    """Every import of a module by another, wherever it stands in the file."""
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                while target and target not in known:  # a name inside a module
                    target = target.rpartition(".")[0]
                if target and target != name:
                    yield Import(name, target, node.lineno)


def room_of(module: str) -> str:
    """The room that a module lies in."""
    parts = module.split(".")
    return module if parts[0] == "sluicegate" and len(parts) == 1 else parts[1] if parts[0] == "sluicegate" else parts[0]


def circles(arrows: Iterable[tuple[str, str]]) -> list[set[str]]:
    """Sets of nodes that reach each other (Tarjan's strongly connected components, of two nodes or more)."""
    following: dict[str, set[str]] = defaultdict(set)
    for a, b in arrows:
        following[a].add(b)
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in following[node]:
            if other not in number:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == number[node]:
            circle = set()
            while node not in circle:
                circle.add(stack.pop())
            if len(circle) > 1:
                found.append(circle)

    for node in list(following):
        if node not in number:
            visit(node)
    return found


def floors(rooms: Iterable[str], arrows: Iterable[tuple[str, str]]) -> dict[str, int]:
    """How high each room stands, the ground being 1; there must be no circle."""
    following: dict[str, set[str]] = defaultdict(set)
    for a, b in arrows:
        following[a].add(b)
    height: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in height:
            height[name] = 1 + max((of(other) for other in following[name]), default=0)
        return height[name]

    return {name: of(name) for name in rooms}


def main() -> None:
    """Print rooms by floor, and what is wrong."""
    known = modules()
    found = list(imports(known))
    between = {(room_of(i.source), room_of(i.target)) for i in found if room_of(i.source) != room_of(i.target)}
    rooms = {room_of(name) for name in known}
    for circle in circles((i.source, i.target) for i in found):
        print("circle of files:", *sorted(circle))
    if wrong := circles(between):
        for circle in wrong:
            print("circle of rooms:", *sorted(circle))
            weight = defaultdict(list)
            for i in found:
                if room_of(i.source) in circle and room_of(i.target) in circle and room_of(i.source) != room_of(i.target):
                    weight[room_of(i.source), room_of(i.target)].append(i)
            for (a, b), each in sorted(weight.items(), key=lambda pair: len(pair[1])):
                print(f"  {a} -> {b}: {len(each)}", *(f"{i.source}:{i.line}->{i.target}" for i in each[:4]))
        return
    stands = floors(rooms, between)
    for height in range(max(stands.values()), 0, -1):
        print(f"floor {height:2}", *sorted(name for name, own in stands.items() if own == height))
    print(f"{len(rooms)} rooms, {max(stands.values())} floors, {len(between)} arrows")


if __name__ == "__main__":
    main()
