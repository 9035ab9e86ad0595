"""sluicegate deck review: ask, show, grade; one line of input an answer, so that a pipe can do it too."""

import getpass
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from sluicegate.cli.command import print_json
from sluicegate.errors import UserError
from sluicegate_study.formatting import visible
from sluicegate_study.tui.prompts import full_screen, line, percent

if TYPE_CHECKING:
    from sluicegate_study.review.queue import Asked
    from sluicegate_study.review.sitting import Sitting

GRADES = "1 again, 2 hard, 3 good, 4 easy"


@dataclass(frozen=True)
class Review:
    """Ask what is due and what is new, and log how it went. On a terminal this is a full-screen program.

    In plain mode two lines of input a card: your answer (or nothing, to see it), then a grade from 1 to 4. s suspends the card, q ends.
    What is logged stays logged, however the program ends."""

    deck: Positional[str]
    """Folder of Markdown files, one file, or the name of a deck that comes with sluicegate."""
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
        from sluicegate_study.deck.collection import load_deck
        from sluicegate_study.review.memory import scheduler
        from sluicegate_study.review.sitting import Sitting, log_of

        if self.limit < 0:
            raise UserError(f"--limit is {self.limit}: expected 0 or more, the number of answers after which to stop.")
        start, began = moment(self.now), time.monotonic()

        def now() -> datetime:
            return start + timedelta(seconds=time.monotonic() - began)

        deck = load_deck(self.deck)
        if errors := sum(problem.severity == "error" for problem in deck.problems):
            print(f"{errors} error(s) in the deck, left out: sluicegate deck check {self.deck}")
        path = Path(self.log) if self.log else log_of(self.deck)
        sitting = Sitting(deck, path, self.learner or you(), root=self.deck, new=self.new, by=scheduler(retention=self.retention))
        for problem in sitting.problems:
            print(visible(str(problem)))
        if self.unlink:
            print(f"{self.unlink} is new again; its history stays with {', '.join(sitting.unlink(self.unlink, now()))}")
            return 0
        for link in sitting.relink(now()):
            print(f"edited: {link.new} goes on from {link.old} (alike: {link.ratio:.2f}). If it is another card: --unlink {link.new}")
        if full_screen(self.plain):
            from sluicegate_study.tui.review import ReviewProgram

            program = ReviewProgram(sitting, now, confidence=self.confidence, limit=self.limit)
            program.run()
            grades, asked = program.grades, program.asked
        else:
            grades, asked = self._lines(sitting, now)
        print(f"\n{sum(grades)} answers: {grades[0]} again, {grades[1]} hard, {grades[2]} good, {grades[3]} easy")
        left = sum(due <= now() for key in sitting.queue.questions if (due := sitting.queue.memory.due(key)))
        print(f"{left} due now" if asked is not None else "nothing more is due or ready now")
        if self.json:
            print_json({"answers": sum(grades), "grades": grades, "due": left, "log": str(path)})
        return 0

    def _lines(self, sitting: "Sitting", now: Callable[[], datetime]) -> tuple[list[int], "Asked | None"]:
        """Ask line by line; how many were graded again, hard, good and easy, and what would be asked next."""
        grades = [0, 0, 0, 0]
        asked = sitting.next(now())
        while asked is not None and (not self.limit or sum(grades) < self.limit):
            grade = _one(sitting, asked, now, self.confidence)
            if grade is None:
                break
            if grade:
                grades[grade - 1] += 1
            asked = sitting.next(now())
        return grades, asked


def _one(sitting: "Sitting", asked: "Asked", now: Callable[[], datetime], confidence: bool) -> int | None:
    """Ask one question; the grade, 0 where it was suspended, None where the input or the learner ended."""
    from sluicegate_study.judge.judging import judge_card

    question = asked.question
    why = {"ancestor": "beneath what you just missed", "soon": "again"}.get(asked.reason, asked.reason)
    print(f"\n[{why}] {visible(question.prompt)}")
    before = time.monotonic()
    given = line("answer, or nothing to see it (s suspends, q ends): ")
    seconds = time.monotonic() - before
    if given is None or given == "q":
        return None
    if given == "s":
        sitting.suspend(question, now())
        print("suspended")
        return 0
    sure: float | None = None
    if given and confidence:
        try:
            sure = percent()
        except EOFError:
            return None
    verdict = judge_card(question, given) if given else None
    if verdict:
        print(f"judged: {verdict.ruling}" + (f" ({visible(verdict.ask)})" if verdict.ask else "") + ". The grade is yours.")
    print(f"= {visible(question.answer)}" + (f"\n  ({visible(question.card.why)})" if question.card.why else ""))
    while True:
        said = line(f"grade ({GRADES}): ")
        if said is None or said == "q":
            return None
        if said in ("1", "2", "3", "4"):
            break
        print(f"'{visible(said)}' is no grade: expected {GRADES}, or q")
    more: dict[str, Any] = {"given": given, "verdict": verdict.ruling} if verdict else {}
    if sure is not None:
        more["conf"] = sure
    sitting.answer(question, int(said), now(), ms=round(1000 * seconds), **more)
    return int(said)


def moment(text: str) -> datetime:
    """A time as the user wrote it, or the present; `UserError` for one that is none or has no zone."""
    if not text:
        return datetime.now(UTC)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = datetime.min
    if time.tzinfo is None:
        raise UserError(f"--now is {text!r}: expected a time with its zone, as 2026-11-22T19:00:00Z.")
    return time.astimezone(UTC)


def you() -> str:
    """person: and the login name."""
    try:
        return f"person:{getpass.getuser()}"
    except (OSError, KeyError):
        return "person:me"
