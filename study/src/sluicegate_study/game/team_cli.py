"""``team``: who studies which categories, what stays uncovered, and what it costs when the best player is out."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from sluicegate_study.command import print_json, simple
from sluicegate_study.errors import UserError
from sluicegate_study.formatting import escape_controls

if TYPE_CHECKING:
    from sluicegate_study.game.team import Plan, Study, Team


@dataclass(frozen=True)
class PlanTeam:
    """Say who of a team should study what, so that most tossups have somebody who knows them.

    Greedy and exact plans for the hours you have. The gain of study is your assumption (--half, --ceiling), not a
    measurement."""

    players: Positional[str]
    """Skills, 0 to 1: a .csv (player,Category,...; or player,category,skill,half), a .toml, or a log.jsonl of plays and
    reviews."""
    shares: str = ""
    """What is asked: acf, pace, a deck, or a .csv or .toml of categories and shares; default: the log's deck, or
    acf."""
    hours: float = 10.0
    """Hours of study of each player; a .toml may say them for each."""
    common: bool = False
    """Give out the hours of all players together, to whoever gains most."""
    block: float = 0.0
    """Hours in one piece; 0: a fifth of --hours."""
    half: float = 10.0
    """Hours until a player has learnt half of what is missing in a category, where the file does not say."""
    ceiling: float = 0.9
    """What study leads to in the end: no skill rises above this."""
    deck: str = ""
    """With a log: the deck whose reviews count too, by their cards' categories."""
    depth: int = 1
    """Levels of Category/Sub that are told apart in decks and logs."""
    json: bool = False
    """Print everything as the last line."""

    def run(self) -> int:
        from sluicegate_study.deck.collection import load_deck
        from sluicegate_study.game.team import Study, bound_gain, plan_exactly, plan_greedily
        from sluicegate_study.game.team_files import assemble_team, count_shares, read_players, read_shares

        if not 0 <= self.hours <= 10_000:
            raise UserError(f"--hours is {self.hours}: expected 0 to 10000.")
        if not 0 <= self.block <= 10_000:
            raise UserError(f"--block is {self.block}: expected the hours of one piece, or 0.")
        if not self.half > 0:
            raise UserError(f"--half is {self.half}: expected more than 0 hours.")
        if self.depth < 1:
            raise UserError(f"--depth is {self.depth}: expected 1 or more.")
        deck = load_deck(self.deck) if self.deck else None
        players = read_players(Path(self.players), depth=self.depth, deck=deck)
        shares = count_shares(deck, self.depth) if deck and not self.shares else read_shares(self.shares or "acf", self.depth)
        team = assemble_team(shares, players, half=self.half, ceiling=self.ceiling)
        hours = [players.hours.get(name, self.hours) for name in team.players]
        block = self.block or max(self.hours, max(hours)) / 5 or 1.0
        study = Study(block, tuple(int(h / block + 1e-9) for h in hours), self.common)
        if sum(study.budget) > 20_000:
            raise UserError(f"{sum(study.budget)} blocks of {block:g} hours are too many: expected a larger --block.")
        plan = plan_greedily(team, study)
        best = plan_exactly(team, study)
        found = {
            "players": list(team.players),
            "categories": list(team.categories),
            "shares": dict(zip(team.categories, team.shares.tolist(), strict=True)),
            "answers": {player: dict(counts) for player, counts in players.answers.items()},
            "hours": dict(zip(team.players, hours, strict=True)),
            "block": block,
            "common": self.common,
            "now": _standing(team, None, study),
            "greedy": _standing(team, plan, study),
            "exact": None if best is None else _standing(team, best, study),
            "bound": bound_gain(team, study, plan) if best is None else None,
        }
        _print(team, study, plan if best is None else best, found)
        if self.json:
            print_json(found)
        return 0


def _standing(team: "Team", plan: "Plan | None", study: "Study") -> dict[str, Any]:
    """Where a team stands with a plan (None: as it is now)."""
    skill = team.skill if plan is None else team.after(plan * study.block)
    value, swings = team.value(skill), team.swings(skill)
    out = int(swings.argmax())
    row: dict[str, Any] = {
        "value": value,
        "uncovered": 1 - value,
        "covered": dict(zip(team.categories, team.covered(skill).tolist(), strict=True)),
        "best_player": team.players[out],
        "swing": float(swings[out]),
        "swings": dict(zip(team.players, swings.tolist(), strict=True)),
    }
    if plan is not None:
        given = {
            player: {team.categories[j]: float(n * study.block) for j, n in enumerate(plan[i]) if n}
            for i, player in enumerate(team.players)
        }
        row["hours"] = given
    return row


def _print(team: "Team", study: "Study", plan: "Plan", found: dict[str, Any]) -> None:
    from sluicegate_study.game.team import count_additions

    now, then = found["now"], found["exact"] or found["greedy"]
    width = max(8, *(len(escape_controls(name)) for name in team.categories))
    print(f"{'category':<{width}}  share    now   then  who studies it")
    for j, name in enumerate(team.categories):
        who = ", ".join(
            f"{escape_controls(player)} {plan[i, j] * study.block:g} h" for i, player in enumerate(team.players) if plan[i, j]
        )  # fmt: skip
        line = f"{escape_controls(name):<{width}}  {team.shares[j]:5.1%}  {now['covered'][name]:5.2f}  {then['covered'][name]:5.2f}  {who}"
        print(line.rstrip())
    print(f"\nsomebody knows it: {now['value']:.3f} of tossups now, {then['value']:.3f} after {_hours(found)}")
    print(f"uncovered: {now['uncovered']:.3f} now, {then['uncovered']:.3f} then")
    for when, state in (("now", now), ("then", then)):
        print(f"swing {when}: {state['swing']:.3f} of tossups are lost when {escape_controls(state['best_player'])} is out")
    gain, guarantee = found["greedy"]["value"] - now["value"], "1 - 1/e" if study.common else "1/2"
    if found["exact"]:
        most = found["exact"]["value"] - now["value"]
        share = f"{gain / most:.1%}" if most > 1e-12 else "all"
        print(f"the plan is the best one; the greedy one gains {share} of it (sure: {guarantee})")
    else:
        most = found["bound"] - now["value"]
        print(f"the plan is greedy: it gains {gain / most:.0%} or more of what the best one does (sure: {guarantee})")
        print(f"the best one would take some {count_additions(team, study):.0e} additions: a larger --block makes it quick")
    if found["answers"]:
        print("skills are from the log, drawn to each player's overall rate where answers are few:")
        for player, counts in found["answers"].items():
            print(
                f"  {escape_controls(player)}: "
                + ", ".join(f"{escape_controls(name)} {count}" for name, count in counts.items())
                + " answers"
            )


def _hours(found: dict[str, Any]) -> str:
    total = sum(sum(row.values()) for row in (found["exact"] or found["greedy"])["hours"].values())
    return f"{total:g} hours of study"


TEAM = simple("team", PlanTeam, "Say who of a team should study which categories")
