"""The part of a model that a steering vector can change: from the module it is added to, up to a target or the logits.

What lies before is computed once; a pass over b vectors runs only the layers behind it, for all of them at once.
"""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sluicegate.engine.forward import hidden_of, hooked, with_hidden
from sluicegate.errors import UserError
from sluicegate.steering.vector import check_tokens, module_of, steered


class _Reached(Exception):
    """The target has been computed: the rest of the pass is not needed."""

    def __init__(self, output: Tensor) -> None:
        self.output = output


class Slice:
    """One prompt, and the layers of a model from `source` on.

    ::

        part = Slice(model, ids, source="model.layers.10", target="model.layers.15")
        part.target(values)        # [b, s, d'] the target's output, with values[i] added at the source in row i
        part.logits(values, 13)    # [b, 13, V] of the last 13 positions

    `ids` [s] are the tokens, `tokens` says which are steered (see `SteeringVector`). What lies before the source is
    cached where the model is a list of layers that are called one after the other; what a slice gives is compared with
    the whole model once, and where they differ the whole model is run; `skips` says so where it is known from another
    slice of the same model. Gradients flow to `values`; the model's own weights get none.
    """

    def __init__(
        self, model: nn.Module, ids: Tensor, *, source: str, target: str = "", tokens: str = "not_first", skips: bool | None = None
    ) -> None:
        self.model, self.ids, self.source, self.target_path = model, ids.reshape(1, -1).to(next(model.parameters()).device), source, target
        check_tokens(tokens)
        _check_length(model, self.ids.shape[1])
        self._source = module_of(model, source)
        self._target = module_of(model, target) if target else None
        place = torch.arange(self.ids.shape[1])[None]
        self.where = steered(tokens, place, begun=False)[0].to(self.ids.device)
        """[s] which positions are steered."""
        self._bypassed = self._layers()
        self._kept: Tensor | None = None
        self._tuple = False
        head = getattr(model, "get_output_embeddings", None)
        self._head: nn.Module | None = head() if callable(head) else None
        self._few = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._record()
        self.cached = bool(self._bypassed) and (self._agrees() if skips is None else skips)
        """Whether what lies before the source is skipped."""
        if target:
            self._check_target()

    def _layers(self) -> list[nn.Module]:
        """The layers before the one that holds the source, with it where it is the source itself."""
        names = self.source.split(".")
        for depth in range(len(names) - 1, 0, -1):
            parent = module_of(self.model, ".".join(names[:depth]))
            if isinstance(parent, nn.ModuleList) and names[depth].isdigit():
                number, inside = int(names[depth]), depth + 1 < len(names)
                return [*parent[: number if inside else number + 1]]
        return []

    def _record(self) -> None:
        kept: list[Any] = []
        edge = self._bypassed[-1] if self._bypassed else self._source
        with torch.no_grad(), hooked(edge, lambda _, __, output: kept.append(output)):
            self._run(None, 1, last=1)
        if not kept:
            raise UserError(f"{self.source!r} was not run: this model does not call it on text.")
        self._tuple = isinstance(kept[-1], tuple)
        self._kept = hidden_of(kept[-1])
        if self._kept.dim() != 3:
            raise UserError(
                f"the output of {self.source!r} is {tuple(self._kept.shape)}, not [rows, tokens, width]; steer a layer, or a part of one."
            )

    @torch.no_grad()
    def _check_target(self) -> None:
        probe = torch.ones(1, self.width, device=self.ids.device)
        if torch.equal(self.target(probe), self.target(0 * probe)):
            raise UserError(f"the target {self.target_path!r} does not lie behind the source {self.source!r}: no vector there changes it.")

    @torch.no_grad()
    def _agrees(self) -> bool:
        probe = torch.ones(1, self.width, device=self.ids.device) * float(self._kept.norm(dim=-1).median()) / self.width  # type: ignore[union-attr]
        self.cached = True
        fast = self._run(probe, 1, last=1)
        self.cached = False
        whole = self._run(probe, 1, last=1)
        return bool(torch.allclose(fast, whole, atol=1e-3, rtol=1e-3))

    @property
    def width(self) -> int:
        """Numbers in a vector that is added at the source: its output's, unless the module says otherwise."""
        size = getattr(self._source, "out_features", getattr(self._source, "nf", None))
        return int(self._kept.shape[-1] if size is None else size)  # type: ignore[union-attr]

    @contextmanager
    def _skipping(self, rows: int) -> Iterator[None]:
        """Layers before the source give back what they are given; the last of them what is cached."""
        kept = self._kept.expand(rows, -1, -1)  # type: ignore[union-attr]

        def passing(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            return (hidden,) if self._tuple else hidden

        def giving(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            return (kept,) if self._tuple else kept

        own = [module.__dict__.get("forward") for module in self._bypassed]
        try:
            for module in self._bypassed:
                module.forward = giving if module is self._bypassed[-1] else passing
            yield
        finally:
            for module, forward in zip(self._bypassed, own, strict=True):
                if forward is None:
                    del module.forward
                else:
                    module.forward = forward

    def _run(self, values: Tensor | None, rows: int, *, last: int = 0, stop: bool = False) -> Tensor:
        def add(module: nn.Module, args: Any, output: Any) -> Any:
            return with_hidden(output, hidden_of(output) + values[:, None] * self.where[:, None])  # type: ignore[index]

        def end(module: nn.Module, args: Any, output: Any) -> None:
            raise _Reached(hidden_of(output))

        with ExitStack() as stack:
            if values is not None:
                stack.enter_context(hooked(self._source, add))
                if self.cached:
                    stack.enter_context(self._skipping(rows))
            if stop and self._target is not None:
                stack.enter_context(hooked(self._target, end))
            if self._head is not None:  # torch multiplies a slice of positions row by row, at several times the cost
                handle = self._head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
                stack.callback(handle.remove)
            keep = {"logits_to_keep": last} if self._few and last else {}
            try:
                answer = self.model(input_ids=self.ids.expand(rows, -1), use_cache=False, **keep)
            except _Reached as reached:
                return reached.output
        logits: Tensor = answer.logits
        return logits[:, -last:] if last else logits

    def logits(self, values: Tensor, last: int = 0) -> Tensor:
        """[b, last, V] next-token logits of the last positions (0: all), ``values[i]`` [d] added in row i."""
        return self._run(self._checked(values), len(values), last=last)

    def target(self, values: Tensor) -> Tensor:
        """[b, s, d'] the target's output, with ``values[i]`` added at the source in row i."""
        if self._target is None:
            raise UserError("this slice was made without a target; give target=, the path of a module behind the source.")
        return self._run(self._checked(values), len(values), stop=True)

    def _checked(self, values: Tensor) -> Tensor:
        if values.dim() != 2 or values.shape[1] != self.width:
            raise UserError(f"vectors of shape {tuple(values.shape)} at {self.source!r}; expected [b, {self.width}].")
        return values.to(self.ids.device)


def _check_length(model: nn.Module, tokens: int) -> None:
    config = getattr(model, "config", None)
    most = getattr(config.get_text_config(), "max_position_embeddings", None) if config is not None else None
    if most and tokens > most:
        raise UserError(f"the prompt and its answer have {tokens} tokens, and this model has {most} positions. Shorten the prompt.")
