"""``quiz``: recall against the share of clues revealed, for a language model, and what became of it from one model to
the next."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from sluicegate_study.command import Verb, parse, print_json
from sluicegate_study.deck.cli import open_deck
from sluicegate_study.errors import UserError, program

if TYPE_CHECKING:
    from sluicegate_study.quiz.measures import Answers, Change, Reading, Weight


@dataclass(frozen=True)
class Quiz:
    """Ask a language model the questions of a deck, clue by clue, and say from how many clues on it knows.

    It chooses among the deck's answers of the same category. With --before or --after, other models are asked the same
    and compared."""

    model: Positional[str]
    """Folder, run folder, fetched model, or hub id."""
    deck: str = "tossups"
    """Folder of Markdown files, one file, or a deck that ships with the package."""
    before: str = ""
    """The model before something was done to it: what the others are compared with."""
    after: tuple[str, ...] = ()
    """Models after more was done to it, in order."""
    kind: Literal["auto", "tossups", "cards"] = "auto"
    """What is asked; auto: tossups where the deck has any."""
    among: Literal["auto", "category", "topic", "all"] = "auto"
    """Which answers compete: those of the question's category, of its topic (cards), or all of the deck."""
    score: Literal["raw", "mean", "pmi"] = "pmi"
    """Compare answers by log-probability (raw), by its mean a token, or by how much the clues raise it (pmi)."""
    threshold: float = 0.5
    """Confidence from which on a model buzzes."""
    level: float = 0.5
    """Recall up to which clues are counted between two models."""
    frame: str = ""
    """How a question is put, with {clues} where the clues go; default: Question: and the clues, and Answer: in a line
    of its own."""
    template: bool = False
    """Put the question as the user's turn of a chat."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the models' numbers; auto: float32 on a CPU, on an accelerator what their weights are saved in."""
    log: str = ""
    """Log with people's buzzes, from which the weight of expected wins is fitted where there are 200 or more."""
    draws: int = 1000
    """Draws of the bootstrap."""
    out: str = "runs/quiz"
    """Folder of quiz.json and report.html."""
    json: bool = False
    """Print the numbers as the last line."""

    def run(self) -> int:
        from sluicegate.engine.models import locate
        from sluicegate_study.quiz.deck import asked_of
        from sluicegate_study.quiz.measures import Reading, to_json
        from sluicegate_study.quiz.page import report_quiz

        if self.draws < 100:
            raise UserError(f"--draws is {self.draws}: expected 100 or more.")
        if not 0 < self.level < 1:
            raise UserError(f"--level is {self.level:g}: expected a recall between 0 and 1.")
        names = [name for name in (self.before, self.model, *self.after) if name]
        for name in names:
            locate(name)
        asked = asked_of(open_deck(self.deck), self.kind, self.among)
        weight = _weight(self.log)
        began = time.perf_counter()
        labels = _labels(names)
        readings = {
            label: Reading(self._answers(name, asked), self.score, self.threshold, weight)
            for label, name in zip(labels, names, strict=True)
        }
        seconds = time.perf_counter() - began
        changes = self._changes(readings)
        facts = _facts(readings, self.deck)
        out = Path(self.out)
        command = shlex.join([program(), *sys.argv[1:]])
        title = f"Quiz of {self.model}"
        page = report_quiz(readings, changes, out / "report.html", title=title, facts=facts, command=command, draws=self.draws)
        found: dict[str, Any] = {
            "deck": self.deck,
            "questions": len(asked),
            "clues": sum(len(a.clues) for a in asked),
            "models": dict(zip(labels, names, strict=True)),
            "results": {label: to_json(reading, self.draws) for label, reading in readings.items()},
            "changes": {label: {group or "all": _plain(c) for group, c in by_group.items()} for label, by_group in changes.items()},
        }
        out.mkdir(parents=True, exist_ok=True)
        (out / "quiz.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        _show(readings, changes, facts, page, self.draws)
        if self.json:
            brief = {label: {key: v for key, v in one.items() if key != "asked"} for label, one in found["results"].items()}
            ways = {label: reading.answers.way for label, reading in readings.items()}
            print_json(found | {"results": brief, "quiz_s": seconds, "way": ways, "report": str(page)})
        return 0

    def _answers(self, name: str, asked: Sequence[Any]) -> "Answers":
        import torch

        from sluicegate.cli.progress import watching
        from sluicegate.engine.models import load, width
        from sluicegate_study.quiz.quiz import FRAME, quiz

        with watching() as progress:
            progress(f"loading {name}", 0, 1, {})
            model, tokenizer = load(name, dtype=self.dtype)
            progress(f"loading {name}", 1, 1, {})
            threads = torch.get_num_threads()
            torch.set_num_threads(threads if width(model) >= 256 else 1)  # in a narrow model two threads wait for each other
            try:
                return quiz(
                    model, tokenizer, asked, frame=self.frame or FRAME, template=self.template, title=f"quiz {name}", progress=progress
                )
            finally:
                torch.set_num_threads(threads)

    def _changes(self, readings: "dict[str, Reading]") -> "dict[str, dict[str, Change]]":
        from sluicegate_study.quiz.deck import by
        from sluicegate_study.quiz.measures import compare

        (_, first), *others = readings.items()
        groups = by(first.asked, "category")
        parts: dict[str, list[int] | None] = {"": None, **(groups if len(groups) > 1 else {})}
        return {
            label: {group: compare(first, other, places, level=self.level, draws=self.draws) for group, places in parts.items()}
            for label, other in others
        }


def _labels(names: Sequence[str]) -> list[str]:
    """Short names that differ: the last parts of the paths, as few as it takes."""
    for count in range(1, 9):
        found = ["/".join(Path(name).parts[-count:]) for name in names]
        if len(set(found)) == len(found):
            return found
    return [f"{n} {Path(name).name}" for n, name in enumerate(names, 1)]


def _weight(log: str) -> "Weight | None":
    """The weight of expected wins: from people's logged buzzes where there are enough of them, else None for the
    model's."""
    from sluicegate_study.quiz.measures import fitted_weight

    if not log:
        return None
    from sluicegate_study.deck.log import read_log

    if not Path(log).is_file():
        raise UserError(f"no log {log!r}: expected a file of events, as play and review write it.")
    events = [e for e in read_log(Path(log)).timeline if e.kind == "buzz" and e.learner.startswith("person:") and "pos" in e.more]
    found = fitted_weight([float(e.more["pos"]) for e in events], [e.more.get("verdict") == "accept" for e in events])
    if found is None:
        print(f"{log} holds {len(events)} buzzes of people, too few to fit a weight (200): the modelled opponent's is used.")
    return found


def _facts(readings: "dict[str, Reading]", deck: str) -> str:
    first = next(iter(readings.values()))
    clues = sum(len(a.clues) for a in first.asked)
    candidates = sorted({len(a.candidates) for a in first.asked})
    size = str(candidates[0]) if len(candidates) == 1 else f"{candidates[0]} to {candidates[-1]}"
    return f"{len(first.asked)} questions of {deck}, {clues} clues; each guess is one of {size} answers."


def _plain(change: "Change") -> dict[str, Any]:
    from sluicegate_study.quiz.measures import interval_to_list

    return {
        "auc": interval_to_list(change.auc),
        "over": interval_to_list(change.over),
        "savings": interval_to_list(change.savings) if change.savings else None,
        "bound": change.bound,
        "level": change.level,
    }


def _show(readings: "dict[str, Reading]", changes: "dict[str, dict[str, Change]]", facts: str, page: Path, draws: int) -> None:
    from sluicegate_study.quiz.measures import measure
    from sluicegate_study.quiz.page import CALIBRATED, SHOWN, describe

    measured = {name: measure(reading, draws=draws) for name, reading in readings.items()}
    print(facts)
    width = max(len(name) for name in (*SHOWN, *CALIBRATED))
    for name, found in measured.items():
        print(f"\n{name}")
        for key in (*SHOWN, *CALIBRATED):
            value = found[key]
            print(f"  {key.replace('_', ' '):<{width}} {value.value:7.3f}  [{value.low:.3f}, {value.high:.3f}]")
    print()
    for said in describe(measured, changes, next(iter(readings.values()))):
        print(said)
    first = next(iter(readings.values()))
    print(f"expected wins: {first.weight.says}; buzz at a confidence of {first.threshold:g}; answers compared by {first.score}")
    print(f"report: {page}")


def _run(words: Sequence[str]) -> int:
    try:
        from sluicegate.cli.command import gathered

        words = gathered(words, {"--after"})
    except ImportError:
        if not {"-h", "--help"} & set(words):
            raise UserError("quiz asks a language model, which needs the library. Get it with: pip install sluicegate") from None
    return int(parse(Quiz, "quiz", words).run())


QUIZ = Verb("quiz", "Ask a language model a deck's questions, clue by clue", _run)
