"""Recipes: experiments as they are written down, named arms and what is asked of them.

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

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from sluicegate import trials
from sluicegate.claims import names
from sluicegate.errors import UserError, nearest
from sluicegate.execution import from_config, kinds
from sluicegate.runs.identity import settings_of
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
            for other in references(settings).values():
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
        own |= {name: str(folders.get(other, f"@{other}")) for name, other in references(own).items()}
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
        for other in references(self.arms[arm]).values():
            found += [a for a in self.ancestors(other) if a not in found]
        return [*found, arm]


def references(settings: Mapping[str, Any]) -> dict[str, str]:
    """Which settings name another arm, and which arm: "@base" is the arm "base"."""
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
