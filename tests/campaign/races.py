"""Have several processes do the same, or the opposite, with one run folder at once, and look at what is there after.

They meet at a barrier: before they begin, or where each has looked at the folder and is about to take it. Each must end
with status 0, or with 2 and a sentence; where a run is started, one at least must do it. After that the command is
run once more, and all that is there must be, bit for bit, what it is after a run that was alone.
"""

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from campaign.children import Moments, difference, end_of, said, snapshot, start, wait_for_offspring, warm
from campaign.kills import IN, RECIPE, ROWS, Kinds, prepare

TRAIN = ("train", "--model", f"{IN}/model", *ROWS, "--batch", "8", "--steps", "4", "--out", "r")
OTHER = (*TRAIN, "--lr", "1e-4")
REMOVE = ("runs", "rm", "r")
LIST = ("runs", "ls", "--root", ".")
RUN = ("run", "mini.toml", "--out", "r")
SCORE = ("score", "--model", "r", *ROWS, "--out", "s")


@dataclass(frozen=True)
class Kind:
    """What races."""

    each: tuple[tuple[str, ...], ...]
    """The command of each process."""
    found: str = ""
    """What the folder is before: "" nothing, "begun" a run that was killed, "done" a finished one with what a killed
    process leaves behind."""
    one: bool = True
    """Whether one of them at least must end well."""
    late: bool = True
    """Whether some meet where they are about to take the folder, and not always at their beginning."""


KINDS = {
    "first start, 2": Kind((TRAIN, TRAIN)),
    "first start, 4": Kind((TRAIN,) * 4),
    "resume, 2": Kind((TRAIN, TRAIN), "begun"),
    "resume, 3": Kind((TRAIN,) * 3, "begun"),
    "taken as found, 3": Kind((TRAIN,) * 3, "done"),
    "another run, same folder": Kind((TRAIN, OTHER)),
    "rm and start": Kind((REMOVE, TRAIN), "done", one=False),
    "rm and resume": Kind((REMOVE, TRAIN), "begun", one=False),
    "rm twice": Kind((REMOVE, REMOVE), "done", late=False),
    "rm, start and ls": Kind((REMOVE, TRAIN, LIST), "begun", one=False),
    "ls and start": Kind((LIST, TRAIN, LIST)),
    "score and rm": Kind((SCORE, REMOVE), "done", one=False, late=False),
    "two recipes": Kind((RUN, RUN), one=False, late=False),  # each may find a stage in use that the other needs
}


class Barrier:
    """Where processes wait until all may go on."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._come, self._go = os.pipe(), os.pipe()

    def wait(self) -> None:
        """In a process that is to wait: say so, and wait."""
        os.write(self._come[1], b"x")
        os.read(self._go[0], 1)

    def at_execute(self) -> None:
        """In a process that is to wait: do so where it knows its run folder, and has not looked into it yet."""
        from sluicegate.execution import execute as module

        settle = module._settled

        def settled(*arguments: object, **named: object) -> object:
            found = settle(*arguments, **named)  # type: ignore[arg-type]
            self.wait()
            return found

        module._settled = settled  # type: ignore[assignment]

    def open(self) -> None:
        """In the process that has started the others: let them go on once all have come."""
        for _ in range(self._count):
            os.read(self._come[0], 1)
        os.write(self._go[1], b"x" * self._count)

    def close(self) -> None:
        for end in (*self._come, *self._go):
            os.close(end)


def run(n: int, seed: int = 0, *, only: Iterable[str] = (), before: Callable[[], None] | None = None) -> dict[str, object]:
    """Run `n` races, the kinds in turn; `before` is called in every process of theirs."""
    warm()
    draw, found = random.Random(seed), Kinds("clear")
    names = [name for name in KINDS if not only or name in only]
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        place = Path(folder)
        prepare(place)
        wholes = {words: _alone(words, place / "whole" / str(number)) for number, words in enumerate((TRAIN, OTHER))}
        for trial in range(n):
            name = names[trial % len(names)]
            if RUN in KINDS[name].each and RUN not in wholes:
                wholes[RUN] = _alone(RUN, place / "whole" / "recipe")
            own = place / "trials" / str(trial)
            _race(name, KINDS[name], wholes, own, draw, before, found)
            shutil.rmtree(own, ignore_errors=True)
    return found.tally()


def _alone(words: Sequence[str], place: Path) -> dict[str, bytes]:
    place.mkdir(parents=True)
    (place / "mini.toml").write_text(RECIPE)
    if end_of(start(words, place)) != 0:
        raise RuntimeError(f"{' '.join(words)} failed when nothing disturbed it: {said(place)}")
    return snapshot(place / "r")


def _race(
    name: str,
    kind: Kind,
    wholes: dict[tuple[str, ...], dict[str, bytes]],
    place: Path,
    draw: random.Random,
    before: Callable[[], None] | None,
    found: Kinds,
) -> None:
    place.mkdir(parents=True)
    (place / "mini.toml").write_text(RECIPE)
    if kind.found:
        fatal = 0 if kind.found == "done" else draw.randint(20, 45)
        end_of(start(TRAIN, place, before=lambda: Moments().watch(fatal)))
        if kind.found == "done":
            (place / "r" / "state").mkdir()
            (place / "r" / "state" / "index.json").write_text("{}")
    late = kind.late and draw.random() < 0.7
    takers = [words for words in kind.each if not late or words[0] == "train"]
    barrier = Barrier(len(takers))

    def ready(words: Sequence[str]) -> None:
        if before:
            before()
        if words in takers:
            barrier.at_execute() if late else barrier.wait()

    processes = [start(words, place, before=lambda words=words: ready(words)) for words in kind.each]  # type: ignore[misc]
    barrier.open()
    ended = [end_of(process) for process in processes]
    barrier.close()
    stray = wait_for_offspring(place)
    first = next((words for words in (TRAIN, OTHER, RUN) if words in kind.each), TRAIN)
    if OTHER in kind.each and ended[kind.each.index(first)] != 0:
        first = OTHER  # it was quicker, and its run is the one that is there
    again = end_of(start(first, place, before=before))
    words = said(place)
    broken = ""
    if None in ended or stray:
        broken = f"hung, or left processes: {ended} {stray}"
    elif not set(ended) <= {0, 2} or (kind.one and 0 not in ended):
        broken = f"ended with {ended}: {words[-400:]}"
    elif OTHER in kind.each and ended.count(0) > 1:
        broken = "two different runs in one folder"
    elif again != 0:
        broken = f"ended with {ended}, and could not be run after that: {words[-400:]}"
    elif different := difference(wholes[first], snapshot(place / "r")):
        broken = f"ended with {ended}; differs in {different[:6]}"
    found.note(name, broken=broken, hangs=None in ended, tracebacks=words.count("Traceback (most recent call last)"))
    if broken:
        print(words[-600:], file=sys.stderr)
