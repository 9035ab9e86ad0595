"""What the log tells of games played: points, celerity, powers, calibration, and the coach's advice. Nothing else is
kept of a game."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from sluicegate_study.deck.log import Event, Log
from sluicegate_study.errors import UserError, program
from sluicegate_study.game.coach import Advice, Coach, read_decision
from sluicegate_study.game.players import OPPONENTS
from sluicegate_study.game.scoring import Rules
from sluicegate_study.judge.calibration import Said


@dataclass
class LoggedGame:
    """One game of one learner, as the log has it; `verdicts` and values are those after overrides."""

    game: str
    rules: Rules
    bot: str
    tossups: int
    deck: str = ""
    finished: bool = False
    turns: list[Event] = field(default_factory=list)
    parts: list[Event] = field(default_factory=list)
    theirs: int = 0
    overrides: int = 0
    changed: dict[tuple[str, str, str], Event] = field(default_factory=dict)

    def right(self, event: Event) -> bool:
        """Whether an answer counts as right: as the player says, else as the judge said."""
        return self._last(event).more.get("verdict") == "accept"

    def value(self, event: Event) -> int:
        """The points of an answer."""
        return _points(self._last(event))

    @property
    def buzzes(self) -> list[Event]:
        return [event for event in self.turns if event.kind == "buzz"]

    @property
    def ours(self) -> int:
        return sum(self.value(event) for event in [*self.turns, *self.parts])

    def _last(self, event: Event) -> Event:
        return self.changed.get((event.item, event.kind, str(event.more.get("part", ""))), event)


def replay_games(log: Log, learner: str) -> list[LoggedGame]:
    """The games of a learner, in the order of the log. Events of a game whose beginning is lost, or that lack what they
    need, are left out."""
    games: dict[str, LoggedGame] = {}
    for event in log.events:
        if event.kind == "game" and event.learner == learner:
            try:
                more = event.more
                games[event.item] = LoggedGame(
                    event.item, Rules(**more["rules"]), str(more["bot"]), int(more["tossups"]), str(more.get("deck", ""))
                )
            except (KeyError, TypeError, ValueError):
                continue
    for event in log.events:
        game = games.get(str(event.more.get("game", "")))
        if game is None or event.learner not in (learner, f"bot:{game.bot}"):
            continue
        if event.learner != learner:
            game.theirs += _points(event)
        elif event.kind in ("buzz", "pass") and _whole(event):
            game.turns.append(event)
        elif event.kind == "bonus":
            game.parts.append(event)
        elif event.kind == "override":
            game.changed[event.item, str(event.more.get("of")), str(event.more.get("part", ""))] = event
        elif event.kind == "end":
            game.finished = True
    for game in games.values():
        game.overrides = sum(game.right(event) != (event.more.get("verdict") == "accept") for event in [*game.turns, *game.parts])
    return list(games.values())


def list_stated_answers(games: Iterable[LoggedGame], kind: str = "buzz") -> list[Said]:
    """Answers with a stated confidence: buzzes, or (`pass`) what the player would have said of tossups let go."""
    return [
        Said(float(event.more["conf"]), game.right(event), event.item, str(event.more.get("category", "")))
        for game in games
        for event in game.turns
        if event.kind == kind and isinstance(event.more.get("conf"), int | float) and 0 <= event.more["conf"] <= 1
    ]


def advise(games: Iterable[LoggedGame]) -> list[Advice]:
    """The coach's advice on every tossup outside of overtime."""
    coaches: dict[tuple[Rules, str, int], Coach] = {}
    given = []
    for game in games:
        key = (game.rules, game.bot, game.tossups)
        coach = coaches.setdefault(key, Coach(game.rules, OPPONENTS.get(game.bot), game.tossups))
        for event in game.turns:
            decision = read_decision(event.item, event.kind == "buzz", event.more)
            if advice := coach.advise(decision):
                given.append(advice)
    return given


def count_statistics(games: Sequence[LoggedGame]) -> dict[str, Any]:
    """The numbers of some games together; nan where there is nothing to divide by.

    `celerity`: mean of 1 - position over right buzzes. `power_rate`: powers among right buzzes on tossups with a power
    mark. `bpa`: mean over tossups heard of 1 - position where the buzz was right, else 0: the area under the share
    answered right against the position. `per_20`: points in 20 tossups heard. `ppb`: points in a bonus of our own.
    `negs` lost points; `wrong` did not."""
    if not games:
        raise UserError(f"no game in the log: expected at least one. To play: {program()} play DECK")
    heard = [(game, event) for game in games for event in game.turns]
    right = [(game, event) for game, event in heard if event.kind == "buzz" and game.right(event)]
    wrong = [game.value(event) for game, event in heard if event.kind == "buzz" and not game.right(event)]
    powers = sum(event.more.get("power") is True for _, event in right)
    marked = sum(game.rules.power > 0 and int(event.more["mark"]) > 0 for game, event in right)
    early = [1 - float(event.more["pos"]) for _, event in right]
    points = sum(game.ours for game in games)
    bonuses: dict[tuple[str, str], int] = defaultdict(int)
    for game in games:
        for event in game.parts:
            if not event.more.get("bounced"):
                bonuses[game.game, event.item] += game.value(event)
    return {
        "games": len(games),
        "finished": sum(game.finished for game in games),
        "tossups": len(heard),
        "heard_before": sum(bool(event.more.get("again")) for _, event in heard),
        "buzzes": len(right) + len(wrong),
        "powers": powers,
        "tens": len(right) - powers,
        "negs": sum(value < 0 for value in wrong),
        "wrong": sum(value == 0 for value in wrong),
        "points": points,
        "ppg": points / len(games),
        "per_20": 20 * points / len(heard) if heard else math.nan,
        "bonuses": len(bonuses),
        "ppb": fmean(bonuses.values()) if bonuses else math.nan,
        "celerity": fmean(early) if early else math.nan,
        "power_rate": powers / marked if marked else math.nan,
        "conversion": len(right) / len(heard) if heard else math.nan,
        "bpa": sum(early) / len(heard) if heard else math.nan,
        "overrides": sum(game.overrides for game in games),
    }


def _points(event: Event) -> int:
    value = event.more.get("value", 0)
    return value if isinstance(value, int) else 0


def _whole(event: Event) -> bool:
    """Whether a turn has all that the numbers need."""
    more = event.more
    numbers = all(isinstance(more.get(name), int) and not isinstance(more[name], bool) for name in ("tick", "mark", "d", "n"))
    pos = more.get("pos")
    return numbers and isinstance(pos, int | float) and 0 <= pos <= 1 and isinstance(more.get("alone"), bool)
