"""``play``: tossups read clue by clue against a bot, judged, scored, coached; one line of input a step, or a full
screen."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

from sluicegate_study.command import name_learner, print_json, simple
from sluicegate_study.deck.cli import open_deck
from sluicegate_study.errors import UserError, program
from sluicegate_study.formatting import escape_controls
from sluicegate_study.tui.prompts import ask_line, ask_percent, use_full_screen

if TYPE_CHECKING:
    from sluicegate_study.deck.cards import Deck
    from sluicegate_study.game.playing import Match
    from sluicegate_study.game.scoring import Rules


@dataclass(frozen=True)
class Play:
    """Play tossups and bonuses against a bot, and see when you should have buzzed. On a terminal this is a full-screen
    program.

    In plain mode, one line of input a step: nothing reads on, b buzzes, q ends; then your answer, and how sure you
    were. After a ruling o turns it round. Every step is in the log at once; --stats shows what the log tells of all
    games."""

    deck: Positional[str] = "tossups"
    """Folder of Markdown files, one file, or the name of a deck that comes with the program."""
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
        from sluicegate_study.deck.shipped import find_log
        from sluicegate_study.game.playing import Match

        self._check()
        path = Path(self.log) if self.log else find_log(self.deck)
        if self.stats:
            return self._stats(path)
        deck = open_deck(self.deck)
        cards = None if self.no_cards else Path(self.missed) if self.missed else path.parent / "missed.md"
        match = Match(
            deck,
            path,
            self.learner or name_learner(),
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
            print(escape_controls(str(problem)))
        interrupted = False
        try:
            if use_full_screen(self.plain):
                from sluicegate_study.tui.play import PlayProgram

                PlayProgram(match, wpm=self.wpm, wait=self.wait, time=self.time).run()
            else:
                _play_in_lines(match, self.words)
        except EOFError:
            pass
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
        from sluicegate_study.game.gamesheet import format_sheet
        from sluicegate_study.game.played import replay_games

        games = [game for game in replay_games(read_log(path), match.learner) if game.game == match.game]
        numbers: dict[str, Any] = {"tossups": 0}
        if games and games[0].turns:
            lines, numbers = format_sheet(games)
            print("\n" + "\n".join(lines))
        else:
            print("\nno tossup was played to its end; nothing to count")
        if match.added:
            print(f"{len(match.added)} missed, now cards in {match.cards}. To learn them: {program()} deck review {match.cards}")
        print(f"log: {path}. All games: {program()} play {self.deck} --stats")
        if self.json:
            score = {"us": match.ours, "them": match.theirs, "over": match.stage == "finished"}
            print_json({**score, **numbers, "cards": match.added, "log": str(path)})

    def _stats(self, path: Path) -> int:
        from sluicegate_study.deck.log import read_log
        from sluicegate_study.game.gamesheet import format_sheet
        from sluicegate_study.game.played import replay_games

        log, learner = read_log(path), self.learner or name_learner()
        for problem in log.problems:
            print(escape_controls(str(problem)))
        games = [game for game in replay_games(log, learner) if game.turns]
        if not games:
            raise UserError(f"no game of {learner} in {str(path)!r}. To play one: {program()} play {self.deck}")
        lines, numbers = format_sheet(games)
        print("\n".join(lines))
        if self.json:
            print_json({**numbers, "log": str(path)})
        return 0


def _play_in_lines(match: "Match", words: int) -> None:
    """Play line by line, until the game is over. Raises `EOFError` where the input ends, or q is said."""
    shown: tuple[int, int] = (-1, 0)
    steps: dict[str, Callable[[Match], None]] = {
        "answering": lambda m: _answer(m, "your answer: "),
        "guessing": lambda m: _answer(m, "what would you have said? (nothing: no guess) "),
        "part": _answer_part,
        "sure": lambda m: m.state(ask_percent(optional=True)),
        "ruled": _confirm_ruling,
        "part ruled": _confirm_ruling,
        "over": _end_tossup,
    }
    while match.stage != "finished":
        if match.stage != "reading":
            steps[match.stage](match)
            continue
        shown = _show(match, shown)
        ready = "time is nearly up; Enter: no answer, b: buzz " if match.turn.read else "Enter: read on, b: buzz, q: end "
        said = ask_line(ready, "q")
        if said == "b":
            match.buzz()
        elif said:
            print(f"'{escape_controls(said)}': expected nothing, b or q")
        else:
            match.read_on(words)
            shown = _show(match, shown)


def _show(match: "Match", shown: tuple[int, int]) -> tuple[int, int]:
    """Print what was read since the last time, and what the bot did; returns how far that is: (number of the tossup,
    word)."""
    turn, at = match.turn, shown[1]
    if shown[0] != match.index:
        at = 0
        them = f", the {match.bot} team {match.theirs}" if match.opponent else ""
        _print_notes(match)
        number = f"Tossup {match.index + 1} of {match.count}" if turn.left else "Overtime"
        print(f"\n{number}. You {match.ours}{them}.")
    if turn.at > at:
        print(escape_controls(turn.between(at, turn.at)))
    _print_notes(match)
    return match.index, turn.at


def _print_notes(match: "Match") -> None:
    while match.turn.notes:
        print(f"* {match.turn.notes.pop(0)}")


def _answer(match: "Match", prompt: str) -> None:
    asking = match.turn.asking
    if asking.prompted:
        print(f"prompt: {escape_controls(asking.ask) or 'be more specific'}")
        prompt = "your answer: "
    match.answer(ask_line(prompt))


def _answer_part(match: "Match") -> None:
    bonus = match.bonus
    assert bonus
    if bonus.asking.prompted:
        print(f"prompt: {escape_controls(bonus.asking.ask) or 'be more specific'}")
    else:
        if not bonus.told:
            bonus.told = True
            print(f"\nBonus{'' if bonus.mine else ', what the other team misses'}: {escape_controls(bonus.bonus.leadin)}")
        print(f"[{match.rules.part_value}] {escape_controls(bonus.part.text)}")
    match.answer(ask_line("your answer: "))


def _confirm_ruling(match: "Match") -> None:
    """Show a ruling, and let it be turned round."""
    bonus = match.bonus
    while True:
        asking = bonus.asking if bonus else match.turn.asking
        value = bonus.points[-1] if bonus else match.turn.value
        answer = bonus.answer if bonus else match.turn.answer
        print(f"{'right' if asking.right else 'wrong'}, {value:+d}. The answer: {escape_controls(answer)}")
        said = ask_line(f"Enter: go on, o: I was {'wrong' if asking.right else 'right'}, q: end ", "q")
        if not said:
            match.go_on()
            return
        if said == "o":
            match.override()
        else:
            print(f"'{escape_controls(said)}': expected nothing, o or q")


def _end_tossup(match: "Match") -> None:
    """Show what came of a tossup; a guess may be turned round."""
    turn = match.turn
    _print_notes(match)
    if rest := turn.between(turn.at, len(turn.words)):
        print(f"The rest: {escape_controls(rest)}")
    if turn.buzzed is None:
        print(f"The answer: {escape_controls(turn.answer)}")
        while match.overridable:
            print(f"your guess counts as {'right' if turn.asking.right else 'wrong'}")
            said = ask_line(f"Enter: go on, o: I was {'wrong' if turn.asking.right else 'right'}, q: end ", "q")
            if not said:
                break
            if said == "o":
                match.override()
    added = len(match.added)
    match.go_on()
    if len(match.added) > added:
        print(f"a card was made of it: {match.added[-1]}")


def _rules(name: str, deck: "Deck") -> "Rules":
    from sluicegate_study.game.scoring import rules_of

    told = next((file.head.rules for file in deck.files if file.head.rules), "")
    return rules_of(name or told or "naqt")


def _inside(file: Path, deck: Path) -> bool:
    """Whether a file is one of a deck's."""
    return deck.is_dir() and file.resolve().is_relative_to(deck.resolve())


PLAY = simple("play", Play, "Play tossups against a bot, and be told when to have buzzed")
