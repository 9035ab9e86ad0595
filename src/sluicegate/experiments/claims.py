"""Claims: what a recipe says its numbers bear out, checked on every seed and on the median over seeds.

A claim's test is a comparison of arithmetic over ``ARM.MEASURE``, written in the recipe::

    test = "routed.wrong_mse >= 0.9 * routed.constant_mse"
    test = "sgtm_50.forget > filter_50.forget + 0.5 and sgtm_50.retain < filter_50.retain + 0.1"

A name that is more than letters, digits and underscores stands in quotes, arm and measure together; the measure is what
follows the last dot::

    test = '"undo_0.8.A@10" <= "gold.A@10" + 0.05 and distill.retain >= 0.9'

A comparison holds on the median where the median over seeds of the difference of its two sides says so.
"""

import ast
import math
import operator
import statistics
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluicegate.errors import UserError, first_line, nearest
from sluicegate.values.statistics import Estimate, estimate

Values = Mapping[str, Mapping[str, Sequence[float]]]
"""arm -> measure -> one number a seed."""

_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: a / b if b else math.nan,
}
_COMPARISON: dict[type[ast.cmpop], tuple[str, Callable[[float, float], bool]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("\N{LESS-THAN OR EQUAL TO}", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: ("\N{GREATER-THAN OR EQUAL TO}", operator.ge),
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "log": lambda a: math.log(a) if a > 0 else math.nan,
}
_OF_ONE = ("abs", "log")
LONGEST = 1000
"""Characters that a test may have."""
_SHARES = ("share", "recall", "probability", "mean probability", "area under recall")


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    written: str
    """As the recipe has it."""
    value: Estimate
    """Over the seeds that have a number; with `n` 0 and NaN where none has."""


@dataclass(frozen=True)
class Comparison:
    """Two sides and what is said of them."""

    left: Side
    sign: str
    right: Side


@dataclass(frozen=True)
class Checked:
    """A claim and what became of it."""

    says: str
    source: str
    test: str
    holds: tuple[bool, ...]
    """By seed."""
    comparisons: tuple[Comparison, ...]
    median: bool
    """Whether every comparison holds on the median over seeds."""

    @property
    def verdict(self) -> str:
        """The word, and where the seeds disagree, what the median over them says."""
        split = 0 < sum(self.holds) < len(self.holds) and self.word.startswith("holds")
        return f"{self.word}, {'and' if self.median else 'not'} on the median" if split else self.word

    @property
    def word(self) -> str:
        """Whether it holds, and on how many seeds; "cannot be told" where something was measured on none."""
        kept, n = sum(self.holds), len(self.holds)
        if any(not side.value.n for c in self.comparisons for side in (c.left, c.right)):
            return "cannot be told"
        if kept == n:
            return "holds" if n == 1 else f"holds on all {n} seeds"
        return f"holds on {kept} of {n} seeds" if kept else "does not hold"


def parse(test: str) -> list[ast.Compare]:
    """The comparisons of a test, joined by `and`; raises `UserError` for anything else."""
    if len(test) > LONGEST:
        raise UserError(f"a claim's test has {len(test):,} characters; it may have {LONGEST:,}. {_EXPECTED}")
    try:
        tree = ast.parse(" ".join(test.split()), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        why = error.msg if isinstance(error, SyntaxError) else first_line(error)
        raise UserError(f"cannot read the test {test!r}: {why}. {_EXPECTED}") from None
    if any(isinstance(node, ast.MatMult) for node in ast.walk(tree)):
        raise UserError(f'cannot read the test {test!r}: a name with @ stands in quotes, for example "gold.A@10" <= 0.3.')
    terms = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    found = []
    for term in terms:
        if not isinstance(term, ast.Compare) or any(type(op) not in _COMPARISON for op in term.ops):
            raise UserError(f"cannot read the test {test!r}: {ast.unparse(term)!r} is no comparison. {_EXPECTED}")
        found.append(term)
    return found


_EXPECTED = 'Expected a comparison over ARM.MEASURE, for example "routed.loss > control.loss + 0.1", several joined by "and".'


def _name(node: ast.expr) -> tuple[str, str] | None:
    """The (arm, measure) that a node names: an attribute, or a text in quotes; None for anything else."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.value.id, node.attr
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
        arm, _, measure = node.value.rpartition(".")
        return arm, measure
    return None


def shares(meanings: Mapping[str, str]) -> frozenset[str]:
    """The measures that lie in 0..1, by how their meanings begin; "the same" is what the measure before it is."""
    found, is_share = set(), False
    for name, meaning in meanings.items():
        is_share = meaning.startswith(_SHARES) or (is_share and meaning.startswith("the same"))
        found |= {name} if is_share else set()
    return frozenset(found)


def check(claim: Mapping[str, Any], values: Values, within: Collection[str] = ()) -> Checked:
    """Evaluate a claim on every seed (NaN keeps nothing); intervals of measures `within` are cut at 0 and 1."""
    test = str(claim["test"])
    terms = parse(test)
    seeds = max((len(numbers) for arm in values.values() for numbers in arm.values()), default=0)
    holds, median = [True] * seeds, True
    comparisons = []
    for term in terms:
        sides = [term.left, *term.comparators]
        numbers = [[_evaluate(side, values, seed, test) for seed in range(seeds)] for side in sides]
        for i, op in enumerate(term.ops):
            sign, compare = _COMPARISON[type(op)]
            for seed in range(seeds):
                holds[seed] &= compare(numbers[i][seed], numbers[i + 1][seed])
            differences = [a - b for a, b in zip(numbers[i], numbers[i + 1], strict=True)]
            # A seed without a number is on neither side, and a median of some of the seeds is none of all.
            median &= bool(differences) and not any(map(math.isnan, differences)) and compare(statistics.median(differences), 0.0)
            left, right = (_side(sides[j], numbers[j], within) for j in (i, i + 1))
            comparisons.append(Comparison(left, sign, right))
    return Checked(str(claim.get("says", test)), str(claim.get("source", "")), test, tuple(holds), tuple(comparisons), median)


def _side(node: ast.expr, numbers: Sequence[float], within: Collection[str]) -> Side:
    finite = [value for value in numbers if math.isfinite(value)]
    name = _name(node)
    least, most = (0.0, 1.0) if name and name[1] in within else (-math.inf, math.inf)
    value = estimate(finite, at_least=least, at_most=most) if finite else Estimate(math.nan, math.nan, math.nan, 0)
    return Side(ast.unparse(node).replace("'", ""), value)


def names(test: str) -> list[tuple[str, str]]:
    """The (arm, measure) pairs that a test speaks of."""
    return [name for term in parse(test) for node in ast.walk(term) if isinstance(node, ast.expr) and (name := _name(node))]


def _evaluate(node: ast.expr, values: Values, seed: int, test: str) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        if abs(node.value) > sys.float_info.max:
            raise UserError(f"cannot read the test {test[:60] + '…'!r}: it compares with a number that no measure reaches. {_EXPECTED}")
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, values, seed, test)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_evaluate(node.left, values, seed, test), _evaluate(node.right, values, seed, test))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords:
        if len(node.args) != 1 if node.func.id in _OF_ONE else len(node.args) < 2:
            raise UserError(f"cannot read {ast.unparse(node)!r} in the test {test!r}: abs takes one number, log too, min and max several.")
        numbers = [_evaluate(arg, values, seed, test) for arg in node.args]
        return math.nan if any(map(math.isnan, numbers)) else float(_FUNCTIONS[node.func.id](*numbers))
    if (name := _name(node)) is not None:
        arm, measure = name
        if arm not in values:
            raise UserError(f"the test {test!r} speaks of an arm {arm!r}. Nearest: {nearest(arm, list(values))}.")
        if measure not in values[arm]:
            raise UserError(f"the test {test!r} speaks of {arm}.{measure}. Nearest: {nearest(measure, list(values[arm]))}.")
        return float(values[arm][measure][seed])
    raise UserError(f"cannot read {ast.unparse(node)!r} in the test {test!r}. {_EXPECTED}")
