"""The page of steering vectors: twins against their base, doses, every answer, and the open questions."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sluicegate.report.figures import Series, draw_picture, set_number_axis, set_shares_axis
from sluicegate.report.formatting import written
from sluicegate.report.html import Verdict, render, write_page
from sluicegate.values.statistics import Estimate, bootstrap_two_way

Found = Mapping[str, Any]
"""result.json of a `steer-score` run (see `stages.steer.SteerScore`)."""

LOOKS = {
    "twins": Series("twins", "a0", "distilled"),
    "base": Series("base", "a1", "suppressed", "solid", True),
    "unsteered": Series("unsteered", "a2", "pretrained", "dashed"),
    "random": Series("random", "a3", "control", "dotted"),
    "mean": Series("mean", "a4", "dial-3", "dashdot"),
    "raised": Series("raised", "a5", "dial-3", "solid"),
    "scaled": Series("scaled", "a6", "suppressed", "dotted"),
}
GROUPS = {
    "unsteered": "the model as it is",
    "base": "the vector whose twins these are",
    "twins": "orthogonal to the base and to each other",
    "random": "random vectors of the base's norm: the control",
    "mean": "the mean of the first k twins",
    "raised": "the mean brought to the base's norm",
    "scaled": "the base brought to the mean's norm: the control",
}
_BESIDE = {"raised": "brought to the base's norm", "scaled": "the base at that norm"}


def report_steering(found: Found, path: Path, *, title: str, command: str, config: str = "") -> Path:
    """Write the page of a `steer-score` result to `path` and return it."""
    rows = list(found["rows"])
    groups = [name for name in GROUPS if any(row["group"] == name for row in rows)]
    page = render(
        "steering/page.html",
        title=title,
        facts=facts(found),
        looks=LOOKS,
        shown=[name for name in groups if name not in ("mean", "raised", "scaled")],
        verdicts=verdicts(found),
        pictures=pictures(found),
        doses=dose_pictures(found["dose"]) if found.get("dose") else [],
        groups=[(name, GROUPS[name], _cells([r for r in rows if r["group"] == name])) for name in groups],
        vectors=[(row["who"], LOOKS[row["group"]], _plain(row)) for row in rows],
        prompts=[
            (prompt, [(r["who"], LOOKS[r["group"]], r["shows"][n], r["texts"][n]) for r in rows])
            for n, prompt in enumerate(found["prompts"])
        ],
        preview=found.get("preview", []),
        rule=found["rule"],
        new_tokens=found["new_tokens"],
        kl_tokens=found["kl_tokens"],
        several=len(rows) > 40,
        command=command,
        config=config,
    )
    return write_page(path, page)


def facts(found: Found) -> str:
    """One line: which model, where, how many vectors and prompts."""
    twins = _of(found, "twins")
    word = "vector" if len(twins) == 1 else "vectors"
    return (
        f"{found['model']}, added to the output of {found['module']}, {found['width']} wide. {len(twins)} {word}, "
        f"{len(found['prompts'])} held-out prompts, {found['new_tokens']} greedy tokens an answer."
    )


def kl(row: Mapping[str, Any]) -> float:
    """A vector's KL to the base over several tokens: the median over the held-out prompts, in nats a token."""
    return float(np.median(row["kl"])) if row.get("kl") else math.nan


def rate(row: Mapping[str, Any]) -> float:
    """The share of prompts on which a vector's answer shows the behaviour."""
    return float(np.mean(row["shows"])) if row.get("shows") else math.nan


def two_way(values: Sequence[Sequence[float]], statistic: str = "mean") -> Estimate:
    """A mean over vectors and prompts [k, p] with a 95 % interval; "median": over vectors, of that over prompts.

    Both are drawn again, as the answers to one prompt hang together. One vector or one prompt alone is not drawn again.
    """
    reduce = (lambda t: float(t.mean())) if statistic == "mean" else (lambda t: float(np.median(np.median(t, axis=1))))
    return bootstrap_two_way(values, reduce)


def verdicts(found: Found) -> list[Verdict]:
    """What the run says of the base vector and its twins, and of the post's questions where it asked them."""
    base, plain, twins, chance, means = (_of(found, name) for name in ("base", "unsteered", "twins", "random", "mean"))
    shows = {name: f"{name} {_percent(rows)}" for name, rows in (("unsteered", plain), ("random vectors of its norm", chance)) if rows}
    told = []
    if base:
        told.append(
            Verdict("Does the base vector work?", "", f"shows the behaviour in {_percent(base)} of the answers", tuple(shows.values()))
        )
    if twins:
        good = [row for row in twins if kl(row) <= found["bound"] and rate(row) >= found["share"]]
        count = f"{len(good)} of {len(twins)} within {found['bound']:g} nats a token of the base and with the behaviour on at least "
        near = two_way([row["kl"] for row in twins], "median")
        away = f" against {_text(two_way([row['kl'] for row in plain], 'median'))} unsteered" if plain else ""
        numbers = (f"twins {_percent(twins)}", f"{found['kl_name']}: median {_text(near)} nats a token{away}")
        told.append(Verdict("Do its twins?", "", f"{count}{found['share']:.0%} of the prompts", numbers))
        capped = [row for row in twins if row["norm"] <= 1.001 * found["base_norm"]]
        largest = f"largest {max(row['norm'] for row in twins) / found['base_norm']:.2f} of the base's"
        verdict = f"{len(capped)} of {len(twins)} have at most the base's norm" + (
            f"; these show it in {_percent(capped)}" if capped else ""
        )
        told.append(Verdict("Does a norm cap kill the effect?", "", verdict, (largest,)))
    if (most := found.get("max_cos")) is not None:
        told.append(Verdict("Are they orthogonal?", "", f"the largest |cosine| between any two of base and twins is {most:.1e}"))
    if means:
        worked = sum(rate(row) >= found["share"] for row in means)
        verdict = f"{worked} of {len(means)} sizes show it on {found['share']:.0%} of the prompts or more"
        told.append(Verdict("Does the mean of several twins work?", "", verdict, tuple(_of_size(found, row) for row in means)))
    return told


def _of_size(found: Found, mean: Mapping[str, Any]) -> str:
    """The mean of k twins, and the controls of its size."""
    same = [(name, row) for name in ("raised", "scaled") for row in _of(found, name) if row["k"] == mean["k"]]
    beside = "".join(f", {_BESIDE[name]} {rate(row):.0%}" for name, row in same)
    return f"k = {mean['k']}: {rate(mean):.0%}{beside}"


def _percent(rows: Sequence[Mapping[str, Any]]) -> str:
    found = two_way([row["shows"] for row in rows])
    if math.isnan(found.low) or found.low == found.high:  # all or none: drawing again tells nothing
        return f"{found.mean:.0%}"
    return f"{found.mean:.0%} ({found.low:.0%} to {found.high:.0%})"


def _text(found: Estimate) -> str:
    return f"{found.mean:.2f}" + ("" if math.isnan(found.low) else f" ({found.low:.2f} to {found.high:.2f})")


def _of(found: Found, group: str) -> list[Mapping[str, Any]]:
    return [row for row in found["rows"] if row["group"] == group]


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Vectors, then norm, KL at the last prompt token, KL over several tokens, and rate, as written."""
    norms = [[float(row["norm"])] for row in rows]
    last, several = ([row[name] for row in rows if row.get(name)] for name in ("kl_last", "kl"))
    norm = two_way(norms, "median")
    return [
        len(rows),
        written(Estimate(norm.mean, *((norm.low, norm.high) if len(rows) > 1 else (math.nan, math.nan)), len(rows)), "measure"),
        written(two_way(last, "median"), "measure") if last else None,
        written(two_way(several, "median"), "measure") if several else None,
        written(two_way([row["shows"] for row in rows]), "share"),
    ]


def _plain(row: Mapping[str, Any]) -> list[str]:
    last = float(np.median(row["kl_last"])) if row.get("kl_last") else math.nan
    numbers = [row["norm"], last, kl(row)]
    return [*("–" if math.isnan(v) else f"{v:.3g}" for v in numbers), f"{sum(row['shows'])} of {len(row['shows'])}"]


def pictures(found: Found) -> list[dict[str, str]]:
    """KL and norm by index, with lines for the unsteered model and chance; how many twins at each quality."""
    if not _of(found, "twins"):
        return []
    name = found["kl_name"]
    made = [
        _index(found, "kl", kl, "KL to the base", f"{name}, median over the held-out prompts, in nats a token.", "KL (nats a token)"),
        _index(found, "norm", lambda row: float(row["norm"]), "Norm", "A line at the base's own norm.", "norm"),
        _index(found, "rate", rate, "Behaviour", "Share of the held-out prompts on which the answer shows it.", "share of prompts"),
    ]
    if len(_of(found, "twins")) > 1:
        made.append(_counts(found))
    return made


def _index(found: Found, name: str, value: Any, title: str, note: str, y_label: str) -> dict[str, str]:
    """One number of every twin against its index; lines for the base, no steering and random vectors."""
    twins = _of(found, "twins")
    numbers = [value(row) for row in twins]
    lines = {group: float(np.mean(own)) for group in ("base", "unsteered", "random") if (own := _finite(found, group, value))}
    label = f"{title} of {len(twins)} vectors, {min(numbers):.3g} to {max(numbers):.3g}; "
    label += ", ".join(f"{group} {height:.3g}" for group, height in lines.items())
    if name == "norm":  # no steering has none
        lines.pop("unsteered", None)
    with draw_picture(f"steer-{name}", label, 260) as picture:
        axes = picture.axes
        picture.points(LOOKS["twins"], range(len(numbers)), numbers, "o", ms=4.2 if len(numbers) < 80 else 2.4)
        for group, height in lines.items():
            picture.level(height, LOOKS[group])
        axes.set_xlim(-0.5 - 0.01 * len(numbers), len(numbers) - 0.5 + 0.01 * len(numbers))
        if name == "rate":
            set_shares_axis(axes.yaxis)
            axes.set_ylim(-0.03, 1.03)
        else:
            axes.set_ylim(0, 1.06 * max([*numbers, *lines.values(), 1e-9]))
        set_number_axis(axes.xaxis, whole=True)
        picture.label("index", y_label)
    return {"title": title, "note": note, "svg": picture.svg}


def _counts(found: Found) -> dict[str, str]:
    """How many twins come within each KL of the base; dashed, those of them that also show the behaviour."""
    twins = _of(found, "twins")
    every = sorted(kl(row) for row in twins)
    shown = sorted(kl(row) for row in twins if rate(row) >= found["share"])
    bound = found["bound"]
    within = [sum(v <= bound for v in own) for own in (every, shown)]
    label = f"Twins by KL: {within[0]} within {bound:g} nats, {within[1]} of them with the behaviour."
    with draw_picture("steer-counts", label, 260) as picture:
        axes, end = picture.axes, 1.05 * max(every[-1], bound)
        for own, dash in ((every, "solid"), (shown, (0, (5, 2)))):
            steps = ([0, *own, end], [0, *range(1, len(own) + 1), len(own)])
            axes.step(*steps, where="post", color=picture.paint("distilled"), lw=1.8, ls=dash)
        picture.mark(x=bound)
        axes.set_xlim(0, end)
        axes.set_ylim(0, 1.05 * len(every))
        set_number_axis(axes.yaxis, whole=True)
        picture.label("KL to the base at most (nats a token)", "twins")
    note = f"Solid: all of them; broken: those that show the behaviour on at least {found['share']:.0%} of the prompts."
    return {"title": "How many, by quality", "note": note, "svg": picture.svg}


def dose_pictures(dose: Mapping[str, Any]) -> list[dict[str, str]]:
    """KL to the unsteered model and behaviour against the dose, of the vector and of a random one of its norm."""
    kinds = (
        ("kl", "How far it moves the model", "KL from the unsteered model over several tokens, mean over prompts.", "KL (nats a token)"),
        ("rate", "How often it shows", "Share of the prompts whose answer shows the behaviour.", "share of prompts"),
    )
    made = []
    for name, title, note, y_label in kinds:
        own = {"base": dose[name]} | ({"random": dose[f"random_{name}"]} if dose.get(f"random_{name}") else {})
        label = f"{title}: " + "; ".join(
            f"{g} " + ", ".join(f"{d:g} {v:.3g}" for d, v in zip(dose["dose"], y, strict=True)) for g, y in own.items()
        )
        with draw_picture(f"dose-{name}", label, 250) as picture:
            for group, values in own.items():
                x, y = zip(*((d, v) for d, v in zip(dose["dose"], values, strict=True) if v is not None), strict=True)
                picture.line(LOOKS[group], x, y, "o", ms=4, lw=1.8, clip_on=False)
            if name == "rate":
                set_shares_axis(picture.axes.yaxis)
                picture.axes.set_ylim(-0.015, 1.02)
            else:
                picture.axes.set_ylim(bottom=0)
            picture.label("dose (1: the vector as it is)", y_label)
        made.append({"title": title, "note": note, "svg": picture.svg})
    return made


def _finite(found: Found, group: str, value: Any) -> list[float]:
    return [v for row in _of(found, group) if math.isfinite(v := value(row))]
