"""Replay: a small network learns lecture after lecture, and a few rows of every step go to what it learnt before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sluicegate.errors import UserError
from sluicegate.runs.stage import setting
from sluicegate.runs.trial import Trial, outcome
from sluicegate.values.ranges import Count, Width
from sluicegate.values.schedule import Schedule

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from sluicegate.engine.training import Fitted, Loss
    from sluicegate.runs.directory import RunContext

KINDS = ("homog", "heterog")
BUDGETS = (2, 8)


@dataclass(frozen=True)
class ReplayTrial(Trial):
    """Lectures of facts, one after the other; final recall of all facts, by which of the old ones were replayed.

    A fact is a random vector and a class. In `homog` all classes are drawn at random; in `heterog` those of every other
    fact follow one linear rule, so that these are easy. A step holds `batch` rows of the current lecture and 2 or 8
    replayed ones; where a policy replays fewer (none, or in the first lecture), the current lecture fills up, so that
    every arm has the same rows, steps and FLOPs of training. Grading is free: a row's loss is that of the pass that
    trains it. The oracle alone computes more, which `extra` counts."""

    VERB: ClassVar[str] = "replay"
    MEASURES: ClassVar[dict[str, str]] = {
        "homog_2": "recall of all facts at the end, facts alike, 2 rows replayed a step",
        "heterog_2": "the same, half of the facts easy",
        "homog_8": "recall of all facts at the end, facts alike, 8 rows replayed a step",
        "heterog_8": "the same, half of the facts easy",
        "hard_2": "of heterog_2, the facts with classes at random",
        "easy_2": "of heterog_2, the facts that follow the rule",
        "hard_8": "of heterog_8, the facts with classes at random",
        "easy_8": "of heterog_8, the facts that follow the rule",
        "extra": "FLOPs spent on choosing what to replay, as a share of those of training",
    }

    variant: Literal["none", "uniform", "round_robin", "leitner", "half_life", "stale_loss", "oracle"] = setting("uniform", was="arm")
    """Which policy chooses (see sluicegate_papers.replay_policies)."""
    lectures: Count = 12
    """Lectures, each with as many steps."""
    facts: Count = 20
    """Facts of a lecture."""
    inputs: Width = 16
    """Length of a fact's vector."""
    classes: Count = 10
    """Classes."""
    width: Width = 64
    """Hidden units of the one layer."""
    schedule: Schedule = Schedule(steps=1200, lr=3e-3, batch=16, beta2=0.999, clip=0.0)

    def is_wide(self) -> bool:
        return False

    def run(self, run: "RunContext") -> dict[str, Any]:
        for name, least in (("lectures", 2), ("facts", 1), ("inputs", 1), ("classes", 2), ("width", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{self.VERB}: {name} is {getattr(self, name)}; it must be at least {least}.")
        if self.schedule.steps % self.lectures:
            raise UserError(
                f"{self.VERB}: {self.schedule.steps} steps cannot be shared evenly by {self.lectures} lectures; "
                f"use {self.schedule.steps // self.lectures * self.lectures or self.lectures}."
            )
        measured: dict[str, float] = {}
        spent = extra = 0.0
        cells = [(kind, budget) for kind in KINDS for budget in BUDGETS]
        for number, (kind, budget) in enumerate(cells):
            run.progress(run.title, number, len(cells), measured)
            lesson = _Lesson(self, kind, budget)
            fitted = lesson.fit()
            found = lesson.recall()
            measured[f"{kind}_{budget}"] = float(found.mean())
            if kind == "heterog":
                measured |= {f"easy_{budget}": float(found[::2].mean()), f"hard_{budget}": float(found[1::2].mean())}
            run.log({"part": f"{kind} {budget}", "recall": measured[f"{kind}_{budget}"]})
            spent, extra = spent + fitted.ledger.total, extra + lesson.extra
        return outcome(self, measured | {"extra": extra / spent}, flops=spent + extra)


@dataclass(frozen=True)
class _Batch:
    """Rows of one step: facts by number, new ones first."""

    step: int
    items: "Tensor"
    total: int

    def split(self, parts: int) -> "list[_Batch]":
        return [_Batch(self.step, items, self.total) for items in self.items.tensor_split(parts)]


class _Lesson:
    """One course of lectures: its facts, its network, and what is replayed."""

    def __init__(self, trial: ReplayTrial, kind: str, budget: int) -> None:
        import numpy as np
        import torch

        from sluicegate.engine.models import device
        from sluicegate.engine.sampling import seed_of
        from sluicegate_papers.replay_policies import Replay

        self.trial, self.budget = trial, budget
        self.n = trial.lectures * trial.facts
        self.steps_each = trial.schedule.steps // trial.lectures
        draw = np.random.default_rng(seed_of(trial.seed, "facts"))  # the same facts for every policy and budget
        vectors, labels = draw.standard_normal((self.n, trial.inputs)), draw.integers(0, trial.classes, self.n)
        if kind == "heterog":
            rule = draw.standard_normal((trial.inputs, trial.classes))
            labels[::2] = (vectors[::2] @ rule).argmax(1)
        self.x = torch.from_numpy(vectors).float().to(device())
        self.y = torch.from_numpy(labels).to(device())
        self.model = _net(trial, seed_of(trial.seed, "net")).to(device())
        self.replay = Replay(trial.variant, self.n, seed=seed_of(trial.seed, "replay"), losses=self._losses)
        self.order = seed_of(trial.seed, "order")
        self.extra = 0.0

    def fit(self) -> "Fitted":
        from sluicegate.engine.training import fit
        from sluicegate.runs.directory import RunContext

        # In memory: what a policy knows is its history, so half of a run cannot be gone on with.
        return fit(self.model, self._loss, self._batches, self.trial.schedule, seed=self.trial.seed, run=RunContext(), meter=self._flops)

    def _batches(self, step: int) -> dict[str, _Batch]:
        import numpy as np
        import torch

        start = step // self.steps_each * self.trial.facts
        old = self.replay.draw(step, self.budget, range(start))
        size = self.trial.schedule.batch + self.budget - len(old)
        random = np.random.default_rng([self.order, step])
        rounds = [random.permutation(self.trial.facts) for _ in range(-(-size // self.trial.facts))]
        new = start + np.concatenate(rounds)[:size]
        items = torch.from_numpy(np.concatenate([new, np.array(old, dtype=np.int64)]))
        return {"train": _Batch(step, items, len(items))}

    def _loss(self, model: Any, batches: Any) -> "Loss":
        from torch.nn.functional import cross_entropy

        from sluicegate.engine.training import Loss

        batch: _Batch = batches["train"]
        out = model(self.x[batch.items])
        each = cross_entropy(out, self.y[batch.items], reduction="none")
        right = out.argmax(1) == self.y[batch.items]
        self.replay.saw(batch.step, batch.items.tolist(), right.tolist(), each.tolist())
        return Loss(each.sum() / batch.total)

    def _losses(self, items: Sequence[int]) -> list[float]:
        """For the oracle: what every item of the buffer costs now; a pass of its own, which is counted."""
        import torch
        from torch.nn.functional import cross_entropy

        self.extra += self._per_row() * len(items)
        with torch.no_grad():
            found: list[float] = cross_entropy(self.model(self.x[list(items)]), self.y[list(items)], reduction="none").tolist()
        return found

    def recall(self) -> "np.ndarray":
        """[facts] whether each is right."""
        import torch

        with torch.no_grad():
            found: np.ndarray = (self.model(self.x).argmax(1) == self.y).cpu().numpy().astype(float)
        return found

    def _per_row(self) -> float:
        return 2.0 * self.trial.width * (self.trial.inputs + self.trial.classes)

    @property
    def _flops(self) -> Callable[[Any], float]:
        return lambda batch: self._per_row() * len(batch.items)


def _net(trial: ReplayTrial, seed: int) -> "nn.Module":
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(trial.inputs, trial.width), nn.ReLU(), nn.Linear(trial.width, trial.classes))
