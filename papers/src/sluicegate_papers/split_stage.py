"""Splitting an encoding: an autoencoder whose halves each hold the digits that were routed to them, and no others."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.errors import UserError
from sluicegate.runs.stage import setting
from sluicegate.runs.trial import Trial, outcome
from sluicegate.values.ranges import PositiveShare, Share, Weight, Whole, Width
from sluicegate.values.schedule import Schedule

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from sluicegate.engine.training import Batches, Ledger, Loss
    from sluicegate.routing.penalties import Penalty
    from sluicegate.runs.directory import RunContext
    from sluicegate.tasks.digits import Images, Part

HALVES = ("first", "second")
GROUPS = ("low", "high")
SITE = "encoder.code"
PICTURE = "digits.png"
_ERRORS = {"mse": "mean squared error", "mae": "mean absolute error"}
_NAMES = {"low": "the classes routed to the first half", "high": "the classes routed to the second half"}


def _meanings() -> dict[str, str]:
    found: dict[str, str] = {}
    for error, words in _ERRORS.items():
        found |= {
            f"wrong_{error}": f"{words} of a certificate on the classes routed to the other half, mean of both halves",
            f"own_{error}": f"{words} of a certificate on the classes routed to its half, mean of both halves",
            f"constant_{error}": f"{words} of the best constant image of each group, mean of both groups",
            f"decoder_{error}": f"{words} of the decoder, which sees the whole encoding",
        }
    found["wrong_share"] = "wrong_mse / constant_mse: 1 where the wrong half says nothing about an image"
    found["own_share"] = "own_mse / constant_mse"
    for error, words in _ERRORS.items():
        for half in HALVES:
            found |= {f"{half}_on_{group}_{error}": f"{words} of the {half} half's certificate on {_NAMES[group]}" for group in GROUPS}
        found |= {f"constant_{group}_{error}": f"{words} of the best constant image for {_NAMES[group]}" for group in GROUPS}
    return found


@dataclass(frozen=True)
class Split(Trial):
    """Train an autoencoder whose encoding is divided between two groups of digits, and try to read each half.

    The gradient of a row of the group "low" passes the first half of the encoding only, that of "high" the second
    half only; L1 on the encoding and the correlation between the halves are penalised besides. Two *certificates*,
    decoders that see one half each and all digits, tell what can be read from it; no gradient of theirs reaches the
    encoder. Errors are on test images scaled to -1..1, means over pixels.

    Source: Cloud et al. 2024 (arXiv 2410.04332), section 4.1 and table 2, whose "MAE" is a mean squared error in their
    code. Different here: a narrower net, fewer and smaller batches; trained on squared error (`loss`), so that a
    certificate that sees nothing gives the mean image; L1 rises from 0, since with its full weight from the first step
    and absolute errors the encoding collapsed to one constant.
    """

    VERB: ClassVar[str] = "split"
    MEASURES: ClassVar[dict[str, str]] = _meanings()

    variant: Literal["routed", "control", "plain", "one_sided"] = setting("routed", was="arm")
    """routed: both groups. one_sided: the low group only. control: not routed, same penalties. plain: neither."""
    data: str = "digits"
    """digits: 8x8, in the package. mnist: fetched. Else a folder of IDX files (Fashion-MNIST, say), or an .npz."""
    content: str = ""
    """sha256 of images of yours; it fills itself in."""
    low: tuple[Whole, ...] = (0, 1, 2, 3, 4)
    """Classes that are routed to the first half; all others are to the second."""
    labelled: PositiveShare = 1.0
    """Share of the training images whose group is known; the rest are routed nowhere."""
    code: Width = 32
    """Units of the encoding."""
    hidden: tuple[Width, ...] = (256, 128)
    """Widths of the encoder's hidden layers; those of decoder and certificates in reverse."""
    l1: Weight = 3e-3
    """Coefficient of the L1 penalty on the encoding."""
    l1_second: Weight = 2e-2
    """The same on the second half, in the arm one_sided."""
    l1_warmup: Share = 0.25
    """Share of the steps over which L1 rises from 0."""
    correlation: Weight = 0.1
    """Coefficient of the correlation between the halves."""
    loss: Literal["mse", "mae"] = "mse"
    """Error that is trained on."""
    schedule: Schedule = Schedule(steps=3000, batch=128, lr=2e-3, decay="cosine", final=0.02, clip=0.0)

    def resolved(self) -> Self:
        if self.code < 2 or self.code % 2:
            raise UserError(f"{self.VERB}: code is {self.code}; it must be an even number, so that it has two halves.")
        if not self.hidden or min(self.hidden) < 1:
            raise UserError(f"{self.VERB}: hidden is {list(self.hidden)}; give the width of at least one layer.")
        from sluicegate.tasks.digits import digest

        return dataclasses.replace(self, content=digest(self.data), schedule=self.schedule.or_rate(2e-3))

    def is_wide(self) -> bool:
        return False

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.engine.models import device
        from sluicegate.engine.sampling import seed_of
        from sluicegate.engine.training import Evaluation, every, fit
        from sluicegate.routing.router import Router
        from sluicegate.routing.watch import watch
        from sluicegate.tasks.digits import load_images

        images = load_images(self.data)
        _check_groups(self.low, images)
        model = autoencoder(images.size[0] * images.size[1], self.hidden, self.code, seed_of(self.seed, "net")).to(device())
        blocks = {"low": (0, self.code // 2), "high": (self.code // 2, self.code)}
        penalties = self._penalties()
        draw = _drawing(images, self._labels(images.train), self.schedule.batch, seed_of(self.seed, "train"))
        router = Router(model, {SITE: blocks}) if self.variant in ("routed", "one_sided") else None

        def around(batches: "Batches") -> AbstractContextManager[None]:
            return router(batches["train"].labels) if router else nullcontext()

        with watch(model, {SITE: blocks}) as seen:

            def objective(model: Any, batches: "Batches") -> "Loss":
                return _loss(model, batches["train"], self.loss, lambda share: seen.penalty(penalties, share), self.schedule.steps)

            def looked(model: Any, ledger: "Ledger") -> dict[str, float]:
                return _summed(_errors(model, images.validation, images.white, self.low))

            fitted = fit(
                model,
                objective,
                draw,
                self.schedule,
                seed=self.seed,
                run=run,
                name="autoencoder",
                evaluation=Evaluation(looked, every(max(self.schedule.steps // 12, 1), self.schedule.steps)),
                around=around,
                guard=router.guard if router else None,
                meter=lambda batch: 2.0 * len(batch.x) * sum(p.numel() for p in model.parameters() if p.dim() == 2),
            )
        if router:
            router.remove()
        measured = _errors(model, images.test, images.white, self.low) | constants(images, self.low)
        measured |= _summed(measured)
        measured |= {f"{which}_share": measured[f"{which}_mse"] / max(measured["constant_mse"], 1e-12) for which in ("wrong", "own")}
        if run.path != Path():
            draw_picture(run.path / PICTURE, *_shown(model, images))
        steps = [r["step"] for r in fitted.records]
        curves = {f"{which} half": (steps, [r[f"{which}_mse"] for r in fitted.records]) for which in ("wrong", "own")}
        return outcome(self, measured, flops=fitted.ledger.total, curves=curves)

    def _penalties(self) -> "list[Penalty]":
        from sluicegate.routing.penalties.correlation import Correlation
        from sluicegate.routing.penalties.l1 import L1

        if self.variant == "plain":
            return []
        found: list[Penalty] = [L1(self.l1, self.l1_warmup)]
        if self.variant == "one_sided":
            found = [L1(self.l1, self.l1_warmup, on="low"), L1(self.l1_second, self.l1_warmup, on="high")]
        return [*found, Correlation(self.correlation)]

    def _labels(self, train: "Part") -> "np.ndarray":
        """[n] label numbers of the router: 1 low, 2 high, -1 unlabelled."""
        import numpy as np

        from sluicegate.engine.sampling import seed_of

        labels = np.where(train.of(self.low), 1, -1 if self.variant == "one_sided" else 2)
        known = np.random.default_rng(seed_of(self.seed, "known")).random(len(train)) < self.labelled
        return np.where(known, labels, -1)


def _check_groups(low: tuple[int, ...], images: "Images") -> None:
    known = images.classes
    for label in low:
        if label not in known:
            raise UserError(f"low names class {label}, but the classes are {', '.join(map(str, known))}.")
    if not low or set(low) == set(known):
        raise UserError(
            f"low is {list(low)}; it must leave some of the classes {', '.join(map(str, known))} to the second half, and not all."
        )


# ------------------------------------------------------------------------------------------- the net


def autoencoder(pixels: int, hidden: tuple[int, ...], code: int, seed: int) -> "nn.ModuleDict":
    """An encoder, a decoder, and a certificate for each half: ReLU nets, the encoding linear and without bias."""
    from collections import OrderedDict

    import torch
    from torch import nn

    def net(sizes: list[int], last: str, bias: bool) -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (a, b) in enumerate(pairwise(sizes[:-1])):
            layers |= {f"layer{i}": nn.Linear(a, b), f"relu{i}": nn.ReLU()}
        layers[last] = nn.Linear(sizes[-2], sizes[-1], bias=bias)
        return nn.Sequential(layers)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        back = [*reversed(hidden), pixels]
        return nn.ModuleDict(
            {
                "encoder": net([pixels, *hidden, code], "code", False),
                "decoder": net([code, *back], "pixels", True),
                "first": net([code // 2, *back], "pixels", True),
                "second": net([code // 2, *back], "pixels", True),
            }
        )


def _decoded(model: Any, x: "Tensor") -> "dict[str, Tensor]":
    """[b, pixels] what the decoder makes of the encoding, and each certificate of its half."""
    z = model["encoder"](x)
    first, second = z.detach().chunk(2, dim=-1)
    return {"decoder": model["decoder"](z), "first": model["first"](first), "second": model["second"](second)}


# -------------------------------------------------------------------------------------- the training


@dataclass(frozen=True)
class Batch:
    """Images for one step."""

    x: "Tensor"
    """[b, pixels] from -1 to 1."""
    labels: "Tensor"
    """[b] the router's labels."""
    step: int
    total: int
    """Rows of the whole step, by which the parts' losses are divided."""

    def split(self, parts: int) -> "list[Batch]":
        pieces = zip(self.x.tensor_split(parts), self.labels.tensor_split(parts), strict=True)
        return [Batch(x, labels, self.step, self.total) for x, labels in pieces]


def _pixels(images: "np.ndarray", white: int) -> "Tensor":
    """[n, pixels] from -1 to 1."""
    import torch

    from sluicegate.engine.models import device

    return torch.from_numpy(images.reshape(len(images), -1)).to(device()).float().mul_(2 / white).sub_(1)


def _drawing(images: "Images", labels: "np.ndarray", size: int, seed: int) -> "Callable[[int], dict[str, Batch]]":
    import torch

    from sluicegate.engine.sampling import Order

    order, train = Order(len(images.train), seed), images.train.images

    def draw(step: int) -> dict[str, Batch]:
        chosen = order.draw(step, size)
        return {"train": Batch(_pixels(train[chosen], images.white), torch.from_numpy(labels[chosen]), step, size)}

    return draw


def _loss(model: Any, batch: Batch, kind: str, penalty: "Callable[[float], Tensor]", steps: int) -> "Loss":
    from sluicegate.engine.training import Loss

    share = len(batch.x) / batch.total
    losses = {}
    for name, answer in _decoded(model, batch.x).items():
        apart = answer - batch.x
        losses[name] = (apart.square() if kind == "mse" else apart.abs()).mean() * share
    held = penalty(batch.step / steps) * share
    return Loss(sum(losses.values()) + held, {name: value.detach() for name, value in {**losses, "penalty": held}.items()})


# ------------------------------------------------------------------------------------- the measures


def _errors(model: Any, part: "Part", white: int, low: tuple[int, ...]) -> dict[str, float]:
    """Both errors of the decoder, and of each certificate on each group."""
    import torch

    with torch.no_grad():
        x = _pixels(part.images, white)
        groups = dict(zip(GROUPS, (torch.from_numpy(m).to(x.device) for m in (part.of(low), ~part.of(low))), strict=True))
        found: dict[str, float] = {}
        for name, answer in _decoded(model, x).items():
            apart = (answer - x).double()
            for error, each in {"mse": apart.square().mean(1), "mae": apart.abs().mean(1)}.items():
                if name == "decoder":
                    found[f"decoder_{error}"] = float(each.mean())
                else:
                    found |= {f"{name}_on_{group}_{error}": float(each[mask].mean()) for group, mask in groups.items()}
    return found


def _summed(found: dict[str, float]) -> dict[str, float]:
    return {
        f"{which}_{error}": (found[f"first_on_{groups[0]}_{error}"] + found[f"second_on_{groups[1]}_{error}"]) / 2
        for error in _ERRORS
        for which, groups in (("own", GROUPS), ("wrong", GROUPS[::-1]))
    }


def constants(images: "Images", low: tuple[int, ...]) -> dict[str, float]:
    """Both errors on test images of the constant image that is best for a group's training images: their mean, or their
    median."""
    import numpy as np

    found: dict[str, float] = {}
    for group, other in zip(GROUPS, (False, True), strict=True):
        train, test = (p.images[p.of(low) != other] for p in (images.train, images.test))
        for error, best, size in (("mse", train.mean(0), np.square), ("mae", np.median(train, axis=0), np.abs)):
            apart = (test - best.astype(np.float32)) * (2 / images.white)
            found[f"constant_{group}_{error}"] = float(size(apart).mean(dtype=np.float64))
    return found | {f"constant_{error}": (found[f"constant_low_{error}"] + found[f"constant_high_{error}"]) / 2 for error in _ERRORS}


# -------------------------------------------------------------------------------------- the picture


def _shown(model: Any, images: "Images", most: int = 10) -> "tuple[dict[str, np.ndarray], list[str]]":
    """Rows of images for the picture: a test image of each class and what is made of it; and the classes."""
    import torch

    classes = images.classes[:most]
    chosen = [int((images.test.labels == label).argmax()) for label in classes]
    with torch.no_grad():
        x = _pixels(images.test.images[chosen], images.white)
        made = _decoded(model, x)
    rows = {"image": x, "whole code": made["decoder"], "first half": made["first"], "second half": made["second"]}
    return {name: row.cpu().numpy().reshape(len(chosen), *images.size) for name, row in rows.items()}, [str(label) for label in classes]


def draw_picture(path: Path, rows: "dict[str, np.ndarray]", classes: list[str]) -> None:
    """Write images [n, height, width] from -1 to 1 as a PNG, one row of pictures a name and one column a class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # About as wide as the page shows it beside another one, so that the words are not scaled.
    figure = Figure(figsize=(0.8 + 0.38 * len(classes), 0.22 + 0.38 * len(rows)), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    left, top = 0.8 / figure.get_figwidth(), 1 - 0.22 / figure.get_figheight()
    for r, (name, images) in enumerate(rows.items()):
        height = top / len(rows)
        figure.text(left - 0.02, top - (r + 0.5) * height, name, ha="right", va="center", fontsize=7.5)
        for c, image in enumerate(images):
            width = (1 - left) / len(classes)
            axes = figure.add_axes((left + c * width, top - (r + 1) * height, width * 0.94, height * 0.94))
            axes.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            axes.set_axis_off()
            if r == 0:
                figure.text(
                    left + (c + 0.47) * width, 1 - 0.11 / figure.get_figheight(), classes[c], ha="center", va="center", fontsize=7.5
                )
    figure.savefig(path, metadata={"Software": ""})
