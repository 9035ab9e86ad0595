"""Experiments: a recipe of named arms, run over seeds, each attacked, and gathered into one table.

A recipe is a TOML file; it is the documentation of an experiment and its input at once::

    name = "undo-arithmetic"
    reference = "gold"                 # the arm that never knew
    pretrained = "base"                # the arm whose cost is nobody's
    seeds = 5

    [common]                           # settings of every stage that has them
    forget = "task:arithmetic/forget"

    [arms.maxent]
    verb = "unlearn"
    model = "@base"                    # another arm
    method = "maxent"

    [attack]                           # the relearning attack on every arm
    steps = 100
"""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from sluicegate import trials
from sluicegate.claims import Checked, check, names
from sluicegate.curves import Curve, Estimate, estimate, stack
from sluicegate.errors import UserError, nearest
from sluicegate.execution import from_config, kinds
from sluicegate.runs.identity import settings_of
from sluicegate.runs.pool import Job, run_jobs
from sluicegate.runs.room import Progress, result_of, write_atomic
from sluicegate.unlearning.objectives import method

KEYS = ("name", "title", "about", "reference", "pretrained", "level", "seeds", "common", "arms", "attack", "claims", "pictures")
PICTURES = ("bars", "lines", "image")


@dataclass(frozen=True)
class Recipe:
    """An experiment as it is written down."""

    name: str
    arms: Mapping[str, Mapping[str, Any]]
    """Flat settings of each arm's stage; "@other" stands for another arm's model."""
    attack: Mapping[str, Any]
    """Settings of the relearning attack that every arm undergoes."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every stage that has them."""
    title: str = ""
    about: str = ""
    reference: str = ""
    """The arm that never saw the forget set."""
    pretrained: str = ""
    """The arm everything starts from, whose cost is not counted to the others."""
    level: float = 0.5
    """Recall on the owned facts up to which savings are counted."""
    seeds: int = 5
    claims: Sequence[Mapping[str, Any]] = ()
    """What a recipe of trials is to bear out: `says`, `source`, and a `test` (see `claims`)."""
    pictures: Sequence[Mapping[str, Any]] = ()
    """What its page shows: `kind` bars (of `measures`), lines (of a `curve`, with axes `x` and `y`) or image (a `file`)."""

    def __post_init__(self) -> None:
        for role in ("reference", "pretrained"):
            arm = getattr(self, role)
            if arm and arm not in self.arms:
                raise UserError(f"recipe {self.name!r}: {role} is {arm!r}, which is no arm. The arms are {', '.join(self.arms)}.")
        for arm, settings in self.arms.items():
            for other in _references(settings).values():
                if other not in self.arms:
                    raise UserError(f"recipe {self.name!r}, arm {arm!r}: @{other} is no arm. Nearest: {nearest(other, list(self.arms))}.")
            from_config(self.stage_settings(arm, seed=0, folders={}))  # a wrong setting is named before anything runs
        if self.attack:
            from_config(self.attack_settings(next(iter(self.arms)), 0, {}))
        self._check_what_is_shown()

    @property
    def is_trial(self) -> bool:
        """Whether the arms are trials, which measure themselves, and not models to be attacked."""
        return all(settings.get("verb") in trials.found() for settings in self.arms.values())

    def measures(self) -> dict[str, str]:
        """Names and meanings of what the arms' trials measure."""
        known = trials.found()
        return {name: what for settings in self.arms.values() for name, what in known[str(settings["verb"])].MEASURES.items()}

    def _check_what_is_shown(self) -> None:
        if not self.claims and not self.pictures:
            return
        if not self.is_trial:
            raise UserError(f"recipe {self.name!r}: claims and pictures are for recipes of trials ({', '.join(trials.found())}).")
        known = self.measures()
        for arm, measure in (pair for claim in self.claims for pair in names(str(claim.get("test", "")))):
            if arm not in self.arms:
                raise UserError(f"recipe {self.name!r}: a claim speaks of the arm {arm!r}. Nearest: {nearest(arm, list(self.arms))}.")
            if measure not in known:
                raise UserError(f"recipe {self.name!r}: a claim speaks of {arm}.{measure}. Nearest: {nearest(measure, list(known))}.")
        for picture in self.pictures:
            if picture.get("kind") not in PICTURES:
                raise UserError(
                    f"recipe {self.name!r}: a picture's kind is {picture.get('kind')!r}; it must be one of {', '.join(PICTURES)}."
                )
            for arm in picture.get("arms", ()):
                if arm not in self.arms:
                    raise UserError(f"recipe {self.name!r}: a picture shows the arm {arm!r}. Nearest: {nearest(arm, list(self.arms))}.")
            for measure in picture.get("measures", ()):
                if measure not in known:
                    raise UserError(f"recipe {self.name!r}: a picture shows {measure!r}. Nearest: {nearest(measure, list(known))}.")

    def stage_settings(self, arm: str, seed: int, folders: Mapping[str, Path]) -> dict[str, Any]:
        """Flat settings of one arm's stage, its references replaced by run folders."""
        own = dict(self.arms[arm])
        own |= {name: str(folders.get(other, f"@{other}")) for name, other in _references(own).items()}
        return self._common(str(own.get("verb", "")), own) | own | {"seed": seed}

    def attack_settings(self, arm: str, seed: int, folders: Mapping[str, Path]) -> dict[str, Any]:
        """Flat settings of the attack on an arm's model: in its run folder, or for an arm that is only scored, its own."""
        settings = self.stage_settings(arm, seed, folders)
        model = settings["model"] if settings["verb"] == "score" else str(folders.get(arm, f"@{arm}"))
        return self._common("relearn", self.attack) | dict(self.attack) | {"verb": "relearn", "model": model, "seed": seed}

    def _common(self, verb: str, own: Mapping[str, Any]) -> dict[str, Any]:
        known = kinds()
        if verb not in known:
            raise UserError(f"recipe {self.name!r}: no verb {verb!r}. There are: {', '.join(known)}.")
        kind = method(own["method"]) if "method" in own else None
        return {name: value for name, value in self.common.items() if name in settings_of(known[verb], kind)}

    def ancestors(self, arm: str) -> list[str]:
        """The arms that `arm` is made from, itself included, each once."""
        found: list[str] = []
        for other in _references(self.arms[arm]).values():
            found += [a for a in self.ancestors(other) if a not in found]
        return [*found, arm]


def _references(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: value[1:] for name, value in settings.items() if isinstance(value, str) and value.startswith("@")}


def packaged_recipes() -> dict[str, Path]:
    """The recipes that ship with the package, by name."""
    folder = Path(str(resources.files("sluicegate") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(source: str) -> Recipe:
    """Read a recipe from a TOML file or by the name of a packaged one; `UserError` says what is wrong with it."""
    path = Path(source)
    if source in packaged_recipes():
        path = packaged_recipes()[source]
    elif not path.is_file():
        raise UserError(f"no recipe {source!r}: neither a file nor packaged. Packaged: {', '.join(packaged_recipes())}.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}.") from None
    for key in content:
        if key not in KEYS:
            raise UserError(f"{path}: a recipe has no {key!r}. Nearest: {nearest(key, list(KEYS))}.")
    if not content.get("arms"):
        raise UserError(f"{path}: a recipe needs at least one [arms.NAME] table.")
    return Recipe(**{"name": path.stem, "attack": {}, **content})


@dataclass(frozen=True)
class Arm:
    """What one arm gave, by seed."""

    name: str
    results: Mapping[int, Mapping[str, Any]]
    """result.json of its stage."""
    attacks: Mapping[int, Mapping[str, Any]]
    """result.json of the attack on it."""
    flops: Mapping[int, float]
    """What making it cost, from the pretrained model on: its stages and those they were made from."""
    folders: Mapping[int, Path]

    def scores(self, group: str, measure: str = "exact") -> list[float]:
        """A group's mean score, one number a seed."""
        return [r["scores"][group][measure] for r in self.results.values() if group in r["scores"]]

    def measured(self, name: str) -> list[float]:
        """A trial's number, one a seed; empty where it was not measured."""
        return [r["measures"][name] for r in self.results.values() if name in r.get("measures", {})]

    def estimate(self, name: str) -> Estimate | None:
        """The same as a mean with its interval."""
        return estimate(found) if (found := self.measured(name)) else None

    @cached_property
    def owned(self) -> Curve:
        """Recall of the facts that the attacker holds, over seeds."""
        return stack([Curve.from_json(a["owned"]) for a in self.attacks.values()])

    @cached_property
    def held_out(self) -> Curve:
        """Recall of the facts it never sees, over seeds."""
        return stack([Curve.from_json(a["held_out"]) for a in self.attacks.values()])


@dataclass(frozen=True)
class Outcome:
    """A finished experiment: the recipe and every arm over all seeds."""

    recipe: Recipe
    seeds: tuple[int, ...]
    arms: Mapping[str, Arm]

    def savings(self, arm: str) -> Estimate | None:
        """Savings of an arm against the reference; None without an attack, or without a reference that has to learn."""
        reference = self.arms.get(self.recipe.reference)
        if reference is None or not self.arms[arm].attacks or self._reference_knows():
            return None
        return self.arms[arm].owned.savings(reference.owned, self.recipe.level)

    def _reference_knows(self) -> bool:
        """Whether the reference already recalls the level before any attack, on some seed."""
        reference = self.arms.get(self.recipe.reference)
        return reference is not None and bool(reference.attacks) and min(reference.owned.effort_to(self.recipe.level)) <= 0

    def warnings(self) -> list[str]:
        """Everything that weakens a number in the table, each said once with the arms and seeds that it holds for."""
        by_text: dict[str, dict[str, list[str]]] = {}
        for name, arm in self.arms.items():
            for seed in self.seeds:
                said = list(arm.attacks[seed]["warnings"]) if seed in arm.attacks else []
                if arm.results[seed].get("reached") is False:
                    said.append("the student did not reach its stop score within its steps")
                for text in said:
                    by_text.setdefault(text.rstrip("."), {}).setdefault(name, []).append(str(seed))
        where = {text: [f"{name} (seed {', '.join(seeds)})" for name, seeds in arms.items()] for text, arms in by_text.items()}
        found = [f"{text}: {', '.join(arms)}." for text, arms in where.items()]
        if self._reference_knows():
            known = f"recalls {self.recipe.level:.0%} before any attack"
            found.insert(0, f"the reference {self.recipe.reference!r} {known}: there are no savings.")
        return found

    def checked(self) -> list[Checked]:
        """The recipe's claims, each tested on every seed."""
        values = {
            name: {measure: arm.measured(measure) for measure in arm.results[self.seeds[0]]["measures"]} for name, arm in self.arms.items()
        }
        return [check(claim, values) for claim in self.recipe.claims]

    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        if self.recipe.is_trial:
            return {
                "seeds": list(self.seeds),
                "arms": {
                    name: {measure: arm.measured(measure) for measure in arm.results[self.seeds[0]]["measures"]}
                    for name, arm in self.arms.items()
                },
                "claims": [{"says": c.says, "test": c.test, "holds": list(c.holds)} for c in self.checked()],
            }
        arms: dict[str, Any] = {}
        for name, arm in self.arms.items():
            row: dict[str, Any] = {group: arm.scores(group) for group in ("retain", "forget")}
            if arm.attacks:
                for label, curve, effort in (
                    ("A@10", arm.owned, 10),
                    ("A@30", arm.owned, 30),
                    ("B@10", arm.held_out, 10),
                    ("B@100", arm.held_out, 100),
                ):
                    if effort <= curve.budget:
                        row[label] = list(curve.per_seed(effort))
                savings = self.savings(name)
                row["savings"] = savings.as_list() if savings else None
            row["flops"] = [arm.flops[seed] for seed in self.seeds]
            row["steps"] = [arm.results[seed]["steps"] for seed in self.seeds]
            arms[name] = row
        return {"seeds": list(self.seeds), "arms": arms}


def run_recipe(
    recipe: Recipe,
    out: Path,
    seeds: Sequence[int],
    *,
    stages: Path | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Outcome:
    """Run every arm over the seeds in local processes, attack each, and gather what they found.

    The run folders lie in `stages` (by default in `out`); those that are finished are not run
    again. Writes summary.json into `out`, and experiment.json, from which `load_outcome` reads it
    all back.
    """
    folders = run_jobs(_jobs(recipe, stages or out, seeds), workers=workers, progress=progress)
    out.mkdir(parents=True, exist_ok=True)
    outcome = gather(recipe, seeds, folders)
    places = {key: os.path.relpath(path, out) for key, path in folders.items()}
    write_atomic(out / "experiment.json", json.dumps({"recipe": asdict(recipe), "seeds": list(seeds), "folders": places}, indent=1))
    write_atomic(out / "summary.json", json.dumps(outcome.summary(), indent=1))
    return outcome


def load_outcome(folder: Path) -> Outcome:
    """Read a finished experiment back from its folder; raises `UserError` where there is none."""
    file = folder / "experiment.json"
    if not file.exists():
        raise UserError(f"{str(folder)!r} holds no finished experiment (no experiment.json). Run its recipe again: it resumes.")
    content = json.loads(file.read_text())
    folders = {key: folder / place for key, place in content["folders"].items()}
    return gather(Recipe(**content["recipe"]), content["seeds"], folders)


def _jobs(recipe: Recipe, folder: Path, seeds: Sequence[int]) -> list[Job]:
    """Models before attacks: attacks are many, short and alike, and fill the cores at the end."""
    models, attacks = [], []
    for arm in recipe.arms:
        for seed in seeds:
            others = {other: f"{other} seed {seed}" for other in _references(recipe.arms[arm]).values()}
            key = f"{arm} seed {seed}"
            models.append(
                Job(
                    key,
                    tuple(others.values()),
                    lambda done, arm=arm, seed=seed, others=others: recipe.stage_settings(  # type: ignore[misc]
                        arm, seed, {other: done[name] for other, name in others.items()}
                    ),
                    folder,
                )
            )
            if recipe.attack:
                attacks.append(
                    Job(
                        f"attack on {key}",
                        (key, *others.values()),
                        lambda done, arm=arm, key=key, seed=seed, others=others: recipe.attack_settings(  # type: ignore[misc]
                            arm, seed, {arm: done[key], **{other: done[name] for other, name in others.items()}}
                        ),
                        folder,
                    )
                )
    return models + attacks


def gather(recipe: Recipe, seeds: Sequence[int], folders: Mapping[str, Path]) -> Outcome:
    """Read what finished run folders found into one outcome."""
    spent = {key: float(result_of(path)["flops"]["total"]) for key, path in folders.items() if not key.startswith("attack on ")}
    arms = {}
    for name in recipe.arms:
        counted = [a for a in recipe.ancestors(name) if a != recipe.pretrained or name == recipe.pretrained]
        keys = {seed: f"{name} seed {seed}" for seed in seeds}
        arms[name] = Arm(
            name,
            {seed: result_of(folders[key]) for seed, key in keys.items()},
            {seed: result_of(folders[f"attack on {key}"]) for seed, key in keys.items() if recipe.attack},
            {seed: sum(spent[f"{a} seed {seed}"] for a in counted) for seed in seeds},
            {seed: folders[key] for seed, key in keys.items()},
        )
    return Outcome(recipe, tuple(seeds), arms)


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe with settings replaced: "ARM.FIELD", "attack.FIELD" or "common.FIELD"."""
    arms = {name: dict(settings) for name, settings in recipe.arms.items()}
    attack, common = dict(recipe.attack), dict(recipe.common)
    for path, value in changes.items():
        place, _, name = path.rpartition(".")
        tables = {"attack": attack, "common": common, **arms}
        if place not in tables or not name:
            raise UserError(f"no setting {path!r}. Write PLACE.FIELD, where PLACE is one of {', '.join(tables)}.")
        tables[place][name] = value
    return replace(recipe, arms=arms, attack=attack, common=common)
