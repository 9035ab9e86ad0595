"""``lecture``: predict for each claim of your notes whether you can rebuild it, be tested some days later, and see the
gap."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from sluicegate_study.command import name_learner, parse_time, print_json, simple
from sluicegate_study.errors import UserError, program
from sluicegate_study.formatting import escape_controls
from sluicegate_study.tui.prompts import ask_line, ask_percent

if TYPE_CHECKING:
    from sluicegate_study.lecture.blank import Blank
    from sluicegate_study.lecture.lecture import Claim
    from sluicegate_study.lecture.record import Course, Record
    from sluicegate_study.lecture.report import Report

Clock = Callable[[], datetime]
QUIT, VOID = ":q", ":s"


@dataclass(frozen=True)
class Lecture:
    """It made sense in the lecture: does it still? Run it again on the same notes to go on with what comes next.

    split: the notes become claims, in a file that you may edit. reading: how likely is it that you can rebuild each
    step in a week? cold: each claim with one step hidden. sense: the claims once more. report: what you felt against
    what you could do. Every answer is logged at once; :q ends, and the same command goes on. Cards are written for half
    of the claims, drawn by a coin."""

    notes: Positional[str]
    """File of notes, in Markdown or plain."""
    stage: Literal["auto", "split", "reading", "cold", "sense", "report"] = "auto"
    """What to do; auto: what comes next. A cold test asked for by name may come before its time."""
    days: float = 7.0
    """Days from the last prediction to the cold test; settled when the reading begins."""
    seed: int = 0
    """Seed of the coins and of what is hidden; settled when the reading begins."""
    no_cards: bool = False
    """Make no cards, so there is one arm only; settled when the reading begins."""
    marked: bool = False
    """Split: take only lines that begin with claim:."""
    learner: str = ""
    """Who reads; default: person: and your login name."""
    log: str = ""
    """File of the answers; default: NOTES.lecture.jsonl beside the notes."""
    now: str = ""
    """Begin at this time, as 2026-11-22 or 2026-11-22T19:00:00Z, instead of now."""
    json: bool = False
    """Print where things stand, and the report's numbers, as the last line."""

    def run(self) -> int:
        from sluicegate_study.files import read_file
        from sluicegate_study.lecture.lecture import read_claims, read_notes

        if not 0 <= self.days <= 3650:
            raise UserError(f"--days is {self.days}: expected 0 to 3650.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed is {self.seed}: expected 0 or more.")
        notes = Path(self.notes)
        text = read_notes(notes)
        start, began = parse_time(f"{self.now}T00:00:00Z" if len(self.now) == 10 else self.now), time.monotonic()
        claims_file = notes.with_name(f"{notes.stem}.claims.txt")
        if notes == claims_file:
            raise UserError(f"{self.notes!r} is a file of claims: expected the notes that it was made from.")
        fresh = not claims_file.exists()
        if fresh:
            _split(text, notes, claims_file, self.marked)
        elif self.stage == "split":
            raise UserError(f"{str(claims_file)!r} is there already and is left as it is. Edit it, or remove it to split the notes again.")
        claims = read_claims(read_file(claims_file, "the claims").decode("utf-8", "replace"), str(claims_file))
        sitting = _Sitting(self, notes, claims, lambda: start + timedelta(seconds=time.monotonic() - began))
        stage = sitting.run("split" if fresh and self.stage in ("auto", "split") else self.stage)
        if self.json:
            from sluicegate_study.lecture.report import make_report

            course = sitting.course
            left = {name: len(course.pending(name)) for name in ("reading", "cold", "sense")}
            due = course.due.isoformat().replace("+00:00", "Z") if course.due else None
            print_json({"stage": stage, "claims": len(claims), "left": left, "due": due, "report": make_report(course).to_json()})
        return 0


class _Sitting:
    """One run of the verb: the log is read again before each question, so that what another run answered is not asked
    twice."""

    def __init__(self, options: Lecture, notes: Path, claims: "list[Claim]", now: Clock) -> None:
        from sluicegate_study.lecture.cards import make_slug

        self.options, self.notes, self.claims, self.now = options, notes, claims, now
        self.learner = options.learner or name_learner()
        self.log = Path(options.log) if options.log else notes.with_name(f"{notes.stem}.lecture.jsonl")
        self.cards = notes.with_name(f"{notes.stem}.cards")
        self.slug = make_slug(notes)
        self.refresh()
        self.hidden_now()  # a claim with nothing to hide must be said before it is predicted
        if self.course.unread:
            print(f"{self.course.unread} line(s) of {escape_controls(str(self.log))} cannot be read and are left out")

    def refresh(self) -> "Course":
        from sluicegate_study.deck.log import read_log
        from sluicegate_study.lecture.record import Course

        self.course = Course.replay(self.claims, read_log(self.log), self.learner)
        return self.course

    @property
    def seed(self) -> int:
        return next((record.seed for record in self.course.records if record.arm), self.options.seed)

    def hidden_now(self) -> "dict[str, Blank]":
        from sluicegate_study.lecture.cards import choose_blanks

        return choose_blanks(self.course.records, self.seed)

    def add(self, record: "Record", kind: str, **more: Any) -> None:
        from sluicegate_study.deck.log import Event, append

        append(self.log, [Event(self.now().astimezone(UTC), self.learner, record.claim.name, kind, {"rev": record.claim.rev, **more})])

    def run(self, wanted: str) -> str:
        """Do one stage (the second look and the report follow a cold test at once); the stage where things stand
        afterwards."""
        course, again = self.course, f"{program()} lecture {self.options.notes}"
        if wanted == "split":
            print(f"next: edit the claims if you like, then read them: {again}")
            return "reading"
        stage = course.stage(self.now()) if wanted == "auto" else wanted
        begun = any(record.tested for record in course.records)
        if stage == "reading" and begun:
            raise UserError("the cold test has begun, so a prediction made now would not be one: leave new claims for other notes.")
        if stage == "sense" and course.pending("cold"):
            raise UserError(f"{len(course.pending('cold'))} claims are still to be tested cold, and looking would warm them up: {again}")
        if stage == "cold" and (unread := len(course.pending("reading"))) and not begun:
            raise UserError(f"{unread} claims have no prediction yet: {again} --stage reading")
        steps = {"reading": [self._reading], "cold": [self._cold, self._sense], "sense": [self._sense]}.get(stage, [])
        finished = True
        try:
            for step in steps:
                step()
        except EOFError:  # the input or the learner ended
            finished = False
        course = self.refresh()
        after = course.stage(self.now())
        if stage == "report" or (finished and after == "report"):
            self._report(complete=after == "report")
            return after
        left = len(course.pending(after))
        if after == "waiting" or (finished and after == "cold" and stage == "reading"):
            print(f"\nthe cold test is due from {course.due:%Y-%m-%d %H:%M} UTC: {again}")
            print("until then: do not look at the notes or the claims")
        else:
            print(f"\n{left} of {len(course.records)} claims left ({after}): {again}")
        return after

    def _pending(self, stage: str) -> "Record | None":
        return next(iter(self.refresh().pending(stage)), None)

    def _reading(self) -> None:
        from sluicegate_study.deck.cards import Head
        from sluicegate_study.deck.log import append
        from sluicegate_study.lecture.cards import make_cards, write_cards
        from sluicegate_study.lecture.record import make_arm_events

        course, days = self.course, self.options.days
        days = next((record.days for record in course.records if record.arm), days)
        cards = not self.options.no_cards and not (
            any(r.arm for r in course.records) and all(r.arm == "none" for r in course.records if r.arm)
        )
        append(self.log, make_arm_events(course.records, self.learner, self.now(), seed=self.seed, days=days, cards=cards))
        print(f"\nHow likely is it, in %, that in {days:g} days you can rebuild each step, with one part of it hidden? ({QUIT} ends)")
        while record := self._pending("reading"):
            print(f"\n{_titled(record)}{escape_controls(record.claim.text)}")
            self.add(record, "predict", p=ask_percent("P(I can rebuild it), in %: ", QUIT))
        course = self.refresh()
        made = make_cards(course.records, self.slug, self.hidden_now())
        new = write_cards(self.cards / "carded.md", made, Head(deck=self.slug, source=self.notes.name))
        if made:
            without = len(course.records) - len(made)
            print(f"\n{len(made)} claims have cards, {without} have none, by a coin: {self.cards}/carded.md ({new} new)")
            print(f"learn them meanwhile: {program()} deck review {self.cards}")

    def _cold(self) -> None:
        from sluicegate_study.lecture.blank import judge_blank

        if self.course.due and self.now() < self.course.due:
            print(f"the cold test is due only from {self.course.due:%Y-%m-%d %H:%M} UTC; the report will say how long you waited")
        hidden = self.hidden_now()
        print(f"\nWhat is hidden? Do not look it up. Nothing typed: you do not know. {VOID}: nobody could know; {QUIT} ends.")
        while record := self._pending("cold"):
            blank, claim = hidden[record.claim.name], record.claim
            print(f"\n{_titled(record)}{escape_controls(blank.shown(claim.text))}")
            before = time.monotonic()
            given = ask_line("answer: ", QUIT)
            ms = round(1000 * (time.monotonic() - before))
            if given == VOID:
                self.add(record, "void")
                continue
            more = {"conf": ask_percent("how sure, in %: ", QUIT)} if given else {}
            self.add(record, "cold", given=given, hidden=blank.answer, verdict=judge_blank(blank, given), ms=ms, **more)

    def _sense(self) -> None:
        print("\nThe claims once more. Was your answer right, and does it make sense now?")
        while record := self._pending("sense"):
            print(f"\n{_titled(record)}{escape_controls(record.claim.text)}")
            print(f"hidden: {escape_controls(record.hidden)}\nyours:  {escape_controls(record.given or '(nothing)')}")
            print(f"judged: {_judged(record.verdict)}")
            right = bool(record.given) and _ask_yes("right? (y, n, or nothing to leave it so): ", record.verdict == "accept")
            self.add(record, "sense", right=right, sense=_ask_yes("does it make sense now? (y or n): "))

    def _report(self, complete: bool) -> None:
        from sluicegate_study.deck.cards import Head
        from sluicegate_study.lecture.cards import make_repair_cards, write_cards
        from sluicegate_study.lecture.report import make_report

        found = make_report(self.course)
        for line in _told(found, self.course):
            print(line)
        if complete and (cards := make_repair_cards(self.course.records, self.slug, self.hidden_now())):
            new = write_cards(self.cards / "mend.md", cards, Head(deck=self.slug, source=self.notes.name))
            print(f"cards for what was not rebuilt: {len(cards)} in {self.cards}/mend.md ({new} new), the first broken link first")
            print(f"next: {program()} deck review {self.cards}")


def _split(text: str, notes: Path, file: Path, marked: bool) -> None:
    from sluicegate_study.lecture.lecture import split_notes, write_claims

    split = split_notes(text, marked=marked)
    if not split.claims:
        hint = "expected lines that begin with claim:" if marked else "expected sentences, list items or formulas"
        raise UserError(f"no claim in {str(notes)!r} ({len(split.left_out)} text(s) left out): {hint}.")
    content = write_claims(split.claims, notes.name)
    try:
        with file.open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
            out.write(content)
    except FileExistsError:
        return  # another run was quicker; a split is a pure function of the notes
    for line in content.splitlines()[3:]:
        print(escape_controls(line))
    for number, why, said in split.left_out:
        print(f"left out, line {number} ({why}): {escape_controls(said[:60])}")
    print(f"\n{len(split.claims)} claims: {file}")
    if len(split.claims) < 40:
        print("a verdict needs 40 claims, 20 with cards and 20 without (with --no-cards: 20); below, you get numbers without one")


def _told(found: "Report", course: "Course") -> list[str]:
    if not found.all.claims:
        return [f"\nno claim has been through it yet: {found.verdict}"]
    whole = found.all
    lines = [
        f"\nyou felt {whole.predicted:.0%}, you could {whole.accuracy:.0%} ({whole.claims} claims, {found.days:.1f} days later)",
        f"illusion gap: {whole.gap}",
        f"verdict: {found.verdict}",
    ]
    for arm, part in found.arms.items():
        if len(found.arms) > 1 and part.claims:
            name = "with cards" if arm == "cards" else "without"
            lines.append(f"  {name}: felt {part.predicted:.0%}, could {part.accuracy:.0%}, gap {part.gap}, {part.claims} claims")
    if len(found.arms) > 1 and not math.isnan(found.cards_help.value):
        short = any(found.missing.values())
        said = (
            " (too few claims for a verdict)" if short else "" if found.cards_help.low <= 0 <= found.cards_help.high else " (not by chance)"
        )
        lines.append(f"cards: {found.cards_help} rebuilt with cards less without{said}")
    if found.chains:
        lines.append(f"chains rebuilt from end to end: {sum(right for _, right in found.chains)} of {len(found.chains)}")
    texts = {record.claim.name: record.claim.text for record in course.records}
    if found.first_broken:
        lines.append(f"first broken link: [{found.first_broken}] {escape_controls(texts[found.first_broken])}")
    sure = "" if math.isnan(found.confidence) else f"; when you answered you were {found.confidence:.0%} sure"
    lines.append(f"makes sense when shown: {found.sense:.0%}{sure}")
    for count, what in (
        (found.overruled, "verdicts overruled by you"),
        (found.void, "gaps that nobody could fill, not counted"),
        (found.withdrawn, "predictions for claims that were reworded or removed since, not counted"),
        (sum(record.predicted is None for record in course.records), "claims without a prediction, not counted"),
    ):
        if count:
            lines.append(f"{count} {what}")
    return lines


def _titled(record: "Record") -> str:
    return f"[{record.claim.name}] " + (f"({escape_controls(record.claim.section)}) " if record.claim.section else "")


def _judged(verdict: str) -> str:
    return {"accept": "right", "prompt": "near, but not it"}.get(verdict, "wrong")


def _ask_yes(prompt: str, default: bool | None = None) -> bool:
    """Ask until it is yes or no, or nothing where there is a default. Raises `EOFError` where the input or the learner
    ended."""
    while (said := ask_line(prompt, QUIT)) or default is None:
        if said.lower() in ("y", "yes", "n", "no"):
            return said.lower().startswith("y")
        print(f"{escape_controls(said)!r}: expected y or n, or {QUIT}")
    return default


LECTURE = simple("lecture", Lecture, "Test whether what made sense when you read it still does")
