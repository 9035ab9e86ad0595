"""Training under a router: the one loop, with each row's label beside it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from torch import Tensor

from sluicegate.deprecated import renamed
from sluicegate.engine.encoding import Batch, Rows
from sluicegate.engine.models import width
from sluicegate.engine.sampling import Mixture, Part, seed_of
from sluicegate.engine.training import Batches, CrossEntropy, Evaluation, Fitted, Objective, fit
from sluicegate.errors import UserError
from sluicegate.routing.labels import Labels
from sluicegate.routing.router import Router
from sluicegate.routing.rules import Rule, bind
from sluicegate.runs.directory import RunContext
from sluicegate.values.schedule import Schedule, training_rate

Naming = Callable[[Batch], Labels]
"""Labels of a batch, made when it is drawn: by a rule, or by any call."""


@renamed(sites="params")
def train_routed(
    model: Any,
    rows: Rows,
    labels: Tensor | Sequence[str] | Naming | Rule,
    router: Router,
    schedule: Schedule,
    *,
    objective: Objective | None = None,
    parts: dict[str, Part] | None = None,
    seed: int = 0,
    params: str = "*",
    run: RunContext | None = None,
    name: str = "route",
    evaluation: Evaluation | None = None,
    without: Callable[[Batch], Sequence[str]] | None = None,
) -> Fitted:
    """Train `model` in place on `rows`, each routed by its label; return what it cost.

    `labels` holds one label a row (n,) or a token (n, s), names or numbers of `router.labels`, or is a
    rule (`routing.rules`), or any call from a batch to labels. `parts` fixes the composition of a batch
    (see `sampling.Mixture`); without, every row comes once an epoch. Rows of one label are put side by
    side, which saves the parameter form a copy. `params` are globs over full parameter names, joined by
    commas: what is trained at all. `without` gives the blocks that a batch is computed without (see
    `Router.__call__`). The optimiser is guarded: what no row may train keeps its value, bitwise.

    Before anything is trained, one batch is run under every label; raises `UserError` naming each
    parameter that is protected from a label and still gets gradient from it.
    """
    objective = objective or CrossEntropy()
    if isinstance(labels, Rule):
        labels = bind(labels, router)
    named = labels if callable(labels) else _lookup(router, labels, len(rows))
    sort = None if callable(labels) else router.index(labels)
    draw = Mixture(rows, schedule.batch, seed_of(seed, "train"), parts)

    def batches(step: int) -> Batches:
        batch = draw(step)
        if sort is None or sort.dim() != 1 or sort.is_floating_point():
            return {"train": batch}
        order = sort[batch.index.cpu()].argsort(stable=True).to(batch.ids.device)
        return {"train": _reordered(batch, order)}

    first = batches(0)
    router.verify(first["train"].ids, lambda model, _: objective(model, first).value)

    def around(parts: Batches) -> AbstractContextManager[None]:
        batch = parts["train"]
        return router(named(batch), without=without(batch) if without else ())

    return fit(
        model,
        objective,
        batches,
        schedule.or_rate(training_rate(width(model))) if not schedule.lr else schedule,
        seed=seed,
        run=run or RunContext(),
        name=name,
        params=params,
        evaluation=evaluation,
        around=around,
        guard=router.guard,
    )


def _lookup(router: Router, labels: Tensor | Sequence[str], count: int) -> Naming:
    index = router.index(labels)
    if len(index) != count:
        raise UserError(f"there are {len(index)} labels for {count} rows. Give one a row.")

    def named(batch: Batch) -> Tensor:
        own = index[batch.index.cpu()]
        return own if own.dim() == 1 or own.is_floating_point() else own[:, : batch.ids.shape[1]]

    return named


def _reordered(batch: Batch, order: Tensor) -> Batch:
    return replace(batch, ids=batch.ids[order], attention=batch.attention[order], answer=batch.answer[order], index=batch.index[order])
