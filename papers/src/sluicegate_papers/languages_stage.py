"""Two languages, one to be forgotten: routing against filtering, unlearning, and merely cutting.

Source: Cloud et al. 2024 (arXiv 2410.04332, s4.2, TinyStories) and SGTM (arXiv 2512.05648, s3, bilingual
TinyStories), at a scale that fits a laptop. Different here: the languages are second-order Markov
chains over one vocabulary, so that a perfect model's loss is known; one pass over the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.runs.trial import outcome
from sluicegate_papers.languages_arms import WAYS, loss_of
from sluicegate_papers.languages_exposure_stage import leakages
from sluicegate_papers.languages_settings import LanguagesSettings

if TYPE_CHECKING:
    from sluicegate.runs.directory import RunContext


@dataclass(frozen=True)
class Languages(LanguagesSettings):
    """One way to keep a language and lose another, with a share of the second labelled."""

    VERB: ClassVar[str] = "languages"
    MEASURES: ClassVar[Mapping[str, str]] = {
        "retain_before": "loss on the kept language before anything is cut or unlearnt, nats a token",
        "forget_before": "loss on the other language before anything is cut or unlearnt, nats a token",
        "retain_cut": "loss on the kept language after the cut (repaired where the arm is) or the unlearning, nats a token",
        "forget_cut": "loss on the other language after the cut or the unlearning, nats a token",
        "forget_relearned": "lowest loss on the other language while relearning it, over steps and rates, nats a token",
        "retain_relearned": "loss on the kept language there, nats a token",
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

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.engine.training import CrossEntropy
        from sluicegate_papers.absorption import calibrate, relearn_to_minimum

        corpus = self.corpus()
        made = WAYS[self.variant](self, corpus, run)
        model, held = made.model, corpus.held
        cut = {f"{name}_cut": loss_of(model, rows) for name, rows in held.items()}
        again = relearn_to_minimum(
            model,
            corpus.relearn,
            lambda model: loss_of(model, held["forget"]),
            beside=lambda model: {"retain": loss_of(model, held["retain"])},
            lrs=self.relearn_lrs,
            every=self.relearn_every,
            patience=self.patience,
            max_steps=self.relearn_steps,
            objective=CrossEntropy("answer"),
            seed=self.seed,
            run=run,
        )
        calibrated = calibrate(model, held["forget"], held["retain"])
        measures = {
            **(made.before or {f"{name}_before": cut[f"{name}_cut"] for name in held}),
            **cut,
            "forget_relearned": again.minimum,
            "retain_relearned": again.best.beside["retain"],
            "relearn_steps": again.best.step,
            "passed": again.passed,
            "forget_calibrated": calibrated.forget,
            "retain_calibrated": calibrated.retain,
            "forget_tokens": corpus.forget_tokens(made.seen),
            **made.absorbed,
        }
        hidden = corpus.forget_tokens(corpus.labelled(self.share, self.seed)[1])
        if self.curve and hidden:
            measures |= leakages(self.curve, {"leakage": cut["forget_cut"], "leakage_relearned": again.minimum}, hidden)
        return outcome(self, measures, flops=made.flops, curves={"relearning": again.curve()})
