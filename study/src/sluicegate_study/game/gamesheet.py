"""The sheet of some games, as lines of at most 60 or so characters and as plain numbers for JSON."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from sluicegate_study.errors import program
from sluicegate_study.formatting import escape_controls, format_count, nan_to_none
from sluicegate_study.game.coach import Advice, sum_costs
from sluicegate_study.game.played import LoggedGame, advise, count_statistics, list_stated_answers
from sluicegate_study.game.players import TICKS
from sluicegate_study.judge.calibration import Said, calibrate_by_category

COSTLIEST = 10
HEAD = " tossup              what   tick sure from   wins points"


def format_sheet(games: Sequence[LoggedGame]) -> tuple[list[str], dict[str, Any]]:
    """Lines and numbers. Raises `UserError` where there is no game."""
    numbers: dict[str, Any] = count_statistics(games)
    lines = [*_score(games), *_counts(numbers)]
    for name, kind in (("calibration", "buzz"), ("guesses", "pass")):
        told, numbers[name] = _calibration(list_stated_answers(games, kind), name)
        lines += told
    advice = advise(games)
    lines += _coach(advice, len(games) == 1)
    wins, points = sum_costs(advice)
    numbers["coach"] = {"win_cost": wins, "point_cost": points, "decisions": [_row(given) for given in advice]}
    return lines, nan_to_none(numbers)


def format_advice(advice: Advice) -> str:
    """What the coach says of one tossup, in a sentence or two."""
    at = advice.decision
    when = "after their miss" if at.alone else f"at tick {at.tick} of {TICKS}"
    rule = "no chance is enough to buzz" if math.isnan(advice.threshold) else f"buzz from {advice.threshold:.0%} on"
    if not advice.play:
        return f"Coach: {when}, {rule}. You stated no chance."
    if advice.play == "either":
        return f"Coach: {when}, buzzing and waiting are worth the same."
    if not advice.mistaken:
        return f"Coach: {when}, {rule}. At {at.sure:.0%} you did what is best."
    did = "waiting" if at.buzzed else "buzzing"
    lost = "" if math.isnan(advice.win) else f"{advice.win:.3f} wins and "
    return f"Coach: {when}, {rule}. At {at.sure:.0%} {did} was better; it cost {lost}{advice.points:.1f} points."


def _score(games: Sequence[LoggedGame]) -> list[str]:
    if len(games) == 1:
        game = games[0]
        over = "" if game.finished else " (not finished)"
        if game.bot == "none":
            return [f"You have {game.ours}{over}."]
        margin = game.ours - game.theirs
        how = over or (". Won." if margin > 0 else ". Lost." if margin < 0 else ". A tie.")
        return [f"You {game.ours}, the {game.bot} team {game.theirs}{how}"]
    lines = []
    for bot in sorted({game.bot for game in games} - {"none"}):
        margins = [game.ours - game.theirs for game in games if game.bot == bot and game.finished]
        won, tied = sum(margin > 0 for margin in margins), sum(margin == 0 for margin in margins)
        lines.append(f"Against the {bot} team: won {won}, tied {tied}, lost {len(margins) - won - tied} finished games.")
    return [f"{len(games)} games, {sum(game.finished for game in games)} finished.", *lines]


def _counts(n: dict[str, Any]) -> list[str]:
    again = f" ({n['heard_before']} heard before)" if n["heard_before"] else ""
    right = ", ".join(format_count(n[f"{kind}s"], kind) for kind in ("power", "ten", "neg"))
    lines = [
        f"{format_count(n['tossups'], 'tossup')}{again}: {right},",
        f"  {n['wrong']} wrong without loss, {n['tossups'] - n['buzzes']} let go",
        f"points: a game {_of(n['ppg'], '.1f')}, in 20 tossups {_of(n['per_20'], '.1f')}, a bonus {_of(n['ppb'], '.1f')}",
        f"celerity {_of(n['celerity'], '.3f')}, BPA {_of(n['bpa'], '.3f')}, right on {_of(n['conversion'], '.0%')}, "
        f"power rate {_of(n['power_rate'], '.0%')}",
    ]
    if n["overrides"]:
        lines.append(f"{format_count(n['overrides'], 'ruling')} turned round by you")
    return lines


def _calibration(said: list[Said], name: str) -> tuple[list[str], dict[str, Any]]:
    found = calibrate_by_category(said)
    if not found:
        return [], {}
    title = "At the buzz" if name == "calibration" else "Guesses without a buzz"
    lines = ["", f"{title}, confidence less share right:"]
    for key, c in found.items():
        between = "" if math.isnan(c.over.low) else f" ({c.over.low:+.2f} to {c.over.high:+.2f})"
        lines.append(f"  {escape_controls(key)}: {c.over.value:+.2f}{between}, {format_count(c.questions, 'question')}:")
        lines.append(f"    {c.verdict}")
    return lines, {key: dataclasses.asdict(c) for key, c in found.items()}


def _coach(advice: Sequence[Advice], one: bool) -> list[str]:
    """What the coach says: every tossup of one game, or the costliest of several."""
    if not advice:
        return []
    told = [given for given in advice if given.play]
    better = [given for given in told if given.mistaken]
    wins, points = sum_costs(advice)
    lost = f"{points:.1f} points" if math.isnan(wins) else f"{wins:.3f} wins and {points:.1f} points"
    lines = [
        "",
        f"Coach: you stated a chance on {len(told)} of {format_count(len(advice), 'tossup')}, and did",
        f"what is best (in the model of `{program()} buzz`) on {len(told) - len(better)}.",
        f"The others (*) cost {lost}.",
    ]
    rows = list(advice) if one else sorted(better, key=lambda given: -given.points)[:COSTLIEST]
    if not rows:
        return lines
    return [*lines, HEAD, *(_line(given) for given in rows), f"(tick of {TICKS}; from: the least chance to buzz with)"]


def _line(given: Advice) -> str:
    at = given.decision
    what = "buzz" if at.buzzed else "let go"
    mark = "*" if given.mistaken else " "
    sure = "-" if at.sure is None else f"{at.sure:.0%}"
    return (
        f"{mark}{escape_controls(at.item):<20.20}{what:<6} {at.tick:>4} {sure:>4} {_of(given.threshold, '.0%', 'no'):>4} "
        f"{_of(given.win, '.3f'):>6} {_of(given.points, '.1f'):>6}"
    )


def _row(given: Advice) -> dict[str, Any]:
    return {
        **dataclasses.asdict(given.decision),
        "threshold": given.threshold,
        "better": given.play or None,
        "win_cost": given.win,
        "point_cost": given.points,
    }


def _of(value: float, form: str, nothing: str = "-") -> str:
    return nothing if math.isnan(value) else format(value, form)
