"""What a quiz bowl answer is worth: presets of leagues, and rules of your own from a TOML table."""

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path

from sluicegate_study.errors import UserError, nearest
from sluicegate_study.files import read_text


@dataclass(frozen=True)
class Rules:
    """Points of a league. All values are multiples of 5.

    Only the first team to answer can lose `neg`, and only before the last word. A team has one attempt. A correct
    tossup earns a bonus of `parts` parts; with `bounce`, what is missed goes to the other team. A tie after `cycles`
    tossups goes to `overtime` tossups without bonuses, then to sudden death."""

    name: str = "naqt"
    power: int = 15
    ten: int = 10
    neg: int = -5
    parts: int = 3
    part_value: int = 10
    bounce: bool = False
    cycles: int = 20
    overtime: int = 3

    def __post_init__(self) -> None:
        for field, least in (("power", 0), ("ten", 5), ("parts", 0), ("part_value", 0), ("cycles", 1), ("overtime", 1)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least or value > 100:
                raise UserError(f"{field} is {value!r}: expected a whole number from {least} to 100.")
        if isinstance(self.neg, bool) or not isinstance(self.neg, int) or not -50 <= self.neg <= 0:
            raise UserError(f"neg is {self.neg!r}: expected a whole number from -50 to 0.")
        for field in ("power", "ten", "neg", "part_value"):
            if getattr(self, field) % 5:
                raise UserError(f"{field} is {getattr(self, field)}: expected a multiple of 5.")
        if self.power and self.power < self.ten:
            raise UserError(f"power is {self.power}, less than ten ({self.ten}): expected at least that, or 0 where there are no powers.")
        if self.parts > 6:
            raise UserError(f"parts is {self.parts}: expected at most 6.")

    def tossup(self, *, power: bool) -> int:
        """The points of a correct tossup: up to the power mark, or after it."""
        return self.power if power and self.power else self.ten

    def bonus(self, ours: float, theirs: float) -> list[tuple[int, float]]:
        """What a bonus changes in the score difference, with probabilities: each part is answered with chance `ours`,
        and where it is missed and bounces back, with chance `theirs` by the other team."""
        made: dict[int, float] = {}
        for right in range(self.parts + 1):
            chance = _binomial(self.parts, right, ours)
            left = self.parts - right if self.bounce else 0
            for back in range(left + 1):
                points = self.part_value * (right - back)
                made[points] = made.get(points, 0.0) + chance * _binomial(left, back, theirs)
        return sorted(made.items())

    @property
    def swing(self) -> int:
        """The most that one tossup can change the difference, in either direction."""
        return max(self.power, self.ten) + self.parts * self.part_value - self.neg


PRESETS: dict[str, Rules] = {
    "naqt": Rules(),
    "acf": Rules("acf", power=0, overtime=1),
    "acf+powers": Rules("acf+powers", overtime=1),
    "pace": Rules("pace", power=20, neg=0, bounce=True, overtime=1),
    "tossup-only": Rules("tossup-only", parts=0),
}


def rules_of(name: str) -> Rules:
    """A preset by its name, or a TOML file with the fields of `Rules`; those it leaves out are NAQT's. Raises
    `UserError` for neither."""
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not path.is_file():
        raise UserError(f"no rules {name!r}. Nearest: {nearest(name, list(PRESETS), most=9)}; or a TOML file with power, ten, neg, ...")
    try:
        content = tomllib.loads(read_text(path, "the rules"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{name!r} is not TOML ({error}): expected lines like power = 15.") from None
    known = [field.name for field in dataclasses.fields(Rules)]
    for key in content:
        if key not in known:
            raise UserError(f"{name!r} has a setting {key!r}. Nearest: {nearest(key, known)}.")
    if not isinstance(content.get("bounce", False), bool) or not isinstance(content.get("name", ""), str):
        raise UserError(f"{name!r}: expected bounce to be true or false, and name a text.")
    return Rules(**{"name": path.stem, **content})


def _binomial(of: int, number: int, chance: float) -> float:
    return math.comb(of, number) * chance**number * (1 - chance) ** (of - number)
