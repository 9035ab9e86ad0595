"""Small autoencoders with blocks, trained in seconds, for the tests of the page; and the page's numbers."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Blocks(nn.Module):
    """The layout that the page reads: an encoder, two heads, and a decoder that sees [a, a * styles] of every class."""

    def __init__(self, pixels: int, classes: int = 10, hidden: int = 64, narrow: int = 128, k: int = 4):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, narrow), nn.ReLU())
        self.amount, self.style = nn.Linear(narrow, classes), nn.Linear(narrow, classes * k)
        self.decoder = nn.Sequential(
            nn.Linear(classes * (1 + k), narrow), nn.ReLU(), nn.Linear(narrow, hidden), nn.ReLU(), nn.Linear(hidden, pixels)
        )
        nn.init.constant_(self.amount.bias, 1.0)

    def encode(self, x):
        """Amounts before the ReLU [n, classes], styles [n, classes, k]."""
        h = self.encoder(x)
        amount = self.amount(h)
        return amount, self.style(h).view(*amount.shape, -1)

    def code(self, amount, style):
        """[n, classes * (1 + k)], block by block."""
        a = F.relu(amount)[..., None]
        return torch.cat([a, a * style], -1).flatten(1)

    def decode(self, code):
        return torch.sigmoid(self.decoder(code))


def shifted(x, side: int, most: int, generator):
    """Each image of [n, side * side] moved by up to `most` pixels either way."""
    if not most:
        return x
    wide = F.pad(x.view(-1, side, side), (most,) * 4)
    rows, columns = torch.randint(0, 2 * most + 1, (2, len(x), 1), generator=generator)
    span = torch.arange(side)
    return wide[torch.arange(len(x))[:, None, None], (rows + span)[:, :, None], (columns + span)[:, None, :]].flatten(1)


def trained(images, labels, *, white=255, hidden=64, epochs=12, routed=True, most=0, l1=3.0, seed=0, batch=128):
    """A `Blocks` taught to redraw `images` [n, side, side]; the labels route gradients, or do nothing at all.

    The spec's recipe, section 2: noise .3 on the amounts, cross-entropy, an unrouted pull on every amount, Adam with a
    warm-up and a cosine. The noise of the styles is fixed at .5.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Blocks(images[0].size, hidden=hidden)
    side = images.shape[1]
    x_all = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / white)
    y_all = torch.from_numpy(np.asarray(labels))
    steps = math.ceil(len(x_all) / batch) * epochs
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    warm = min(100, steps // 10 + 1)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / warm) * (0.05 + 0.95 * (1 + math.cos(math.pi * min(1, step / steps))) / 2)
    )
    for _ in range(epochs):
        for rows in torch.randperm(len(x_all), generator=generator).split(batch):
            x, own = shifted(x_all[rows], side, most, generator), F.one_hot(y_all[rows], 10).bool()
            mean, style = net.encode(x)
            amount = F.relu(mean + 0.3 * torch.randn(mean.shape, generator=generator))
            noisy = style + 0.5 * torch.randn(style.shape, generator=generator)
            if routed:
                amount = torch.where(own, amount, amount.detach())
                noisy = torch.where(own[..., None], noisy, noisy.detach())
            drawn = net.decoder(net.code(amount, noisy))
            weight = F.relu(mean).clamp(max=1).detach()[..., None]
            held = style.square() * weight if not routed else style.square() * weight * own[..., None]
            loss = F.binary_cross_entropy_with_logits(drawn, x, reduction="sum") + l1 / 2 * mean.square().sum() + held.sum() / 2
            optimizer.zero_grad()
            (loss / len(x)).backward()
            optimizer.step()
            rate.step()
    return net.eval()


def read(net, images, white=255):
    """[n] the block with the largest amount."""
    with torch.no_grad():
        return net.encode(torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / white))[0].argmax(1).numpy()
