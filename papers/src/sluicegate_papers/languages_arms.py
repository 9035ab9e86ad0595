"""The arms of the languages trial: how a model comes to be that does not know the language to lose, or is said not
to."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from sluicegate.engine.encoding import Batch, Rows
    from sluicegate.engine.training import Objective
    from sluicegate.routing.router import Router
    from sluicegate.runs.directory import RunContext
    from sluicegate_papers.languages_settings import LanguagesSettings
    from sluicegate_papers.tasks.languages import Corpus


def loss_of(
    model: "PreTrainedModel", rows: "Rows", around: Callable[["Batch"], AbstractContextManager[None]] = lambda batch: nullcontext()
) -> float:
    """Mean cross-entropy of the rows' tokens that can be predicted, in nats."""
    import torch

    from sluicegate.engine.forward import logits
    from sluicegate.engine.training import token_losses

    was_training = model.training
    model.eval()
    total, count = 0.0, 0.0
    with torch.no_grad():
        for batch in rows.everything(128):
            with around(batch):
                total += float((token_losses(logits(model, batch), batch) * batch.answer).sum())
            count += float(batch.answer.sum())
    model.train(was_training)
    return total / count


@dataclass(frozen=True, eq=False)
class Made:
    """What an arm's method gave."""

    model: "PreTrainedModel"
    """After the cut, or the unlearning."""
    flops: float
    seen: "np.ndarray"
    """Numbers of the training rows it saw."""
    before: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Losses before the cut; empty where there is none."""
    absorbed: Mapping[str, float] = dataclasses.field(default_factory=dict)


def _plainly(trial: "LanguagesSettings", corpus: "Corpus", run: "RunContext", rows: "np.ndarray") -> Made:
    """Ordinary training on some of the rows."""
    from sluicegate.engine.sampling import Mixture, Part, seed_of
    from sluicegate.engine.training import CrossEntropy, fit

    model = trial.start(corpus)
    schedule = trial.schedule(len(rows))
    draw = Mixture(corpus.train, schedule.batch, seed_of(trial.seed, "train"), {"all": Part(rows.tolist(), 1.0)})
    fitted = fit(model, CrossEntropy("answer"), lambda step: {"train": draw(step)}, schedule, seed=trial.seed, run=run, name="train")
    return Made(model, fitted.ledger.student, rows)


def _base(trial: "LanguagesSettings", corpus: "Corpus", run: "RunContext") -> Made:
    import numpy as np

    from sluicegate.engine.models import save

    made = _plainly(trial, corpus, run, np.arange(len(corpus.train)))
    save(made.model, None, run.path / "model")
    return made


def _filter(trial: "LanguagesSettings", corpus: "Corpus", run: "RunContext") -> Made:
    import numpy as np

    hidden = corpus.labelled(trial.share, trial.seed)[1]
    return _plainly(trial, corpus, run, np.concatenate([np.arange(corpus.kept), hidden]))


def _cut(trial: "LanguagesSettings", corpus: "Corpus", run: "RunContext") -> Made:
    """The control: the same units cut out of a model that was never routed."""
    import numpy as np

    model = trial.trained_base()
    before = _before(model, corpus)
    router = trial.router(model)
    absorbed = _absorption(router, corpus)
    flops = _without(model, router) + _repair(trial, model, corpus, run)
    return Made(model, flops, np.arange(len(corpus.train)), before, absorbed)


def _routed(trial: "LanguagesSettings", corpus: "Corpus", run: "RunContext") -> Made:
    """SGTM and ERA: route, then cut; ERA repairs as well."""
    import numpy as np

    from sluicegate.engine.training import CrossEntropy
    from sluicegate.routing.train import train_routed

    model = trial.start(corpus)
    router = trial.router(model, "gate" if trial.variant == "era" else "protect")
    labels = np.full(len(corpus.train), router.labels.index("unlabelled"))
    labels[corpus.labelled(trial.share, trial.seed)[0]] = router.labels.index("forget")
    if trial.variant == "sgtm":
        sure = np.random.default_rng([trial.seed, 1]).permutation(corpus.kept)[: round(trial.confident * corpus.kept)]
        labels[sure] = router.labels.index("retain")
    fitted = train_routed(
        model,
        corpus.train,
        labels.tolist(),
        router,
        trial.schedule(len(corpus.train)),
        objective=CrossEntropy("answer"),
        seed=trial.seed,
        run=run,
        name="train",
    )
    before = _before(model, corpus)
    absorbed = _absorption(router, corpus)
    flops = fitted.ledger.student + _without(model, router)
    if trial.variant == "era":
        flops += _repair(trial, model, corpus, run)
    return Made(model, flops, np.arange(len(corpus.train)), before, absorbed)


def _demix(trial: "LanguagesSettings", corpus: "Corpus", run: "RunContext") -> Made:
    import numpy as np
    import torch

    from sluicegate.engine.sampling import Mixture, seed_of
    from sluicegate.engine.training import CrossEntropy, fit
    from sluicegate_papers.demix import Demix

    model = trial.start(corpus)
    demix = Demix(model, "mlp_hidden", ["forget"])
    labels = torch.zeros(len(corpus.train), dtype=torch.long)
    labels[corpus.labelled(trial.share, trial.seed)[0]] = 1
    schedule = trial.schedule(len(corpus.train))
    draw = Mixture(corpus.train, schedule.batch, seed_of(trial.seed, "train"))
    fitted = fit(
        model,
        CrossEntropy("answer"),
        lambda step: {"train": draw(step)},
        schedule,
        seed=trial.seed,
        run=run,
        name="train",
        around=lambda parts: demix(labels[parts["train"].index.cpu()]),
    )
    numbers = {"retain": 0, "forget": 1}

    def by_label(name: str) -> Callable[["Batch"], AbstractContextManager[None]]:
        return lambda batch: demix(torch.full((len(batch.ids),), numbers[name]))

    before = {f"{name}_before": loss_of(model, rows, by_label(name)) for name, rows in corpus.held.items()}
    demix.keep("retain")
    return Made(model, fitted.ledger.student, np.arange(len(corpus.train)), before)


def _unlearned(trial: "LanguagesSettings", corpus: "Corpus", run: "RunContext") -> Made:
    """Gradient difference and RMU, on the base; what is not labelled counts as retain data."""
    import numpy as np

    from sluicegate.engine.sampling import Mixture, seed_of
    from sluicegate.engine.training import Fitted, fit, only_train
    from sluicegate.unlearning.objectives.graddiff import GradDiff
    from sluicegate.unlearning.objectives.rmu import RMU
    from sluicegate.values.schedule import Schedule

    model = trial.trained_base()
    before = _before(model, corpus)
    labelled, hidden = corpus.labelled(trial.share, trial.seed)
    forget = corpus.train.select(labelled.tolist())
    retain = corpus.train.select([*range(corpus.kept), *hidden.tolist()])
    spent = Fitted.nothing().ledger
    only_train(model, "*")
    objective: Objective
    if trial.variant == "graddiff":
        objective = GradDiff(trial.graddiff_weight, on="answer").prepare(model, forget, retain, spent)
    else:
        objective = RMU(coefficient=trial.rmu_coefficient, retain_weight=trial.rmu_weight).prepare(model, forget, retain, spent)
    draws = {
        "forget": Mixture(forget, trial.batch, seed_of(trial.seed, "forget")),
        "retain": Mixture(retain, trial.batch, seed_of(trial.seed, "retain")),
    }
    fitted = fit(
        model,
        objective,
        lambda step: {name: draw(step) for name, draw in draws.items()},
        Schedule(steps=trial.unlearn_steps, lr=trial.unlearn_lr, batch=trial.batch, warmup=trial.unlearn_steps // 10),
        seed=trial.seed,
        run=run,
        name="unlearn",
    )
    return Made(model, fitted.ledger.total + spent.total, np.arange(len(corpus.train)), before)


WAYS: dict[str, Callable[["LanguagesSettings", "Corpus", "RunContext"], Made]] = {
    "base": _base,
    "filter": _filter,
    "cut": _cut,
    "sgtm": _routed,
    "era": _routed,
    "demix": _demix,
    "graddiff": _unlearned,
    "rmu": _unlearned,
}


def _before(model: "PreTrainedModel", corpus: "Corpus") -> dict[str, float]:
    return {f"{name}_before": loss_of(model, rows) for name, rows in corpus.held.items()}


def _absorption(router: "Router", corpus: "Corpus") -> dict[str, float]:
    """How much more unlabelled rows move the forget block than the rest, for rows of either side."""
    from sluicegate.engine.training import CrossEntropy
    from sluicegate_papers.absorption import moves

    objective = CrossEntropy("answer")
    parts = {name: (rows.batch(range(min(len(rows), 128))), "unlabelled") for name, rows in corpus.held.items()}
    relative: dict[tuple[str, str], float] = {}
    for name, (batch, label) in parts.items():

        def loss(model: Any, ids: Any, batch: "Batch" = batch) -> Any:
            return objective(model, {"train": batch}).value

        relative |= moves(router, {name: (batch.ids, label)}, loss)
    return {
        "absorption": relative["forget", "forget"] / relative["rest", "forget"],
        "absorption_retain": relative["forget", "retain"] / relative["rest", "retain"],
    }


def _without(model: "PreTrainedModel", router: "Router") -> float:
    """Take the forget block and the router off the model, in place."""
    edit = router.ablate("forget")
    router.remove()
    edit.bake(model)
    return 0.0


def _repair(trial: "LanguagesSettings", model: "PreTrainedModel", corpus: "Corpus", run: "RunContext") -> float:
    """Train on a few retain rows up to the step at which other retain rows have their lowest loss; return the FLOPs."""
    from sluicegate.engine.sampling import Mixture, seed_of
    from sluicegate.engine.training import CrossEntropy, fit
    from sluicegate.values.schedule import Schedule
    from sluicegate_papers.absorption import relearn_to_minimum

    draw = Mixture(corpus.repair, trial.batch, seed_of(trial.seed, "repair"))
    objective = CrossEntropy("answer")

    def batches(step: int) -> dict[str, "Batch"]:
        return {"train": draw(step)}

    searched = relearn_to_minimum(
        model,
        batches,
        lambda model: loss_of(model, corpus.choose),
        lrs=[trial.repair_lr],
        every=2,
        patience=4,
        max_steps=trial.repair_steps,
        objective=objective,
        seed=trial.seed,
        run=run,
        name="repair search",
    )
    if not searched.best.step:
        return searched.flops
    schedule = Schedule(steps=searched.best.step, lr=trial.repair_lr, batch=trial.batch)
    fitted = fit(model, objective, batches, schedule, seed=trial.seed, run=run, name="repair")
    return searched.flops + fitted.ledger.student
