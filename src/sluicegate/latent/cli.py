"""sluicegate latent: an autoencoder whose latent space can be read, and the page to play with it on."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tomli_w
from tyro.conf import Positional, arg

from sluicegate.cli.command import assignment, print_json, seeds_from, several
from sluicegate.cli.progress import watching
from sluicegate.errors import UserError
from sluicegate.experiments import show
from sluicegate.experiments.claims import names
from sluicegate.experiments.experiment import Outcome, load_outcome, run_recipe
from sluicegate.experiments.recipe import Recipe, load_recipe
from sluicegate.latent.stage import Latent, fractions, places
from sluicegate.runs.directory import Progress, write_atomic
from sluicegate.runs.stage import from_config
from sluicegate.values.files import read_json

SMALL, LARGE = "latent-digits", "latent-mnist"
"""The recipes whose settings are taken: for small images, and for others."""
SHOWN = 2000
PER_SEED = ("accuracy", "mse", "recognised", "swap", "ablate", "purity", "worst_class", "redrawn", "revived", "labelled")


@dataclass(frozen=True)
class Train:
    """Train autoencoders with one block a class, measure them, and write their page.

    Each seed trains a routed net and an unrouted control. On --data digits a seed takes about half a minute
    on one core; on mnist some minutes."""

    data: str = "digits"
    """digits, mnist (once fetched), fashion-mnist; or a folder with a sub-folder of images a class, a folder of IDX
    files, or an .npz."""
    labels: str = "1.0"
    """Share of the training images that have a label; or a file with a line a training image: its class, or nothing."""
    seeds: int = 5
    """Number of seeds."""
    seed: int = 0
    """First seed."""
    out: str = ""
    """Folder of the results; default: runs/latent-DATA."""
    set: tuple[str, ...] = ()
    """Settings to change, each FIELD=VALUE, for example steps=4000."""
    workers: int = 0
    """Processes; 0: one a core."""
    json: bool = False
    """Print the numbers of every seed as the last line."""

    def run(self) -> int:
        from sluicegate.experiments.page import report_experiment

        seeds = seeds_from(self.seed, self.seeds)
        recipe = recipe_on(self.data, self.labels, dict(assignment(text) for text in self.set), seeds[0])
        folder = Path(self.out or f"runs/{recipe.name}")
        with watching() as progress:
            outcome, page = _run(recipe, folder, seeds, self.workers, progress)
        report = report_experiment(outcome, folder / "report.html")
        show.outcome(outcome, folder, report)
        print(f"page:    {page}")
        for seed in seeds:
            if lost := outcome.arms["routed"].results[seed]["lost"]:
                print(f"warning: seed {seed} lost the blocks of {', '.join(lost)}: they are dead, or read less than half of their class.")
        if self.json:
            per_seed = [row(outcome, seed) for seed in seeds]
            print_json({"data": self.data, "labels": self.labels, "seeds": per_seed, "folder": str(folder), "page": str(page)})
        return 0


@dataclass(frozen=True)
class Page:
    """Write the page of a finished `sluicegate latent train`, or of a recipe with the arms routed and unrouted."""

    run_folder: Positional[str]
    """Its folder."""
    out: Annotated[str, arg(aliases=["-o"])] = ""
    """File to write; default: page.html in the folder."""
    json: bool = False
    """Print the file's place as the last line."""

    def run(self) -> int:
        from sluicegate.latent.page import page_of

        folder = Path(self.run_folder)
        if not (folder / "model").is_dir() and (folder / "experiment.json").is_file():
            assemble(load_outcome(folder), folder)
        page = page_of(folder, Path(self.out or folder / "page.html"))
        print(page)
        if self.json:
            print_json({"page": str(page)})
        return 0


def recipe_on(data: str, labels: str, changes: Mapping[str, Any], seed: int) -> Recipe:
    """The routed arm and the control of the recipe for images of this size; bad data and labels are named here."""
    from sluicegate.tasks.digits import load_images

    images = load_images(data, colour=True)  # so that bad data is named before anything is trained
    base = load_recipe(SMALL if max(images.size) <= 16 else LARGE)
    arms = {name: {**base.arms[name], "data": data, "labels": labels, **changes} for name in ("routed", "unrouted")}
    named = Path(data).stem if Path(data).exists() else data
    claims = [c for c in base.claims if all(arm in arms for arm, _ in names(str(c["test"])))] if data in ("digits", "mnist") else []
    pictures = [{**p, "arms": [arm for arm in p["arms"] if arm in arms]} if "arms" in p else p for p in base.pictures]
    recipe = dataclasses.replace(
        base, name=f"latent-{named}", title=f"A latent space you can read ({named})", arms=arms, claims=claims, pictures=pictures
    )
    stage = from_config(recipe.stage_settings("routed", seed, {})).resolved()
    assert isinstance(stage, Latent)
    stage.known(images)  # and bad labels
    return recipe


def digits_page(folder: Path, seed: int, workers: int, progress: Progress) -> Path:
    """Train the two nets of the 8 x 8 digits in `folder`, once, and write their page there."""
    return _run(recipe_on("digits", "1.0", {}, seed), folder, (seed,), workers, progress)[1]


def _run(recipe: Recipe, folder: Path, seeds: Sequence[int], workers: int, progress: Progress) -> tuple[Outcome, Path]:
    from sluicegate.latent.page import page_of

    outcome = run_recipe(recipe, folder, seeds, workers=workers, progress=progress)
    assemble(outcome, folder)
    return outcome, page_of(folder, folder / "page.html")


def assemble(outcome: Outcome, folder: Path) -> None:
    """Put into an experiment's folder what its page needs: the first seed's nets, all seeds' numbers, images to show.

    Raises `UserError` where the experiment has no arms routed and unrouted.
    """
    from sluicegate.latent.model import FACTS
    from sluicegate.tasks.digits import load_images

    missing = [name for name in ("routed", "unrouted") if name not in outcome.arms]
    if missing:
        raise UserError(f"{folder}: its experiment has no arm {missing[0]!r}. Give the folder of `sluicegate latent train`.")
    first = outcome.seeds[0]
    data = str({**outcome.recipe.common, **outcome.recipe.arms["routed"]}["data"])
    for arm, name in (("routed", "model"), ("unrouted", "unrouted")):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(outcome.arms[arm].folders[first] / "model", folder / name)
    facts = read_json(folder / "model" / FACTS)
    rows = [row(outcome, seed) for seed in outcome.seeds]
    numbers = {name: [each[name] for each in rows] for name in (*PER_SEED, "mse_unrouted")}
    numbers |= {"dead_blocks": [len(each["dead_blocks"]) for each in rows], "seeds": list(outcome.seeds)}
    facts["numbers"] |= numbers
    write_atomic(folder / "model" / FACTS, json.dumps(facts, indent=1))
    images = load_images(data, colour=True)
    shown = np.round(fractions(images, "test")[:SHOWN] * 255).astype(np.uint8)
    np.savez_compressed(folder / "shown.npz", images=shown, labels=places(images, "test")[:SHOWN])
    write_atomic(folder / "config.toml", tomli_w.dumps({"data": data}))


def row(outcome: Outcome, seed: int) -> dict[str, Any]:
    """One seed of the routed net: its numbers, the control's `mse_unrouted`, lost blocks by name, CPU seconds."""
    routed, control = (outcome.arms[name] for name in ("routed", "unrouted"))
    measures: Mapping[str, Any] = routed.results[seed]["measures"]
    seconds = routed.folders[seed] / "seconds.json"
    return {
        "seed": seed,
        **{name: measures[name] for name in PER_SEED},
        "mse_unrouted": control.results[seed]["measures"]["mse"],
        "dead_blocks": list(routed.results[seed]["lost"]),
        "cpu_s": read_json(seconds)["cpu"] if seconds.is_file() else None,
    }


LATENT = several(
    "latent",
    "Train an autoencoder whose latent space can be read, and write the page to play with it on",
    "see",
    {"train": Train, "page": Page},
)
