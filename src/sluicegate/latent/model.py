"""The model: an encoder, one block a class, a decoder; what it reads and draws, saving and loading."""

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sluicegate.errors import UserError, nearest
from sluicegate.runs.directory import write_atomic
from sluicegate.values.files import check_readable, read_json, reading

WEIGHTS, FACTS = "model.safetensors", "latent.json"
LAYOUT = 1


class Code(NamedTuple):
    """What an image is encoded as."""

    amounts: Tensor
    """[n, classes] how much of each class there is, 0 or more."""
    styles: Tensor
    """[n, classes, k] how each class would be written."""

    def read(self) -> Tensor:
        """[n] the class with the largest amount."""
        return self.amounts.argmax(1)


class Blocks(nn.Module):
    """Amounts and styles to what the decoder sees, [n, classes * (1 + k)]: by class [a, a * s1, .., a * sk].

    A class whose amount is 0 contributes nothing. A module of its own, since its output is where gradients are routed.
    """

    def forward(self, amounts: Tensor, styles: Tensor, scale: Tensor | None = None) -> Tensor:
        """`scale` [n, classes] stands for the amounts before the styles: in training, without the amounts' noise."""
        return torch.cat([amounts[..., None], (amounts if scale is None else scale)[..., None] * styles], -1).flatten(1)


class Autoencoder(nn.Module):
    """Images to amounts and styles of blocks, one block a class, and back.

    `encoder` takes pixels [n, height * width * channels] from 0 to 1 to a hidden layer; `amount` and `style` are
    linear, the amount goes through a ReLU; `spread` is the logarithm of the styles' variance and only used in training;
    `decoder` gives logits of pixels. Give `encoder` and `decoder` of your own as modules with these ends; `UserError`
    where the parts do not fit together.
    """

    def __init__(
        self,
        size: Sequence[int],
        classes: Sequence[str],
        *,
        hidden: Sequence[int] = (256,),
        k: int = 4,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if len(size) != 3 or min(size) < 1:
            raise UserError(f"size is {tuple(size)}; give height, width and channels, for example (28, 28, 1).")
        if len(classes) < 2 or len(set(classes)) != len(classes):
            raise UserError(f"classes are {list(classes)}; give at least two different names.")
        if k < 0 or not hidden or min(hidden) < 1:
            raise UserError(f"k is {k} and hidden is {list(hidden)}; widths must be positive, and k 0 or more.")
        self.size = (int(size[0]), int(size[1]), int(size[2]))
        self.classes, self.hidden, self.k = tuple(str(c) for c in classes), tuple(hidden), k
        pixels, count = self.size[0] * self.size[1] * self.size[2], len(self.classes)
        self.own_parts = encoder is not None or decoder is not None
        self.encoder = encoder or _net([pixels, *hidden])
        width = self._probe("encoder", self.encoder, pixels, None)
        self.amount = nn.Linear(width, count)
        with warnings.catch_warnings():  # of a layer without outputs, where k is 0
            warnings.simplefilter("ignore")
            self.style, self.spread = nn.Linear(width, count * k), nn.Linear(width, count * k)
        nn.init.constant_(self.amount.bias, 1.0)  # a unit that begins below 0 never gets a gradient
        nn.init.constant_(self.spread.bias, -3.0)  # a style that is all noise at first would be switched off with its block
        self.code = Blocks()
        self.decoder = decoder or nn.Sequential(*_net([count * (1 + k), *reversed(hidden)]), nn.Linear(hidden[0], pixels))
        self._probe("decoder", self.decoder, count * (1 + k), pixels)
        self.usual_amounts: Tensor
        """[classes] how much of a block its own images have, on average: filled in by training."""
        self.usual_styles: Tensor
        """[classes, k] the same of its styles."""
        self.register_buffer("usual_amounts", torch.ones(count))
        self.register_buffer("usual_styles", torch.zeros(count, k))
        self.numbers: dict[str, Any] = {}
        """What was measured, for the page and for whoever loads it."""

    def _probe(self, name: str, part: nn.Module, width: int, wanted: int | None) -> int:
        try:
            with torch.no_grad():
                found = part(torch.zeros(2, width))
        except RuntimeError as error:
            raise UserError(f"the {name} does not take rows of {width} numbers ({error}). Begin it with nn.Unflatten to reshape.") from None
        if not isinstance(found, Tensor) or found.dim() != 2 or (wanted is not None and found.shape[1] != wanted):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"the {name} gives {shape} for 2 rows of {width}; expected (2, {wanted or 'width'}).")
        return int(found.shape[1])

    def rows(self, images: Any) -> Tensor:
        """[n, pixels] float from 0 to 1, of images [n, height, width] or with channels last: uint8, or fractions."""
        x = torch.as_tensor(np.asarray(images) if not isinstance(images, Tensor) else images)
        if x.dim() == 3 and self.size[2] == 1:
            x = x[..., None]
        if x.dim() != 4 or tuple(x.shape[1:]) != self.size:
            raise UserError(f"images are {tuple(x.shape)}; this model was made for (n, {self.size[0]}, {self.size[1]}, {self.size[2]}).")
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        return x.flatten(1).to(self.amount.weight.device)

    def encode(self, images: Any) -> Code:
        """The code of images (see `rows`), without noise."""
        return self.read(self.encoder(self.rows(images)))

    def read(self, hidden: Tensor) -> Code:
        """The code that belongs to the encoder's output."""
        return Code(self.amount(hidden).relu(), self.style(hidden).unflatten(1, (len(self.classes), self.k)))

    def decode(self, code: Code) -> Tensor:
        """[n, height, width, channels] images from 0 to 1."""
        return self.decoder(self.code(code.amounts, code.styles)).sigmoid().unflatten(1, self.size)  # type: ignore[no-any-return]

    def forward(self, images: Any) -> Tensor:
        """Images, encoded and decoded."""
        return self.decode(self.encode(images))

    def number(self, name: str | int) -> int:
        """The place of a class, by its name or number; raises `UserError` for one that does not exist."""
        if isinstance(name, int) and 0 <= name < len(self.classes):
            return name
        if str(name) not in self.classes:
            raise UserError(f"no class {name!r}. There are: {nearest(str(name), list(self.classes), most=20)}.")
        return self.classes.index(str(name))

    def ablate(self, *names: str | int) -> "Autoencoder":
        """A copy without the blocks of these classes: it can neither read nor draw them, whatever it is shown."""
        made = copy.deepcopy(self)
        with torch.no_grad():
            for name in names:
                j = self.number(name)
                made.amount.weight[j] = 0.0
                made.amount.bias[j] = -1.0
        return made

    def usual(self, names: Sequence[str | int] = ()) -> Code:
        """[n] codes with one block on, as its own images have it on average; of all classes where none is named."""
        chosen = [self.number(name) for name in names] or list(range(len(self.classes)))
        styles = self.usual_styles[chosen][:, None].repeat(1, len(self.classes), 1)
        return Code(torch.eye(len(self.classes)).to(styles)[chosen] * self.usual_amounts, styles)

    def swap(self, code: Code, target: str | int | Tensor) -> Code:
        """The block that reads each image off, that of `target` (a name, or [n] numbers) on as usual."""
        n = len(code.amounts)
        j = target if isinstance(target, Tensor) else torch.full((n,), self.number(target), device=code.amounts.device)
        rows, usual = torch.arange(n, device=code.amounts.device), self.usual()
        amounts, styles = code.amounts.clone(), code.styles.clone()
        amounts[rows, code.read()] = 0.0
        amounts[rows, j], styles[rows, j] = usual.amounts[j, j], usual.styles[j, j]
        return Code(amounts, styles)

    def save(self, folder: Path | str) -> Path:
        """Write `model.safetensors` and `latent.json`. Parts of your own must be given again to `load`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().cpu().contiguous() for name, p in self.state_dict().items()}, folder / WEIGHTS)
        facts = {"layout": LAYOUT, "size": self.size, "classes": self.classes, "hidden": self.hidden, "k": self.k, "white": 1.0}
        facts |= {"own_parts": self.own_parts, "numbers": self.numbers}
        write_atomic(folder / FACTS, json.dumps(facts, indent=1))
        return folder


def load(folder: Path | str, *, encoder: nn.Module | None = None, decoder: nn.Module | None = None) -> Autoencoder:
    """Read back what `Autoencoder.save` wrote; raises `UserError` for what is not there or does not fit."""
    folder = Path(folder)
    if not (folder / FACTS).is_file() and (folder / "model" / FACTS).is_file():
        folder = folder / "model"
    if not (folder / FACTS).is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: no {FACTS} and {WEIGHTS} here. Give a folder that `sluicegate latent train` or .save() wrote.")
    with reading(folder, "Train or save it again."):
        facts: Mapping[str, Any] = read_json(folder / FACTS)
        state = load_file(check_readable(folder / WEIGHTS))
        if facts["own_parts"] and encoder is None and decoder is None:
            raise UserError(
                f"{folder}: was saved with an encoder or a decoder of your own. Give it: load(folder, encoder=..., decoder=...)."
            )
        made = Autoencoder(facts["size"], facts["classes"], hidden=facts["hidden"], k=facts["k"], encoder=encoder, decoder=decoder)
        made.load_state_dict(state)
        made.numbers = dict(facts.get("numbers", {}))
    return made.eval()


def _net(sizes: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())))
