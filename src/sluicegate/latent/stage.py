"""An autoencoder whose latent space can be read: a class owns a block; its label says where the gradient goes."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np

from sluicegate.errors import UserError, nearest
from sluicegate.latent.settings import UNKNOWN, Settings
from sluicegate.runs.stage import setting
from sluicegate.runs.trial import Trial, outcome
from sluicegate.values.files import read_text
from sluicegate.values.ranges import Range, Width
from sluicegate.values.schedule import Schedule

if TYPE_CHECKING:
    from sluicegate.latent.model import Autoencoder
    from sluicegate.latent.training import Trained
    from sluicegate.runs.directory import RunContext
    from sluicegate.tasks.digits import Images

HIDDEN = (2048, 512)
"""Widths of the post's own model."""
UNLABELLED_WORDS = ("", "-", "?", "-1")


@dataclass(frozen=True)
class Latent(Trial):
    """Train an autoencoder with blocks, one arm of it, and measure whether the blocks hold their classes.

    Source: Goldman-Wetzler 2024, "Creating Interpretable Latent Spaces with Gradient Routing". Different here: a block
    of an amount and some styles in place of one number, a divergence that is one, and the empty code is drawn black.
    """

    VERB: ClassVar[str] = "latent"
    MEASURES: ClassVar[dict[str, str]] = {
        "accuracy": "share of the images whose largest amount is in their own class's block",
        "mse": "squared error, summed over an image's pixels (0 to 1), mean over images",
        "recognised": "blocks whose drawing, alone and at their usual amount and styles, the judge reads as their class",
        "swap": "share of images that the judge reads as another class once their block is off and that class's is on",
        "ablate": "share of images that the judge still reads right once their own block is off; lower is better",
        "ablated_mse": "squared error of these drawings without the own block",
        "purity": "share of the amounts' sum that is in the own block, mean over images",
        "dead_blocks": "blocks that hardly stir on their own class, or read less than half of it",
        "worst_class": "share of its images that the worst class's block reads",
        "empty_code": "brightest pixel of the drawing of the empty code, 0 to 1",
        "judged": "share of the images that the judge, a net trained apart, reads right",
        "redrawn": "share of the autoencoder's drawings of the images that the judge reads right",
        "revived": "how often a dead block was begun anew in training",
        "labelled": "labelled training images",
    }

    variant: Literal["routed", "unrouted", "penalty_routed", "labelled_only", "post"] = setting("routed", was="arm")
    """routed; or a control: unrouted, penalty_routed (a block is pulled down by its own class), labelled_only, post."""
    data: str = "digits"
    """digits: 8x8, in the package. mnist: fetched. fashion-mnist. Else a folder of IDX files, one of sub-folders of
    images, or an .npz."""
    content: str = ""
    """sha256 of images of yours; it fills itself in."""
    labels: str = "1"
    """Share of the training images that have a label, as many of each class; or a file, a line a training image: its
    class, or nothing."""
    labels_content: str = ""
    """sha256 of a file of labels; it fills itself in."""
    measured: Literal["test", "validation"] = "test"
    """Which images are measured on. Settings are chosen on validation."""
    hidden: tuple[Width, ...] = (256,)
    """Widths of the encoder's hidden layers; the decoder's in reverse."""
    k: Annotated[int, Range(0, 2**10)] = 4
    """Styles a block."""
    settings: Settings = Settings()
    schedule: Schedule = Schedule(steps=2000, batch=64, lr=2e-3, warmup=100, decay="cosine", final=0.05, clip=0.0, beta2=0.999)

    def resolved(self) -> Self:
        share = _share(self.labels)
        if share is None and not Path(self.labels).is_file():
            raise UserError(f"labels is {self.labels!r}; give a share, more than 0 and up to 1, or a file with a line a training image.")
        from sluicegate.tasks.digits import digest

        own = "" if share is not None else hashlib.sha256(Path(self.labels).read_bytes()).hexdigest()
        made = dataclasses.replace(self, content=digest(self.data), labels_content=own, schedule=self.schedule.or_rate(2e-3))
        if self.variant == "post":  # which has its own sizes and loss: the run does not depend on ours
            made = dataclasses.replace(made, hidden=HIDDEN, k=0, settings=Settings())
        return made

    def is_wide(self) -> bool:
        return False

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.latent.judge import judge_of
        from sluicegate.latent.measures import measure
        from sluicegate.tasks.digits import load_images

        images = load_images(self.data, colour=True)
        names = [images.name(label) for label in images.classes]
        x, y = fractions(images, "train"), places(images, "train")
        held_x, held_y = fractions(images, self.measured), places(images, self.measured)
        check_x, check_y = fractions(images, "validation"), places(images, "validation")
        known = self.known(images)
        model, done = self._trained(x, known, names, check_x, check_y, run)
        judge = judge_of(x, y, len(names), run=run)
        found, lost = measure(model, judge, held_x, held_y)
        found |= {"revived": float(done.revived), "labelled": float((known != UNKNOWN).sum())}
        if run.path != Path():
            self._keep(run.path, model, found, lost, held_x, held_y)
        steps = [r["step"] for r in done.records]
        curves = {name: (steps, [r[name] for r in done.records]) for name in ("accuracy", "mse", "purity")}
        result = outcome(self, found, flops=done.flops, curves=curves)
        said = [f"block {name!r} is lost: it is dead, or reads less than half of its class" for name in lost]
        return result | {"lost": lost, "warnings": said if self.variant != "unrouted" else []}

    def _trained(
        self, x: np.ndarray, known: np.ndarray, names: list[str], check_x: np.ndarray, check_y: np.ndarray, run: "RunContext"
    ) -> "tuple[Autoencoder, Trained]":
        import torch

        from sluicegate.engine.sampling import seed_of
        from sluicegate.latent.post import Post, PostObjective, schedule_of
        from sluicegate.latent.training import fitted, made

        def look(model: "Autoencoder") -> dict[str, float]:
            with torch.no_grad():
                rows = model.rows(check_x)
                code = model.read(model.encoder(rows))
                right = (code.read().cpu() == torch.from_numpy(check_y)).double().mean()
                error = (model.decode(code).flatten(1) - rows).square().sum(1).mean()
                own = code.amounts.cpu()[range(len(check_y)), check_y] / code.amounts.cpu().sum(1).clamp(min=1e-9)
            return {"accuracy": float(right), "mse": float(error), "purity": float(own.double().mean())}

        if self.variant != "post":
            model = made(x.shape[1:], names, self.seed, hidden=self.hidden, k=self.k)
            return model, fitted(model, x, known, self.settings, self.schedule, seed=self.seed, run=run, arm=self.variant, look=look)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, "net"))
            post = Post(x.shape[1:], names, self.hidden)
        schedule = schedule_of(self.schedule.steps, self.schedule.batch, len(x))
        own = PostObjective(post, schedule.steps)
        return post, fitted(post, x, known, Settings(), schedule, seed=self.seed, run=run, objective=own, look=look)

    def known(self, images: "Images") -> np.ndarray:
        """[n] the class of each training image where it is known, else -1: drawn from the seed, or the file's."""
        from sluicegate.engine.sampling import seed_of

        share, y = _share(self.labels), places(images, "train")
        if share is None:
            return read_labels(Path(self.labels), images)
        draw, known = np.random.default_rng(seed_of(self.seed, "known")), np.full(len(y), UNKNOWN)
        for j in range(len(images.classes)):
            own = np.flatnonzero(y == j)
            known[draw.choice(own, max(1, round(share * len(own))), replace=False)] = j
        return known

    def _keep(self, folder: Path, model: "Autoencoder", found: dict[str, float], lost: list[str], x: np.ndarray, y: np.ndarray) -> None:
        from sluicegate.latent import picture

        picture.draw(folder / picture.TRAVERSALS, *picture.traversals(model))
        picture.draw(folder / picture.SWAPS, *picture.swaps(model, x, y))
        picture.draw_amounts(folder / picture.AMOUNTS_OF, picture.amounts_of(model, x, y), list(model.classes))
        if self.variant != "post":
            share = _share(self.labels)
            model.numbers = found | {"dead_blocks": lost, "seeds": [self.seed]} | ({} if share is None else {"labels": share})
            model.save(folder / "model")


def fractions(images: "Images", part: str) -> np.ndarray:
    """[n, height, width, channels] float32 from 0 to 1, of the part "train", "validation" or "test"."""
    own: np.ndarray = getattr(images, part).images
    return own.reshape(len(own), *images.size, images.channels).astype(np.float32) / np.float32(images.white)


def places(images: "Images", part: str) -> np.ndarray:
    """[n] each image's class as its place among the classes, of the part "train", "validation" or "test"."""
    found: np.ndarray = np.searchsorted(np.array(images.classes), getattr(images, part).labels)
    return found.astype(np.int64)


def read_labels(path: Path, images: "Images") -> np.ndarray:
    """[n] classes from a file with a line for each training image, in the source's order; -1 for `UNLABELLED_WORDS`.

    Raises `UserError` where there are more or fewer lines, or a class is not one of the data's.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    if len(lines) != images.given:
        raise UserError(
            f"{path}: {len(lines)} lines, but the data has {images.given} training images. Write a line for each, empty ones too."
        )
    names = [images.name(label) for label in images.classes]
    numbers = {name: j for j, name in enumerate(names)} | dict.fromkeys(UNLABELLED_WORDS, UNKNOWN)
    for n, line in enumerate(lines, 1):
        if line not in numbers:
            raise UserError(f"{path}, line {n}: no class {line!r}. There are: {nearest(line, names, most=20)}.")
    known: np.ndarray = np.array([numbers[lines[row]] for row in images.rows])
    for j in set(range(len(names))) - set(known.tolist()):
        raise UserError(f"{path}: no training image of class {names[j]!r} has a label. Give one to some images of every class.")
    return known


def _share(labels: str) -> float | None:
    """The share that `labels` is; None where it is a file, or none between 0 and 1."""
    try:
        share = float(labels)
    except ValueError:
        return None
    return share if 0 < share <= 1 else None
