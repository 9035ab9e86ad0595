"""The pictures of a run: every block alone, every class as every other, which blocks stir on which."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from sluicegate.latent.model import Autoencoder, Code

TRAVERSALS, SWAPS, AMOUNTS_OF = "traversals.png", "swaps.png", "amounts.png"
_MOST = 12
AMOUNTS = (0.0, 0.5, 1.0, 1.5)
STEPS = (-2.0, -1.0, 1.0, 2.0)


@torch.no_grad()
def traversals(model: Autoencoder) -> tuple[np.ndarray, list[str], list[str]]:
    """[blocks, columns, height, width, channels]: one block on, its amount then each style varied; names."""
    classes = list(model.classes[:_MOST])
    codes, titles = [], [f"amount × {a:g}" for a in AMOUNTS]
    usual = model.usual(classes)
    for share in AMOUNTS:
        codes.append(Code(usual.amounts * share, usual.styles))
    for i in range(min(model.k, 3)):
        for step in STEPS:
            styles = usual.styles.clone()
            styles[:, :, i] += step
            codes.append(Code(usual.amounts, styles))
            titles.append(f"style {i + 1} {step:+g}")
    return torch.stack([model.decode(code) for code in codes], 1).cpu().numpy(), classes, titles


@torch.no_grad()
def swaps(model: Autoencoder, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, list[str], list[str]]:
    """[classes, columns, height, width, channels]: an image, drawn, without its block, as each class; names."""
    count = min(len(model.classes), _MOST)
    places = [int(np.argmax(labels == j)) for j in range(count)]
    x = model.rows(images[places])
    code = model.read(model.encoder(x))
    without = Code(code.amounts.clone(), code.styles)
    without.amounts[torch.arange(count), torch.arange(count)] = 0.0
    drawn = [x.unflatten(1, model.size), model.decode(code), model.decode(without)]
    drawn += [model.decode(model.swap(code, j)) for j in range(count)]
    names = list(model.classes[:count])
    return torch.stack(drawn, 1).cpu().numpy(), names, ["image", "drawn", "ablated", *(f"as {name}" for name in names)]


@torch.no_grad()
def amounts_of(model: Autoencoder, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[classes, classes] mean amount of every block (columns) on images of every class (rows); 0 without images."""
    amounts = model.encode(images).amounts.cpu().double().numpy()
    rows = [amounts[labels == j].mean(0) if (labels == j).any() else np.zeros(len(model.classes)) for j in range(len(model.classes))]
    return np.stack(rows)


def draw_amounts(path: Path, amounts: np.ndarray, names: list[str]) -> None:
    """Write `amounts_of` as a PNG: a square for each class and block, the darker the more."""
    side = 1.1 + 0.26 * len(names)
    figure = Figure(figsize=(side + 0.5, side), dpi=110, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(amounts, cmap="Blues", vmin=0, vmax=max(float(amounts.max()), 1e-9))
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("block", fontsize=8)
    axes.set_ylabel("images of class", fontsize=8)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="mean amount").ax.tick_params(labelsize=7)
    figure.savefig(path, metadata={"Software": ""})


def draw(path: Path, pictures: np.ndarray, rows: list[str], columns: list[str]) -> None:
    """Write pictures [rows, columns, height, width, channels] from 0 to 1 as one PNG with their names."""
    side, left, top = 0.42, 0.2 + 0.07 * max(map(len, rows)), 0.75
    figure = Figure(figsize=(left + side * len(columns), top + side * len(rows)), dpi=110, facecolor="white")
    width, height = figure.get_figwidth(), figure.get_figheight()
    for c, title in enumerate(columns):
        figure.text((left + side * (c + 0.5)) / width, 1 - (top - 0.06) / height, title, rotation=60, fontsize=6.5, ha="left", va="bottom")
    for r, name in enumerate(rows):
        figure.text((left - 0.08) / width, 1 - (top + side * (r + 0.5)) / height, name, fontsize=8, ha="right", va="center")
        for c in range(len(columns)):
            place = ((left + side * c) / width, 1 - (top + side * (r + 1)) / height, 0.95 * side / width, 0.95 * side / height)
            axes = figure.add_axes(place)
            image = pictures[r, c].clip(0, 1)
            axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
    figure.savefig(path, metadata={"Software": ""})
