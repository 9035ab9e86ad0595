"""Log-probabilities of many answers to prompts that share their beginnings: three ways to the same numbers.

``tree``   all rows as one tree of tokens, each computed once: what rows share is one branch, and a token sees its
ancestors only. One pass. ``cache``  keys and values of the last prompt are kept, cut back to what the next one shares
with it, and extended; its answers are scored
           together from there.
``rows``   every row computed whole: any causal language model, and what the others are held against.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from sluicegate.engine.encoding import Rows
from sluicegate.engine.forward import logits
from sluicegate.engine.models import device
from sluicegate.engine.training import token_losses

Way = Literal["tree", "cache", "rows"]
TOLERANCE = 1e-3
"""Nats by which a faster way may differ on the rows that it is tried on."""


class Scorer:
    """Scores rows in one way, under `torch.inference_mode`. Raises `ValueError` where the way does not suit the
    model."""

    def __init__(self, model: PreTrainedModel, way: Way) -> None:
        self.model, self.way = model, way
        taken = inspect.signature(model.forward).parameters
        self._keeps = "logits_to_keep" in taken
        if way != "rows" and getattr(model, "_is_stateful", False):
            raise ValueError("a recurrent state cannot be cut back")
        if way == "tree" and "position_ids" not in taken:
            raise ValueError("the model takes no positions")
        if way == "tree" and _window(model):
            raise ValueError("the model attends within a window of tokens, which lie otherwise in a tree")
        if way == "cache" and "past_key_values" not in taken:
            raise ValueError("the model takes no keys and values")
        self._ids: list[int] = []
        self._cache = DynamicCache()

    def __call__(self, many: Sequence[Rows]) -> list[Tensor]:
        """[rows] log-probability of each row's answer, in nats, for each of `many` sets of rows (one a prompt)."""
        if self.way == "tree":
            return self._tree(many)
        return [self._from_cache(rows) if self.way == "cache" else self._whole(rows) for rows in many]

    # ------------------------------------------------------------------------------------- whole rows

    def _whole(self, rows: Rows) -> Tensor:
        batches = rows.everything(32)
        return torch.cat([-(token_losses(logits(self.model, b), b) * b.answer).sum(1).cpu() for b in batches])

    # ------------------------------------------------------------------------------------------- tree

    def _tree(self, many: Sequence[Rows]) -> list[Tensor]:
        tree = _Tree()
        paths = [tree.add(ids[:length]) for rows in many for ids, length in zip(rows.ids.tolist(), rows.lengths.tolist(), strict=True)]
        starts = [start for rows in many for start in rows.starts.tolist()]
        inner = sorted({node for path in paths for node in path[:-1]})  # what nothing follows need not be computed
        asks = sorted({a for path, start in zip(paths, starts, strict=True) for a in path[max(start - 1, 0) : -1]})
        places = {node: place for place, node in enumerate(inner)}
        to = device()
        out = self.model(
            input_ids=torch.tensor([[tree.token[n] for n in inner]], device=to),
            position_ids=torch.tensor([[tree.depth[n] for n in inner]], device=to),
            attention_mask=tree.mask(inner, self.model.dtype).to(to),
            use_cache=False,
            **({"logits_to_keep": torch.tensor([places[a] for a in asks], device=to)} if self._keeps else {}),
        ).logits[0]
        if not self._keeps:
            out = out[[places[a] for a in asks]]
        after = torch.log_softmax(out.float(), -1)
        row_of = {node: row for row, node in enumerate(asks)}
        steps = [(n, a, b) for n, (path, start) in enumerate(zip(paths, starts, strict=True)) for a, b in _pairs(path, start)]
        said = after[[row_of[a] for _, a, _ in steps], [tree.token[b] for _, _, b in steps]].cpu()
        totals = torch.zeros(len(paths)).index_add_(0, torch.tensor([n for n, _, _ in steps]), said)
        return list(totals.split([len(rows) for rows in many]))

    # ------------------------------------------------------------------------------------------ cache

    def _from_cache(self, rows: Rows) -> Tensor:
        common = _common(rows)
        if not common:
            return self._whole(rows)
        prefix: list[int] = rows.ids[0, :common].tolist()
        first = torch.log_softmax(self._read(prefix).float(), -1)  # [V], of the token after the prefix
        width = int(rows.lengths.max()) - common
        tails = rows.ids[:, common : common + width]
        place = torch.arange(common, common + width)
        counts = (place >= rows.starts[:, None]) & (place < rows.lengths[:, None])
        said = torch.empty(len(rows), width)
        said[:, 0] = first[tails[:, 0].to(first.device)].cpu()
        if width > 1:
            after = self._forward(tails[:, :-1], self._for(len(rows)))
            picked = tails[:, 1:, None].to(after.device)
            said[:, 1:] = (after.gather(-1, picked)[..., 0] - after.logsumexp(-1)).cpu()
        return (said * counts).sum(1)

    def _read(self, prefix: list[int]) -> Tensor:
        """[V] logits after the prefix; only what the cache does not hold is computed, and the cache holds the prefix
        afterwards."""
        keep = min(_alike(self._ids, prefix), len(prefix) - 1)
        for layer in _filled(self._cache):
            layer.keys, layer.values = layer.keys[..., :keep, :], layer.values[..., :keep, :]
        self._ids = prefix[:keep]
        out = self._forward(torch.tensor([prefix[keep:]]), self._cache, **({"logits_to_keep": 1} if self._keeps else {}))
        self._ids = prefix
        return out[0, -1]

    def _forward(self, ids: Tensor, cache: DynamicCache, **more: Any) -> Tensor:
        out: Tensor = self.model(input_ids=ids.to(device()), past_key_values=cache, use_cache=True, **more).logits
        return out

    def _for(self, rows: int) -> DynamicCache:
        """The cache for so many rows at once; the one that is kept stays as it is."""
        many = copy.copy(self._cache)
        many.layers = [copy.copy(layer) for layer in self._cache.layers]
        for layer in _filled(many):
            layer.keys, layer.values = (t.expand(rows, -1, -1, -1) for t in (layer.keys, layer.values))
        return many


def suiting(model: PreTrainedModel, tried_on: Sequence[Rows]) -> Scorer:
    """The fastest way that gives a model's whole-row numbers on some rows, up to `TOLERANCE`; whole rows where none
    does."""
    slow = Scorer(model, "rows")
    expected = torch.cat(slow(tried_on))
    for way in ("tree", "cache"):
        try:
            scorer = Scorer(model, way)
            found = torch.cat(scorer(tried_on))
        except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
            continue  # an architecture that does not take it: the next way is slower and asks less
        if float((found - expected).abs().max()) <= TOLERANCE:
            return scorer
    return slow


class _Tree:
    """Token sequences with what they share from the beginning held once. Nodes are numbered, each after its parent."""

    def __init__(self) -> None:
        self.token: list[int] = []
        self.depth: list[int] = []
        self.parent: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def add(self, ids: Sequence[int]) -> list[int]:
        """The nodes of a sequence, made where they are missing."""
        path, parent = [], -1
        for depth, token in enumerate(ids):
            node = self._children.setdefault((parent, token), len(self.token))
            if node == len(self.token):
                self.token.append(token)
                self.depth.append(depth)
                self.parent.append(parent)
            path.append(node)
            parent = node
        return path

    def mask(self, nodes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """[1, 1, n, n] 0 where a node sees another (itself and its ancestors), else the least number. `nodes` holds all
        their parents."""
        places = {node: place for place, node in enumerate(nodes)}
        sees = np.eye(len(nodes), dtype=bool)
        for place, node in enumerate(nodes):
            if self.parent[node] >= 0:
                sees[place] |= sees[places[self.parent[node]]]
        return torch.zeros(sees.shape, dtype=dtype).masked_fill_(torch.from_numpy(~sees), torch.finfo(dtype).min)[None, None]


def _pairs(path: Sequence[int], start: int) -> list[tuple[int, int]]:
    """(node before, node) of every answer token; the very first token of a row follows nothing."""
    return [(path[i - 1], path[i]) for i in range(max(start, 1), len(path))]


def _window(model: PreTrainedModel) -> bool:
    """Whether a token sees only the nearest before it, in any layer."""
    config = model.config.get_text_config()
    return bool(getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None))


def _filled(cache: DynamicCache) -> list[Any]:
    return [layer for layer in cache.layers if getattr(layer, "is_initialized", False)]


def _common(rows: Rows) -> int:
    """How many tokens all rows have in common before the answer, at least one token of each row left over."""
    most = min(int(rows.starts.min()), int(rows.lengths.min()) - 1)
    same = (rows.ids[:, :most] == rows.ids[:1, :most]).all(0).int()
    return int(same.cumprod(0).sum()) if most > 0 else 0


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of leading elements that are equal."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
