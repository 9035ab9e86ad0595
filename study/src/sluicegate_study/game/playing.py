"""A game of tossups against a bot, or alone: what may happen next, what it is worth, and every step in the log at once.

A `Match` is a state machine without a screen. What may be done depends on its `stage`:

    reading     advance() by a word, or buzz()           answering   answer(text); asked back, it stays answering
    sure        state(chance of being right, or None)    ruled       override(), go_on()
    guessing    answer(text): what you would have said   over        override() of that guess, go_on()
    part        answer(text): a part of a bonus          part ruled  override(), go_on()
    finished

The bot acts within `advance` and `go_on`. A team has one attempt; only the first team to answer can lose points, and
only before the last word.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sluicegate_study.deck.cards import Bonus, Deck, Tossup
from sluicegate_study.deck.log import Event, append, read_log
from sluicegate_study.errors import UserError, nearest, program
from sluicegate_study.game.bots import draw_plan, find_mark, find_tick
from sluicegate_study.game.coach import Decision, read_decision
from sluicegate_study.game.missed import add_card, check_file, missed_card
from sluicegate_study.game.players import Opponent, opponent_of
from sluicegate_study.game.scoring import PRESETS, Rules
from sluicegate_study.game.turns import Asking, BonusTurn, Turn

Stage = Literal["reading", "answering", "sure", "ruled", "guessing", "over", "part", "part ruled", "finished"]
ALONE = "none"


class Match:
    """One game. `log` is added to as it goes on; `cards` is the deck file that missed tossups become cards of (None:
    they do not), and `linked` says that it belongs to `deck`, so that its cards may need the deck's."""

    def __init__(
        self,
        deck: Deck,
        log: Path,
        learner: str,
        *,
        clock: Callable[[], datetime],
        rules: Rules = PRESETS["naqt"],
        bot: str = "even",
        seed: int = 0,
        tossups: int = 0,
        category: str = "",
        confidence: bool = True,
        guess: bool = True,
        cards: Path | None = None,
        linked: bool = False,
    ) -> None:
        if not learner.strip():
            raise UserError("the learner has no name: expected one like person:ada.")
        if seed < 0 or tossups < 0:
            raise UserError(f"the seed is {seed} and the number of tossups {tossups}: expected 0 or more.")
        if bot != ALONE and bot not in ("weak", "even", "strong"):
            raise UserError(f"no bot {bot!r}: expected weak, even, strong, or {ALONE} to play alone.")
        self.deck, self.path, self.learner, self.clock, self.cards, self.linked = deck, log, learner, clock, cards, linked
        if cards is not None:
            check_file(cards)
        self.rules = rules if deck.bonuses else dataclasses.replace(rules, parts=0)
        self.bot, self.opponent = bot, None if bot == ALONE else opponent_of(bot)
        self.seed, self.confidence, self.guess = seed, confidence, guess
        past = read_log(log)
        self.problems = past.problems
        mine = [event for event in past.events if event.learner == learner]
        self._heard = Counter(event.item for event in mine if event.kind in ("buzz", "pass"))
        self._number = sum(event.kind == "game" for event in mine)
        self._categories = {entry.key: entry.category or deck.head_of(entry).category for entry in deck.entries}
        self.tossups = self._order(self._chosen(deck.tossups, category))
        self.bonuses: list[Bonus] = self._shuffled(deck.bonuses)
        self.count = min(tossups or rules.cycles, len(self.tossups))
        self.regular = self.count
        self.ours = self.theirs = 0
        self.index = self._bonus = -1
        self.bonus: BonusTurn | None = None
        self.added: list[str] = []
        self._begun = False
        self.game = hashlib.sha256(f"{clock().isoformat()} {learner} {seed} {self._number}".encode()).hexdigest()[:12]
        self.stage: Stage = "over"
        self._next()

    # ------------------------------------------------------------------------------------ what a player may do

    def advance(self) -> None:
        """Read one more word, or let the bot buzz that has waited for this one. After the last word: the time is up."""
        self._must_be("reading")
        turn = self.turn
        if self.bot_waits:
            self._bot_buzzes()
        elif not turn.read:
            turn.at += 1
        else:
            turn.notes.append("Time is up.")
            self._unanswered()

    def read_on(self, words: int = 0) -> None:
        """Advance by a clue, or by so many words, or until something happens."""
        turn, alone = self.turn, self.turn.alone
        if turn.read:
            self.advance()
            return
        stop = min(turn.at + words, len(turn.words)) if words else next(end for end in turn.ends if end > turn.at)
        while self.stage == "reading" and turn.alone == alone and turn.at < stop:
            self.advance()

    def buzz(self) -> None:
        """Stop the reading; an answer is due."""
        self._must_be("reading")
        self.turn.buzzed, self.turn.asking, self.turn.asked_at = self.turn.at, Asking(self.turn.tossup.answer), self.clock()
        self.stage = "answering"

    def answer(self, text: str) -> None:
        """What was typed: to a tossup, as a guess, or to a part of a bonus. Nothing typed is wrong, or no guess."""
        self._must_be("answering", "guessing", "part")
        if self.stage == "part":
            self._answer_part(text)
            return
        turn = self.turn
        if self.stage == "guessing" and not text.strip() and not turn.asking.given:
            self._log("pass", turn.tossup.key, self._where())
            self.stage = "over"
            return
        first = not turn.asking.given
        if first:
            turn.seconds = (self.clock() - turn.asked_at).total_seconds()
        final = turn.asking.hear(text)
        if first and self.confidence and text.strip():
            # Asked before the ruling is known, and before what is asked back gives a hint.
            self.stage = "sure"
        elif final:
            self._rule()

    def state(self, sure: float | None) -> None:
        """State the chance of being right, 0 to 1; None: not said."""
        self._must_be("sure")
        if sure is not None and not 0 <= sure <= 1:
            raise UserError(f"the confidence is {sure}: expected a chance from 0 to 1.")
        self.turn.sure = sure
        self.stage = "answering" if self.turn.buzzed is not None else "guessing"
        if not self.turn.asking.prompted:
            self._rule()

    @property
    def overridable(self) -> bool:
        """Whether a ruling can be turned round now."""
        return self.stage in ("ruled", "part ruled") or (self.stage == "over" and self.turn.buzzed is None and bool(self.turn.asking.given))

    def override(self) -> None:
        """Turn the last ruling round: I was right, or I was wrong. Logged as such."""
        if not self.overridable:
            raise UserError("nothing to override now: a ruling can be turned round until you go on.")
        if self.stage == "part ruled":
            assert self.bonus
            asking, key, of = self.bonus.asking, self.bonus.bonus.key, {"of": "bonus", "part": self.bonus.place + 1}
            asking.right = not asking.right
            value = self.rules.part_value if asking.right else 0
            self.ours += value - self.bonus.points[-1]
            self.bonus.points[-1] = value
        else:
            turn, asking, key = self.turn, self.turn.asking, self.turn.tossup.key
            asking.right = not asking.right
            of = {"of": "pass" if turn.buzzed is None else "buzz"}
            value = 0 if turn.buzzed is None else self._worth(asking.right)
            self._score(value)
        self._log("override", key, {**of, "verdict": "accept" if asking.right else "reject", "value": value})

    def go_on(self) -> None:
        """Leave a ruling, or a tossup that is over."""
        self._must_be("ruled", "over", "part ruled")
        if self.stage == "part ruled":
            self._bounce()
            self._next_part()
        elif self.stage == "ruled":
            if not self.turn.asking.right:
                self._rest()
            self.stage = "over"
        else:
            self._keep_card()
            self._bonus_or_next()

    def close(self) -> None:
        """Leave the game where it is. What happened is in the log already; what was typed and not ruled yet is ruled as
        it is."""
        if self.stage in ("sure", "answering", "guessing") and self._is_logged():
            self.stage = "over"  # interrupted between the line in the log and the next stage
        if self.stage == "sure":
            self.state(None)
        if self.stage in ("answering", "guessing"):
            if self.turn.asking.given:
                self._rule()
            elif self.stage == "guessing":
                self.answer("")
        if self.stage in ("ruled", "over"):
            self._keep_card()

    @property
    def bot_waits(self) -> bool:
        """Whether the bot buzzes as soon as the next moment comes."""
        turn = self.turn
        return self.opponent is not None and not turn.alone and 0 < turn.plan.word <= turn.at

    def decision(self) -> Decision:
        """The choice made in this tossup, as the coach takes it."""
        turn = self.turn
        return read_decision(turn.tossup.key, turn.buzzed is not None, {**self._where(), "conf": turn.sure})

    # ------------------------------------------------------------------------------------ a tossup

    def _bot_buzzes(self) -> None:
        turn = self.turn
        early = not turn.read
        value = self.rules.tossup(power=self._power(turn.at)) if turn.plan.right else self.rules.neg if early else 0
        verb = "interrupts" if early else "answers"
        turn.notes.append(f"The {self.bot} team {verb}: {'right' if turn.plan.right else 'wrong'}, {value:+d}.")
        self._bot_logs(turn.at, turn.plan.right, value)
        self.theirs += value
        if turn.plan.right:
            turn.winner = "them"
            self._unanswered()
        else:
            turn.alone, turn.difference = True, self.ours - self.theirs

    def _unanswered(self) -> None:
        """We have not buzzed and cannot any more: a guess is asked for before the answer is shown."""
        self.turn.asking, self.turn.asked_at = Asking(self.turn.tossup.answer), self.clock()
        self.stage = "guessing"
        if not self.guess:
            self.answer("")

    def _rule(self) -> None:
        turn = self.turn
        if turn.buzzed is None:
            self._log("pass", turn.tossup.key, {**self._where(), **self._said()})
            self.stage = "over"
            return
        value = self._worth(turn.asking.right)
        self._log("buzz", turn.tossup.key, {**self._where(), **self._said(), "value": value})
        self._score(value)
        self.stage = "ruled"

    def _worth(self, right: bool) -> int:
        turn = self.turn
        if right:
            return self.rules.tossup(power=self._power(turn.at))
        return 0 if turn.read or turn.alone else self.rules.neg

    def _power(self, word: int) -> bool:
        return bool(self.turn.tossup.power) and word <= self.turn.tossup.power

    def _score(self, value: int) -> None:
        self.ours += value - self.turn.value
        self.turn.value = value
        if self.turn.buzzed is not None:
            self.turn.winner = "us" if self.turn.asking.right else ""

    def _rest(self) -> None:
        """After our miss the rest is read to the bot."""
        turn = self.turn
        if not self.opponent or turn.alone:
            return
        if not turn.plan.rebounds(turn.at):
            turn.notes.append(f"The {self.bot} team has no answer.")
            return
        value = self.rules.tossup(power=False) if turn.plan.right_late else 0
        turn.notes.append(f"The {self.bot} team answers at the end: {'right' if value else 'wrong'}, {value:+d}.")
        self._bot_logs(len(turn.words), turn.plan.right_late, value)
        self.theirs += value
        turn.winner = "them" if value else ""

    def _keep_card(self) -> None:
        turn = self.turn
        if self.cards is None or turn.carded or turn.winner == "us" or turn.asking.right:
            return
        turn.carded = True
        own = {card.key for card in self.deck.cards} if self.linked else set()
        card = missed_card(turn.tossup, turn.at, turn.category, tuple(key for key in turn.tossup.cards if key in own))
        if add_card(card, self.cards, self.deck):
            self.added.append(card.key)

    # ------------------------------------------------------------------------------------ a bonus

    def _bonus_or_next(self) -> None:
        turn, self.bonus = self.turn, None
        if not turn.winner or not turn.left or not self.rules.parts or self._bonus + 1 >= len(self.bonuses):
            self._next()
            return
        if turn.winner == "them" and not self.rules.bounce:
            value = self.rules.part_value * sum(turn.plan.parts[: self.rules.parts])
            self.theirs += value
            self._log("bonus", turn.tossup.key, {"value": value}, bot=True)
            self._next(f"(The {self.bot} team made {value} points of its bonus.)")
            return
        self._bonus += 1
        chosen = self.bonuses[self._bonus]
        self.bonus = BonusTurn(chosen, turn.winner == "us", chosen.parts[: self.rules.parts])
        self._next_part()

    def _next_part(self) -> None:
        bonus = self.bonus
        assert bonus
        while True:
            bonus.place += 1
            if bonus.place >= len(bonus.parts):
                self._next()
                return
            bonus.asking = Asking(bonus.part.answer)
            if bonus.mine or not self.turn.plan.parts[bonus.place]:
                break
            self._bot_part()
        bonus.points.append(0)
        self.stage = "part"

    def _answer_part(self, text: str) -> None:
        bonus = self.bonus
        assert bonus
        if not bonus.asking.hear(text):
            return
        value = self.rules.part_value if bonus.asking.right else 0
        bonus.points[-1] = value
        self.ours += value
        more = {"part": bonus.place + 1, "parts": len(bonus.parts), **({"level": bonus.part.level} if bonus.part.level else {})}
        whose = {} if bonus.mine else {"bounced": True}
        category = self._categories[bonus.bonus.key]
        self._log("bonus", bonus.bonus.key, {**more, **whose, **bonus.asking.logged, "value": value, "category": category})
        self.stage = "part ruled"

    def _bounce(self) -> None:
        """What we miss of our own bonus goes to the bot, where the rules say so."""
        bonus = self.bonus
        assert bonus
        if self.rules.bounce and bonus.mine and self.opponent and not bonus.asking.right and self.turn.plan.parts[bonus.place]:
            self._bot_part()

    def _bot_part(self) -> None:
        assert self.bonus
        self.theirs += self.rules.part_value
        self.bonus.points.append(-self.rules.part_value)
        self._log("bonus", self.bonus.bonus.key, {"part": self.bonus.place + 1, "value": self.rules.part_value}, bot=True)

    # ------------------------------------------------------------------------------------ from tossup to tossup

    def _next(self, *notes: str) -> None:
        self.bonus = None
        tied = self.opponent is not None and self.ours == self.theirs and self.index >= 0
        if self.index + 1 >= self.count and tied:
            extra = self.rules.overtime if self.count == self.regular else 1
            self.count = min(self.count + extra, len(self.tossups))
        self.index += 1
        if self.index >= self.count:
            self._log("end", self.game, {"us": self.ours, "them": self.theirs})
            self.stage = "finished"
            return
        tossup = self.tossups[self.index]
        drawn = draw_plan(self.opponent or Opponent("none", share=0.0), len(tossup.words), self.seed, self._number, self.index)
        left = max(0, self.regular - self.index)
        again, difference = self._heard[tossup.key], self.ours - self.theirs
        self.turn = Turn(tossup, self._categories[tossup.key], left, again, difference, drawn, tossup.words, notes=list(notes))
        self.stage = "reading"

    def _chosen(self, tossups: Sequence[Tossup], category: str) -> list[Tossup]:
        if not tossups:
            raise UserError(f"the deck has no tossups: expected entries with T: and ANSWER:. An example: {program()} deck new FOLDER")
        wanted = category.casefold()
        found = [tossup for tossup in tossups if self._categories[tossup.key].casefold().startswith(wanted)]
        if not found:
            there = sorted({self._categories[tossup.key] for tossup in tossups} - {""})
            raise UserError(
                f"no tossup of a category that begins with {category!r}. There are: {nearest(category, there, most=12) or 'none'}."
            )
        return found

    def _order(self, tossups: list[Tossup]) -> list[Tossup]:
        """Those heard least first, otherwise in an order drawn by the seed."""
        return sorted(self._shuffled(tossups), key=lambda tossup: self._heard[tossup.key])

    def _shuffled(self, entries: Sequence[Any]) -> list[Any]:
        random = np.random.default_rng(np.random.SeedSequence([self.seed, self._number, len(entries)]))
        return [entries[place] for place in random.permutation(len(entries))]

    # ------------------------------------------------------------------------------------ the log

    def _where(self) -> dict[str, Any]:
        """Where in the tossup and in the game we are."""
        turn = self.turn
        words, power = len(turn.words), turn.tossup.power
        return {
            "pos": round(turn.at / words, 4),
            "word": turn.at,
            "clue": turn.clue,
            "tick": find_tick(turn.at, words),
            "mark": find_mark(power, words) if self.rules.power else 0,
            "power": bool(self.rules.power) and self._power(turn.at),
            "alone": turn.alone,
            "d": turn.difference,
            "n": turn.left,
            "category": turn.category,
            **({"again": turn.again} if turn.again else {}),
        }

    def _said(self) -> dict[str, Any]:
        turn = self.turn
        sure = {} if turn.sure is None else {"conf": turn.sure}
        return {**turn.asking.logged, **sure, "ms": round(1000 * turn.seconds)}

    def _bot_logs(self, word: int, right: bool, value: int) -> None:
        turn = self.turn
        more = {"pos": round(word / len(turn.words), 4), "word": word, "verdict": "accept" if right else "reject", "value": value}
        self._log("buzz", turn.tossup.key, more, bot=True)

    def _log(self, kind: str, item: str, more: dict[str, Any], *, bot: bool = False) -> None:
        now = self.clock().astimezone(UTC)
        head = []
        if not self._begun:
            self._begun = True
            about = {"rules": dataclasses.asdict(self.rules), "bot": self.bot, "seed": self.seed, "tossups": self.regular}
            head = [Event(now, self.learner, self.game, "game", {**about, "deck": self.deck.name})]
        learner = f"bot:{self.bot}" if bot else self.learner
        append(self.path, [*head, Event(now, learner, item, kind, {"game": self.game, **more})])

    def _is_logged(self) -> bool:
        """Whether the log holds what we did in this tossup."""
        mine = [event for event in read_log(self.path).events if event.learner == self.learner and event.kind in ("buzz", "pass")]
        return any((event.item, event.more.get("game")) == (self.turn.tossup.key, self.game) for event in mine)

    def _must_be(self, *stages: Stage) -> None:
        if self.stage not in stages:
            raise RuntimeError(f"the game is at {self.stage!r}: expected {' or '.join(stages)}")
