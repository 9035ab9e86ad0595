"""What a team is made of: shares of categories (a deck, a preset, a file), and skills (a file, or the log of plays and
reviews)."""

import csv
import io
import math
import tomllib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sluicegate_study.deck.cards import Deck
from sluicegate_study.deck.log import Log, read_log
from sluicegate_study.errors import UserError, nearest, program
from sluicegate_study.files import read_text
from sluicegate_study.game.played import replay_games
from sluicegate_study.game.team import Team, normalize

PRESETS: dict[str, dict[str, float]] = {
    # Tossups of an edited packet of 20: ACF's page on distribution (as of June 2026), PACE's for its 2026 NSC.
    "acf": {
        "Literature": 4,
        "History": 4,
        "Science": 4,
        "Fine Arts": 3,
        "Religion and Mythology": 2,
        "Social Science and Philosophy": 2,
        "Other": 1,
    },
    "pace": {
        "History": 4,
        "Literature": 4,
        "Science": 4,
        "Fine Arts": 3,
        "Social Science and Philosophy": 1.5,
        "Mythology": 1,
        "Religion": 1,
        "Geography and Current Events": 1,
        "Other": 0.5,
    },
}
PRIOR = 4.0
"""Answers at the player's own overall rate that are added to those of each category: few answers say little."""


@dataclass(frozen=True)
class Players:
    """Skills by player and category; hours to learn half of what is missing, and hours of study, where a file says so;
    of a log, answers behind each skill."""

    skill: Mapping[str, Mapping[str, float]]
    half: Mapping[str, Mapping[str, float]]
    hours: Mapping[str, float]
    answers: Mapping[str, Mapping[str, int]]


def read_shares(name: str, depth: int = 1) -> dict[str, float]:
    """Weights of categories: a preset, a deck (its tossups, or where it has none its cards), or a file of
    `category,share` (CSV) or `category = share` (TOML). `depth` is how many levels of a deck's Category/Sub are told
    apart."""
    if name in PRESETS:
        return dict(PRESETS[name])
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        table = _toml(path)
        return {key: _number(value, f"the share of {key!r} in {name!r}") for key, value in table.get("shares", table).items()}
    if path.suffix == ".csv" and path.is_file():
        rows = _rows(path)
        if not rows or not {"category", "share"} <= rows[0].keys():
            raise UserError(f"{name!r}: expected a first line category,share.")
        return {row["category"].strip(): _number(row["share"], f"the share of {row['category']!r} in {name!r}") for row in rows}
    from sluicegate_study.deck import shipped
    from sluicegate_study.deck.collection import load_deck

    if not path.exists() and name not in shipped.list_decks():
        known = nearest(name, [*PRESETS, *shipped.list_decks()], most=9)
        raise UserError(f"no distribution {name!r}: expected one of {known}, a deck, or a .csv or .toml file of categories and shares.")
    return count_shares(load_deck(name), depth)


def count_shares(deck: Deck, depth: int = 1) -> dict[str, float]:
    """How many tossups (without any: cards) of a deck are in each category."""
    entries = deck.tossups or deck.cards
    counted = Counter(cut_category(entry.category or deck.head_of(entry).category, depth) for entry in entries)
    counted.pop("", None)
    if not counted:
        raise UserError(f"no entry of the deck {deck.name!r} has a category: expected category: lines, or a category in the front matter.")
    return {name: float(count) for name, count in counted.most_common()}


def cut_category(category: str, depth: int) -> str:
    """The first levels of Category/Sub/Further."""
    return "/".join(part.strip() for part in category.split("/")[:depth])


def read_players(path: Path, *, depth: int = 1, deck: Deck | None = None) -> Players:
    """Read players from .csv, .toml, or a log (.jsonl) of plays and reviews; reviews need the deck, which says their
    categories."""
    if not path.is_file():
        raise UserError(f"no players {str(path)!r}: expected a .csv or .toml file of skills, or a log.jsonl of plays and reviews.")
    readers = {".csv": _from_csv, ".toml": _from_toml}
    if path.suffix in readers:
        found = readers[path.suffix](path)
        if not found.skill:
            raise UserError(f"no player in {str(path)!r}.")
        return found
    if path.suffix == ".jsonl":
        return rate_players(read_log(path), depth=depth, deck=deck)
    raise UserError(f"players from {str(path)!r}: expected a file ending in .csv, .toml or .jsonl.")


def rate_players(log: Log, *, depth: int = 1, deck: Deck | None = None) -> Players:
    """Each person's share of right answers by category: tossups of games (what was let go counts by the guess), and,
    where the deck is given, reviews of its cards (right: graded better than `again`)."""
    from sluicegate_study.review.memory import replay_links, resolve_link

    learners = dict.fromkeys(event.learner for event in log.events if not event.learner.startswith(("bot:", "model:")))
    names = {}
    if deck is not None:
        names = {q.key: q.card.category or deck.head_of(q.card).category for q in deck.questions()}
    links = replay_links(log.events)
    skill: dict[str, dict[str, float]] = {}
    answers: dict[str, dict[str, int]] = {}
    for learner in learners:
        rows: dict[str, list[bool]] = defaultdict(list)
        for game in replay_games(log, learner):
            for event in game.turns:
                rows[cut_category(str(event.more.get("category", "")), depth)].append(game.right(event))
        for event in log.events:
            if event.kind == "card" and event.learner == learner and (category := names.get(resolve_link(links, event.item))):
                rows[cut_category(category, depth)].append(event.grade > 1)
        rows.pop("", None)
        every = [right for found in rows.values() for right in found]
        if every:
            rate = sum(every) / len(every)
            skill[learner] = {name: (sum(found) + PRIOR * rate) / (len(found) + PRIOR) for name, found in rows.items()} | {"": rate}
            answers[learner] = {name: len(found) for name, found in rows.items()}
    if not skill:
        raise UserError(f"no answer with a category in the log: expected games ({program()} play), or reviews and their deck (--deck).")
    return Players(skill, {}, {}, answers)


def assemble_team(shares: Mapping[str, float], players: Players, *, half: float, ceiling: float) -> Team:
    """A team over the categories that have a share. A skill that a file does not give is an error; one that a log says
    nothing of is the player's overall rate."""
    categories = [name for name, share in shares.items() if share]
    table = []
    for player, row in players.skill.items():
        unknown = [name for name in row if name and name not in shares]
        missing = [name for name in categories if name not in row and "" not in row]
        if missing:
            hint = f"; it has {', '.join(unknown)}, which have no share" if unknown else ""
            raise UserError(
                f"{player} has no skill in {', '.join(missing)}{hint}: expected a number from 0 to 1 for each category that has a share."
                " To share out your own categories: --shares FILE.csv with lines of category,share."
            )
        table.append([row.get(name, row.get("", 0.0)) for name in categories])
    weights = [shares[name] for name in categories]
    halves = [[players.half.get(player, {}).get(name, half) for name in categories] for player in players.skill]
    return Team(tuple(players.skill), tuple(categories), normalize(weights), np.array(table, float), np.array(halves, float), ceiling)


def _from_csv(path: Path) -> Players:
    """player,category,skill[,half] a line; or player and a column for each category."""
    rows = _rows(path)
    skill: dict[str, dict[str, float]] = defaultdict(dict)
    half: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        player = row.get("player", "").strip()
        if not player:
            raise UserError(f"{str(path)!r}: expected a column player with a name on each line.")
        if {"category", "skill"} <= row.keys():
            name = row["category"].strip()
            if name in skill[player]:
                raise UserError(f"{str(path)!r} has {player} in {name} twice: expected one line for each.")
            skill[player][name] = _chance(row["skill"], f"the skill of {player} in {name}")
            if row.get("half", "").strip():
                half[player][name] = _number(row["half"], f"half of {player} in {name}")
        elif player in skill:
            raise UserError(f"{str(path)!r} has {player} twice: expected one line for each player.")
        else:
            skill[player] = {name: _chance(value, f"the skill of {player} in {name}") for name, value in row.items() if name != "player"}
    return Players(dict(skill), dict(half), {}, {})


def _from_toml(path: Path) -> Players:
    """A table for each player: skill (a table), and perhaps half (hours, a number or a table) and hours."""
    skill, half, hours = {}, {}, {}
    table = _toml(path)
    table.pop("shares", None)
    for player, content in table.items():
        if not isinstance(content, dict) or not isinstance(content.get("skill"), dict):
            raise UserError(f"{player!r} in {str(path)!r}: expected a table [{player}.skill] with a number for each category.")
        if unknown := [key for key in content if key not in ("skill", "half", "hours")]:
            raise UserError(f"{player!r} in {str(path)!r} has {unknown[0]!r}: expected skill, half and hours only.")
        skill[player] = {name: _chance(value, f"the skill of {player} in {name}") for name, value in content["skill"].items()}
        said = content.get("half", {})
        each = said if isinstance(said, dict) else dict.fromkeys(skill[player], said)
        half[player] = {name: _number(value, f"half of {player} in {name}") for name, value in each.items()}
        if "hours" in content:
            hours[player] = _number(content["hours"], f"the hours of {player}")
    return Players(skill, half, hours, {})


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path, "the table"), newline=""), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UserError(f"{str(path)!r} is not CSV ({error}).") from None
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UserError(f"{str(path)!r}, line {number}: expected as many values as the first line has names.")
    return rows


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path, "the table"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is not TOML ({error}).") from None


def _number(value: Any, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number) or number < 0:
        raise UserError(f"{what} is {value!r}: expected a number of 0 or more.")
    return number


def _chance(value: Any, what: str) -> float:
    number = _number(value, what)
    if number > 1:
        raise UserError(f"{what} is {value!r}: expected a share of the tossups from 0 to 1.")
    return number
