"""The page of a quiz: recall against clues, when models buzz, and how far their confidence can be trusted."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sluicegate.report.figures import DASHES, Picture, Series, draw_picture, set_shares_axis
from sluicegate.report.formatting import Written, written
from sluicegate.report.html import Verdict, render, write_page
from sluicegate.values.statistics import Estimate
from sluicegate_study.judge.calibration import Interval
from sluicegate_study.quiz.measures import MEANINGS, Change, Reading, bins, curve_band, measure, measure_groups

_COLOURS = ("pretrained", "suppressed", "distilled", "dial-3", "control", "other", "reference")
SHOWN = ("auc", "first_clue", "last_clue", "first_right", "stable_right", "buzz", "right_at_buzz", "expected_wins")
CALIBRATED = ("over", "over_at_buzz", "brier", "reliability", "resolution", "uncertainty", "ece", "log_loss")


def report_quiz(
    readings: Mapping[str, Reading],
    changes: Mapping[str, Mapping[str, Change]],
    path: Path,
    *,
    title: str,
    facts: str,
    command: str,
    draws: int = 1000,
) -> Path:
    """Write the page of a quiz to `path` and return it.

    `readings` are the models by name, the one that others are compared with first; `changes` are, for each of the
    others, what became of all questions ("") and of each category."""
    looks = {
        name: Series(name, f"a{n}", _COLOURS[n % len(_COLOURS)], DASHES[n // len(_COLOURS) % len(DASHES)])
        for n, name in enumerate(readings)
    }
    first = next(iter(readings.values()))
    measured = {name: measure(reading, draws=draws) for name, reading in readings.items()}
    groups = {name: measure_groups(reading, draws=draws) for name, reading in readings.items()}
    categories = list(next(iter(groups.values())))
    page = render(
        "quiz/page.html",
        "sluicegate_study",
        title=title,
        facts=facts,
        looks=looks,
        names=list(readings),
        verdicts=describe(measured, changes, first),
        curves=plot_recall(readings, looks, draws),
        trust=plot_calibration(readings, looks),
        threshold=first.threshold,
        score=first.score,
        weight=first.weight.says,
        tables=[
            ("Recall and buzzes", SHOWN, {name: [_cell(found[m]) for m in SHOWN] for name, found in measured.items()}),
            ("Confidence", CALIBRATED, {name: [_cell(found[m]) for m in CALIBRATED] for name, found in measured.items()}),
        ],
        changed={name: [(group or "all", _change(change)) for group, change in by_group.items()] for name, by_group in changes.items()},
        level=next((change.level for by_group in changes.values() for change in by_group.values()), 0.5),
        categories=categories if len(categories) > 1 else [],
        by_category={
            name: [(_cell(found[c]["auc"]), _cell(found[c]["right_at_buzz"]), _cell(found[c]["over"])) for c in categories]
            for name, found in groups.items()
        },
        counts={c: sum(a.category == c for a in first.asked) for c in categories},
        meanings={name: MEANINGS[name] for name in (*SHOWN, *CALIBRATED)},
        command=command,
    )
    return write_page(path, page)


def describe(measured: Mapping[str, Mapping[str, Interval]], changes: Mapping[str, Mapping[str, Change]], first: Reading) -> list[Verdict]:
    """What each model knows, and how it differs from the first; a difference whose interval holds 0 is not called
    one."""
    told = []
    for name, found in measured.items():
        over = found["over"]
        word = "over-confident" if over.low > 0 else "under-confident" if over.high < 0 else "not told apart from calibrated"
        numbers: tuple[str, ...] = (
            f"right after the first clue {found['first_clue'].value:.0%}, after the last {found['last_clue'].value:.0%}, "
            f"by chance {found['chance'].value:.0%}",
            f"area under recall {_text(found['auc'])}",
            f"confidence less share right {_text(over, sign=True)}",
        )
        told.append(Verdict("Can its confidence be trusted?", name, word, numbers))
    for name, by_group in changes.items():
        for group, change in by_group.items():
            word = "below" if change.auc.high < 0 else "above" if change.auc.low > 0 else "not told apart"
            if math.isnan(change.auc.low) or (group and word == "not told apart"):  # of a category only what can be told is
                continue
            arms = f"{name} against {next(iter(measured))}" + (f" on {group}" if group else "")
            numbers = (f"area under recall {_text(change.auc, sign=True)}",)
            if change.savings is not None:
                bound = f"{change.bound} " if change.bound else ""
                numbers += (f"clues saved on the way to {change.level:.0%}: {bound}{_text(change.savings, sign=True)}",)
            told.append(Verdict("Does it know more?", arms, word, numbers))
    if len(first.asked) < 60:
        few = "with fewer than some sixty, Brier scores and binned errors mean little"
        told.append(Verdict("Are there enough questions?", f"{len(first.asked)}", few))
    return told


def plot_recall(readings: Mapping[str, Reading], looks: Mapping[str, Series], draws: int = 1000) -> str:
    """Recall against the share of clues read, with 95 % bands over questions."""
    label = "Recall against the share of clues. " + ", ".join(f"{n} {r.area.mean():.2f}" for n, r in readings.items()) + " (area)."
    with draw_picture("quiz-curves", label, 300, left=48, bottom=46) as picture:
        for name, reading in readings.items():
            mean, low, high = curve_band(reading, draws=draws)
            look = looks[name]
            colour = picture.paint(look.colour)
            picture.axes.fill_between(reading.grid, low, high, color=colour, alpha=0.13, lw=0, gid=f"class:seed {look.key}")
            picture.line(look, reading.grid, mean, lw=1.9, clip_on=False)
        picture.mark(y=float(np.mean([a.chance for a in next(iter(readings.values())).asked])))
        _shares(picture, "share of clues read", "recall")
    return picture.svg


def _shares(picture: Picture, x: str, y: str) -> None:
    """Both axes are shares, named `x` and `y`."""
    for axis in (picture.axes.xaxis, picture.axes.yaxis):
        set_shares_axis(axis)
    picture.axes.set_xlim(0, 1)
    picture.axes.set_ylim(-0.015, 1.02)
    picture.label(x, y)


def plot_calibration(readings: Mapping[str, Reading], looks: Mapping[str, Series]) -> str:
    """Share right against stated confidence, in bins of equal size."""
    with draw_picture("quiz-trust", "Share right against confidence, in ten bins of equal size.", 300, left=48, bottom=46) as picture:
        picture.axes.plot([0, 1], [0, 1], color=picture.paint("faint"), lw=0.9, dashes=(2, 3), zorder=1)
        for name, reading in readings.items():
            there = ~np.isnan(reading.confidence)
            said, right = reading.confidence[there], reading.right[there]
            parts = bins(said)
            x, y = [float(said[p].mean()) for p in parts], [float(right[p].mean()) for p in parts]
            picture.line(looks[name], x, y, "o", lw=1.4, ms=4.5, clip_on=False)
        _shares(picture, "confidence in the guess", "share right")
    return picture.svg


def _cell(found: Interval) -> Written:
    return written(Estimate(found.value, found.low, found.high, 0))


def _change(change: Change) -> Sequence[Any]:
    saved = change.savings
    return (
        _cell(change.auc),
        _cell(change.over),
        written(Estimate(saved.value, saved.low, saved.high, 0, change.bound)) if saved is not None else None,
    )


def _text(found: Interval, sign: bool = False) -> str:
    form = "+.2f" if sign else ".2f"
    if math.isnan(found.low):
        return f"{found.value:{form}} (no interval)"
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"
