"""The pages: what goes into the templates, and the writing of the file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from sluicegate.audit.attack import Attack
from sluicegate.curves import Estimate
from sluicegate.errors import UserError
from sluicegate.experiment import Arm, Outcome
from sluicegate.recipe import Recipe, load_recipe, packaged_recipes
from sluicegate.report import figures, numbers, pareto, words
from sluicegate.report.figures import DASHES, Line, Point, Series
from sluicegate.report.numbers import Row, read_toml, written
from sluicegate.runs.room import write_atomic

if TYPE_CHECKING:
    from markupsafe import Markup

_DIAL_SHADES = 5


def render(template: str, **content: Any) -> str:
    """Fill a template of this folder; everything handed in is escaped, pictures excepted (`|safe` in the template)."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sluicegate", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    own: dict[str, Any] = {kind: partial(written, kind=kind) for kind in ("share", "plain", "times", "flops", "count", "measure")}
    environment.filters.update(own, size=numbers.flops, breakable=_breakable)
    return environment.get_template(template).render(**content)


def _breakable(name: str) -> "Markup":
    """A name that may go on in the next line after its punctuation."""
    from markupsafe import Markup, escape

    return Markup("").join(Markup("{}<wbr>").format(part) if part in "_-./" else escape(part) for part in name)


@dataclasses.dataclass(frozen=True)
class Link:
    """Another page that a page names at its end."""

    href: str
    """Where it is, from the page's own folder."""
    title: str
    about: str


def report_experiment(outcome: Outcome, path: Path, beside: Sequence[Link] = ()) -> Path:
    """Write an experiment's page to `path`: one file that needs nothing else, and opens from disk. Returns `path`.

    `beside` are other pages to name at its end.
    """
    if outcome.recipe.is_trial:
        from sluicegate.report import trial

        return trial.write(outcome, path)
    recipe, table = outcome.recipe, numbers.rows(outcome)
    looks = _looks(table)
    attacked = [name for name, arm in outcome.arms.items() if arm.attacks]
    page = render(
        "experiment.html",
        title=recipe.title or recipe.name,
        recipe=recipe,
        seeds=outcome.seeds,
        seeds_note=words.seeds_note(outcome),
        sentences=words.sentences(outcome),
        rows=table,
        looks=looks,
        probes=[label for label, _, _ in numbers.PROBES if any(row.at[label] for row in table)],
        attack=_attack_in_words(outcome) if attacked else "",
        no_savings=numbers.savings_problem(outcome),
        level=outcome.level,
        curves=_curve_pictures(
            "", {name: outcome.arms[name] for name in attacked}, looks, outcome.level if any(row.savings for row in table) else None
        ),
        dial=_dial(outcome, table, looks),
        forest=_forest(table, looks, recipe),
        pareto=pareto.pictures(outcome, table, looks),
        bars=_bars(table, looks, recipe),
        looking=words.what_the_scores_show(outcome),
        groups=_groups(table),
        left=_retain_left(outcome.arms),
        warnings=outcome.warnings(),
        resolved=tomli_w.dumps(_as_toml(recipe)),
        configs=_configs(outcome.arms),
        environment=_environment(outcome.arms.values()),
        command=_command(outcome),
        packaged=_packaged(recipe),
        beside=beside,
    )
    return _write(path, page)


def write_trial(outcome: Outcome, content: Mapping[str, Any], path: Path) -> Path:
    """Write the page of an experiment of trials, filled with `content` (see `trial.content`)."""
    recipe = outcome.recipe
    page = render(
        "trial.html",
        title=recipe.title or recipe.name,
        recipe=recipe,
        seeds=outcome.seeds,
        warnings=outcome.warnings(),
        configs=_configs(outcome.arms),
        environment=_environment(outcome.arms.values()),
        command=_command(outcome),
        packaged=_packaged(recipe),
        **content,
    )
    return _write(path, page)


def report_audit(
    name: str,
    model: Arm,
    reference: Arm | None,
    verdict: Sequence[str],
    warnings: Sequence[str],
    path: Path,
    *,
    level: float = 0.5,
    harmless: Arm | None = None,
) -> Path:
    """Write the page of one audited model to `path` and return it.

    `verdict` is what follows, in sentences; `harmless` is the model under fine-tuning on retain
    rows alone. Arms are shown as "the model", "the reference" and "harmless fine-tuning".
    """
    arms = {"the model": model, "the reference": reference, "harmless fine-tuning": harmless}
    shown = {label: arm for label, arm in arms.items() if arm is not None}
    colours = {"the model": "suppressed", "the reference": "reference", "harmless fine-tuning": "distilled"}
    dashes = {"harmless fine-tuning": "dashed"}
    looks = {
        label: Series(label, f"a{i}", colours[label], dashes.get(label, "solid"), label == "the reference") for i, label in enumerate(shown)
    }
    attacked = {label: arm for label, arm in shown.items() if arm.attacks}
    saved, problem = _audit_savings(model, reference, level)
    table = [_audit_row(label, arm, saved if label == "the model" else None) for label, arm in shown.items()]
    seeds = tuple(model.results)
    page = render(
        "audit.html",
        title=f"Audit of {name}",
        name=name,
        sentences=list(verdict),
        seeds=seeds,
        seeds_note=_audit_note(seeds),
        rows=table,
        looks=looks,
        probes=[label for label, _, _ in numbers.PROBES if any(row.at[label] for row in table)],
        savings=saved,
        no_savings=problem,
        level=level,
        has_reference=reference is not None,
        curves=_curve_pictures("audit-", attacked, looks, level if saved else None),
        groups=_groups(table),
        left=_retain_left(shown),
        warnings=list(warnings),
        configs=_configs(shown),
        environment=_environment(shown.values()),
    )
    return _write(path, page)


def _write(path: Path, page: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
    return path


# -------------------------------------------------------------------------------------- how arms look


def _looks(table: Sequence[Row]) -> dict[str, Series]:
    """Colour by what an arm stands for; arms of one kind differ by dashes, those on the dial by shade."""
    looks: dict[str, Series] = {}
    seen: dict[str, int] = {}
    dial = sorted((row for row in table if row.role == "dial"), key=lambda row: row.alpha or 0.0)
    for i, row in enumerate(table):
        n = seen[row.role] = seen.get(row.role, -1) + 1
        colour = str(row.role)
        dash = DASHES[n % len(DASHES)]
        if row.role == "dial":
            rank = dial.index(row)
            colour = f"dial-{round(rank * (_DIAL_SHADES - 1) / max(1, len(dial) - 1)) + 1 if len(dial) > 1 else 3}"
            dash = DASHES[len(dial) - 1 - rank if len(dial) <= 3 else 0]
        looks[row.name] = Series(row.name, f"a{i}", colour, dash, row.role == "reference")
    return looks


# -------------------------------------------------------------------------------------- pictures


def _curve_pictures(prefix: str, arms: Mapping[str, Arm], looks: Mapping[str, Series], level: float | None) -> list[dict[str, str]]:
    if not arms:
        return []
    found = []
    for which, title, note, mark in (
        ("owned", "Facts the attacker holds", "Recall of the half it fine-tunes on: relearning.", level),
        ("held_out", "Facts it never sees", "Recall of the other half: what comes back by itself was still in the weights.", None),
    ):
        lines = [Line(looks[name], getattr(arm, which)) for name, arm in arms.items()]
        label = f"Recall against attack steps. {title}. Arms: {', '.join(arms)}."
        picture = figures.curves_picture(f"{prefix}{which.replace('_', '-')}", label, lines, mark)
        found.append({"title": title, "note": note, "svg": picture})
    return found


def _dial(outcome: Outcome, table: Sequence[Row], looks: Mapping[str, Series]) -> dict[str, Any] | None:
    relative = any(row.relative for row in table)
    by_savings = any(row.savings for row in table)
    points = []
    for row in table:
        x = row.relative if relative else row.cost
        y = _one_minus(row.savings) if by_savings else _one_minus(row.at["A@10"])
        if row.role != "pretrained" and x and x.mean > 0 and y:
            points.append(Point(looks[row.name], x, y, row.alpha))
    if len(points) < 2:
        return None
    y_label = "robustness (1 \N{MINUS SIGN} savings)" if by_savings else "robustness (1 \N{MINUS SIGN} A@10)"
    x_label = "compute, as a multiple of the reference's" if relative else "compute, FLOPs"
    label = "Robustness against compute: " + ", ".join(f"{p.series.name} {p.y.mean:.2f} at {p.x.mean:.3g}" for p in points) + "."
    svg = figures.dial_picture("dial", label, points, x_label=x_label, y_label=y_label, relative=relative)
    return {"svg": svg, "by_savings": by_savings, "joined": sum(p.order is not None for p in points) > 1, "relative": relative}


def _one_minus(found: Estimate | None) -> Estimate | None:
    if found is None:
        return None
    turned = {"at least": "at most", "at most": "at least"}.get(found.bound, found.bound)
    return Estimate(1 - found.mean, 1 - found.high, 1 - found.low, found.n, turned)


def _forest(table: Sequence[Row], looks: Mapping[str, Series], recipe: Recipe) -> str:
    found = [(looks[row.name], row.savings) for row in table if row.savings and row.name not in (recipe.reference, recipe.pretrained)]
    if not found:
        return ""
    found.sort(key=lambda pair: pair[1].mean)
    label = "Savings: " + ", ".join(f"{series.name} {e}" for series, e in found) + "."
    return figures.forest_picture("forest", label, found, x_label="savings", ends=("never knew", "merely hidden"))


def _bars(table: Sequence[Row], looks: Mapping[str, Series], recipe: Recipe) -> str:
    reference = next((row.cost for row in table if row.role == "reference" and row.cost and row.cost.mean > 0), None)
    unit = reference.mean if reference else 1e9
    found = []
    for row in table:
        if row.cost and row.cost.mean > 0 and row.own and row.role != "pretrained":
            student, teacher = row.own["student"], row.own["teacher"]
            before = max(0.0, row.cost.mean - row.own["total"])
            found.append((looks[row.name], (before / unit, student / unit, teacher / unit)))
    if not found:
        return ""
    label = "FLOPs of every arm: what it was made from, its student, its teacher."
    x_label = "compute, as a multiple of the reference's" if reference else "compute, GFLOPs"
    return figures.bars_picture("ledger", label, found, ("part-before", "part-student", "part-teacher"), x_label=x_label)


# -------------------------------------------------------------------------------------- tables


def _groups(table: Sequence[Row]) -> list[str]:
    known = [group for row in table for group in row.scores]
    return [g for g in ("forget", "retain", "adjacent") if g in known] + sorted(set(known) - {"forget", "retain", "adjacent"})


def _retain_left(arms: Mapping[str, Arm]) -> dict[str, Any] | None:
    """Retain score before the attack and after some of it, by arm."""
    steps = (0.0, 10.0, 30.0, 100.0)
    found = {}
    for name, arm in arms.items():
        series = [(a["owned"]["effort"], a["retain"]) for a in arm.attacks.values() if a.get("retain")]
        cells = {step: words.retain_left(series, step) for step in steps}
        if any(cells.values()):
            found[name] = cells
    shown = [step for step in steps if any(cells[step] for cells in found.values())]
    return {"steps": shown, "arms": found} if found else None


def _audit_row(label: str, arm: Arm, saved: Estimate | None) -> Row:
    role: numbers.Role = "reference" if label == "the reference" else "other"
    return Row(label, role, "", "", None, (), numbers.group_scores(arm), numbers.probes(arm), saved, None, None, None, by=arm.by)


def _audit_savings(model: Arm, reference: Arm | None, level: float) -> tuple[Estimate | None, str]:
    if reference is None or not (model.attacks and reference.attacks):
        return None, ""
    try:
        return model.owned.savings(reference.owned, level), ""
    except UserError as error:
        return None, str(error)


def _audit_note(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return "One attack seed: every number is a single measurement, and there are no intervals."
    return f"Means over {len(seeds)} attack seeds; brackets are 95 % intervals (Student's t over seeds)."


def _attack_in_words(outcome: Outcome) -> str:
    settings = outcome.recipe.attack
    known = {f.name: settings.get(f.name, f.default) for f in dataclasses.fields(Attack)}
    data = {
        "forget": "a random half of the forget facts",
        "retain": "harmless retain rows only",
        "mixed": "a random half of the forget facts, mixed with as many retain rows",
    }.get(str(known["kind"]), str(known["kind"]))
    # What was tried counts, not what was asked for: rates may have been chosen by the model's width.
    tried = {float(rate) for arm in outcome.arms.values() for attack in arm.attacks.values() for rate in attack.get("by_rate", {})}
    rates = sorted(tried)
    weights = f"an adapter of rank {known['lora_rank']}" if known["lora_rank"] else "all parameters"
    what = f"The attack fine-tunes {weights} on {data}: {known['steps']} steps of {known['batch']} rows"
    more = ""
    if known["keep_retain"]:
        more += f" Only models that keep {numbers.percent(float(known['keep_retain']))} of their retain score count."
    if known["round_bits"]:
        more += f" Weights are first rounded to {known['round_bits']} bits and back, which is what step 0 shows."
    if len(rates) < 2:
        return what + (f" at learning rate {rates[0]:g}." if rates else ".") + more
    spread = f"under each of {len(rates)} learning rates from {rates[0]:g} to {rates[-1]:g}"
    return f"{what} {spread}; at every point the rate that serves the attacker best counts.{more}"


# -------------------------------------------------------------------------------------- how to repeat it


def _as_toml(recipe: Recipe) -> dict[str, Any]:
    return {name: _plain(value) for name, value in dataclasses.asdict(recipe).items() if value not in ("", {}, None)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _packaged(recipe: Recipe) -> bool:
    return recipe.name in packaged_recipes() and load_recipe(recipe.name) == recipe


def _command(outcome: Outcome) -> str:
    import shlex

    seeds, name = outcome.seeds, outcome.recipe.name
    source = name if _packaged(outcome.recipe) else f"{name}.toml"
    head = f"sluicegate run {shlex.quote(source)}"
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{head} --seeds {len(seeds)}" + (f" --seed {seeds[0]}" if seeds[0] else "")
    return "\n".join(f"{head} --seeds 1 --seed {seed}" for seed in seeds)


def _configs(arms: Mapping[str, Arm]) -> list[tuple[str, str]]:
    """Every arm's config.toml of its first seed; run folders are named without the folders above them."""
    found = []
    for name, arm in arms.items():
        for seed, folder in list(arm.folders.items())[:1]:
            config = read_toml(folder / "config.toml")
            if config:
                above = f"{folder.parent}/"
                own = {k: v.replace(above, "") if isinstance(v, str) else v for k, v in config.items()}
                found.append((f"{name} (seed {seed}): {folder.name}", tomli_w.dumps(own)))
    return found


def _environment(arms: Any) -> str:
    """What differs between the arms' env.json is listed, what does not is said once."""
    found: list[str] = []
    for arm in arms:
        for folder in arm.folders.values():
            try:
                text = json.dumps(json.loads((folder / "env.json").read_text(encoding="utf-8")), indent=1)
            except (OSError, ValueError):
                continue
            if text not in found:
                found.append(text)
    return "\n".join(found)
