"""deck review on the full screen: the same sitting, the same log, as line by line."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar, Literal

from textual.binding import Binding, BindingType

from sluicegate_study.errors import program
from sluicegate_study.judge.calibration import parse_percent
from sluicegate_study.judge.judging import Verdict, judge_card
from sluicegate_study.review.sitting import Sitting
from sluicegate_study.tui.base import Program

WHY = {"ancestor": "beneath what you just missed", "soon": "again", "due": "due", "new": "new"}
ENDS = "ctrl+q: end"


class ReviewProgram(Program):
    """Ask, show, grade. `grades` counts again, hard, good and easy; `asked` is what would come next."""

    TITLE = f"{program()} deck review"
    PARTS = ("prompt", "given", "answer", "why", "wrong")
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+s", "suspend", "suspend", priority=True)]

    def __init__(self, sitting: Sitting, now: Callable[[], datetime], *, confidence: bool = False, limit: int = 0) -> None:
        super().__init__()
        self.sitting, self.now, self.confidence, self.limit = sitting, now, confidence, limit
        self.grades = [0, 0, 0, 0]
        self._ask()

    def _ask(self) -> None:
        self.stage: Literal["typing", "sure", "grading", "done"] = "typing"
        self.given = self.complaint = ""
        self.sure: float | None = None
        self.verdict: Verdict | None = None
        self.asked = self.sitting.next(self.now())
        if self.asked is None or (self.limit and sum(self.grades) >= self.limit):
            self.stage = "done"
        self.began, self.seconds = time.monotonic(), 0.0

    def show(self) -> None:
        counts = f"{sum(self.grades)} answered" + (f", {self.grades[0]} again" if self.grades[0] else "")
        for name in ("prompt", "given", "answer", "why", "wrong"):
            self.put(name)
        self.put("clock")
        if self.stage == "done" or self.asked is None:
            self.put("head", counts)
            names = zip(("again", "hard", "good", "easy"), self.grades, strict=True)
            told = ["Nothing more is due or ready now." if self.asked is None else f"{self.limit} answered, as you wished."]
            self.put("prompt", "\n".join([*told, "", *(f"{count:>4} {name}" for name, count in names)]))
            self.ask(None, "Enter or q: end")
            return
        question = self.asked.question
        card = question.card
        place = " · ".join(filter(None, (WHY[self.asked.reason], card.topic, card.angle)))
        self.put("head", f"{place}    {counts}")
        self.put("prompt", (question.prompt, "strong"))
        self.put("wrong", (self.complaint, "bad"))
        if self.stage == "typing":
            self.ask("your answer, or nothing to see it", f"Enter: show  ctrl+s: suspend  {ENDS}")
        elif self.stage == "sure":
            self.put("given", ("You said: ", "dim"), self.given)
            self.ask("how sure, in % (0 to 100)", f"Enter: show the answer  ctrl+s: suspend  {ENDS}")
        else:
            self._answer()
            self.ask(None, "1 again  2 hard  3 good  4 easy  s: suspend  q: end")

    def _answer(self) -> None:
        assert self.asked
        if self.verdict:
            role = {"accept": "good", "prompt": "ask", "reject": "bad"}[self.verdict.ruling]
            asked = f" ({self.verdict.ask})" if self.verdict.ask else ""
            self.put("given", ("You said: ", "dim"), f"{self.given}\n", ("Judged: ", "dim"), (self.verdict.ruling + asked, role))
        self.put("answer", ("= ", "dim"), (self.asked.question.answer, "strong"))
        self.put("why", (self.asked.question.card.why, "dim"))

    def typed(self, text: str) -> None:
        assert self.asked
        if self.stage == "typing":
            self.seconds, self.given = time.monotonic() - self.began, text.strip()
            self.verdict = judge_card(self.asked.question, self.given) if self.given else None
            self.stage = "sure" if self.given and self.confidence else "grading"
        else:
            self.sure = parse_percent(text)
            self.complaint = "" if self.sure is not None else f"'{text}': expected a number from 0 to 100"
            self.stage = "grading" if self.sure is not None else "sure"
        self.show()
        self.top()

    def pressed(self, key: str) -> None:
        if self.stage == "done":
            if key in ("enter", "q", "escape"):
                self.exit()
        elif self.stage == "grading" and key in ("1", "2", "3", "4"):
            self._grade(int(key))
        elif self.stage == "grading" and key == "s":
            self.action_suspend()
        elif self.stage == "grading" and key == "q":
            self.exit()

    def _grade(self, grade: int) -> None:
        assert self.asked
        more: dict[str, Any] = {"given": self.given, "verdict": self.verdict.ruling} if self.verdict else {}
        if self.sure is not None:
            more["conf"] = self.sure
        self.sitting.answer(self.asked.question, grade, self.now(), ms=round(1000 * self.seconds), **more)
        self.grades[grade - 1] += 1
        self._ask()
        self.show()
        self.top()

    def action_suspend(self) -> None:
        if self.stage != "done" and self.asked:
            self.sitting.suspend(self.asked.question, self.now())
            self._ask()
            self.show()
