"""DEMix: each label has its own copy of the MLPs, in the forward and in the backward pass.

The baseline that gradient routing is measured against: where labels are missing, nothing is
absorbed, since an expert that takes no part in a row's forward pass learns nothing from it.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sluicegate.deprecated import renamed
from sluicegate.errors import UserError
from sluicegate.routing.experts import Experts, Steer, numbered
from sluicegate.routing.labels import RETAIN, UNLABELLED, Labels
from sluicegate.routing.sites import Site, find


class _Choice:
    """The open pass's labels, shared by all layers of a model; a copy of the model begins without any."""

    def __init__(self) -> None:
        self.expert: Tensor | None = None
        """[b] or [b, t] number of each row's expert."""
        self.left = False
        """Whether labels were left and no forward pass has begun since."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Choice":
        return _Choice()


class ByLabel(Experts):
    """Experts of which each row (or token) passes through one, its label's; without labels through "retain"."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], choice: _Choice) -> None:
        super().__init__({RETAIN: module, **{name: copy.deepcopy(module) for name in names}}, None)
        self.choice = choice

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        again = torch._C._current_graph_task_id() != -1  # computed again under gradient checkpointing
        if self.choice.left and again:
            raise UserError("the block was left before backward. Put backward() inside: with demix(labels): loss = ...; loss.backward().")
        self.choice.left = False
        index = self._index(x)
        if (alone := self._alone()) is not None or index is None:
            return self.experts[alone or RETAIN](x, *args, **kwargs)  # type: ignore[no-any-return]
        if self._pass.steers:
            return self._mixed(torch.nn.functional.one_hot(index, len(self.names)).to(x.dtype), x, *args, **kwargs)
        flat, numbers = x.reshape(-1, *x.shape[index.dim() :]), index.flatten()
        if bool((numbers == numbers[0]).all()):
            return self.experts[self.names[int(numbers[0])]](x, *args, **kwargs)  # type: ignore[no-any-return]
        # Only the rows' own expert runs: the others have no gradient at all, so the optimiser skips them.
        rows = [(numbers == k).nonzero().flatten() for k in range(len(self.names))]
        parts = [e(flat[own], *args, **kwargs) for e, own in zip(self.experts.values(), rows, strict=True) if len(own)]
        out = torch.cat(parts)[torch.cat(rows).argsort()]
        return out.reshape(*x.shape[: index.dim()], *out.shape[1:])

    def _index(self, x: Tensor) -> Tensor | None:
        index = self.choice.expert
        if index is None:
            # Even a steer that only shifts shares needs some to begin with.
            return torch.zeros(x.shape[0], dtype=torch.long, device=x.device) if self._pass.steers else None
        index = index.to(x.device)
        if tuple(x.shape[: index.dim()]) == tuple(index.shape):
            return index
        if x.shape[0] == index.numel():  # rows and tokens in one dimension
            return index.flatten()
        raise UserError(
            f"labels are {tuple(index.shape)}, but the activations are {tuple(x.shape)}. Labels are (batch,) or (batch, tokens), "
            "and must have the batch's own size."
        )

    def routing_site(self, name: str) -> Site:
        raise UserError(f"{name!r} passes rows by label as it is, and cannot be routed as well. Route at another site.")


class Demix:
    """A copy of some modules for each name, selected by label.

    ::

        demix = Demix(model, "mlp_hidden", ["forget"])
        with demix(labels):
            model(**batch).loss.backward()
        plain = demix.keep("retain")          # an ordinary model of its kind again: save it

    `modules` are the router's patterns, as strings ("model.layers.*.mlp"); any module whose input and
    output go row by row may be named. `names` are the labels besides "retain". The module itself
    becomes the expert "retain", so that the model computes bitwise what it did. Everything between
    the experts learns from every row.

    Source: Gururangan et al. 2022 (DEMix layers, arXiv 2108.05036), as Cloud et al. 2024 (arXiv
    2410.04332, TinyStories) use them for a baseline. Different here: unlabelled rows pass through the
    retained expert, as DEMix has nothing for them and the paper takes them for retain data; the
    optimiser skips experts without rows (`zero_grad(set_to_none=True)`, its default).

    While the experts are in place `save_pretrained` writes a model that loads without its MLPs: call
    `keep` first. Raises `UserError` for sites that match nothing or lie within each other.
    """

    @renamed(sites="modules")
    def __init__(self, model: nn.Module, modules: str | Sequence[str], names: Sequence[str]) -> None:
        own = (names,) if isinstance(names, str) else tuple(names)
        if not own or RETAIN in own or UNLABELLED in own or len(set(own)) != len(own):
            raise UserError(f"names are {', '.join(own) or 'empty'}; give those besides {RETAIN} and {UNLABELLED}, each once.")
        if any(isinstance(module, ByLabel) for module in model.modules()):
            raise UserError("the model has experts by label already. Keep one of them first: demix.keep('retain').")
        patterns = [modules] if isinstance(modules, str) else modules
        paths = list(dict.fromkeys(site.name for pattern in patterns for site in find(model, pattern, "auto")))
        for path in paths:
            inside = [other for other in paths if other != path and other.startswith(f"{path}." if path else "")]
            if inside or not path:
                raise UserError(
                    f"the site {path!r} is the whole model, or holds another site ({', '.join(inside[:1])}). Name modules apart."
                )
        self.model, self.labels = model, (RETAIN, *own, UNLABELLED)
        self._choice = _Choice()
        for path in paths:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, ByLabel(model.get_submodule(path), own, self._choice))

    @contextmanager
    def __call__(self, labels: Labels) -> Iterator[None]:
        """Let rows (b,) or tokens (b, t) pass by label, forward and backward: names, or numbers of `labels` (or -1)."""
        if self._choice.expert is not None:
            raise UserError("labels are already in place: leave their block first.")
        number = numbered(labels, self.labels)
        self._choice.expert = torch.where(number == len(self.labels) - 1, 0, number)
        try:
            yield
        finally:
            self._choice.expert, self._choice.left = None, True

    def ablate(self) -> Steer:
        """The edit that sends every row through the retained expert."""
        return Steer({RETAIN: 1.0})

    def keep(self, name: str = RETAIN) -> nn.Module:
        """Put one expert back as an ordinary module, drop the others, and return the model."""
        Steer({name: 1.0}).bake(self.model)
        return self.model
