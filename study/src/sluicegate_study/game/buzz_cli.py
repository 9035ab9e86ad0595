"""``buzz``: from which chance of being right on to buzz, and what it is worth."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate_study.command import print_json, simple
from sluicegate_study.errors import UserError

if TYPE_CHECKING:
    from sluicegate_study.game.buzzing import Solution

LEFT = (1, 2, 3, 5, 10, 20)
DIFFERENCES = (-120, -80, -40, -20, 0, 20, 40, 80, 120)


@dataclass(frozen=True)
class Buzz:
    """Say from which chance of being right on to buzz, by score and tossups left, and what that play wins.

    A dynamic programme over a model of both teams. Practice does not need the score: the table shows how little it
    changes."""

    opponent: str = "even"
    """weak, even or strong."""
    rules: str = "naqt"
    """naqt, acf, acf+powers, pace, tossup-only, or a TOML file with power, ten, neg, ..."""
    tossups: int = 0
    """Tossups of a game; 0: as many as the rules say."""
    tick: int = 0
    """Tick of the table, of 20; 0: the last in power (without power: the last before the end)."""
    known: float = 0.63
    """Share of the tossups whose answer we recognise by the end."""
    bonus: float = 0.55
    """Our rate of bonus parts."""
    simulate: int = 0
    """Also play this many games by the policy found, and compare."""
    seed: int = 0
    """Seed of those games."""
    claims: bool = False
    """Print what is said about buzzing, with the numbers that bear it out or do not."""
    plot: str = ""
    """Also draw the table into this file (.png, .svg, .pdf)."""
    json: bool = False
    """Print solve_s, thresholds and win as the last line."""

    def run(self) -> int:
        from sluicegate_study.game.buzzing import Game, solve, solve_overtime
        from sluicegate_study.game.players import TICKS, Reader, opponent_of
        from sluicegate_study.game.scoring import rules_of

        game = Game(rules_of(self.rules), Reader(known=self.known, bonus=self.bonus), opponent_of(self.opponent))
        tick = self.tick or (game.mark if game.rules.power else game.ticks - 1)
        if not 1 <= tick <= TICKS:
            raise UserError(f"--tick is {self.tick}: expected 1 to {TICKS}; tick {TICKS} is after the last word.")
        if self.simulate < 0 or self.simulate == 1:
            raise UserError(f"--simulate is {self.simulate}: expected 2 games or more, or 0 for none.")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}: expected 0 or more.")
        began = time.perf_counter()
        best = solve(game, tossups=self.tossups or None)
        took = time.perf_counter() - began
        count = len(best.threshold)
        rows = sorted({n for n in (*LEFT, count) if n <= count})
        table = {n: {d: best.theta(tick, d, n) for d in DIFFERENCES} for n in rows}
        print(
            f"{game.rules.name} rules against a team that is {self.opponent}: best play wins {best.win():.3f} of games of {count} tossups"
        )
        print(f"buzz at tick {tick} of {game.ticks} from this chance of being right on (rows: tossups left; columns: score difference)\n")
        print("left " + "".join(f"{d:>+7d}" for d in DIFFERENCES))
        for n, row in table.items():
            print(f"{n:>4} " + "".join(f"{'-' if math.isnan(theta) else format(theta, '.3f'):>7}" for theta in row.values()))
        print("\n-: never, the game is decided or buzzing cannot help")
        found: dict[str, Any] = {
            "solve_s": took,
            "win": best.win(),
            "thresholds": {
                "tick": tick,
                "left": {str(n): {str(d): _number(theta) for d, theta in row.items()} for n, row in table.items()},
            },
            "rules": game.rules.name,
            "opponent": self.opponent,
            "tossups": count,
        }
        if self.simulate:
            from sluicegate_study.game.simulating import simulate

            tie = solve_overtime(game)
            played = simulate(game, best.policy, self.simulate, self.seed, tie=tie, tossups=count)
            away = (played.win - best.win()) / played.error if played.error else 0.0
            share = f"{played.win:.4f} won, standard error {played.error:.4f}"
            print(f"{played.games} games played: {share}, {away:+.1f} of them from {best.win():.4f}")
            print(f"  {played.negs:.2f} negs and {played.powers:.2f} powers a game")
            found["simulated"] = {**vars(played), "away": away}
        if self.claims:
            from sluicegate_study.game.buzz_claims import check_claims

            said = check_claims(game)
            print()
            for claim in said:
                print(f"{'holds' if claim.holds else 'does not hold'}: {claim.text}\n    {claim.numbers}")
            found["claims"] = [vars(claim) for claim in said]
        if self.plot:
            print(f"plot: {_draw(best, tick, rows, Path(self.plot))}")
        if self.json:
            print_json(found)
        return 0


def _number(theta: float) -> float | None:
    return None if math.isnan(theta) else round(theta, 6)


def _draw(best: "Solution", tick: int, rows: list[int], path: Path) -> Path:
    """Thresholds against the score difference, a line for each number of tossups left."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot is {str(path)!r}: expected a file ending in .png, .svg or .pdf.")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("--plot draws with matplotlib: pip install 'sluicegate-study[plot]'. Or leave --plot out.") from None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    shown = best.differences[abs(best.differences) <= 200]
    for n in rows:
        axes.plot(shown, [best.theta(tick, int(d), n) for d in shown], label=f"{n} left")
    axes.set(xlabel="score difference (points)", ylabel="least chance of being right", ylim=(0, 1))
    axes.set_title(f"When to buzz at tick {tick}: {best.game.rules.name} rules, opponent {best.game.opponent.name}")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


BUZZ = simple("buzz", Buzz, "Say when to buzz in quiz bowl, by score, tossups left and opponent")
