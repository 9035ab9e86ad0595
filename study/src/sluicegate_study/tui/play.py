"""play on the full screen: a tossup appears word by word, space buzzes; the game itself is `playing.Match`."""

from collections.abc import Callable

from textual.timer import Timer

from sluicegate_study.deck.log import read_log
from sluicegate_study.errors import program
from sluicegate_study.game.coach import Coach
from sluicegate_study.game.gamesheet import format_advice, format_sheet
from sluicegate_study.game.played import replay_games
from sluicegate_study.game.playing import Match
from sluicegate_study.judge.calibration import parse_percent
from sluicegate_study.tui.base import Line, Program

STEP = 0.1
"""Seconds between two looks at a countdown."""
BAR = 20


class PlayProgram(Program):
    """One game. `wpm` words appear in a minute (0: the right arrow reads on), `wait` seconds are left after the last
    word, and `time` to type an answer after a buzz (0: no limit)."""

    TITLE = f"{program()} play"
    PARTS = ("bonus", "question", "notes", "ruling", "coach", "wrong")

    def __init__(self, match: Match, *, wpm: float = 180.0, wait: float = 5.0, time: float = 0.0) -> None:
        super().__init__()
        self.match, self.wpm, self.wait, self.time = match, wpm, wait, time
        self.coach = Coach(match.rules, match.opponent, match.regular)
        self.begun = self.paused = False
        self.left = self.whole = 0.0
        self.remark = self.complaint = ""
        self.notes: list[str] = []
        self._timer: Timer | None = None

    # ------------------------------------------------------------------------------------ showing

    def show(self) -> None:
        match, stage = self.match, self.match.stage
        for name in ("bonus", "question", "notes", "ruling", "coach"):
            self.put(name)
        self.put("wrong", (self.complaint, "bad"))
        them = f"  :  {match.theirs} {match.bot} team" if match.opponent else ""
        if stage == "finished":
            self.put("head", f"You {match.ours}{them}    the end")
            self._sheet()
            self.ask(None, "up, down: scroll  q or Enter: end")
            return
        number = f"{match.index + 1} of {match.count}" if match.turn.left else "overtime"
        self.put("head", f"Tossup {number}    you {match.ours}{them}    {match.rules.name}")
        if not self.begun:
            self._welcome()
        elif stage in ("part", "part ruled"):
            self._bonus()
        else:
            self._tossup()
        self._keys()

    def _welcome(self) -> None:
        match = self.match
        how = f"{match.count} tossups by {match.rules.name} rules, " + (f"against the {match.bot} team." if match.opponent else "alone.")
        manual = "The right arrow reads on, a word at a time." if not self.wpm else f"Read at {self.wpm:g} words a minute."
        neg = f" A wrong one before the last word costs {-match.rules.neg}." if match.rules.neg else ""
        power = f" Before the power mark (*) it is worth {match.rules.power}." if match.rules.power else ""
        self.put("question", f"{how} {manual}\n\nSpace stops the reading: then type your answer.{power}{neg}")

    def _tossup(self) -> None:
        turn, stage = self.match.turn, self.match.stage
        done = stage in ("ruled", "over")
        text: list[Line | str] = [turn.text]
        if turn.buzzed is not None:
            text.append((" [buzz]", "ask"))
        if done:
            text.append((" " + turn.between(turn.at, len(turn.words)), "dim"))
        self.put("question", *text)
        self.notes += turn.notes
        turn.notes.clear()
        self.put("notes", ("\n".join(self.notes), "ask"))
        asking = turn.asking
        if done and (asking.given or turn.buzzed is not None):
            self._ruling(asking.right, asking.given, turn.value if turn.buzzed is not None else None, turn.answer)
        elif done:
            self.put("ruling", ("The answer: ", "dim"), (turn.answer, "strong"))
        elif asking.prompted and stage != "sure":
            self.put("ruling", ("Prompt: ", "ask"), asking.ask or "be more specific")
        self.put("coach", (self.remark, "dim"))

    def _bonus(self) -> None:
        match, bonus = self.match, self.match.bonus
        assert bonus
        whose = "Your bonus" if bonus.mine else "What the other team misses of its bonus"
        self.put("bonus", (f"{whose}. ", "ask"), bonus.bonus.leadin)
        self.put("question", (f"Part {bonus.place + 1} of {len(bonus.parts)}: ", "dim"), bonus.part.text)
        if match.stage == "part ruled":
            self._ruling(bonus.asking.right, bonus.asking.given, bonus.points[-1], bonus.answer)
        elif bonus.asking.prompted:
            self.put("ruling", ("Prompt: ", "ask"), bonus.asking.ask or "be more specific")

    def _ruling(self, right: bool, given: list[str], value: int | None, answer: str) -> None:
        points = "" if value is None else f", {value:+d}"
        verdict = ("Right" + points, "good") if right else ("Wrong" + points, "bad")
        you = " / ".join(filter(None, given)) or "nothing"
        self.put("ruling", verdict, ("   you said: ", "dim"), you, ("\nThe answer: ", "dim"), (answer, "strong"))

    def _keys(self) -> None:
        match, ends = self.match, "ctrl+q: end"
        over = f"  o: I was {'wrong' if self._asking_right() else 'right'}" if match.overridable else ""
        reading = "p: go on reading" if self.paused else "space: buzz  right: read on" if not self.wpm else "space: buzz  p: pause"
        hints: dict[str, tuple[str | None, str]] = {
            "reading": (None, f"{reading}  {ends}"),
            "answering": ("your answer", f"Enter: send  {ends}"),
            "guessing": ("what would you have said?", f"Enter: send (nothing: no guess)  {ends}"),
            "sure": ("how sure, in % (0 to 100)", f"Enter: send (nothing: not said)  {ends}"),
            "part": ("your answer", f"Enter: send  {ends}"),
            "ruled": (None, f"Enter: go on{over}  q: end"),
            "over": (None, f"Enter: go on{over}  q: end"),
            "part ruled": (None, f"Enter: go on{over}  q: end"),
        }
        hint, keys = hints[match.stage] if self.begun else (None, f"Enter: begin  {ends}")
        self.ask(hint, keys)
        self._clock()

    def _asking_right(self) -> bool:
        return (self.match.bonus or self.match.turn).asking.right

    def _clock(self) -> None:
        if self.whole <= 0 or self.match.stage not in ("reading", "answering"):
            self.put("clock")
            return
        full = round(BAR * max(0.0, self.left) / self.whole)
        self.put("clock", "█" * full + "░" * (BAR - full) + f" {max(0.0, self.left):.0f} s")

    def _sheet(self) -> None:
        games = [game for game in replay_games(read_log(self.match.path), self.match.learner) if game.game == self.match.game]
        lines = format_sheet(games)[0] if games and games[0].turns else ["Nothing was played."]
        cards = f"\n\n{len(self.match.added)} missed, now cards in {self.match.cards}" if self.match.added else ""
        self.put("question", "\n".join(lines) + cards)
        self.top()

    # ------------------------------------------------------------------------------------ time

    def _later(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop()
        self._timer = self.set_timer(seconds, then)

    def _stop(self) -> None:
        if self._timer:
            self._timer.stop()
        self._timer = None

    def _run(self) -> None:
        """Set the clock going for the stage that the game is in now."""
        self._stop()
        self.left = self.whole = 0.0
        match = self.match
        if match.stage == "reading" and not self.paused and self.wpm:
            if match.turn.read:
                self.left = self.whole = self.wait
                self._later(min(STEP, self.wait), self._count)
            else:
                self._later(60 / self.wpm, self._word)
        elif match.stage == "answering" and self.time:
            self.left = self.whole = self.time
            self._later(STEP, self._count)
        self.show()

    def _word(self) -> None:
        self.match.advance()
        self._run()
        self.end_of_page()

    def _count(self) -> None:
        """One step of a countdown. The bot may answer when half of the time after the last word is over."""
        self.left -= STEP
        reading = self.match.stage == "reading"
        if reading and (self.left <= 0 or (self.match.bot_waits and self.left <= self.wait / 2)):
            self._word()
        elif not reading and self.left <= 0:
            self.typed(self.line)
        else:
            self._clock()
            self._later(STEP, self._count)

    # ------------------------------------------------------------------------------------ hearing

    def typed(self, text: str) -> None:
        match = self.match
        self.complaint = ""
        if match.stage == "sure":
            sure = parse_percent(text) if text.strip() else None
            if text.strip() and sure is None:
                self.complaint = f"'{text}': expected a number from 0 to 100, or nothing"
                self.show()
                return
            match.state(sure)
        elif match.stage in ("answering", "guessing", "part"):
            match.answer(text)
        self._run()
        if match.stage in ("ruled", "over"):
            self._advise()
        self.end_of_page()

    def pressed(self, key: str) -> None:
        match = self.match
        if match.stage == "finished" or not self.begun:
            if match.stage == "finished" and key in ("q", "enter", "escape"):
                self.exit()
            elif key == "enter":
                self.begun = True
                self._run()
        elif match.stage == "reading":
            self._while_reading(key)
        elif key == "o" and match.overridable:
            match.override()
            self.show()
        elif key == "q":
            self.exit()
        elif key == "enter":
            self._go_on()

    def _while_reading(self, key: str) -> None:
        if key == "p" and self.wpm:
            self.paused = not self.paused
            self._run()
        elif key == "space" and not self.paused:
            self.match.buzz()
            self._run()
        elif key == "right" and not self.wpm:
            self._word()

    def _go_on(self) -> None:
        match, turn = self.match, self.match.turn
        match.go_on()
        if match.stage == "over" and turn.winner == "us":
            match.go_on()  # everything is on the page already
        if match.stage != "over":
            self.notes, self.remark = [], ""
        self._run()
        if match.stage in ("reading", "part", "finished"):
            self.top()
        else:
            self.end_of_page()

    def _advise(self) -> None:
        """Ask the coach, who takes a moment the first time, without holding up the game."""
        decision, number = self.match.decision(), self.match.index

        def told() -> None:
            advice = self.coach.advise(decision)
            self.call_from_thread(self._told, number, format_advice(advice) if advice else "")

        self.run_worker(told, thread=True, exclusive=True, exit_on_error=False)

    def _told(self, number: int, text: str) -> None:
        if self.match.stage in ("ruled", "over") and self.match.index == number:
            self.remark = text
            self.put("coach", (text, "dim"))
