"""``deck review``: ask, show, grade; one line of input an answer, so that a pipe can do it too. ``deck stats``: how far
a learner is."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from sluicegate_study.command import name_learner, parse_time, print_json
from sluicegate_study.deck.cli import open_deck
from sluicegate_study.errors import UserError
from sluicegate_study.formatting import escape_controls, format_count, nan_to_none
from sluicegate_study.tui.prompts import ask_line, ask_percent, use_full_screen

if TYPE_CHECKING:
    from sluicegate_study.review.queue import NextQuestion
    from sluicegate_study.review.sitting import Sitting

GRADES = "1 again, 2 hard, 3 good, 4 easy"


@dataclass(frozen=True)
class Review:
    """Ask what is due and what is new, and log how it went. On a terminal this is a full-screen program.

    In plain mode two lines of input a card: your answer (or nothing, to see it), then a grade from 1 to 4. s suspends
    the card, q ends. What is logged stays logged, however the program ends."""

    deck: Positional[str]
    """Folder of Markdown files, one file, or the name of a deck that comes with the program."""
    learner: str = ""
    """Whose memory; default: person: and your login name."""
    log: str = ""
    """File of the reviews; default: log.jsonl with the deck."""
    new: int = 15
    """Items to introduce on one day, at most."""
    limit: int = 0
    """Answers after which to stop; 0: when nothing is left."""
    retention: float = 0.9
    """Recall at which a card comes up again."""
    now: str = ""
    """Begin at this time, as 2026-11-22T19:00:00Z, instead of now."""
    confidence: bool = False
    """Ask how sure you are of each answer you typed, before you see the card's."""
    unlink: str = ""
    """Take back the link of an edited card to its history, by the card's key, and end."""
    plain: bool = False
    """Ask line by line, as through a pipe."""
    json: bool = False
    """Print what was done as the last line."""

    def run(self) -> int:
        from sluicegate_study.deck.shipped import find_log
        from sluicegate_study.review.memory import make_scheduler
        from sluicegate_study.review.sitting import Sitting

        if self.limit < 0:
            raise UserError(f"--limit is {self.limit}: expected 0 or more, the number of answers after which to stop.")
        start, began = parse_time(self.now), time.monotonic()

        def now() -> datetime:
            return start + timedelta(seconds=time.monotonic() - began)

        deck = open_deck(self.deck)
        path = Path(self.log) if self.log else find_log(self.deck)
        by = make_scheduler(retention=self.retention)
        sitting = Sitting(deck, path, self.learner or name_learner(), root=self.deck, new=self.new, by=by)
        for problem in sitting.problems:
            print(escape_controls(str(problem)))
        if self.unlink:
            print(f"{self.unlink} is new again; its history stays with {', '.join(sitting.unlink(self.unlink, now()))}")
            return 0
        for link in sitting.relink(now()):
            print(f"edited: {link.new} goes on from {link.old} (alike: {link.ratio:.2f}). If it is another card: --unlink {link.new}")
        if use_full_screen(self.plain):
            from sluicegate_study.tui.review import ReviewProgram

            screen = ReviewProgram(sitting, now, confidence=self.confidence, limit=self.limit)
            screen.run()
            grades, asked = screen.grades, screen.asked
        else:
            grades, asked = _ask_in_lines(sitting, now, self.confidence, self.limit)
        print(f"\n{sum(grades)} answers: {grades[0]} again, {grades[1]} hard, {grades[2]} good, {grades[3]} easy")
        left = sum(due <= now() for key in sitting.queue.questions if (due := sitting.queue.memory.due(key)))
        print(f"{left} due now" if asked is not None else "nothing more is due or ready now")
        if self.json:
            print_json({"answers": sum(grades), "grades": grades, "due": left, "log": str(path)})
        return 0


def _ask_in_lines(sitting: "Sitting", now: Callable[[], datetime], confidence: bool, limit: int) -> tuple[list[int], "NextQuestion | None"]:
    """Ask line by line; how many were graded again, hard, good and easy, and what would be asked next."""
    grades = [0, 0, 0, 0]
    asked = sitting.next(now())
    try:
        while asked is not None and (not limit or sum(grades) < limit):
            if grade := _ask_one(sitting, asked, now, confidence):
                grades[grade - 1] += 1
            asked = sitting.next(now())
    except EOFError:
        pass
    return grades, asked


def _ask_one(sitting: "Sitting", asked: "NextQuestion", now: Callable[[], datetime], confidence: bool) -> int:
    """Ask one question; the grade, or 0 where it was suspended. Raises `EOFError` where the input or the learner
    ended."""
    from sluicegate_study.judge.judging import judge_card

    question = asked.question
    why = {"ancestor": "beneath what you just missed", "soon": "again"}.get(asked.reason, asked.reason)
    print(f"\n[{why}] {escape_controls(question.prompt)}")
    before = time.monotonic()
    given = ask_line("answer, or nothing to see it (s suspends, q ends): ", "q")
    seconds = time.monotonic() - before
    if given == "s":
        sitting.suspend(question, now())
        print("suspended")
        return 0
    sure = ask_percent() if given and confidence else None
    verdict = judge_card(question, given) if given else None
    if verdict:
        print(f"judged: {verdict.ruling}" + (f" ({escape_controls(verdict.ask)})" if verdict.ask else "") + ". The grade is yours.")
    print(f"= {escape_controls(question.answer)}" + (f"\n  ({escape_controls(question.card.why)})" if question.card.why else ""))
    while (said := ask_line(f"grade ({GRADES}): ", "q")) not in ("1", "2", "3", "4"):
        print(f"'{escape_controls(said)}' is no grade: expected {GRADES}, or q")
    more: dict[str, Any] = {"given": given, "verdict": verdict.ruling} if verdict else {}
    if sure is not None:
        more["conf"] = sure
    sitting.answer(question, int(said), now(), ms=round(1000 * seconds), **more)
    return int(said)


@dataclass(frozen=True)
class Stats:
    """Say what a deck holds, by topic and by category, and how far a learner is."""

    deck: Positional[str]
    """Folder of Markdown files, one file, or the name of a deck that comes with the program."""
    learner: str = ""
    """Whose memory; default: person: and your login name."""
    log: str = ""
    """File of the reviews; default: log.jsonl with the deck."""
    now: str = ""
    """Look at this time, as 2026-11-22T19:00:00Z, instead of now."""
    json: bool = False
    """Print the numbers as the last line."""

    def run(self) -> int:
        from sluicegate_study.deck.shipped import find_log
        from sluicegate_study.review.progress import list_stated_reviews, measure_progress
        from sluicegate_study.review.sitting import Sitting

        deck = open_deck(self.deck)
        topics = Counter(card.topic or "(none)" for card in deck.cards)
        categories = Counter(entry.category or deck.head_of(entry).category or "(none)" for entry in deck.entries)
        numbers: dict[str, Any] = {**deck.count(), "topics": dict(topics.most_common()), "categories": dict(categories.most_common())}
        print(deck.describe())
        for title, counted in (("topic", topics), ("category", categories)):
            for name, count in counted.most_common():
                print(f"  {title} {escape_controls(name)}: {count}")
        path = Path(self.log) if self.log else find_log(self.deck)
        if path.exists():
            sitting = Sitting(deck, path, self.learner or name_learner(), root=self.deck)
            numbers["progress"] = measure_progress(sitting, parse_time(self.now))
            print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in numbers["progress"].items() if name != "slow"))
            numbers["calibration"] = _print_calibration(list_stated_reviews(sitting))
            for key, seconds in numbers["progress"]["slow"]:
                print(f"  slow: {escape_controls(key)} takes {seconds:.0f} s (median): more than one step?")
        if self.json:
            print_json(numbers)
        return 0


def _print_calibration(said: list[Any]) -> dict[str, Any]:
    """Print how far stated confidence can be trusted, in all and by category; the numbers, nothing where none was
    stated."""
    from sluicegate_study.judge.calibration import calibrate_by_category

    found = calibrate_by_category(said)
    for name, c in found.items():
        told = f"confidence less share right {c.over}, Brier {c.brier.value:.3f}"
        print(f"calibration, {escape_controls(name)}: {c.verdict}; {told}, {format_count(c.questions, 'question')}")
    return {name: nan_to_none(dataclasses.asdict(c)) for name, c in found.items()}
