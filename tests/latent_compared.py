"""What the browser's tests of the autoencoder's page share: small nets, their page, and torch's answer to what the page
shows."""

import functools

import numpy as np
import torch

from latent_synthetic import trained
from sluicegate.latent import page as pages
from sluicegate.tasks.digits import load_images

NAMES = ("routed", "unrouted")
NUMBERS = {
    "accuracy": [0.94, 0.93],
    "mse": 3.1,
    "mse_unrouted": 2.9,
    "recognised": 10,
    "swap": 0.9,
    "ablate": 0.2,
    "labels": 1.0,
    "seeds": [0, 1],
}


@functools.cache
def small_nets():
    """The 8 x 8 digits, taught in seconds, with routing and without."""
    data = load_images("digits").train
    settings = {"white": 16, "batch": 32, "l1": 1}
    return {
        "routed": trained(data.images, data.labels, epochs=60, **settings),
        "unrouted": trained(data.images, data.labels, epochs=8, routed=False, **settings),
    }


def small_page(path, numbers=NUMBERS):
    """Their page."""
    part, nets = load_images("digits").validation, small_nets()
    images = part.images / np.float32(16)
    return pages.write_page(path, nets["routed"], nets["unrouted"], images=images, labels=part.labels, numbers=numbers)


def close(got, expected, within=1e-3):
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(expected, np.float64), atol=within, rtol=0)


def encoded(net, pixels):
    """Amounts after their ReLU [classes] and styles [classes, k] of one picture."""
    with torch.no_grad():
        amount, style = net.encode(torch.tensor(pixels, dtype=torch.float32)[None])
    return amount[0].relu(), style[0]


def drawn(net, amount, style):
    with torch.no_grad():
        return net.decode(net.code(amount[None], style[None]))[0]


EVERYTHING = """
const of = (net, x) => { const code = net.encode(x); return [[...code.amount], [...code.style], [...net.decode(code)]]; };
const all = (x) => ({x: [...x], routed: of(S.nets.routed, x), unrouted: of(S.nets.unrouted, x)});
return Array.from({length: 20}, (_, i) => all(S.imageAt(i)));
"""


def same_as_torch(nets, found):
    assert len(found) == 20
    for one in found:
        for name, net in nets.items():
            amount, style = encoded(net, one["x"])
            close(one[name][0], amount)
            close(one[name][1], style.flatten())
            close(one[name][2], drawn(net, amount, style))
