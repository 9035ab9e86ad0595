"""Rules: what makes labels from data. One file each, found by looking.

A rule is a frozen dataclass in a file of this folder, or in a module that another package names
under the entry-point group ``sluicegate.plugins``. Its ``NAME`` is what it is called by. Files here
import torch inside their functions only.

::

    named = bind(Tokens({"forget": [" tree"]}, tokenizer), router)
    with router(named(batch)):
        ...

`sluicegate.routing.views` says what a batch may be.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from sluicegate.errors import called
from sluicegate.registry import classes
from sluicegate.routing.views import checked, view

if TYPE_CHECKING:
    from torch import Tensor

    from sluicegate.routing.router import Router


@runtime_checkable
class Rule(Protocol):
    """What a rule has to offer."""

    NAME: ClassVar[str]

    def __call__(self, batch: Any, labels: Sequence[str]) -> "Tensor":
        """Return the batch's labels: numbers into `labels` (a router's), a row (b,) or a token (b, t); or shares, with
        labels last.

        `batch` is anything that `views.view` takes. The answer is a pure function of both.
        """
        ...


def rules() -> dict[str, type[Rule]]:
    """Every rule that can be found, by name."""
    return classes("rules", "NAME", _labels_batches)


def _labels_batches(cls: type) -> bool:
    """Whether instances are called with a batch and labels, which tells a rule from a plugin of another kind."""
    call = cls.__dict__.get("__call__")
    return call is not None and {"batch", "labels"} <= set(inspect.signature(call).parameters)


def rule(name: str) -> type[Rule]:
    """The rule called `name`; raises `UserError` that lists what there is."""
    return called("rule", name, rules())


def bind(rule: Rule, router: "Router | Sequence[str]") -> "Callable[[Any], Tensor]":
    """Make a rule into a call from a batch to labels of this router (or of these label names).

    What it returns goes to ``router(...)``, to ``late.label(...)`` inside ``router.delayed()``, and as `labels`
    to `train_routed`. Raises `UserError`, when called, for labels that do not fit the batch or the router.
    """
    names = tuple(router) if isinstance(router, Sequence) else router.labels

    def named(batch: Any) -> "Tensor":
        seen = view(batch)
        return checked(rule(seen, names), seen, names, rule.NAME)

    return named
