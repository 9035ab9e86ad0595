from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sluicegate.audit.attackers import Attacker, CannotAttack, spread
from sluicegate.values.ranges import Count

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from sluicegate.audit.target import Target, Trace


@dataclass(frozen=True)
class Patch(Attacker):
    """Put the original's hidden states into the model behind one layer (unlearning depth), or the model's into it.

    Effort is the number of layers that are the original's: the first ones with ``--into model``, whose last layers are
    then the model's own; the last ones with ``--into original``. The layer from which answers come back is as deep as
    unlearning went. The original's own layers know the facts, so much comes back in any model whose hidden states it
    understands: compare with a reference that began from the same weights as the original.
    """

    NAME = "patch"
    UNIT = "layers of the original"
    SOURCE = "2605.24614"
    NEEDS: ClassVar[tuple[str, ...]] = ("original",)

    into: Literal["model", "original"] = "model"
    """Whose last layers go on from the other's hidden states."""
    depths: Count = 12
    """Layers tried, at most, evenly spread."""

    def traces(self, target: "Target") -> "Iterator[Trace]":
        from dataclasses import replace

        from sluicegate.audit.target import Trace, layers

        original = target.original()  # type: ignore[misc]
        original.eval().requires_grad_(False)
        host, giver = (target.model, original) if self.into == "model" else (original, target.model)
        number, widths = len(layers(host)), {m.config.get_text_config().hidden_size for m in (host, giver)}
        if len(layers(giver)) != number or len(widths) > 1:
            raise CannotAttack("the original has layers of another number or width than the model, so their hidden states do not fit.")
        if number < 2:
            raise CannotAttack("the model has one layer, so there is none to go on from the original's hidden states.")
        trace, seen = Trace(f"into the {self.into}"), replace(target, model=host)
        trace.add(0.0, target.read())
        for n in sorted(number - 1 - left for left in spread(number - 1, self.depths)):
            behind = n if self.into == "model" else number - n
            before = target.ledger.evaluation
            with _patched(host, giver, behind - 1):
                trace.add(float(n), seen.read())
            target.ledger.teacher += target.ledger.evaluation - before  # the giver computes as much
        yield trace

    def passes(self, owned: int, held_out: int) -> float:
        return (owned + held_out) * (1.0 + 2 * self.depths)


@contextmanager
def _patched(host: "PreTrainedModel", giver: "PreTrainedModel", number: int) -> Iterator[None]:
    """Have the giver's hidden states behind layer `number` (from 0) in place of the host's, for a block."""
    from sluicegate.audit.target import layers
    from sluicegate.engine.forward import hidden_of, hooked, with_hidden

    given: list[Any] = []

    def ask(module: "nn.Module", args: Any, kwargs: Any) -> None:
        given.clear()
        with hooked(layers(giver)[number], lambda m, a, out: given.append(hidden_of(out))):
            _decoder(giver)(*args, **kwargs)

    # On the decoder, so that the output layer is still seen to be plain (see `engine.losses`).
    handle = _decoder(host).register_forward_pre_hook(ask, with_kwargs=True)
    try:
        with hooked(layers(host)[number], lambda m, a, out: with_hidden(out, given[0].to(hidden_of(out)))):
            yield
    finally:
        handle.remove()


def _decoder(model: "PreTrainedModel") -> "nn.Module":
    """The module that has the layers, and is given the tokens."""
    from sluicegate.audit.target import layers

    first = layers(model)[0]
    return next(m for m in model.modules() if any(first in list(child.children()) for child in m.children()))
