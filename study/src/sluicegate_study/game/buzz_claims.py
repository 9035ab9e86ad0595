"""What is said about when to buzz, with the numbers of the model that support or refute it, sizes included."""

from dataclasses import dataclass, replace

import numpy as np

from sluicegate_study.game.buzzing import Game, Policy, Solution, solve
from sluicegate_study.game.players import OPPONENTS


@dataclass(frozen=True)
class BuzzClaim:
    """A sentence, whether the model bears it out, and its numbers."""

    text: str
    holds: bool
    numbers: str


LATE = (1, 2, 3, 5)
DIFFERENCES = tuple(range(-60, 61, 10))


def check_claims(game: Game) -> list[BuzzClaim]:
    """Check the claims of "What I learned from doing Quiz Bowl" on a game; some ten solutions, so a few seconds.

    Thresholds are those of the last tick in power (the last before the end, where there is no power)."""
    tick = game.mark if game.rules.power else game.ticks - 1
    best = solve(game)
    by_points = solve(game, points=True)
    blind = solve(game, policy=by_points.policy)
    against = {name: solve(replace(game, opponent=other)) for name, other in OPPONENTS.items()}
    return [
        *_zero_negs(game, best),
        _order("A team that is behind late should buzz earlier (a lower threshold) than at a tie.", best, tick, -40, below=True),
        _order("A team that is ahead late should wait longer than at a tie.", best, tick, 40, below=False),
        _weaker(against, tick),
        _size(best, blind),
        _flat(game, best),
    ]


def _zero_negs(game: Game, best: Solution) -> list[BuzzClaim]:
    never = solve(game, policy=Policy.at_the_end(game.ticks))
    lost = best.win() - never.win()
    timid = solve(game, policy=Policy.constant(0.9)).win()
    numbers = f"answering only after the last word wins {never.win():.3f}, best play {best.win():.3f} (against {game.opponent.name}); "
    return [BuzzClaim("The best play is not to avoid every neg.", lost > 0, numbers + f"buzzing from .9 on only: {timid:.3f}")]


def _order(text: str, best: Solution, tick: int, difference: int, *, below: bool) -> BuzzClaim:
    pairs = [(n, best.theta(tick, difference, n), best.theta(tick, 0, n)) for n in LATE if n <= len(best.threshold)]
    told = ", ".join(f"{n} left: {there:.3f} at {difference:+d}, {tied:.3f} at 0" for n, there, tied in pairs)
    known = [(there, tied) for _, there, tied in pairs if not np.isnan(there + tied)]
    holds = bool(known) and all(there < tied if below else there > tied for there, tied in known)
    return BuzzClaim(text, holds, f"{told}; {_exceptions(best, tick, difference, below=below)}")


def _exceptions(best: Solution, tick: int, difference: int, *, below: bool) -> str:
    """How often the order is another one at other ticks, and one such place."""
    places = [(n, k) for n in LATE if n <= len(best.threshold) for k in range(1, best.game.ticks) if k != tick]
    pairs = {place: (best.theta(place[1], difference, place[0]), best.theta(place[1], 0, place[0])) for place in places}
    told = {place: pair for place, pair in pairs.items() if not np.isnan(sum(pair))}
    against = {place: pair for place, pair in told.items() if (pair[0] > pair[1] if below else pair[0] < pair[1])}
    if not against:
        return f"so it is at all other ticks ({len(told)} places)"
    (n, k), (there, tied) = max(against.items(), key=lambda item: abs(item[1][0] - item[1][1]))
    example = f"tick {k}, {n} left: {there:.3f}, {tied:.3f} at 0"
    return f"at other ticks the order is the other way in {len(against)} of {len(told)} places ({example})"


def _weaker(against: dict[str, Solution], tick: int) -> BuzzClaim:
    thetas = {name: solution.theta(tick) for name, solution in against.items()}
    told = ", ".join(f"{name} {theta:.3f}" for name, theta in thetas.items())
    holds = thetas["weak"] > thetas["even"] > thetas["strong"]
    return BuzzClaim("Against a weaker team one should wait longer.", holds, f"at the start: {told}")


def _size(best: Solution, blind: Solution) -> BuzzClaim:
    gains = {(n, d): best.win(d, n) - blind.win(d, n) for n in range(1, len(best.threshold) + 1) for d in DIFFERENCES}
    (n, d), most = max(gains.items(), key=lambda pair: pair[1])
    start = best.win() - blind.win()
    where = f"at most {100 * most:.2f} ({n} left, {d:+d})"
    numbers = f"against play that only counts points it gains {100 * start:.2f} percentage points at the start, and {where}"
    return BuzzClaim("Watching the score wins many more games (one in a hundred, anywhere from -60 to +60).", most >= 0.01, numbers)


def _flat(game: Game, best: Solution) -> BuzzClaim:
    losses = {theta: best.win() - solve(game, policy=Policy.constant(theta)).win() for theta in (0.5, 0.7)}
    told = ", ".join(f"{theta} loses {100 * loss:.2f} percentage points" for theta, loss in losses.items())
    return BuzzClaim("One fixed threshold, .5 or .7, costs little (less than two in a hundred games).", max(losses.values()) < 0.02, told)
