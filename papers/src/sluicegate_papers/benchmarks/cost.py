"""What audit and UNDO cost at a size that nobody trained here: FLOPs, and time on devices of a stated speed.

FLOPs are the ledger's: a model of the wanted shape is made without weights (see `engine.memory.shape`) and handed to
the `Meter` that every run is charged by; a step of training is charged three forward passes a batch, as `fit` does, and
a frozen model's passes one. Compared with measured runs by ``sluicegate bench scaling --measure``.
"""

from dataclasses import dataclass

from sluicegate.audit.attack import Attack
from sluicegate.engine.memory import Shape
from sluicegate.engine.training import Ledger
from sluicegate.errors import UserError

DAY = 86400 * 1e15
"""FLOPs of a PFLOP/s-day."""


@dataclass(frozen=True)
class Work:
    """One stage: how many steps of what size, and the passes that the ledger charges for each."""

    name: str
    steps: int
    rows: int
    """Rows of a batch."""
    length: int
    """Tokens of a row."""
    batches: int = 1
    """Batches of a step on which the model is trained: two for suppression, forget and retain."""
    frozen: int = 0
    """Forward passes of a frozen model over a batch in every step: a teacher's."""
    times: int = 1
    """How often all of it is done: learning rates, seeds, models."""
    scored: int = 0
    """Rows that are scored each time in all, which the ledger keeps apart."""

    def __post_init__(self) -> None:
        for name in ("steps", "rows", "length", "batches", "times"):
            if (value := getattr(self, name)) < 1:
                raise UserError(f"{self.name}: {name} is {value}; it must be at least 1.")

    @property
    def tokens(self) -> int:
        """Tokens that are trained on, all times together."""
        return self.times * self.steps * self.batches * self.rows * self.length


def spent(model: Shape, work: Work) -> Ledger:
    """What the ledger will say after `work`, in FLOPs: exact where all rows have the stated length."""
    one = model.forward(work.rows, work.length)
    steps = work.times * work.steps
    evaluation = work.times * model.forward(work.scored, work.length) if work.scored else 0.0
    return Ledger(student=3 * steps * work.batches * one, teacher=steps * work.frozen * one, evaluation=evaluation)


def attacked(attack: Attack, width: int, length: int, *, scored: int, models: int = 1, seeds: int = 1) -> Work:
    """The work of a relearning attack on so many models and seeds; `scored` rows are looked at after each checkpoint.

    Every learning rate trains anew, and every checkpoint scores. An audit attacks the model, its reference, and the
    model again with retain rows: three.
    """
    looks = len(attack.checkpoints_within()) * scored
    return Work("attack", attack.steps, attack.batch, length, times=len(attack.rates(width)) * models * seeds, scored=looks)


def device_hours(flops: float, throughput: float) -> float:
    """Hours of one device that sustains `throughput` FLOP/s; of N devices, in all, as many."""
    if not throughput > 0:
        raise UserError(f"the throughput is {throughput:g}; it is what a device sustains in FLOP/s, for example 1e14.")
    return flops / throughput / 3600


def paper(pretraining: float) -> tuple[Work, ...]:
    """The stages of Lee et al. 2025 (arXiv 2506.06278) on two languages, for `pretraining` tokens, half of them of the
    forget set.

    From the authors' settings: 400 rows of 2048 tokens a step for pretraining, 240 for distilling, 4 and 100 steps for
    MaxEnt, and for the attack ten learning rates of 500 steps of 8 rows, scored every 5. Ours: distilling takes one
    pass over the mixture, UNDO .7 of the filtered model's tokens (the paper says 60 to 80 %), and 100 rows are scored
    at a time.
    """
    rates = tuple(float(f"{m}e{e}") for e, ms in ((-3, (1,)), (-4, (7, 4, 1)), (-5, (7, 5, 1)), (-6, (7, 4, 1))) for m in ms)
    attack = Attack(lrs=rates, steps=500, batch=8, checkpoints=tuple(range(0, 501, 5)))

    def steps(tokens: float, rows: int) -> int:
        return max(round(tokens / (rows * 2048)), 1)

    return (
        Work("base", steps(pretraining, 400), 400, 2048),
        Work("never knew (gold)", steps(pretraining / 2, 400), 400, 2048),
        Work("suppress (MaxEnt)", 100, 4, 2048, batches=2),
        Work("distil, fresh", steps(pretraining, 240), 240, 2048, frozen=1),
        Work("UNDO", steps(0.7 * pretraining / 2, 240), 240, 2048, frozen=1),
        attacked(attack, 64, 2048, scored=100),
    )


def audit() -> Work:
    """`sluicegate audit` as it comes: three seeds, three attacks, rows of 256 tokens, 300 of them scored at each
    checkpoint."""
    return attacked(Attack(), 64, 256, scored=300, models=3, seeds=3)
