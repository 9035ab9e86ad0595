"""The page of an experiment made of trials: its claims, its numbers, its pictures."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sluicegate.experiments.experiment import Outcome
from sluicegate.experiments.markdown import measured, of_seeds
from sluicegate.experiments.repeat import on_every_page
from sluicegate.report.charts import Group, Track, dots_picture, lines_picture
from sluicegate.report.figures import DASHES, Series
from sluicegate.report.formatting import short
from sluicegate.report.html import render, write_page

_COLOURS = ("distilled", "suppressed", "dial-3", "control", "other", "pretrained", "reference")


def content(outcome: Outcome) -> dict[str, Any]:
    """What the page's template is filled with, beside what all pages have."""
    recipe = outcome.recipe
    looks = _looks(recipe.trials)
    meanings, shown = recipe.measures(), measured(outcome)
    return {
        "looks": looks,
        "measures": {name: meanings[name] for name in shown},
        "rows": [(name, [(e := outcome.arms[name].estimate(m), of_seeds(e, outcome)) for m in shown]) for name in recipe.trials],
        "parents": [f"{name} ({settings['verb']})" for name, settings in recipe.arms.items() if name not in recipe.trials],
        "pictures": [_picture(n, spec, outcome, looks) for n, spec in enumerate(recipe.pictures)],
    }


def _looks(names: Sequence[str]) -> dict[str, Series]:
    return {
        name: Series(name, f"a{i}", _COLOURS[i % len(_COLOURS)], DASHES[i // len(_COLOURS) % len(DASHES)], False)
        for i, name in enumerate(names)
    }


def _picture(n: int, spec: Mapping[str, Any], outcome: Outcome, looks: Mapping[str, Series]) -> dict[str, Any]:
    arms = list(spec.get("arms", outcome.recipe.trials))
    title, note = str(spec.get("title", "")), str(spec.get("note", ""))
    shared: dict[str, Any] = {"title": title, "note": note, "missing": "", "legend": [], "arms": [], "images": [], "svg": "", "thin": False}
    draw = {"image": _images, "bars": _bars, "lines": _lines}[str(spec["kind"])]
    return shared | draw(n, title, spec, outcome, arms, looks)


def _images(n: int, title: str, spec: Mapping[str, Any], outcome: Outcome, arms: Sequence[str], looks: Any) -> dict[str, Any]:
    """The first seed's pictures: several of one arm would say little more."""
    seed = outcome.seeds[0]
    files = {arm: outcome.arms[arm].folders[seed] / str(spec["file"]) for arm in arms}
    found = [(arm, f"{arm}, seed {seed}", base64.b64encode(file.read_bytes()).decode()) for arm, file in files.items() if file.is_file()]
    return {"images": found, "missing": "" if found else f"No arm left a picture {spec['file']}."}


def _bars(n: int, title: str, spec: Mapping[str, Any], outcome: Outcome, arms: Sequence[str], looks: Any) -> dict[str, Any]:
    groups = [
        Group(measure, _COLOURS[k % len(_COLOURS)], [outcome.arms[arm].estimate(measure) for arm in arms])
        for k, measure in enumerate(spec["measures"])
    ]
    groups = [group for group in groups if any(group.values)]
    if not groups:
        return {"missing": f"No arm measured {short(spec['measures'])}."}
    arms = [arm for k, arm in enumerate(arms) if any(group.values[k] for group in groups)]
    groups = [Group(g.name, g.colour, [outcome.arms[arm].estimate(g.name) for arm in arms]) for g in groups]
    label = f"{title}: " + "; ".join(
        f"{group.name} " + ", ".join(f"{arm} {e.mean:.3g}" for arm, e in zip(arms, group.values, strict=True) if e) for group in groups
    )
    return {"legend": [(g.name, g.colour) for g in groups], "svg": dots_picture(f"chart-{n}", label, arms, groups)}


def _lines(
    n: int, title: str, spec: Mapping[str, Any], outcome: Outcome, arms: Sequence[str], looks: Mapping[str, Series]
) -> dict[str, Any]:
    curve = str(spec["curve"])
    tracks = [track for arm in arms if (track := _track(outcome, arm, curve, looks[arm]))]
    if not tracks:
        there = sorted({name for arm in arms for r in outcome.arms[arm].results.values() for name in r.get("curves", {})})
        return {"missing": f"No arm recorded the curve {curve!r}. There are: {', '.join(there) or 'none'}."}
    x, y = str(spec.get("x", "")), str(spec.get("y", ""))
    label = f"{title}: {y} against {x}. Arms: {', '.join(t.series.name for t in tracks)}."
    return {
        "arms": [track.series.name for track in tracks],
        "svg": lines_picture(f"chart-{n}", label, tracks, x_label=x, y_label=y),
        "thin": len(outcome.seeds) > 1,
    }


def _track(outcome: Outcome, arm: str, curve: str, look: Series) -> Track | None:
    found = [r["curves"][curve] for r in outcome.arms[arm].results.values() if curve in r.get("curves", {})]
    pairs = [[(x, y) for x, y in zip(c["x"], c["y"], strict=True) if x is not None and y is not None] for c in found]
    seeds = [([x for x, _ in own], [y for _, y in own]) for own in pairs if own]
    return Track(look, seeds) if seeds else None


def write(outcome: Outcome, path: Path) -> Path:
    """Write the page to `path` and return it."""
    return write_page(path, render("experiments/trial.html", **on_every_page(outcome), **content(outcome)))
