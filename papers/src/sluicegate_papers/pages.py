"""The pages of ``docs/papers``, made from the measured results in ``papers/results`` and the texts in ``papers/pages``.

A result is a JSON file. ``from`` says how it came: "run", an experiment's own numbers as `record` writes them, or
"docs", carried over from the tables of an earlier documentation whose runs are gone. Numbers by arm and measure stand
under ``arms``, one a seed (or under ``means`` where only means are known), tables that are shown as they are under
``tables``.

A claim has a ``test`` (see `sluicegate.experiments.claims`), which is checked on these numbers when the page is made,
or the comparisons and the verdict that an earlier documentation recorded.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from sluicegate.errors import UserError
from sluicegate.experiments.claims import check, names
from sluicegate.experiments.markdown import is_number
from sluicegate.report.formatting import written
from sluicegate.values.statistics import estimate

ROOT = Path(__file__).resolve().parents[3]
"""The repository, where this package is installed from a checkout."""
FEW = 3
"""Numbers of seeds up to which a claim is named once more on the first page: its interval is wide."""
MADE = "<!-- Made by `sluicegate papers pages` from papers/results and papers/pages. Change those, not this file. -->"


@dataclass(frozen=True)
class Row:
    """A claim as a page shows it: one (here, control) pair for each of its comparisons."""

    says: str
    source: str
    compared: tuple[tuple[str, str], ...]
    verdict: str
    seeds: int
    """How many it rests on: where an arm was run on fewer than the others, that arm's."""


@dataclass(frozen=True)
class Result:
    """What one experiment measured."""

    name: str
    content: Mapping[str, Any]

    @property
    def seeds(self) -> Sequence[int]:
        return list(self.content["seeds"])

    def claims(self) -> list[Row]:
        """Every claim with what was found and its verdict."""
        return [self._checked(claim) if "test" in claim else self._recorded(claim) for claim in self.content["claims"]]

    def _checked(self, claim: Mapping[str, Any]) -> Row:
        """Check a claim on the numbers; with means alone the verdict says so."""
        by_seed, means = self.content.get("arms", {}), self.content.get("means", {})
        values = by_seed or {arm: {name: [value] for name, value in row.items()} for arm, row in means.items()}
        try:
            found = check(claim, {arm: {m: _numbers(v) for m, v in row.items()} for arm, row in values.items()})
        except UserError:  # the test speaks of what these documents do not hold
            test, verdict = f"`{claim['test']}`", "cannot be told from what is documented"
            return Row(claim["says"], claim.get("source", ""), ((test, ""),), verdict, len(self.seeds))
        pairs = []
        for side in found.comparisons:
            left, right = (str(written(s.value, "measure")) or "not measured" for s in (side.left, side.right))
            against = f"{float(side.right.written):g}" if is_number(side.right.written) else f"`{side.right.written}` = {right}"
            pairs.append((f"`{side.left.written}` {left}", f"{side.sign} {against}"))
        verdict = found.verdict if by_seed else f"{'holds' if all(found.holds) else 'does not hold'} on the means"
        fewer = self.content.get("fewer", {})
        seeds = min([len(self.seeds), *(fewer[arm] for arm, _ in names(claim["test"]) if arm in fewer)])
        return Row(found.says, found.source, tuple(pairs), verdict, seeds)

    def _recorded(self, claim: Mapping[str, Any]) -> Row:
        pairs = tuple((here, control) for here, control in claim["compared"])
        return Row(claim["says"], claim.get("source", ""), pairs, claim["verdict"], len(self.seeds))

    def table(self, name: str, columns: Sequence[str] = ()) -> str:
        """A table by name. Of a run: `arms` (means with intervals) and `arms-seeds` (one column a seed), with these
        columns."""
        if self.content["from"] == "run" and name in ("arms", "arms-seeds"):
            arms = self.content["arms"]
            documented = [t["head"][1:] for t in self.content.get("documented", {}).get("tables", ()) if t["name"] == name == "arms"]
            wanted = columns or (documented[0] if documented else list(dict.fromkeys(m for row in arms.values() for m in row)))
            shown = [c for c in wanted if any(c in row for row in arms.values())]
            if name == "arms":
                rows = [[arm, *(_mean(row.get(c, ())) for c in shown)] for arm, row in arms.items()]
                return markdown(["arm", *shown], rows)
            rows = [[arm, c, *(_short(v) for v in row[c])] for arm, row in arms.items() for c in shown if c in row]
            return markdown(["arm", "measure", *(f"seed {seed}" for seed in self.seeds)], rows)
        for table in self.content["tables"]:
            if table["name"] == name:
                return markdown(table["head"], table["rows"])
        raise UserError(f"papers/results/{self.name}.json has no table {name!r}. There are: {[t['name'] for t in self.content['tables']]}.")

    def differences(self) -> tuple[int, int, list[list[str]]]:
        """Of an experiment that was run again: how many figures were documented, how many came out the same, and (arm,
        measure, then, now) of those that did not; numbers of single seeds are counted one by one, and listed as their
        means."""
        counted, same, found = 0, 0, []
        for table in self.content.get("documented", {}).get("tables", ()):
            of_seeds = table["name"] == "arms-seeds"
            for arm, column, cells in _documented(table, of_seeds):
                values = self.content["arms"].get(arm.strip("*"), {}).get(column)
                if values is None:
                    continue
                now = [_short(v) for v in values] if of_seeds else [_mean(values) or "–"]
                counted += len(cells)
                same += sum(map(_same, cells, now))
                then = f"{sum(map(float, cells)) / len(cells):.2f}" if of_seeds else cells[0]
                if not _same(then, _mean(values)):
                    found.append([arm, column, then, _mean(values)])
        before, after = self.content.get("documented", {}).get("claims", ()), self.claims()
        if len(before) == len(after):
            for was, claim in zip(before, after, strict=True):
                if "verdict" in was and not claim.verdict.startswith(was["verdict"]):  # documented without the median
                    found.append(["", claim.says, was["verdict"], claim.verdict])
        return counted, same, found

    def provenance(self) -> str:
        """Where the numbers come from, in one or two sentences."""
        c, n = self.content, len(self.seeds)
        seeds = f"seed {self.seeds[0]}" if n == 1 else f"seeds {self.seeds[0]} to {self.seeds[-1]}"
        if c["from"] == "docs":
            return f"`{c['command']}` ({seeds}; {c['date']}; carried over from the documentation at commit {c['commit']})."
        counted, same, _ = self.differences()
        again = f" Of {counted} figures that were documented before, {same} came out the same." if counted else ""
        return f"`{c['command']}` ({seeds}; run on {c['date']} at commit {c['commit'][:7]}).{again}"


def _documented(table: Mapping[str, Any], of_seeds: bool) -> Iterator[tuple[str, str, list[str]]]:
    """Arm, measure and cells of a documented table."""
    for row in table["rows"]:
        if of_seeds:
            yield row[0], row[1], row[2:]
        else:
            yield from ((row[0], column, [cell]) for column, cell in zip(table["head"][1:], row[1:], strict=True))


def _same(then: str, now: str) -> bool:
    """Whether two cells say the same: number by number, as far as both are written."""
    one, two = (re.findall(r"-?\d*\.?\d+", cell.replace("\N{MINUS SIGN}", "-")) for cell in (then, now))
    if not one or not two:
        return then == now
    shared = min(len(one), len(two))  # an interval narrower than the digits that are shown is left out
    digits = [min(len(a.partition(".")[2]), len(b.partition(".")[2])) for a, b in zip(one[:shared], two[:shared], strict=True)]
    return all(abs(float(a) - float(b)) < 0.5001 * 10**-d for a, b, d in zip(one[:shared], two[:shared], digits, strict=True))


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _mean(values: Sequence[float | None]) -> str:
    finite = [value for value in _numbers(values) if math.isfinite(value)]
    return str(written(estimate(finite), "measure")) if finite else "–"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if abs(value) >= 20 else f"{value:.2f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def load(root: Path = ROOT) -> dict[str, Result]:
    """Every result by its name; `UserError` where there is no folder of them."""
    folder = root / "papers" / "results"
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: results and pages are in the repository. Run it from a checkout, or name one with --root.")
    return {path.stem: Result(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))}


def pages(root: Path = ROOT) -> dict[str, str]:
    """The content of every page by its file name."""
    results = load(root)
    used: dict[str, tuple[str, str]] = {}
    """Result -> (file name, title) of the page that shows it."""
    made = {}
    for path in sorted((root / "papers" / "pages").glob("*.md")):
        title, _, body = path.read_text(encoding="utf-8").partition("\n")
        names = list(dict.fromkeys(re.findall(r'\{\{ (?:table|source)\("([\w.-]+)"', body)))
        for name in names:
            if name not in results:
                raise UserError(f"{path} shows {name!r}, which papers/results does not hold.")
            used[name] = (path.name, title.removeprefix("# "))
        made[path.name] = _page(title, [results[name] for name in names], body, results)
    if missing := sorted(set(results) - set(used)):
        raise UserError(f'no page shows {", ".join(missing)}. Write {{{{ source("{missing[0]}") }}}} where it belongs in papers/pages.')
    made["index.md"] = _index(results, used)
    return made


def _page(title: str, shown: Sequence[Result], body: str, results: Mapping[str, Result]) -> str:
    """A page: the claims of its experiments, then its text with the tables filled in."""

    def fill(match: re.Match[str]) -> str:
        kind, name, table, columns = match.groups()
        result = results[name]
        return "\n".join(wrap(result.provenance(), 118)) if kind == "source" else result.table(table, (columns or "").split())

    said = [title, "", MADE, ""]
    for result in shown:
        if result.content["claims"]:
            said += [f"**{result.content['title']}** (`{result.name}`, {_count(result)})", "", claims_table(result.claims()), ""]
            said += [*wrap(f"Measured by {result.provenance()}", 118), ""]
    text = re.sub(r'\{\{ (table|source)\("([\w.-]+)"(?:, "([\w-]+)")?(?:, "([^"]+)")?\) \}\}', fill, body.strip())
    for result in shown:
        if result.content["from"] == "run" and (changed := result.differences()[2]):
            text += f"\n\n## What came out otherwise: `{result.name}`\n\n" + markdown(["arm", "measure or claim", "then", "now"], changed)
    return "\n".join([*said, text]) + "\n"


def claims_table(claims: Sequence[Row]) -> str:
    """Claim, source, here, control, verdict: a row for each comparison."""
    rows = []
    for claim in claims:
        for k, (here, control) in enumerate(claim.compared):
            head = (claim.says, claim.source) if k == 0 else ("", "")
            rows.append([*head, here, re.sub(r" \[[^\]]*\]", "", control), claim.verdict if k == 0 else ""])
    return markdown(["claim", "source", "here", "control", "verdict"], rows)


def _count(result: Result) -> str:
    n = len(result.seeds)
    return f"{n} seed{'' if n == 1 else 's'}" + ("" if n > FEW else ", no interval" if n == 1 else ", few")


def _index(results: Mapping[str, Result], used: Mapping[str, tuple[str, str]]) -> str:
    """The first page: every claim with its verdict, and which of them rest on few seeds."""
    said = [
        "# Papers: every claim and its verdict",
        "",
        MADE,
        "",
        "Each claim is that of a paper, or a control that a paper lacks; its page names the source. The verdict says on how",
        "many seeds the claim's comparison is true of that seed's own numbers, or that it was checked on the means alone, where",
        "nothing else is left. What does not hold stays on the list. Claims at one, two or three seeds are named once more at",
        "the end: their intervals are wide, or missing.",
        "",
    ]
    few: dict[int, list[str]] = {n: [] for n in range(1, FEW + 1)}
    by_page: dict[str, list[Result]] = {}
    for name, (file, _) in used.items():
        by_page.setdefault(file, []).append(results[name])
    for file, shown in by_page.items():
        said += [f"## [{used[shown[0].name][1]}]({file})", ""]
        rows = []
        for result in shown:
            claims = result.claims()
            rows += [[c.says, f"`{result.name}`", c.verdict, str(c.seeds), result.content["date"]] for c in claims]
            for n, shown_there in few.items():
                if count := sum(claim.seeds == n for claim in claims):
                    which = "all its claims" if count == len(claims) else f"{count} of its {len(claims)} claims"
                    shown_there.append(f"[{result.content['title']}]({file}) (`{result.name}`): {which}")
        said += [markdown(["claim", "experiment", "verdict", "seeds", "date"], rows), ""]
    for n, shown_there in few.items():
        if shown_there:
            said += [f"## At {('one seed', 'two seeds', 'three seeds')[n - 1]}", "", *(f"- {line}" for line in shown_there), ""]
    return "\n".join(said).rstrip() + "\n"


def record(folder: Path, name: str = "", root: Path = ROOT) -> Path:
    """Write the result of a finished experiment's folder; keep what its earlier file had carried over from
    documentation."""
    from datetime import UTC, datetime

    from sluicegate.experiments.experiment import load_outcome
    from sluicegate.experiments.repeat import command

    outcome = load_outcome(folder)
    name = name or outcome.recipe.name
    path = root / "papers" / "results" / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    environment = next(iter(next(iter(outcome.arms.values())).folders.values())) / "env.json"
    arms = {arm: _finite(outcome.numbers(arm)) for arm in outcome.recipe.trials or outcome.recipe.arms}
    content = {
        "title": before.get("title", outcome.recipe.title or name),
        "from": "run",
        "command": command(outcome),
        "commit": json.loads(environment.read_text(encoding="utf-8")).get("git", "") if environment.is_file() else "",
        "date": datetime.fromtimestamp((folder / "summary.json").stat().st_mtime, UTC).date().isoformat(),
        "seeds": list(outcome.seeds),
        "claims": [dict(claim) for claim in outcome.recipe.claims],
        "arms": arms,
        "tables": [],
    }
    documented = before.get("documented") or ({k: before[k] for k in ("commit", "date", "claims", "tables")} if before else None)
    path.write_text(dump(content | ({"documented": documented} if documented else {})), encoding="utf-8")
    return path


def _finite(numbers: Mapping[str, Sequence[float]]) -> dict[str, list[float | None]]:
    """The measures that some seed has, to six digits that count; None for a seed without a number, since JSON has no
    NaN."""
    rounded = {m: [float(f"{v:.6g}") if math.isfinite(v) else None for v in values] for m, values in numbers.items()}
    return {measure: values for measure, values in rounded.items() if any(v is not None for v in values)}


def dump(content: Mapping[str, Any]) -> str:
    """A result as it is stored: a line for each row and each list of numbers."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    return re.sub(r"\[\n\s+([^\[\]{}]*?)\n\s+\]", lambda m: "[" + re.sub(r"\n\s+", " ", m[1]) + "]", text) + "\n"
