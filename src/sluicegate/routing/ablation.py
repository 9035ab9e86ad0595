"""Ablation: a routed block taken out, as an edit.

For the length of a block the weights that make or read its units are zero; baked, they are zero
for good, and gone where the architecture allows a smaller model.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from sluicegate.errors import UserError
from sluicegate.routing.gradient_hook import GradientHook
from sluicegate.routing.labels import policy
from sluicegate.routing.pass_context import PassContext
from sluicegate.routing.sites import Site
from sluicegate.values.edits import WeightEdit

if TYPE_CHECKING:
    from sluicegate.routing.surgery import Shrunk

Placed = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Ablation(WeightEdit):
    """Some blocks of a model, cut.

    ``edit * 0.5`` scales what the blocks put out by one half instead; a dose of 0 is the identity.
    """

    sites: tuple[tuple[Site, Placed], ...]
    """Every site with the units, (start, stop), of the blocks that are cut there."""
    dose: float = 1.0
    """1: the units are gone; 0: they are as they were."""

    def __mul__(self, dose: float) -> Self:
        return replace(self, dose=self.dose * dose)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks that are cut."""
        return tuple(dict.fromkeys(name for _, placed in self.sites for name in placed))

    @torch.no_grad()
    def new_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Every weight that makes or reads a unit of the blocks, with its share scaled."""
        parameters = dict(model.named_parameters())
        new: dict[str, Tensor] = {}
        if not self.dose:
            return new
        for site, placed in self.sites:
            for part in site.parts:
                # Scaling the readers is enough, unless there are none here or the units go for good.
                if self.dose != 1 and not part.consumer and any(p.consumer for p in site.parts):
                    continue
                if part.parameter not in parameters:
                    raise UserError(f"site {site.name!r}: the model has no parameter {part.parameter!r}. Was it made from another model?")
                value = new.get(part.parameter, parameters[part.parameter].detach()).clone()
                if value.shape[part.dim] != len(part.unit):
                    raise UserError(
                        f"site {site.name!r}: {part.parameter} has {value.shape[part.dim]} entries, and had {len(part.unit)} when the "
                        "router was made. The model was changed under it: make a new router."
                    )
                for start, stop in placed.values():
                    mine = part.belongs(start, stop).nonzero().flatten().to(value.device)
                    value.index_copy_(part.dim, mine, value.index_select(part.dim, mine) * (1 - self.dose))
                new[part.parameter] = value
        return new

    @contextmanager
    def _applied(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for site, placed in self.sites:
                if not site.parts:
                    stack.enter_context(_silenced(model, site, placed, self.dose))
            stack.enter_context(super()._applied(model))
            yield

    def bake(self, model: nn.Module) -> "Shrunk | None":
        """Take the blocks out of the weights for good, and make the model smaller where its architecture allows.

        Returns what became of the units: taken out, or left as zeros, with the reason (see
        `surgery.shrink`); None for a dose other than 1. Raises `UserError` for a site without weights
        of its own, whose features can only be silenced while the model runs.
        """
        for site, _ in self.sites:
            if not site.parts:
                raise UserError(
                    f"site {site.name!r} has no weights of its own, so there is nothing to bake: use `with cut(model): ...`, or route at a "
                    "linear layer, an MLP or an attention."
                )
        from sluicegate.routing.surgery import check_idle, shrink

        check_idle(model)
        super().bake(model)
        return shrink(model, self.sites) if self.dose == 1 else None


@contextmanager
def _silenced(model: nn.Module, site: Site, placed: Placed, dose: float) -> Iterator[None]:
    """Scale a site's features while the model runs."""
    names = tuple(placed)
    context = PassContext(policy(names, {}, {}))
    columns = tuple((start, stop, c) for c, (start, stop) in enumerate(placed.values(), start=1))
    hook = GradientHook(site, columns, context, gates=False)
    keep = torch.tensor([1.0, *[1.0 - dose] * len(names)])

    # The hook knows how a site is called; here it is always at work, and what it does is to scale.
    context.open, hook.route = True, lambda x: hook.muted(x, keep)  # type: ignore[method-assign]
    handle = hook.attach(model.get_submodule(site.hook_module), site.at)
    try:
        yield
    finally:
        handle.remove()
