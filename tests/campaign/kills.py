"""Kill commands at any moment, run them again, and compare all that they leave with what an undisturbed one leaves.

Every kind of stage, several in a pool of workers, and one trained by several processes. Half of the moments are drawn
over the length of the run, half are right before one of its changes on the disk. The folders are compared bit for bit,
``env.json`` and ``DONE`` included; ``seconds.json``, the text of ``lock`` and pages (.html) are left out, which tell
seconds and process numbers. Nothing else may be left: no file, no folder, no process, nothing that was temporary.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from campaign.children import Moments, difference, end_of, kill, offspring, said, snapshot, start, wait_for_offspring, warm

HERE = Path(__file__).resolve().parent
IN = "../../in"
"""The models and rows, seen from where a command runs."""
ROWS = ("--forget", f"{IN}/forget.jsonl", "--retain", f"{IN}/retain.jsonl")
FEW = ("--batch", "8", "--steps", "5")
UNLABELLED = ("--unlabelled", f"{IN}/unlabelled.jsonl")
STEER = ("--model", f"{IN}/steer/model", "--pairs", f"{IN}/steer/pairs.jsonl", "--prompts", f"{IN}/steer/prompts.txt")
BEHAVIOUR = ("--behaviour", "words:plums,bags", "--plain")
RECIPE = """
seeds = 1
reference = "gold"
pretrained = "base"
[common]
forget = "../../in/forget.jsonl"
retain = "../../in/retain.jsonl"
steps = 4
batch = 8
[arms.base]
verb = "train"
model = "../../in/model"
[arms.gold]
verb = "train"
model = "../../in/model"
learn = ["retain"]
[arms.npo]
verb = "unlearn"
model = "@base"
method = "npo"
[attack]
steps = 3
lrs = [1e-3]
checkpoints = [1, 3]
"""


@dataclass(frozen=True)
class Kind:
    """A command to kill."""

    words: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    """What lies in the folder where it is run."""
    several: bool = False
    """Whether it starts processes."""


def kinds() -> dict[str, Kind]:
    """The commands, by a name for each."""
    from sluicegate.unlearning.objectives import methods

    model, base = ("--model", f"{IN}/model"), ("--model", f"{IN}/base")
    found = {
        "train": ("train", *model, *ROWS, *FEW, "--check-every", "2"),
        "distill": ("distill", *base, *ROWS, *UNLABELLED, *FEW, "--check-every", "2", "--cache-teacher"),
        "undo": ("undo", *base, *ROWS, *UNLABELLED, *FEW, "--alpha", "0.5"),
        "undo fisher": ("undo", *base, *ROWS, *UNLABELLED, *FEW, "--alpha", "0.5", "--aim", "fisher"),
        "relearn": ("relearn", *base, *ROWS, *FEW, "--lrs", "1e-3", "1e-2", "--checkpoints", "2", "5"),
        "relearn lora": ("relearn", *base, *ROWS, *FEW, "--lrs", "1e-3", "--checkpoints", "2", "5", "--lora-rank", "2"),
        "route gate": ("route", *model, *ROWS, *FEW, "--units", "16"),
        "route protect": ("route", *model, *ROWS, *FEW, "--units", "16", "--form", "protect"),
        "ablate": ("ablate", "--model", f"{IN}/routed", *ROWS),
        "score": ("score", *base, *ROWS),
        "steer melbo": ("steer", "fit", *STEER, *BEHAVIOUR, "--arm", "melbo", "--count", "3", "--steps", "3", "--new-tokens", "3"),
        "steer fit": ("steer", "fit", *STEER, *BEHAVIOUR, "--new-tokens", "3"),
        "steer twins": ("steer", "twins", f"{IN}/vector", "--k", "2", "--steps", "3"),
        "steer score": ("steer", "score", f"{IN}/vector", "--new-tokens", "3", "--randoms", "2", "--means", "2", "--doses", "0", "1"),
    }
    found |= {f"unlearn {name}": ("unlearn", *base, *ROWS, *FEW, "--method", name) for name in methods()}
    tables = {
        "latent": 'verb = "latent"\nvariant = "routed"\nsteps = 12\nhidden = [8]\nk = 4\n',
        "oversight": 'verb = "oversight"\nvariant = "routed"\nshare = 0.1\nupdates = 4\nepisodes = 16\n',
        "split": 'verb = "split"\nvariant = "routed"\ndata = "digits"\nsteps = 10\ncode = 8\n',
        "replay": 'verb = "replay"\nlectures = 2\nfacts = 6\nsteps = 30\n',
        "biographies-quiz": 'verb = "biographies-quiz"\nmodel = "biographies-tiny"\nlrs = [3e-3]\nsteps = 3\ncheckpoints = [0, 3]\n',
        "biographies-share": 'verb = "biographies-share"\nmodel = "biographies-tiny"\npeople = 6\nlrs = [1e-3]\nsteps = 2\nprobe = 8\n',
        "access-control": 'verb = "access-control"\nvariant = "routed"\nwidth = 32\nunits = 8\nsteps = 3\nbatch = 16\n'
        "relearn_steps = 5\nrelearn_lrs = [1e-3]\n",
        "steering-scalar": 'verb = "steering-scalar"\nvariant = "routed"\nrows = 400\nwidth = 32\ndepth = 3\nsteps = 3\nbatch = 8\n',
        "steering-twins": f'verb = "steering-twins"\nmodel = "{IN}/steer/model"\nk = 4\nsteps = 2\nalong = 2\nnew_tokens = 2\n'
        "held_out = 2\nrandoms = 2\npairs = 0.25\nsearched = 1\nscale = 30.0\n",
        "languages": 'verb = "languages"\nvariant = "base"\nrows = 96\nlength = 8\nwidth = 16\nlayers = 1\nheads = 2\nhidden = 24\n'
        "forget_units = 8\nbatch = 16\nheld_out = 8\nrelearn_rows = 4\nrelearn_steps = 4\nrelearn_every = 2\npatience = 1\n"
        "relearn_lrs = [1e-3]\nunlearn_steps = 2\nrepair_steps = 2\n",
        "lora": f'verb = "lora"\nvariant = "routed"\nshare = 1.0\nmodel = "arithmetic-tiny"\nforget = "{IN}/forget.jsonl"\n'
        f'retain = "{IN}/retain.jsonl"\nrank = 4\nforget_rank = 2\nsteps = 4\nwarmup = 1\nbatch = 8\nrepair_steps = 2\n'
        "relearn_steps = 4\npatience = 1\nrelearn_lrs = [1e-3]\n",
    }
    whole = {name: Kind((*words, "--out", "r")) for name, words in found.items()}
    whole |= {name: Kind(("run", "c.toml", "--out", "r"), {"c.toml": text}) for name, text in tables.items()}
    train = ("train", *model, *ROWS, *FEW)
    whole["pool: seeds"] = Kind((*train, "--seeds", "2", "--out", "r"), several=True)
    whole["pool: recipe"] = Kind(("run", "mini.toml", "--out", "r"), {"mini.toml": RECIPE}, several=True)
    whole["ranks"] = Kind((*train, "--procs", "2", "--out", "r"), several=True)
    whole["ranks, sharded"] = Kind((*train, "--procs", "2", "--shard", "--out", "r"), several=True)
    return whole


def prepare(place: Path) -> None:
    """Make the models and rows that the commands name, in ``place/in``."""
    from tiny_stages import material

    inside = place / "in"
    material(inside)
    shutil.copytree(HERE.parent / "finished" / "steer-in", inside / "steer")
    own = place / "made" / "here"
    own.mkdir(parents=True)
    known = kinds()
    for name, words in {
        "base": known["train"].words[:-1],
        "routed": known["route gate"].words[:-1],
        "vector": known["steer fit"].words[:-1],
    }.items():
        if end_of(start([*words, f"{IN}/{name}"], own, keep=100.0)) != 0:
            raise RuntimeError(f"{name} could not be made: {said(own)}")


@dataclass
class Kinds:
    """What came of the trials, by kind of command."""

    key: str
    rows: dict[str, dict[str, int]] = field(default_factory=dict)

    def note(self, kind: str, *, broken: str, hangs: int = 0, tracebacks: int = 0) -> None:
        """Count one trial, and say what was `broken` in it."""
        row = self.rows.setdefault(kind, dict.fromkeys(("tried", self.key, "accepted", "broken", "tracebacks", "hangs"), 0))
        row["tried"] += 1
        row["broken" if broken else self.key] += 1
        row["hangs"] += hangs
        row["tracebacks"] += tracebacks
        if broken:
            print(f"broken: {kind}: {broken}", file=sys.stderr, flush=True)

    def tally(self) -> dict[str, object]:
        """The sums over all kinds, and the kinds."""
        keys = ("tried", self.key, "accepted", "broken", "tracebacks", "hangs")
        return {key: sum(row[key] for row in self.rows.values()) for key in keys} | {"kinds": self.rows}


@dataclass
class Whole:
    """An undisturbed run of a kind."""

    files: dict[str, bytes]
    seconds: float
    moments: int


def run(
    n: int, seed: int = 0, *, only: Iterable[str] = (), before: Callable[[], None] | None = None, timed: bool = True
) -> dict[str, object]:
    """Kill `n` commands, the kinds in turn; `before` is called in every process of theirs, `timed` leaves half of the
    moments to the clock."""
    warm()
    draw, found = random.Random(seed), Kinds("equal")
    known = {name: kind for name, kind in kinds().items() if not only or name in only}
    light, heavy = ([name for name in known if known[name].several == several] for several in (False, True))
    wholes: dict[str, Whole] = {}
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        place = Path(folder)
        prepare(place)
        order = _turns(light, heavy)
        for trial in range(n):
            name = next(order)
            if name not in wholes:
                wholes[name] = _whole(known[name], place / "whole" / str(trial))
            own = place / "trials" / str(trial)
            _try(known[name], wholes[name], own, draw, before, timed, name, found)
            shutil.rmtree(own, ignore_errors=True)
    return found.tally()


def _turns(light: Sequence[str], heavy: Sequence[str]) -> Iterable[str]:
    """Every kind in turn; one that starts processes takes ten times as long, and comes after every seven others."""

    def turns():  # type: ignore[no-untyped-def]
        n = 0
        while True:
            if heavy and (not light or n % 8 == 7):
                yield heavy[(n // 8 if light else n) % len(heavy)]
            else:
                yield light[(n - n // 8 if heavy else n) % len(light)]
            n += 1

    return turns()


def _fresh(kind: Kind, place: Path) -> Path:
    place.mkdir(parents=True)
    for name, text in kind.files.items():
        (place / name).write_text(text)
    return place


def _whole(kind: Kind, place: Path) -> Whole:
    moments, begun = Moments(), time.monotonic()
    status = end_of(start(kind.words, _fresh(kind, place), before=moments.watch))
    if status != 0:
        raise RuntimeError(f"{' '.join(kind.words)} ended with {status} when nothing disturbed it: {said(place)}")
    return Whole(snapshot(place), time.monotonic() - begun, moments.count)


def _try(
    kind: Kind, whole: Whole, place: Path, draw: random.Random, before: Callable[[], None] | None, timed: bool, name: str, found: Kinds
) -> None:
    """One trial: killed once or twice, run to its end, compared."""
    _fresh(kind, place)
    told = []
    for _ in range(draw.choice((1, 1, 2))):
        moment = Moments()
        fatal = 0 if kind.several or (timed and draw.random() < 0.5) else draw.randint(1, whole.moments)
        delay = draw.uniform(0.2 if kind.several else 0.0, 1.0) * whole.seconds
        victim = draw.choice(("group", "parent", "worker")) if kind.several else "group"

        def ready(moment: Moments = moment, fatal: int = fatal) -> None:
            moment.watch(fatal)
            if before:
                before()

        process = start(kind.words, place, before=ready)
        if not fatal:
            _strike(process, delay, victim, place, draw)
        status = end_of(process)
        told.append(f"{f'change {fatal} of {whole.moments}' if fatal else f'{victim} after {delay:.2f} s'}: {status}")
        stray = wait_for_offspring(place)
        if status is None or stray:
            found.note(name, broken=f"{told}: {'hung' if status is None else f'left processes {stray}'}", hangs=status is None)
            return
    status = end_of(start(kind.words, place, before=before))
    stray = wait_for_offspring(place)
    words = said(place)
    broken = ""
    if status != 0:
        broken = f"{told}, then it ended with {status}: {words[-400:]}"
    elif different := difference(whole.files, snapshot(place)):
        broken = f"{told}: differs in {different[:6]}"
    elif left := [str(p) for p in place.with_name(f"{place.name}.tmp").iterdir()]:
        broken = f"{told}: left {left}"
    elif stray:
        broken = f"{told}: left processes {stray}"
    found.note(name, broken=broken, hangs=status is None, tracebacks=words.count("Traceback (most recent call last)"))


def _strike(process: int, delay: float, victim: str, place: Path, draw: random.Random) -> None:
    """Kill a command after so many seconds: its group, itself alone, or one of the processes that it has started."""
    until = time.monotonic() + delay
    while time.monotonic() < until:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)
    workers = offspring(place) if victim == "worker" else []
    if workers:
        with suppress(ProcessLookupError):
            os.kill(draw.choice(workers), signal.SIGKILL)
    elif victim == "parent":
        os.kill(process, signal.SIGKILL)
    else:
        kill(process)
