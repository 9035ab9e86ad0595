"""Two languages, one to be forgotten: routing against filtering, unlearning, and merely cutting.

Source: Cloud et al. 2024 (arXiv 2410.04332, s4.2, TinyStories) and SGTM (arXiv 2512.05648, s3, bilingual
TinyStories), at a scale that fits a laptop. Different here: the languages are second-order Markov
chains over one vocabulary, so that a perfect model's loss is known; one pass over the data.
"""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.errors import UserError
from sluicegate.runs.identity import source
from sluicegate.trials import Trial, outcome

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from sluicegate.models import Batch, Rows
    from sluicegate.routing.router import Router
    from sluicegate.runs.room import Room
    from sluicegate.schedule import Schedule
    from sluicegate.tasks.languages import Corpus
    from sluicegate.training import Objective

ARMS = ("base", "filter", "cut", "sgtm", "era", "demix", "graddiff", "rmu")
FROM_BASE = ("cut", "graddiff", "rmu")
SITES = ("mlp_hidden", "heads")


@dataclass(frozen=True)
class Languages(Trial):
    """One way to keep a language and lose another, with a share of the second labelled."""

    VERB: ClassVar[str] = "languages"
    MEASURES: ClassVar[Mapping[str, str]] = {
        "retain_before": "loss on the kept language before anything is cut or unlearnt, nats a token",
        "forget_before": "loss on the other language before anything is cut or unlearnt, nats a token",
        "retain_cut": "loss on the kept language after the cut (repaired where the arm is) or the unlearning, nats a token",
        "forget_cut": "loss on the other language after the cut or the unlearning, nats a token",
        "forget_relearned": "lowest loss on the other language while relearning it, over steps and rates, nats a token",
        "relearn_steps": "steps of relearning at which that was reached",
        "passed": "1 where relearning went on until the minimum lay behind under every rate, 0 where the budget ended before",
        "forget_calibrated": "forget_cut with the best bias over the vocabulary, nats a token",
        "retain_calibrated": "retain_cut with that bias, nats a token",
        "forget_tokens": "tokens of the other language that training saw",
        "leakage": "share of the undiscovered tokens that standard training needs for forget_cut",
        "leakage_bound": "-1 where that is at most so much, 1 where at least, 0 where exactly",
        "leakage_relearned": "the same for forget_relearned",
        "leakage_relearned_bound": "-1 where that is at most so much, 1 where at least, 0 where exactly",
        "absorption": "relative gradient norm of the forget block over the rest's, on unlabelled forget rows",
        "absorption_retain": "the same on unlabelled retain rows",
    }

    arm: Literal["", "base", "filter", "cut", "sgtm", "era", "demix", "graddiff", "rmu"] = ""
    """base (learns everything), filter (without the labelled forget rows), cut (base, units cut without routing), sgtm, era, demix,
    graddiff or rmu (both on base)."""
    share: float = 1.0
    """Share of the forget rows that is labelled; every method takes the others for unlabelled or retain rows."""
    base: str = source("run")
    """The finished run of the arm base: where cut, graddiff and rmu start."""
    curve: str = source("run")
    """The finished run of languages-exposure, for leakage; without, there is none."""
    retain: str = source("data")
    """Your own text to keep (TXT or JSONL), in place of the first language."""
    forget: str = source("data")
    """Your own text to lose, in place of the second."""
    model: str = source("model")
    """A model to train on your texts with its own tokenizer; without, a new one that reads bytes."""
    rows: int = 12000
    """Rows of training, of which a third are to be forgotten; with texts at most so many."""
    length: int = 32
    """Tokens a row."""
    width: int = 128
    """Hidden size of the model."""
    layers: int = 2
    """Layers of the model."""
    heads: int = 4
    """Attention heads of a layer."""
    hidden: int = 512
    """MLP units of a layer."""
    forget_units: int = 96
    """How many of a layer's MLP units are the forget block's."""
    forget_heads: int = 1
    """How many of a layer's heads are the forget block's."""
    batch: int = 32
    """Rows a step."""
    lr: float = 3e-3
    """Peak learning rate of training."""
    confident: float = 0.25
    """sgtm: share of the retain rows that is labelled so, and computed without the forget block."""
    rest_weight: float = -0.5
    """era: by what the gradient of labelled forget rows on the rest is multiplied."""
    repair_lr: float = 5e-4
    """cut and era: learning rate of the repair on a few retain rows after the cut."""
    repair_steps: int = 40
    """cut and era: most steps of that repair; it ends where the retain loss is lowest."""
    unlearn_steps: int = 80
    """graddiff and rmu: steps of unlearning."""
    unlearn_lr: float = 1e-3
    """graddiff and rmu: learning rate of unlearning."""
    graddiff_weight: float = 1.0
    """graddiff: weight of the retain loss."""
    rmu_coefficient: float = 40.0
    """rmu: length of the vector that forget rows are steered to."""
    rmu_weight: float = 20.0
    """rmu: weight of keeping the retain rows' hidden states."""
    held_out: int = 256
    """Rows of either language that losses are measured on."""
    relearn_rows: int = 64
    """Forget rows that relearning uses; as many retain rows for the repair."""
    relearn_lrs: tuple[float, ...] = (5e-4, 2e-3)
    """Learning rates of relearning."""
    relearn_steps: int = 300
    """Most steps of relearning."""
    relearn_every: int = 5
    """Steps between two measurements while relearning."""
    patience: int = 6
    """Measurements without a new minimum after which relearning ends."""

    @property
    def method(self) -> str:
        return f"{self.arm}-{self.share:g}" if self.arm not in ("base", "cut") else self.arm

    def is_wide(self) -> bool:
        return bool(self.model) or self.width >= 256

    def resolved(self) -> Self:
        if not self.arm:
            raise UserError(f"which arm? Give --arm, one of {', '.join(ARMS)}.")
        if self.arm in FROM_BASE and not self.base:
            raise UserError(f"the arm {self.arm} starts from a finished run of the arm base; name its folder in --base.")
        if not 0 < self.share <= 1:
            raise UserError(f"share is {self.share:g}; it is a share of the forget rows, above 0 and at most 1.")
        if bool(self.retain) != bool(self.forget):
            raise UserError("of your two texts only one is given; hand in both --retain and --forget, or neither.")
        if self.model and not self.retain:
            raise UserError("a model with its own tokenizer needs texts; hand in --retain and --forget with --model.")
        return self

    def run(self, room: "Room") -> dict[str, Any]:
        from sluicegate.routing.absorption import calibrate, relearn_to_minimum
        from sluicegate.training import CrossEntropy

        corpus = self.corpus()
        made = _WAYS[self.arm](self, corpus, room)
        model, held = made.model, corpus.held
        cut = {f"{name}_cut": loss_of(model, rows) for name, rows in held.items()}
        again = relearn_to_minimum(
            model,
            corpus.relearn,
            lambda model: loss_of(model, held["forget"]),
            lrs=self.relearn_lrs,
            every=self.relearn_every,
            patience=self.patience,
            max_steps=self.relearn_steps,
            objective=CrossEntropy("answer"),
            seed=self.seed,
            room=room,
        )
        calibrated = calibrate(model, held["forget"], held["retain"])
        measures = {
            **(made.before or {f"{name}_before": cut[f"{name}_cut"] for name in held}),
            **cut,
            "forget_relearned": again.minimum,
            "relearn_steps": again.best.step,
            "passed": again.passed,
            "forget_calibrated": calibrated.forget,
            "retain_calibrated": calibrated.retain,
            "forget_tokens": corpus.forget_tokens(made.seen),
            **made.absorbed,
        }
        hidden = corpus.forget_tokens(corpus.labelled(self.share, self.seed)[1])
        if self.curve and hidden:
            measures |= _leakages(self.curve, {"leakage": cut["forget_cut"], "leakage_relearned": again.minimum}, hidden)
        return outcome(self, measures, flops=made.flops, curves={"relearning": again.curve()})

    def corpus(self) -> "Corpus":
        """The rows of the two languages, or of the user's two texts."""
        from sluicegate.tasks import read
        from sluicegate.tasks.languages import BYTES, byte_rows, two_languages, two_texts
        from sluicegate.tasks.languages import Languages as Task

        if not self.retain:
            return two_languages(Task(length=self.length, seed=self.seed), self.rows, self.held_out, self.relearn_rows)
        items = {"retain": read(self.retain, "retain"), "forget": read(self.forget, "forget")}
        if self.model:
            from sluicegate.models import encode, load_tokenizer

            tokenizer = load_tokenizer(self.model)
            texts = {name: encode(tokenizer, own, max_length=self.length) for name, own in items.items()}
            return two_texts(texts, self.rows, self.held_out, self.relearn_rows, self.seed, len(tokenizer))
        texts = {name: byte_rows(own, self.length) for name, own in items.items()}
        return two_texts(texts, self.rows, self.held_out, self.relearn_rows, self.seed, BYTES)

    def start(self, corpus: "Corpus") -> "PreTrainedModel":
        """The model before any training: a new one, or the user's."""
        from sluicegate.models import fresh, load

        if self.model:
            return load(self.model, seed=self.seed)[0]
        from transformers import LlamaConfig

        return fresh(
            LlamaConfig(
                vocab_size=corpus.vocabulary,
                hidden_size=self.width,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                num_key_value_heads=self.heads,
                intermediate_size=self.hidden,
                max_position_embeddings=2 * self.length,
                bos_token_id=None,
                eos_token_id=None,
            ),
            self.seed,
        )

    def trained_base(self) -> "PreTrainedModel":
        """The finished base model."""
        from transformers import AutoModelForCausalLM

        from sluicegate.models import device, locate
        from sluicegate.runs.room import result_of

        if result_of(self.base).get("method") != "base":
            raise UserError(f"{self.base!r} is no run of the arm base of languages. Run that arm first.")
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(locate(self.base), use_safetensors=True)
        model.to(device())  # type: ignore[arg-type]
        return model

    def router(self, model: "PreTrainedModel", form: Literal["gate", "protect"] = "protect") -> "Router":
        """The router whose block "forget" is the model's last units and heads."""
        from sluicegate.routing.router import Router

        sites = {"mlp_hidden": {"forget": self.forget_units}, "heads": {"forget": self.forget_heads}}
        if form == "gate":
            return Router(model, sites, form="gate", weights={"forget": self.rest_weight})
        return Router(model, sites, form="protect", joint=_joint(model))

    def schedule(self, rows: int) -> "Schedule":
        """One pass over so many rows."""
        from sluicegate.schedule import Schedule

        steps = max(rows // self.batch, 1)
        return Schedule(steps=steps, lr=self.lr, batch=self.batch, warmup=min(50, steps // 5), decay="cosine")


def loss_of(
    model: "PreTrainedModel", rows: "Rows", around: Callable[["Batch"], AbstractContextManager[None]] = lambda batch: nullcontext()
) -> float:
    """Mean cross-entropy of the rows' tokens that can be predicted, in nats."""
    import torch

    from sluicegate.models import logits
    from sluicegate.training import token_losses

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


# ------------------------------------------------------------------------------- the arms


@dataclass(frozen=True, eq=False)
class _Made:
    """What an arm's method gave."""

    model: "PreTrainedModel"
    """After the cut, or the unlearning."""
    flops: float
    seen: "np.ndarray"
    """Numbers of the training rows it saw."""
    before: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Losses before the cut; empty where there is none."""
    absorbed: Mapping[str, float] = dataclasses.field(default_factory=dict)


def _plainly(trial: Languages, corpus: "Corpus", room: "Room", rows: "np.ndarray") -> _Made:
    """Ordinary training on some of the rows."""
    from sluicegate.sampling import Mixture, Part, seed_of
    from sluicegate.training import CrossEntropy, fit

    model = trial.start(corpus)
    schedule = trial.schedule(len(rows))
    draw = Mixture(corpus.train, schedule.batch, seed_of(trial.seed, "train"), {"all": Part(rows.tolist(), 1.0)})
    fitted = fit(model, CrossEntropy("answer"), lambda step: {"train": draw(step)}, schedule, seed=trial.seed, room=room, name="train")
    return _Made(model, fitted.ledger.student, rows)


def _base(trial: Languages, corpus: "Corpus", room: "Room") -> _Made:
    import numpy as np

    from sluicegate.models import save

    made = _plainly(trial, corpus, room, np.arange(len(corpus.train)))
    save(made.model, None, room.path / "model")
    return made


def _filter(trial: Languages, corpus: "Corpus", room: "Room") -> _Made:
    import numpy as np

    hidden = corpus.labelled(trial.share, trial.seed)[1]
    return _plainly(trial, corpus, room, np.concatenate([np.arange(corpus.kept), hidden]))


def _cut(trial: Languages, corpus: "Corpus", room: "Room") -> _Made:
    """The control: the same units cut out of a model that was never routed."""
    import numpy as np

    model = trial.trained_base()
    before = _before(model, corpus)
    router = trial.router(model)
    absorbed = _absorption(router, corpus)
    flops = _without(model, router) + _repair(trial, model, corpus, room)
    return _Made(model, flops, np.arange(len(corpus.train)), before, absorbed)


def _routed(trial: Languages, corpus: "Corpus", room: "Room") -> _Made:
    """SGTM and ERA: route, then cut; ERA repairs as well."""
    import numpy as np

    from sluicegate.routing.train import train_routed
    from sluicegate.training import CrossEntropy

    model = trial.start(corpus)
    router = trial.router(model, "gate" if trial.arm == "era" else "protect")
    labels = np.full(len(corpus.train), router.labels.index("unlabelled"))
    labels[corpus.labelled(trial.share, trial.seed)[0]] = router.labels.index("forget")
    if trial.arm == "sgtm":
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
        room=room,
        name="train",
    )
    before = _before(model, corpus)
    absorbed = _absorption(router, corpus)
    flops = fitted.ledger.student + _without(model, router)
    if trial.arm == "era":
        flops += _repair(trial, model, corpus, room)
    return _Made(model, flops, np.arange(len(corpus.train)), before, absorbed)


def _demix(trial: Languages, corpus: "Corpus", room: "Room") -> _Made:
    import numpy as np
    import torch

    from sluicegate.routing.demix import Demix
    from sluicegate.sampling import Mixture, seed_of
    from sluicegate.training import CrossEntropy, fit

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
        room=room,
        name="train",
        around=lambda parts: demix(labels[parts["train"].index.cpu()]),
    )
    numbers = {"retain": 0, "forget": 1}

    def by_label(name: str) -> Callable[["Batch"], AbstractContextManager[None]]:
        return lambda batch: demix(torch.full((len(batch.ids),), numbers[name]))

    before = {f"{name}_before": loss_of(model, rows, by_label(name)) for name, rows in corpus.held.items()}
    demix.keep("retain")
    return _Made(model, fitted.ledger.student, np.arange(len(corpus.train)), before)


def _unlearned(trial: Languages, corpus: "Corpus", room: "Room") -> _Made:
    """Gradient difference and RMU, on the base; what is not labelled counts as retain data."""
    import numpy as np

    from sluicegate.sampling import Mixture, seed_of
    from sluicegate.schedule import Schedule
    from sluicegate.training import Fitted, fit, only_train
    from sluicegate.unlearning.objectives.graddiff import GradDiff
    from sluicegate.unlearning.objectives.rmu import RMU

    model = trial.trained_base()
    before = _before(model, corpus)
    labelled, hidden = corpus.labelled(trial.share, trial.seed)
    forget = corpus.train.select(labelled.tolist())
    retain = corpus.train.select([*range(corpus.kept), *hidden.tolist()])
    spent = Fitted.nothing().ledger
    only_train(model, "*")
    objective: Objective
    if trial.arm == "graddiff":
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
        room=room,
        name="unlearn",
    )
    return _Made(model, fitted.ledger.total + spent.total, np.arange(len(corpus.train)), before)


_WAYS: dict[str, Callable[[Languages, "Corpus", "Room"], _Made]] = {
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


def _joint(model: "PreTrainedModel") -> list[str]:
    """Embeddings and norms learn from every row, as in the bilingual runs of SGTM."""
    from torch import nn

    found = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding) or "norm" in type(module).__name__.lower():
            found += [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
    return found


def _absorption(router: "Router", corpus: "Corpus") -> dict[str, float]:
    """How much more unlabelled rows move the forget block than the rest, for rows of either side."""
    from sluicegate.routing.absorption import moves
    from sluicegate.training import CrossEntropy

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


def _repair(trial: Languages, model: "PreTrainedModel", corpus: "Corpus", room: "Room") -> float:
    """Train on a few retain rows up to the step at which other retain rows have their lowest loss; return the FLOPs."""
    from sluicegate.routing.absorption import relearn_to_minimum
    from sluicegate.sampling import Mixture, seed_of
    from sluicegate.schedule import Schedule
    from sluicegate.training import CrossEntropy, fit

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
        room=room,
        name="repair search",
    )
    if not searched.best.step:
        return searched.flops
    schedule = Schedule(steps=searched.best.step, lr=trial.repair_lr, batch=trial.batch)
    fitted = fit(model, objective, batches, schedule, seed=trial.seed, room=room, name="repair")
    return searched.flops + fitted.ledger.student


# ------------------------------------------------------------------------------- exposure


@dataclass(frozen=True)
class Exposure(Trial):
    """The losses of standard training by how much forget data it saw, gathered from runs of base and filter."""

    VERB: ClassVar[str] = "languages-exposure"
    MEASURES: ClassVar[Mapping[str, str]] = {
        "points": "runs that the curve was gathered from",
        "most_tokens": "forget tokens of the run that saw most",
    }

    point_1: str = source("run")
    """A finished run of languages, arm base or filter; one has to have seen no forget data (share 1)."""
    point_2: str = source("run")
    """Another."""
    point_3: str = source("run")
    """Another."""
    point_4: str = source("run")
    """Another."""
    point_5: str = source("run")
    """Another."""
    point_6: str = source("run")
    """Another."""
    point_7: str = source("run")
    """Another."""
    point_8: str = source("run")
    """Another."""

    @property
    def method(self) -> str:
        return ""

    def is_wide(self) -> bool:
        return False

    def resolved(self) -> Self:
        if len(self.sources("run")) < 2:
            raise UserError(
                "an exposure curve needs two runs or more; name finished runs of the arms base and filter in --point-1, --point-2."
            )
        return self

    def run(self, room: "Room") -> dict[str, Any]:
        from sluicegate.runs.room import result_of

        points = []
        for folder in self.sources("run").values():
            found = result_of(folder)
            if found.get("verb") != Languages.VERB or found.get("method", "").split("-")[0] not in ("base", "filter"):
                raise UserError(f"{folder!r} is no run of the arm base or filter of languages.")
            points.append([found["measures"][name] for name in ("forget_tokens", "forget_cut", "forget_relearned")])
        tokens, raw, again = zip(*sorted(points), strict=True)
        curves = {"exposure": (tokens, raw), "exposure_relearned": (tokens, again)}
        return outcome(self, {"points": len(points), "most_tokens": tokens[-1]}, flops=0.0, curves=curves)


def _leakages(folder: str, losses: Mapping[str, float], hidden: float) -> dict[str, float]:
    """Leakage and its bound, of a raw and of a relearned loss."""
    from sluicegate.routing.absorption import leakage
    from sluicegate.runs.room import result_of

    curves = result_of(folder)["curves"]
    if "exposure" not in curves:
        raise UserError(f"{folder!r} holds no exposure curve: it is no run of languages-exposure.")
    found: dict[str, float] = {}
    for name, loss in losses.items():
        curve = curves["exposure_relearned" if name.endswith("relearned") else "exposure"]
        leaked = leakage(loss, (curve["x"], curve["y"]), hidden)
        found |= {name: leaked.share, f"{name}_bound": {"at most": -1.0, "exactly": 0.0, "at least": 1.0}[leaked.bound]}
    return found
