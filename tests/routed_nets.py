"""Small networks, and plain training spelt out, for the tests of routing."""

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY, WIDTH, HIDDEN = 11, 8, 12
BLOCKS = {"one": (6, 9), "two": (9, 12)}
"""Units 0 to 5 of the MLP are the rest's."""


class Net(nn.Module):
    """Every kind of layer that rows go through one by one: embedding, norms, an MLP, a tied output."""

    def __init__(self, seed=0, tied=True):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = nn.Embedding(VOCABULARY, WIDTH)
            self.norm = nn.LayerNorm(WIDTH)
            self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
            self.rms = nn.RMSNorm(WIDTH)
            self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
            for parameter in self.parameters():
                if parameter.dim() == 1:
                    nn.init.normal_(parameter)
        if tied:
            self.head.weight = self.embed.weight
        self.double()

    def forward(self, ids):
        h = self.embed(ids)
        return self.head(self.rms(h + self.mlp(self.norm(h))))


def ids(rows, tokens=5, seed=0):
    return torch.randint(0, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def nll(model, ids):
    """Mean next-token loss over rows; a row's share does not depend on the others."""
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def gradients(model):
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def columns_of(name, shape):
    """Which column (0 the rest, 1 one, 2 two) each entry of a parameter of `Net` belongs to, by hand."""
    column = torch.zeros(shape, dtype=torch.long)
    for number, (start, stop) in enumerate(BLOCKS.values(), start=1):
        if name in ("mlp.0.weight", "mlp.0.bias"):
            column[start:stop] = number
        elif name == "mlp.2.weight":
            column[:, start:stop] = number
    return column


def row_by_row(net, batch, labels, backward, forward):
    """Gradients of the parameter form, from one plain backward pass a row.

    `backward` and `forward` [labels, columns]; an entry of column c gets the sum over rows of
    ``backward[label, c]`` times the row's own gradient, in a network whose blocks are multiplied by ``forward``.
    """
    expected = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for row, label in zip(batch, labels.tolist(), strict=True):
        scale = torch.ones(HIDDEN, dtype=torch.float64)
        for number, (start, stop) in enumerate(BLOCKS.values(), start=1):
            scale[start:stop] = forward[label, number]
        handle = net.mlp[2].register_forward_pre_hook(lambda module, args, scale=scale: (args[0] * scale,))
        net.zero_grad()
        (nll(net, row[None]) / len(batch)).backward()
        handle.remove()
        for name, gradient in gradients(net).items():
            expected[name] += backward[label].to(gradient)[columns_of(name, gradient.shape)] * gradient
    net.zero_grad()
    return expected
