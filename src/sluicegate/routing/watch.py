"""Watching: the activations at sites, collected so that a penalty on them can join any model's loss."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sluicegate.deprecated import renamed
from sluicegate.errors import UserError
from sluicegate.routing.penalties import Penalty
from sluicegate.routing.sites import At, Extent, Site, find, place


class Collector:
    """What passed by the watched sites since it was last asked for."""

    def __init__(self, sites: Sequence[tuple[Site, dict[str, tuple[int, int]]]]) -> None:
        self.sites = tuple(sites)
        self.taken: dict[str, list[Tensor]] = {site.name: [] for site, _ in self.sites}
        """By site, one [..., d] a forward pass, the units' features last."""

    def clear(self) -> None:
        """Forget what passed by."""
        for taken in self.taken.values():
            taken.clear()

    def penalty(
        self, penalties: Penalty | Sequence[Penalty], step_share: float = 1.0, *, real: Tensor | Sequence[Tensor] | None = None
    ) -> Tensor:
        """Return the sum of the penalties over all sites, and begin anew.

        Several forward passes count as one batch. `real` ([b, t] or [b], one tensor a forward pass)
        leaves out rows or tokens that are padding. Raises `UserError` where nothing passed by.
        """
        wanted = [penalties] if callable(penalties) else list(penalties)
        masks = [real] if isinstance(real, Tensor) else real
        try:
            found = [p(self._rows(site, masks), self._features(site, placed), step_share) for site, placed in self.sites for p in wanted]
        finally:
            self.clear()
        return torch.stack(found).sum() if found else torch.zeros(())

    def _rows(self, site: Site, masks: Sequence[Tensor] | None) -> Tensor:
        """[n, d] all rows (and tokens) at a site."""
        taken = self.taken[site.name]
        if not taken:
            raise UserError(
                f"nothing passed by the site {site.name!r} with gradients on since the last penalty. Run the model inside the block first; "
                "under gradient checkpointing use the kind that is not reentrant (use_reentrant=False)."
            )
        if masks is None:
            return torch.cat([z.reshape(-1, z.shape[-1]) for z in taken])
        if len(masks) != len(taken):
            raise UserError(f"real holds {len(masks)} mask(s), but {len(taken)} forward pass(es) went by {site.name!r}. Give one for each.")
        return torch.cat([_masked(site, z, mask) for z, mask in zip(taken, masks, strict=True)])

    @staticmethod
    def _features(site: Site, placed: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """The blocks in features, of which a head has several."""
        return {name: (start * site.width, stop * site.width) for name, (start, stop) in placed.items()}


def _masked(site: Site, z: Tensor, mask: Tensor) -> Tensor:
    if tuple(z.shape[: mask.dim()]) != tuple(mask.shape):
        raise UserError(f"site {site.name!r}: real is {tuple(mask.shape)}, but the activations are {tuple(z.shape)}.")
    return z[mask.to(z.device).bool()].reshape(-1, z.shape[-1])


@renamed(sites="modules")
@contextmanager
def watch(
    model: nn.Module,
    modules: Mapping[str, Mapping[str, Extent]],
    *,
    at: At = "auto",
    routed: bool = False,
    dim: int | None = None,
) -> Iterator[Collector]:
    """Collect the activations at sites for the length of a block.

    ::

        with watch(model, {"encoder": {"high": 16}}) as seen:
            for step, x in enumerate(batches):
                loss = mse(model(x), x) + seen.penalty([L1(warmup=0.25), Correlation()], step / steps)

    `modules`, `at` and `dim` are the router's. Hooks go on once, and nothing is kept of passes without
    gradients, or of the model's copies. Leave the block only after `backward`.

    A penalty's gradient goes round a router's gate: every row quietens every unit, which is what
    splits the blocks (in the paper's runs too), and the one thing that rows of a block do to the rest.
    With `routed` the penalty is on what comes out of the gate instead, and obeys the labels; make the
    router first. The parameter form (form="protect") holds penalties back as well.
    """
    places = [(site, place(site, dict(blocks))) for pattern, blocks in modules.items() for site in find(model, pattern, at, dim)]
    names = [site.name for site, _ in places]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the site {twice!r} is matched by two patterns. Name all its blocks in one place.")
    seen = Collector(places)
    with ExitStack() as stack:
        for site in (site for site, _ in places):
            stack.callback(_hook(model.get_submodule(site.hook_module), site, seen.taken[site.name], prepend=not routed).remove)
        stack.callback(seen.clear)
        yield seen


def _hook(watched: nn.Module, site: Site, taken: list[Tensor], *, prepend: bool) -> RemovableHandle:
    def keep(module: nn.Module, x: Any) -> None:
        # A copy of the model carries this hook too; and in a backward pass the forward is only computed again.
        if module is not watched or not torch.is_grad_enabled() or torch._C._current_graph_task_id() != -1:
            return
        x = x[0] if isinstance(x, tuple) else x
        if not isinstance(x, Tensor):
            raise UserError(
                f"site {site.name!r} gives a {type(x).__name__}; only a tensor, or a tuple that starts with one, can be watched."
            )
        taken.append(x.movedim(site.axis(x.shape), -1))

    def on_input(module: nn.Module, args: tuple[Any, ...]) -> None:
        keep(module, args)

    def on_output(module: nn.Module, args: Any, output: Any) -> None:
        keep(module, output)

    if site.at == "input":
        return watched.register_forward_pre_hook(on_input, prepend=prepend)
    return watched.register_forward_hook(on_output, prepend=prepend)
