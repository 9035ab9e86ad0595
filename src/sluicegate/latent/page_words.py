"""What the page of an autoencoder says: words that fit the classes, and the honest numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_COUNTED = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True)
class Words:
    """How the page speaks of its classes: of digits, or of whatever the user's classes are called."""

    names: tuple[str, ...]
    digits: bool
    example: int
    """The block that is explained."""

    @classmethod
    def of(cls, names: Sequence[str]) -> "Words":
        """Words for classes of these names."""
        digits = all(len(name) == 1 and name in "0123456789" for name in names)
        return cls(tuple(names), digits, min(7, len(names) - 1))

    @property
    def noun(self) -> str:
        """What one class is."""
        return "digit" if self.digits else "class"

    def filled(self) -> dict[str, str]:
        """The words of the template."""
        name = self.names[self.example]
        return {
            "count": _COUNTED[len(self.names)] if len(self.names) < len(_COUNTED) else str(len(self.names)),
            "noun": self.noun,
            "article": "a digit" if self.digits else "a picture",
            "plural": "digits" if self.digits else "classes",
            "example": name,
            "example_article": f"a{'n' if name == '8' else ''} {name}" if self.digits else f"a picture of “{name}”",
            "plural_example": f"{name}s" if self.digits else f"pictures of “{name}”",
        }

    def diagram(self, most: int = 7) -> list[dict[str, Any]]:
        """Up to `most` blocks around the one that is explained, with their places in the picture."""
        first = max(0, min(self.example - most // 2, len(self.names) - most))
        shown = self.names[first : first + most]
        left = 170 - 22 * (len(shown) - 1)
        return [{"x": left + 44 * i, "name": name[:3], "own": first + i == self.example} for i, name in enumerate(shown)]


def warnings(dead: Sequence[str]) -> list[str]:
    """What must be said before anything is believed."""
    if len(dead) == 1:
        return [f"Block {dead[0]} (†) is dead: it hardly stirs on pictures of its own class. The run lost that class."]
    told = f"Blocks {', '.join(dead)} (†) are dead: they hardly stir on pictures of their own classes. The run lost those classes."
    return [told] if dead else []


@dataclass(frozen=True)
class _Figure:
    name: str
    value: str
    meaning: str
    bad: bool = False


def figures(numbers: Mapping[str, Any], count: int) -> list[_Figure]:
    """The strip of numbers: each one value, or one a seed, of which the mean is shown and the worst is named.

    `accuracy`, `swap`, `ablate`: shares of the test images. `mse`, `mse_unrouted`: squared error a picture.
    `recognised`, `dead_blocks`: blocks, counted or by name. `labels`: share of the training images that had one.
    `seeds`: those that were run.
    """

    def share(name: str, title: str, tells: str, *, high: bool = False) -> list[_Figure]:
        values = _values(numbers, name)
        return [_Figure(title, _percent(_mean(values)), tells + _worst(values, high=high))] if values else []

    made = share("accuracy", "read right", "of the test pictures: their largest amount is in their own block.")
    own, control = _values(numbers, "mse"), _values(numbers, "mse_unrouted")
    if own and control and _mean(control) > 0:
        times = _mean(own) / _mean(control)
        tells = f"the squared error of the unrouted control ({_mean(own):.1f} against {_mean(control):.1f} a picture): the price of order."
        made.append(_Figure("the tax", f"{times:.2f}\N{NO-BREAK SPACE}×", tells))
    if blocks := _values(numbers, "recognised"):
        tells = "blocks whose picture, drawn alone, a separately trained judge recognises." + _worst(blocks, "{:.0f}")
        made.append(_Figure("recognised", f"{_mean(blocks):.3g} of {count}", tells, min(blocks) < count))
    made += share("swap", "turned into another", "of swaps (own block off, another on) the judge reads as the other.")
    left = "of pictures are still read as what they were, once their own block is off. Lower is better."
    made += share("ablate", "left after ablating", left, high=True)
    if dead := _values(numbers, "dead_blocks"):
        over = f", over {len(dead)} seeds" if len(dead) > 1 else ""
        made.append(_Figure("dead blocks", f"{sum(dead):.0f}", f"that never stir{over}.", sum(dead) > 0))
    if labels := _values(numbers, "labels"):
        made.append(_Figure("labels used", _percent(labels[0]), "of the training pictures had one."))
    seeds = numbers.get("seeds")
    runs = len(seeds) if isinstance(seeds, Sequence) else seeds
    if runs:
        several, one = "runs, all of them counted above; none was picked.", "run: how much another would differ is not known."
        made.append(_Figure("seeds", str(runs), one if runs == 1 else several))
    return made


def few_labels(numbers: Mapping[str, Any]) -> str:
    """The share of the training images that had a label; empty where all of them had one, or nothing is known of it."""
    share = next(iter(_values(numbers, "labels")), 1.0)
    return _percent(share) if share < 1 else ""


def _values(numbers: Mapping[str, Any], name: str) -> list[float]:
    """One a seed; a list of blocks counts as how many they are."""
    value = numbers.get(name)
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if name == "dead_blocks" and isinstance(value, Sequence) and all(isinstance(v, str) for v in values):
        values = [values]  # the blocks of one run, by name
    return [float(len(v)) if isinstance(v, Sequence) else float(v) for v in values if v is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percent(share: float) -> str:
    if share in (0, 1):
        return f"{share:.0%}".replace("%", "\N{NO-BREAK SPACE}%")
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _worst(values: Sequence[float], form: str = "", *, high: bool = False) -> str:
    if len(values) < 2:
        return ""
    worst = max(values) if high else min(values)
    return f" Worst seed: {form.format(worst) if form else _percent(worst)}."
