"""sluicegate play: tossups read clue by clue against a bot, judged, scored, coached; one line of input a step, or a full screen."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

from sluicegate.cli.command import print_json, simple
from sluicegate.errors import UserError
from sluicegate_study.formatting import visible
from sluicegate_study.review.cli import you
from sluicegate_study.tui.prompts import full_screen, line, percent

if TYPE_CHECKING:
    from sluicegate_study.deck.cards import Deck
    from sluicegate_study.game.playing import Match
    from sluicegate_study.game.scoring import Rules


@dataclass(frozen=True)
class Play:
    """Play tossups and bonuses against a bot, and see when you should have buzzed. On a terminal this is a full-screen program.

    In plain mode, one line of input a step: nothing reads on, b buzzes, q ends; then your answer, and how sure you were.
    After a ruling o turns it round. Every step is in the log at once; --stats shows what the log tells of all games."""

    deck: Positional[str] = "tossups"
    """Folder of Markdown files, one file, or the name of a deck that comes with sluicegate."""
    learner: str = ""
    """Who plays; default: person: and your login name."""
    log: str = ""
    """File of the games; default: log.jsonl with the deck, as for reviews."""
    rules: str = ""
    """naqt, acf, acf+powers, pace, tossup-only, or a TOML file (see buzz); default: what the deck says, else naqt."""
    bot: str = "even"
    """weak, even or strong; none to play alone."""
    tossups: int = 0
    """Tossups of the game; 0: as many as the rules say and the deck has."""
    category: str = ""
    """Only tossups of categories that begin like this."""
    seed: int = 0
    """Seed of the order and of the bot. Tossups heard least come first, so the next game is another one."""
    missed: str = ""
    """Deck file that missed tossups become cards of; default: missed.md next to the log."""
    no_cards: bool = False
    """Make no cards of missed tossups."""
    no_confidence: bool = False
    """Do not ask how sure you are."""
    no_guess: bool = False
    """Do not ask what you would have said of tossups on which you did not buzz."""
    words: int = 0
    """Words to read in one step, in plain mode; 0: a clue."""
    wpm: float = 180.0
    """Words read in a minute, on the full screen; 0: the right arrow reads on."""
    wait: float = 5.0
    """Seconds to buzz after the last word, on the full screen."""
    time: float = 0.0
    """Seconds to type an answer after a buzz, on the full screen; 0: no limit."""
    plain: bool = False
    """Play line by line, as through a pipe."""
    stats: Annotated[bool, tyro.conf.arg(aliases=("--report",))] = False
    """Play nothing; show what the log tells of all games."""
    json: bool = False
    """Print the numbers as the last line."""

    def run(self) -> int:
        from sluicegate_study.deck.collection import load_deck
        from sluicegate_study.deck.shipped import log_of
        from sluicegate_study.game.playing import Match

        self._check()
        path = Path(self.log) if self.log else log_of(self.deck)
        if self.stats:
            return self._stats(path)
        deck = load_deck(self.deck)
        if errors := sum(problem.severity == "error" for problem in deck.problems):
            print(f"{errors} error(s) in the deck, left out: sluicegate deck check {self.deck}")
        cards = None if self.no_cards else Path(self.missed) if self.missed else path.parent / "missed.md"
        match = Match(
            deck,
            path,
            self.learner or you(),
            clock=lambda: datetime.now(UTC),
            rules=_rules(self.rules, deck),
            bot=self.bot,
            seed=self.seed,
            tossups=self.tossups,
            category=self.category,
            confidence=not self.no_confidence,
            guess=not self.no_guess,
            cards=cards,
            linked=cards is not None and _inside(cards, Path(self.deck)),
        )
        for problem in match.problems:
            print(visible(str(problem)))
        interrupted = False
        try:
            if full_screen(self.plain):
                from sluicegate_study.tui.play import PlayProgram

                PlayProgram(match, wpm=self.wpm, wait=self.wait, time=self.time).run()
            else:
                _lines(match, self.words)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            match.close()
        self._report(match, path)
        return 130 if interrupted else 0

    def _check(self) -> None:
        if self.words < 0:
            raise UserError(f"--words is {self.words}: expected 0 or more, the words to read in one step.")
        for name, value, most in (("wpm", self.wpm, 2000), ("wait", self.wait, 600), ("time", self.time, 600)):
            if not 0 <= value <= most:
                raise UserError(f"--{name} is {value}: expected a number from 0 to {most}.")

    def _report(self, match: "Match", path: Path) -> None:
        from sluicegate_study.deck.log import read_log
        from sluicegate_study.game.gamesheet import sheet
        from sluicegate_study.game.played import games_of

        games = [game for game in games_of(read_log(path), match.learner) if game.game == match.game]
        numbers: dict[str, Any] = {"tossups": 0}
        if games and games[0].turns:
            lines, numbers = sheet(games)
            print("\n" + "\n".join(lines))
        else:
            print("\nno tossup was played to its end; nothing to count")
        if match.added:
            print(f"{len(match.added)} missed, now cards in {match.cards}. To learn them: sluicegate deck review {match.cards}")
        print(f"log: {path}. All games: sluicegate play {self.deck} --stats")
        if self.json:
            score = {"us": match.ours, "them": match.theirs, "over": match.stage == "finished"}
            print_json({**score, **numbers, "cards": match.added, "log": str(path)})

    def _stats(self, path: Path) -> int:
        from sluicegate_study.deck.log import read_log
        from sluicegate_study.game.gamesheet import sheet
        from sluicegate_study.game.played import games_of

        log, learner = read_log(path), self.learner or you()
        for problem in log.problems:
            print(visible(str(problem)))
        games = [game for game in games_of(log, learner) if game.turns]
        if not games:
            raise UserError(f"no game of {learner} in {str(path)!r}. To play one: sluicegate play {self.deck}")
        lines, numbers = sheet(games)
        print("\n".join(lines))
        if self.json:
            print_json({**numbers, "log": str(path)})
        return 0


def _lines(match: "Match", words: int) -> None:
    """Play line by line, until the game or the input is over or q is said."""
    shown: tuple[int, int] = (-1, 0)
    steps: dict[str, Callable[[Match], bool]] = {
        "answering": lambda m: _answer(m, "your answer: "),
        "guessing": lambda m: _answer(m, "what would you have said? (nothing: no guess) "),
        "part": _part,
        "sure": _sure,
        "ruled": _ruled,
        "part ruled": _ruled,
        "over": _over,
    }
    while match.stage != "finished":
        if match.stage == "reading":
            shown = _show(match, shown)
            said = line("time is nearly up; Enter: no answer, b: buzz " if match.turn.read else "Enter: read on, b: buzz, q: end ")
            if said is None or said == "q":
                return
            if said == "b":
                match.buzz()
            elif said:
                print(f"'{visible(said)}': expected nothing, b or q")
            else:
                match.read_on(words)
                shown = _show(match, shown)
        elif not steps[match.stage](match):
            return


def _show(match: "Match", shown: tuple[int, int]) -> tuple[int, int]:
    """Print what was read since the last time, and what the bot did; returns how far that is: (number of the tossup, word)."""
    turn, at = match.turn, shown[1]
    if shown[0] != match.index:
        at = 0
        them = f", the {match.bot} team {match.theirs}" if match.opponent else ""
        _notes(match)
        number = f"Tossup {match.index + 1} of {match.count}" if turn.left else "Overtime"
        print(f"\n{number}. You {match.ours}{them}.")
    if turn.at > at:
        print(visible(turn.between(at, turn.at)))
    _notes(match)
    return match.index, turn.at


def _notes(match: "Match") -> None:
    while match.turn.notes:
        print(f"* {match.turn.notes.pop(0)}")


def _answer(match: "Match", prompt: str) -> bool:
    asking = match.turn.asking
    if asking.prompted:
        print(f"prompt: {visible(asking.ask) or 'be more specific'}")
        prompt = "your answer: "
    if (said := line(prompt)) is None:
        return False
    match.answer(said)
    return True


def _sure(match: "Match") -> bool:
    try:
        match.state(percent(optional=True))
    except EOFError:
        return False
    return True


def _part(match: "Match") -> bool:
    bonus = match.bonus
    assert bonus
    if bonus.asking.prompted:
        print(f"prompt: {visible(bonus.asking.ask) or 'be more specific'}")
    else:
        if not bonus.told:
            bonus.told = True
            print(f"\nBonus{'' if bonus.mine else ', what the other team misses'}: {visible(bonus.bonus.leadin)}")
        print(f"[{match.rules.part_value}] {visible(bonus.part.text)}")
    if (said := line("your answer: ")) is None:
        return False
    match.answer(said)
    return True


def _ruled(match: "Match") -> bool:
    """Show a ruling, and let it be turned round."""
    bonus = match.bonus
    while True:
        asking = bonus.asking if bonus else match.turn.asking
        value = bonus.points[-1] if bonus else match.turn.value
        answer = bonus.answer if bonus else match.turn.answer
        print(f"{'right' if asking.right else 'wrong'}, {value:+d}. The answer: {visible(answer)}")
        said = line(f"Enter: go on, o: I was {'wrong' if asking.right else 'right'}, q: end ")
        if said is None or said == "q":
            return False
        if said == "o":
            match.override()
            continue
        if not said:
            match.go_on()
            return True
        print(f"'{visible(said)}': expected nothing, o or q")


def _over(match: "Match") -> bool:
    """Show what came of a tossup; a guess may be turned round."""
    turn = match.turn
    _notes(match)
    if rest := turn.between(turn.at, len(turn.words)):
        print(f"The rest: {visible(rest)}")
    if turn.buzzed is None:
        print(f"The answer: {visible(turn.answer)}")
        while match.overridable:
            print(f"your guess counts as {'right' if turn.asking.right else 'wrong'}")
            said = line(f"Enter: go on, o: I was {'wrong' if turn.asking.right else 'right'}, q: end ")
            if said is None or said == "q":
                return False
            if not said:
                break
            if said == "o":
                match.override()
    added = len(match.added)
    match.go_on()
    if len(match.added) > added:
        print(f"a card was made of it: {match.added[-1]}")
    return True


def _rules(name: str, deck: "Deck") -> "Rules":
    from sluicegate_study.game.scoring import rules_of

    told = next((file.head.rules for file in deck.files if file.head.rules), "")
    return rules_of(name or told or "naqt")


def _inside(file: Path, deck: Path) -> bool:
    """Whether a file is one of a deck's."""
    return deck.is_dir() and file.resolve().is_relative_to(deck.resolve())


PLAY = simple("play", Play, "study", "Play tossups against a bot, and be told when to have buzzed")
