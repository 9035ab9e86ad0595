"""The page on which an autoencoder is played with: one HTML file that holds both nets and needs nothing else.

The nets run in the page, in plain JavaScript (`net.js`). Their weights are written as int16 where the page then stays
within `BUDGET`, and as int8 where it does not, with one scale a row; the footer says which, and what that changed.
(float16 takes the same room as int16, and on a net of MNIST it moved a style by .0013.)
"""

import base64
import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from sluicegate.errors import UserError
from sluicegate.latent.model import load
from sluicegate.latent.page_words import Words, few_labels, figures, warnings
from sluicegate.report.arms import read_toml
from sluicegate.report.html import render
from sluicegate.runs.directory import write_atomic
from sluicegate.tasks.digits import load_images
from sluicegate.values.files import reading

BUDGET = 3_000_000
"""Bytes that the page should stay within."""
_SHOWN, _LOOKED_AT = 100, 2000
_INK_PER_BOX = 2.25
"""A digit's line is about so many times as long as its box; so ink tells the width of the pen."""

Bits = Literal[16, 8]


class Blocks(Protocol):
    """What the page asks of a net: linear layers and ReLUs, and a decoder of [a, a * styles] by class."""

    encoder: nn.Module
    """Pixels -> hidden."""
    amount: nn.Linear
    """Hidden -> one amount a class, before its ReLU."""
    style: nn.Linear
    """Hidden -> k styles a class, class by class."""
    decoder: nn.Module
    """Code, class by class [a, a * s1, .., a * sk] -> logits of the pixels."""


def write_page(
    path: Path,
    routed: Blocks,
    unrouted: Blocks,
    *,
    images: np.ndarray,
    labels: np.ndarray,
    numbers: Mapping[str, Any],
    classes: Sequence[str] = (),
    source: str = "",
) -> Path:
    """Write the page of a net and of its unrouted control. Returns `path`.

    Held out are `images` [n, height, width] or [n, height, width, channels], uint8 or fractions, and `labels` [n]
    (places in `classes`): for pictures, usual amounts and styles, and how large and thick a drawing must be. `numbers`
    are those of `figures`, as far as known. Raises `UserError` where nets, images and labels do not fit together.
    """
    (pixels, size), labels, count = _fractions(images), np.asarray(labels), routed.amount.out_features
    names = [str(name) for name in classes] or [str(j) for j in range(count)]
    k = _check(routed, unrouted, size, count, names, labels, len(pixels))
    weights = sum(p.numel() for net in (routed, unrouted) for layer in _linear(net) for p in layer.parameters())
    bits: Bits = 16 if weights * 2 * 4 / 3 < 0.9 * BUDGET else 8
    shown = _some_of_each(labels, count)
    kept = {"routed": rounded(routed, bits), "unrouted": rounded(unrouted, bits)}
    at_hand = pixels[:_LOOKED_AT]
    usual = {name: _usual(net, at_hand, labels[:_LOOKED_AT], count, k) for name, net in kept.items()}
    words = Words.of(names)
    dead = [j for j, amount in enumerate(usual["routed"]["usualAmount"]) if amount < 0.05 * usual["routed"]["most"]]
    data = {
        "size": size,
        "classes": names,
        "k": k,
        "noun": words.noun,
        **asdict(_looked_at(pixels.reshape(len(pixels), *size).max(-1))),
        "dead": dead,
        "nets": {name: _packed(net, bits, usual[name]) for name, net in (("routed", routed), ("unrouted", unrouted))},
        "images": _base64(np.round(pixels[shown] * 255).astype(np.uint8)),
        "labels": labels[shown].tolist(),
        "morph": [int(np.argmax(labels[shown] == count * tenths // 10)) for tenths in (3, 8)],
    }
    here = resources.files("sluicegate")
    page = render(
        "latent/page.html",
        title="A latent space you can read",
        style="".join((here / place).read_text("utf-8") for place in ("report/style.css", "latent/page.css")),
        script="\n".join((here / "latent" / name).read_text("utf-8") for name in ("net.js", "pad.js", "page.js")),
        source=source,
        figures=figures(numbers, count),
        few_labels=few_labels(numbers),
        warnings=warnings([names[j] for j in dead]),
        diagram=words.diagram(),
        rounding=_rounding_note(routed, kept["routed"], at_hand[:200], bits),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        **words.filled(),
    )
    write_atomic(Path(path), page)
    return Path(path)


def page_of(run: Path, out: Path) -> Path:
    """Write the page of what `sluicegate latent train` left in the folder `run` to `out`. Returns `out`.

    Read are `model/` and `unrouted/`, and held-out `images` and `labels` of `shown.npz`, or without that file of the
    data that config.toml names. Raises `UserError` for what is missing.
    """
    run = Path(run)
    routed = load(run)
    control = next((run / name for name in ("unrouted", "model/unrouted") if (run / name).is_dir()), None)
    if control is None:
        raise UserError(f"{run}: no folder unrouted, the control to compare with. Give a folder that `sluicegate latent train` wrote.")
    images, labels, source = _held_out(run)
    unrouted = load(control)
    return write_page(out, routed, unrouted, images=images, labels=labels, numbers=routed.numbers, classes=routed.classes, source=source)


def _held_out(run: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Images, their labels, and what the page says that they are."""
    data = str(read_toml(run / "config.toml").get("data", ""))
    source = {"digits": "handwritten digits, 8 × 8", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}.get(data, Path(data).name)
    shown = run / "shown.npz"
    if shown.is_file():
        with reading(shown, "Train again, or remove it to take the images of the data itself."), np.load(shown) as archive:
            return archive["images"], archive["labels"], source
    if not data:
        raise UserError(f"{run}: no shown.npz, and no config.toml that names the data. Give a folder that `sluicegate latent train` wrote.")
    images = load_images(data)
    return images.test.images / np.float32(images.white), images.test.labels, source


def rounded(net: Blocks, bits: Bits) -> Any:
    """A copy of a net with the weights that the page has."""
    made = copy.deepcopy(net)
    with torch.no_grad():
        for layer in _linear(made):
            whole, scale = _rounded_weight(layer, bits)
            layer.weight.copy_(torch.from_numpy(whole.astype(np.float32) * scale[:, None]))
    return made


def _fractions(images: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
    """[n, pixels] float32 from 0 to 1, and (height, width, channels)."""
    if images.ndim not in (3, 4) or not len(images):
        raise UserError(f"the images have shape {images.shape}; expected (images, height, width), or with channels last, and not none.")
    height, width = images.shape[1:3]
    channels = images.shape[3] if images.ndim == 4 else 1
    if channels not in (1, 3):
        raise UserError(f"the images have {channels} channels; expected 1 (grey) or 3 (RGB), in the last place.")
    values = images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)
    return values.reshape(len(images), -1), (int(height), int(width), int(channels))


@dataclass(frozen=True)
class _Look:
    box: float
    """Pixels of the longer side of what is drawn."""
    centre: tuple[float, float]
    """x and y of the centre of mass, in pixels from the left upper corner."""
    pen: float
    """Width of a line in pixels."""


def _looked_at(grey: np.ndarray) -> _Look:
    """How `grey` images [n, height, width] were centred and scaled. MNIST: box 20, mass at (14, 14), pen 2.3."""
    lit = grey[:_LOOKED_AT] > 0.1
    sides = []
    for across in (1, 2):
        seen: np.ndarray = np.asarray(lit.any(axis=across))
        sides.append(np.where(seen.any(1), seen.shape[1] - seen.argmax(1) - seen[:, ::-1].argmax(1), 0))
    box = float(max(np.median(np.maximum(*sides)), 2))
    mass = grey[:_LOOKED_AT].sum(0) + 1e-9
    y, x = ((mass.sum(1 - axis) * (np.arange(mass.shape[axis]) + 0.5)).sum() / mass.sum() for axis in (0, 1))
    pen = float(grey[:_LOOKED_AT].sum((1, 2)).mean()) / (_INK_PER_BOX * box)
    return _Look(box, (round(float(x), 2), round(float(y), 2)), round(min(max(pen, 0.8), box / 3), 2))


def _some_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """Places of up to `_SHOWN` images, as many of each class as there are, in a drawn order."""
    each = max(_SHOWN // count, 1)
    places = np.concatenate([np.flatnonzero(labels == j)[:each] for j in range(count)])
    return np.random.default_rng(0).permutation(places)


def _usual(net: Blocks, pixels: np.ndarray, labels: np.ndarray, count: int, k: int) -> dict[str, Any]:
    """Each block on its own class: mean amount, mean and deviation of its styles; and where sliders end."""
    with torch.no_grad():
        hidden = net.encoder(torch.from_numpy(pixels))
        amount = net.amount(hidden).relu().numpy()
        style = net.style(hidden).numpy().reshape(len(pixels), count, k)
    own = [labels == j if (labels == j).any() else np.full(len(labels), True) for j in range(count)]
    means = np.array([amount[rows, j].mean() for j, rows in enumerate(own)])
    centre = np.concatenate([style[rows, j].mean(0) for j, rows in enumerate(own)])
    spread = np.concatenate([style[rows, j].std(0) for j, rows in enumerate(own)])
    top = np.concatenate([amount[rows, j] for j, rows in enumerate(own)])
    return {
        "usualAmount": np.round(means, 4).tolist(),
        "usualStyle": np.round(centre, 4).tolist(),
        "spread": np.round(np.maximum(spread, 0.02), 4).tolist(),
        "most": round(max(1.25 * float(np.quantile(top, 0.98)), 0.1), 3),
    }


def _linear(net: Blocks) -> list[nn.Linear]:
    return [m for part in (net.encoder, net.amount, net.style, net.decoder) for m in part.modules() if isinstance(m, nn.Linear)]


def _check(
    routed: Blocks, unrouted: Blocks, size: tuple[int, int, int], count: int, names: list[str], labels: np.ndarray, images: int
) -> int:
    """Say what does not fit together; returns how many styles a block has."""
    pixels = size[0] * size[1] * size[2]
    for net in (routed, unrouted):
        for part in (net.encoder, net.decoder):
            _chain(part)
        k, rest = divmod(net.style.out_features, count)
        if net.amount.out_features != count or rest or _linear(net)[-1].out_features != pixels:
            raise UserError(
                f"a net with {net.amount.out_features} amounts, {net.style.out_features} styles and {_linear(net)[-1].out_features} pixels "
                f"does not fit {count} classes and images of {size}. Both nets must be of one shape, made for these images."
            )
    if len(names) != count:
        raise UserError(f"{len(names)} names for {count} blocks. Give one name a block.")
    if labels.shape != (images,) or labels.min() < 0 or labels.max() >= count:
        raise UserError(f"labels of shape {labels.shape}, from {labels.min()} to {labels.max()}, for {images} images of {count} classes.")
    return k


def _chain(part: nn.Module) -> list[tuple[nn.Linear, bool]]:
    """The linear layers of a part, and whether a ReLU follows each."""
    made: list[tuple[nn.Linear, bool]] = []
    for module in part if isinstance(part, nn.Sequential) else [part]:
        if isinstance(module, nn.Sequential):
            made += _chain(module)
        elif isinstance(module, nn.Linear):
            made.append((module, False))
        elif isinstance(module, nn.ReLU) and made:
            made[-1] = (made[-1][0], True)
        elif not isinstance(module, nn.Flatten | nn.Identity | nn.Dropout):
            raise UserError(
                f"the page can run linear layers and ReLUs, but this net has a {type(module).__name__}. "
                "Keep to nn.Sequential of nn.Linear and nn.ReLU, or use the net from Python."
            )
    return made


def _packed(net: Blocks, bits: Bits, usual: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "encoder": [_layer(layer, relu, bits) for layer, relu in _chain(net.encoder)],
        "amount": _layer(net.amount, False, bits),
        "style": _layer(net.style, False, bits),
        "decoder": [_layer(layer, relu, bits) for layer, relu in _chain(net.decoder)],
        "usual": usual,
    }


def _rounded_weight(layer: nn.Linear, bits: Bits) -> tuple[np.ndarray, np.ndarray]:
    """[rows, columns] int16 or int8, and the float32 scale of each row."""
    weight = layer.weight.detach().cpu().numpy().astype(np.float32)
    most = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(weight).max(1, initial=0) / most, 1e-12).astype(np.float32)
    return np.clip(np.round(weight / scale[:, None]), -most, most).astype(np.int16 if bits == 16 else np.int8), scale


def _layer(layer: nn.Linear, relu: bool, bits: Bits) -> dict[str, Any]:
    whole, scale = _rounded_weight(layer, bits)
    bias = np.zeros(len(whole), np.float32) if layer.bias is None else layer.bias.detach().cpu().numpy().astype(np.float32)
    shape = {"rows": whole.shape[0], "columns": whole.shape[1], "relu": relu, "bits": bits}
    return shape | {"weight": _base64(whole), "scale": _base64(scale), "bias": _base64(bias)}


def _base64(array: np.ndarray) -> str:
    """Little-endian, as every browser's typed arrays are."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def _rounding_note(net: Blocks, kept: Blocks, pixels: np.ndarray, bits: Bits) -> str:
    x = torch.from_numpy(pixels)
    (before, first), (after, second) = (_redrawn(one, x) for one in (net, kept))
    alike = int((first == second).sum())
    most = max(float((before - after).abs().max()), 1e-9)
    unit = 10.0 ** math.floor(math.log10(most))
    return (
        f"The weights on this page are rounded to {bits} bits: on {len(x)} held-out pictures no pixel drawn changes by more than "
        f"{math.ceil(most / unit) * unit:.1g}, and {alike} of {len(x)} are read as before."
    )


def _redrawn(net: Blocks, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures that come out [n, pixels], and the block that each is read as [n]."""
    with torch.no_grad():
        hidden = net.encoder(x)
        amount = net.amount(hidden).relu()[..., None]
        style = net.style(hidden).view(len(x), amount.shape[1], -1)
        code = torch.cat([amount, amount * style], -1).flatten(1)
        return net.decoder(code).sigmoid(), amount[..., 0].argmax(1)
