"""The page of an experiment made of trials: its claims, its numbers, its pictures."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from sluicegate.claims import Checked
from sluicegate.curves import Estimate
from sluicegate.experiment import Outcome
from sluicegate.report.charts import Group, Track, dots_picture, lines_picture
from sluicegate.report.figures import Series
from sluicegate.report.numbers import written

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = ("distilled", "suppressed", "dial-3", "control", "other", "pretrained", "reference")
_DASHES = ("solid", "dashed", "dotted", "dashdot")


def content(outcome: Outcome) -> dict[str, Any]:
    """What the page's template is filled with, beside what all pages have."""
    recipe = outcome.recipe
    looks = _looks(list(outcome.arms))
    meanings = recipe.measures()
    shown = [name for name in meanings if any(arm.measured(name) for arm in outcome.arms.values())]
    return {
        "looks": looks,
        "claims": [{"claim": claim, "sides": _sides(claim)} for claim in outcome.checked()],
        "measures": {name: meanings[name] for name in shown},
        "rows": [(name, [arm.estimate(measure) for measure in shown]) for name, arm in outcome.arms.items()],
        "pictures": [picture for n, spec in enumerate(recipe.pictures) if (picture := _picture(n, spec, outcome, looks))],
        "resolved": tomli_w.dumps(_plain(dict(recipe.__dict__))),
    }


def _looks(names: Sequence[str]) -> dict[str, Series]:
    return {
        name: Series(name, f"a{i}", _COLOURS[i % len(_COLOURS)], _DASHES[i // len(_COLOURS) % len(_DASHES)], False)
        for i, name in enumerate(names)
    }


def _sides(claim: Checked) -> list[str]:
    return [" ".join((_side(c.left.written, c.left.value), c.sign, _side(c.right.written, c.right.value))) for c in claim.comparisons]


def _side(text: str, value: Estimate) -> str:
    number = written(value)
    if text.replace(".", "").replace("-", "").isdigit():
        return text
    return f"{text} = {number.value}" + (f" {number.interval}" if number.interval else "")


def _picture(n: int, spec: Mapping[str, Any], outcome: Outcome, looks: Mapping[str, Series]) -> dict[str, Any] | None:
    arms = [name for name in spec.get("arms", outcome.arms) if name in outcome.arms]
    title, note = str(spec.get("title", "")), str(spec.get("note", ""))
    shared: dict[str, Any] = {"title": title, "note": note, "legend": [], "arms": [], "images": [], "svg": ""}
    if spec["kind"] == "image":
        images = []
        for arm in arms:
            for seed in outcome.seeds[:1]:
                file = outcome.arms[arm].folders[seed] / str(spec["file"])
                if file.is_file():
                    images.append((arm, base64.b64encode(file.read_bytes()).decode()))
        return shared | {"images": images} if images else None
    if spec["kind"] == "bars":
        groups = [
            Group(measure, _COLOURS[k % len(_COLOURS)], [outcome.arms[arm].estimate(measure) for arm in arms])
            for k, measure in enumerate(spec["measures"])
        ]
        groups = [group for group in groups if any(group.values)]
        if not groups:
            return None
        label = f"{title}: " + "; ".join(
            f"{group.name} " + ", ".join(f"{arm} {e.mean:.3g}" for arm, e in zip(arms, group.values, strict=True) if e) for group in groups
        )
        return shared | {"legend": [(g.name, g.colour) for g in groups], "svg": dots_picture(f"chart-{n}", label, arms, groups)}
    tracks = [track for arm in arms if (track := _track(outcome, arm, str(spec["curve"]), looks[arm]))]
    if not tracks:
        return None
    label = f"{title}: {spec.get('y', '')} against {spec.get('x', '')}. Arms: {', '.join(t.series.name for t in tracks)}."
    svg = lines_picture(f"chart-{n}", label, tracks, x_label=str(spec.get("x", "")), y_label=str(spec.get("y", "")))
    return shared | {"arms": [track.series.name for track in tracks], "svg": svg}


def _track(outcome: Outcome, arm: str, curve: str, look: Series) -> Track | None:
    found = [r["curves"][curve] for r in outcome.arms[arm].results.values() if curve in r.get("curves", {})]
    if not found:
        return None
    # Curves that went on for different lengths are shown as far as all of them go.
    shared = [x for x in found[0]["x"] if all(x in other["x"] for other in found)]
    seeds = [[c["y"][c["x"].index(x)] for x in shared] for c in found]
    return Track(look, shared, seeds) if shared else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v not in (None, "", {}, [], ())}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


# ------------------------------------------------------------------------------- other forms


def table(outcome: Outcome) -> "Table":
    """Arms against measures for a terminal: means over seeds with their intervals."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    n = len(outcome.seeds)
    seeds = "one seed, no intervals" if n == 1 else f"means over {n} seeds, [95 % interval]"
    made = Table(
        title=Text(f"{outcome.recipe.title or outcome.recipe.name}: {seeds}"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    shown = [m for m in _headline(outcome) if any(arm.measured(m) for arm in outcome.arms.values())]
    made.add_column("arm", overflow="fold", max_width=26)
    for measure in shown:
        made.add_column(measure, justify="right", overflow="fold")
    for name, arm in outcome.arms.items():
        made.add_row(name, *(str(written(arm.estimate(measure))) or "-" for measure in shown))
    return made


def _headline(outcome: Outcome, most: int = 7) -> list[str]:
    """The measures that the claims and pictures speak of, as many as a terminal has room for; else the first ones."""
    from sluicegate.claims import names

    spoken = [measure for claim in outcome.recipe.claims for _, measure in names(str(claim["test"]))]
    spoken += [measure for picture in outcome.recipe.pictures for measure in picture.get("measures", ())]
    chosen = set(list(dict.fromkeys(spoken))[:most]) if spoken else set(list(outcome.recipe.measures())[:most])
    return [measure for measure in outcome.recipe.measures() if measure in chosen]


def claims_markdown(outcome: Outcome, command: str) -> str:
    """The claims as a Markdown table: claim, source, what was found here, whether it holds, command."""
    lines = ["| claim | source | here | holds | command |", "|---|---|---|---|---|"]
    for claim in outcome.checked():
        here = "<br>".join(_sides(claim))
        lines.append(f"| {claim.says} | {claim.source} | {here} | {claim.word} | `{command}` |")
    return "\n".join(lines)


def arms_markdown(outcome: Outcome) -> str:
    """Arms against measures as a Markdown table, with every seed's number."""
    shown = [m for m in outcome.recipe.measures() if any(arm.measured(m) for arm in outcome.arms.values())]
    lines = ["| arm | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name, arm in outcome.arms.items():
        lines.append(f"| {name} | " + " | ".join(str(written(arm.estimate(m))) or "–" for m in shown) + " |")
    return "\n".join(lines)


def write(outcome: Outcome, path: Path) -> Path:
    """Write the page to `path` and return it."""
    from sluicegate.report.page import write_trial

    return write_trial(outcome, content(outcome), path)
