"""Recipes: experiments as they are written down, named arms and what is asked of them.

A recipe is a TOML file; it is the documentation of an experiment and its input at once. docs/howto/run.md has one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from sluicegate.errors import UserError, check_name, first_line, nearest
from sluicegate.experiments.claims import check, names
from sluicegate.registry import folders, from_elsewhere
from sluicegate.runs.stage import earlier, from_config, settings_of, stages
from sluicegate.runs.trial import trials
from sluicegate.tasks.benchmarks import about
from sluicegate.values.files import read_toml, short

PICTURES = {"bars": (("measures",), ()), "lines": (("curve",), ("x", "y")), "image": (("file",), ()), "pareto": (("y",), ())}
"""Kinds of pictures: the settings that each needs, and those that it may have."""


PROBED = ("A@10", "A@30", "B@10", "B@100")
"""What is read off an attack's curves: recall of owned (A) and of held-out (B) facts after so many steps."""
OF_MODELS = {
    "retain": "share of the retain set answered right, before any attack",
    "forget": "share of the forget set answered right, before any attack",
    "loss": "loss on the forget set's answers, nats a token, before any attack",
    "probability": "mean probability of the forget set's answers, before any attack",
    "A@10": "recall of the facts that the attacker owns, after 10 steps of relearning",
    "A@30": "the same after 30 steps",
    "B@10": "recall of the facts that the attacker never shows, after 10 steps of relearning",
    "B@100": "the same after 100 steps",
    "savings": "how much sooner the owned facts are relearned than by the reference: 1 hidden, 0 as if never known",
    "steps": "steps of the arm's own training",
    "flops": "FLOPs from the pretrained arm on",
    "divergence": "KL from the teacher to the student at the end of distillation, nats a token",
    "reached": "1 where the student reached its stop score, 0 where its steps ended before; 1 where there is none to reach",
}
"""What claims can speak of where the arms are models that are attacked."""


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
    """Recall on the owned facts up to which savings are counted; 0: halfway to the reference's highest."""
    seeds: int = 5
    claims: Sequence[Mapping[str, Any]] = ()
    """What the experiment is to bear out: `says`, `source`, and a `test` (see `claims`)."""
    pictures: Sequence[Mapping[str, Any]] = ()
    """What its page shows: `kind` bars (of `measures`), lines (of a `curve`, with axes `x` and `y`) or image (a
    `file`); where models are attacked, pareto (cost against `y`, one of A@10, A@30, B@10 and B@100)."""

    def __post_init__(self) -> None:
        check_name("a recipe's name", self.name)
        for arm in self.arms:
            check_name(f"recipe {self.name!r}: an arm's name", arm)
        for role in ("reference", "pretrained"):
            arm = getattr(self, role)
            if arm and arm not in self.arms:
                raise UserError(f"recipe {self.name!r}: {role} is {arm!r}, which is no arm. The arms are {', '.join(self.arms)}.")
        for arm, settings in self.arms.items():
            for other in references(settings).values():
                if other not in self.arms:
                    raise UserError(f"recipe {self.name!r}, arm {arm!r}: @{other} is no arm. Nearest: {nearest(other, list(self.arms))}.")
            from_config(self.stage_settings(arm, seed=0, folders={}))  # a wrong setting is named before anything runs
        if self.attack and not self.trials:
            from_config(self.attack_settings(next(iter(self.arms)), 0, {}))
        self._check_what_is_shown()

    @property
    def paragraphs(self) -> list[str]:
        """What it is about, without the line breaks of the file."""
        return [" ".join(text.split()) for text in self.about.split("\n\n") if text.strip()]

    @property
    def trials(self) -> tuple[str, ...]:
        """The arms that are trials: they measure themselves."""
        return tuple(arm for arm, settings in self.arms.items() if str(settings.get("verb")) in trials())

    @property
    def is_trial(self) -> bool:
        """Whether this is a recipe of trials, which measure themselves, and not of models to be attacked."""
        return bool(self.trials)

    def measures(self) -> dict[str, str]:
        """Names and meanings of what the arms' trials measure; where trials mean different things, each one's."""
        meanings: dict[str, dict[str, str]] = {}
        for arm in self.trials:
            verb = str(self.arms[arm]["verb"])
            for name, what in trials()[verb].MEASURES.items():
                meanings.setdefault(name, {})[what] = verb
        return {
            name: next(iter(found)) if len(found) == 1 else "; ".join(f"{verb}: {what}" for what, verb in found.items())
            for name, found in meanings.items()
        }

    def measures_of(self, arm: str) -> tuple[str, ...]:
        """What claims can say of one arm: what a trial measures, `OF_MODELS` of models that are attacked and what a
        benchmark measures of those that are scored on one; of a trial's parent nothing."""
        cls = trials().get(str(self.arms[arm].get("verb")))
        benchmark = str(self.arms[arm].get("benchmark", ""))
        return tuple(cls.MEASURES) if cls else () if self.is_trial else (*OF_MODELS, *(about(benchmark) if benchmark else ()))

    def _check_what_is_shown(self) -> None:
        for claim in self.claims:
            self._check_claim(claim)
        for picture in self.pictures:
            self._check_picture(picture)
        if self.attack and self.is_trial:
            trial = self.trials[0]
            raise UserError(f"recipe {self.name!r}: [attack] is for models, but the arm {trial!r} is a trial, which measures itself.")
        parents = {a for arm in self.trials for a in self.ancestors(arm)}
        for arm in self.arms if self.is_trial else ():
            if arm not in parents:
                raise UserError(f"recipe {self.name!r}: the arm {arm!r} is no trial, and no trial is made from it. Leave it out.")

    def _check_known(self, told: str, name: str, known: Collection[str]) -> None:
        if name not in known:
            raise UserError(f"recipe {self.name!r}: {told} {name!r}. Nearest: {nearest(name, list(known))}.")

    def _check_claim(self, claim: Mapping[str, Any]) -> None:
        _check_keys(f"recipe {self.name!r}: a claim", claim, ("says", "source", "test"), ("test",))
        for arm, measure in names(str(claim["test"])):
            self._check_known("a claim speaks of the arm", arm, self.arms)
            known = self.measures_of(arm)
            if measure not in known:
                near = f"Nearest: {nearest(measure, list(known))}." if known else f"The arm {arm!r} is no trial and measures nothing."
                raise UserError(f"recipe {self.name!r}: a claim speaks of {arm}.{measure}. {near}")
        check(claim, {arm: {key: [1.0] for key in self.measures_of(arm)} for arm in self.arms})  # else met after hours of training

    def _check_picture(self, picture: Mapping[str, Any]) -> None:
        kind, kinds = str(picture.get("kind")), [kind for kind in PICTURES if (kind != "pareto") == self.is_trial]
        if kind not in kinds and not self.is_trial:
            rest = "; of models that are attacked there are pictures of the kind pareto"
            raise UserError(f"recipe {self.name!r}: such pictures are for recipes of trials ({', '.join(trials())}){rest}.")
        if kind not in kinds:
            raise UserError(f"recipe {self.name!r}: a picture's kind is {kind!r}; it must be one of {', '.join(kinds)}.")
        needs, more = PICTURES[kind]
        _check_keys(f"recipe {self.name!r}: a picture of {kind}", picture, ("kind", "title", "note", "arms", *needs, *more), needs)
        if kind == "pareto" and not (self.attack and self.reference):
            raise UserError(f"recipe {self.name!r}: a picture of pareto sets an attack's recall beside a reference's cost, and needs both.")
        if kind == "pareto" and picture["y"] not in PROBED:
            raise UserError(f"recipe {self.name!r}: a picture's y is {picture['y']!r}; it must be one of {', '.join(PROBED)}.")
        for arm in picture.get("arms", ()):
            self._check_known("a picture shows the arm", arm, self.trials or self.arms)
        for measure in picture.get("measures", ()):
            self._check_known("a picture shows", measure, self.measures())
        file = Path(str(picture.get("file", "x.png")))
        if file.suffix != ".png" or file.is_absolute() or ".." in file.parts:
            raise UserError(f"recipe {self.name!r}: a picture's file is {str(file)!r}; it must be a .png inside the run folder.")

    def stage_settings(self, arm: str, seed: int, folders: Mapping[str, Path]) -> dict[str, Any]:
        """Flat settings of one arm's stage, its references replaced by run folders."""
        own = dict(self.arms[arm])
        own |= {name: str(folders.get(other, f"@{other}")) for name, other in references(own).items()}
        return self._common(str(own.get("verb", "")), own) | own | {"seed": seed}

    def attack_settings(self, arm: str, seed: int, folders: Mapping[str, Path]) -> dict[str, Any]:
        """Flat settings of the attack on an arm's model: in its run folder, or where it is only scored, its own."""
        settings = self.stage_settings(arm, seed, folders)
        model = settings["model"] if settings["verb"] == "score" else str(folders.get(arm, f"@{arm}"))
        return self._common("relearn", self.attack) | dict(self.attack) | {"verb": "relearn", "model": model, "seed": seed}

    def _common(self, verb: str, own: Mapping[str, Any]) -> dict[str, Any]:
        known = stages()
        if verb not in known:
            where = from_elsewhere("stage", verb) or f" There are: {', '.join(known)}."
            raise UserError(f"recipe {self.name!r}: no verb {verb!r}.{where}")
        kind = known[own["verb"]].method_called(own["method"]) if "method" in own else None
        return {name: value for name, value in self.common.items() if name in settings_of(known[verb], kind)}

    def ancestors(self, arm: str) -> list[str]:
        """The arms that `arm` is made from, itself included, each once."""
        found: list[str] = []
        for other in references(self.arms[arm]).values():
            found += [a for a in self.ancestors(other) if a not in found]
        return [*found, arm]


def _check_keys(what: str, table: Mapping[str, Any], known: Sequence[str], needed: Sequence[str]) -> None:
    for key, value in table.items():
        if key not in known:
            raise UserError(f"{what} has no {key!r}. Nearest: {nearest(key, list(known))}.")
        listed = key in ("arms", "measures")
        if not isinstance(value, (list, tuple) if listed else str) or not all(isinstance(entry, str) for entry in value):
            raise UserError(f"{what} has {key} {short(repr(value))}; it must be {'a list of words' if listed else 'a text'}.")
    for key in needed:
        if not table.get(key):
            raise UserError(f"{what} needs {key!r}.")


def references(settings: Mapping[str, Any]) -> dict[str, str]:
    """Which settings name another arm, and which arm: "@base" is the arm "base"."""
    return {name: value[1:] for name, value in settings.items() if isinstance(value, str) and value.startswith("@")}


def packaged_recipes() -> dict[str, Path]:
    """The recipes that ship with the package, by name."""
    return {path.stem: path for folder in folders("recipes") for path in sorted(folder.glob("*.toml"))}


def titles() -> dict[str, str]:
    """Names and titles of the packaged recipes."""
    return {name: str(read_toml(path).get("title", "")) for name, path in packaged_recipes().items()}


def load_recipe(source: str) -> Recipe:
    """Read a recipe from a TOML file or by the name of a packaged one; `UserError` says what is wrong with it."""
    path = Path(source)
    if source in packaged_recipes():
        path = packaged_recipes()[source]
    elif not path.is_file():
        where = from_elsewhere("recipe", source) or f" Packaged: {', '.join(packaged_recipes())}."
        raise UserError(f"no recipe {source!r}: neither a file nor packaged.{where}")
    content = read_toml(path)
    kinds = get_type_hints(Recipe)
    for key, value in content.items():
        if key not in kinds:
            raise UserError(f"{path}: a recipe has no {short(key)}. Nearest: {nearest(key, list(kinds))}.")
        try:
            check_type(value, kinds[key], collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError as error:
            raise UserError(f"{path}: {key}: {first_line(error)}. See a packaged recipe for its form.") from None
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
        cls = stages().get(str(tables[place].get("verb", "")))
        for was, now in earlier(cls).items() if cls else ():
            if name in (was, now):  # set by either name, and written in the recipe by either
                tables[place].pop(was, None)
                name = now
        tables[place][name] = value
    return replace(recipe, arms=arms, attack=attack, common=common)
