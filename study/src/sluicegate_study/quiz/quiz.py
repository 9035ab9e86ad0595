"""The quiz: a causal language model is asked the questions of a deck, clue by clue, and chooses among a closed set of
answers.

"Forgotten" is seldom all or nothing: it may only mean that two more clues are needed. After each clue every candidate
answer is scored by its log-probability after all that was read; what follows from the scores is in `quiz_measures`. The
clues of a question are read once, and every answer is scored from there (`quiz.scoring`); the numbers are those of the
whole rows, up to rounding.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.engine.encoding import Rows, encode, fitting
from sluicegate.values.items import Item
from sluicegate_study.errors import UserError
from sluicegate_study.quiz.deck import Asked
from sluicegate_study.quiz.measures import Answers, Array
from sluicegate_study.quiz.scoring import Scorer, Way, suiting

if TYPE_CHECKING:
    from sluicegate.runs.directory import Progress

FRAME = "Question: {clues}\nAnswer:"
"""How a question is put; the answer follows after a blank."""
LONGEST = 4096
"""Tokens of a question at most, where the model has no limit of its own."""


def quiz(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    *,
    frame: str = FRAME,
    template: bool = False,
    way: Way | Literal["auto"] = "auto",
    title: str = "quiz",
    progress: "Progress | None" = None,
) -> Answers:
    """Score every candidate answer of every question after every clue, and after none.

    `frame` says where the clues stand in the prompt; with `template` the prompt is the user's turn of a chat. `way` is
    one of `quiz.scoring` (auto: the fastest that agrees with whole rows on the first clue). Raises `UserError` for a
    frame without {clues}, for a question that is longer than the model reads, and for an answer that its tokenizer
    cannot represent."""
    return Sheet(tokenizer, asked, frame, template, fitting(model, LONGEST)).ask(model, way=way, title=title, progress=progress)


class Sheet:
    """Questions as token ids: encoded once, asked of as many models as have the tokenizer. The options are those of
    `quiz`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        asked: Sequence[Asked],
        frame: str = FRAME,
        template: bool = False,
        longest: int = LONGEST,
    ) -> None:
        if "{clues}" not in frame:
            raise UserError(f"the frame is {frame!r}: expected a text with {{clues}} where the clues go, for example {FRAME!r}.")
        if not asked:
            raise UserError("there are no questions to ask.")
        self.tokenizer, self.asked, self.frame, self.template, self.longest = tokenizer, tuple(asked), frame, template, longest
        self._rows: dict[tuple[str, int], Rows] = {}

    def rows(self, question: Asked, read: int) -> Rows:
        """One row for each candidate, after so many clues."""
        key = (question.key, read)
        if key not in self._rows:
            prompt = _prompt(self.frame, question.clues[:read])
            items = [Item(prompt, answer if prompt[-1:].isspace() else f" {answer}") for answer in question.candidates]
            self._rows[key] = encode(self.tokenizer, items, max_length=self.longest, template=self.template)
        return self._rows[key]

    def ask(
        self,
        model: PreTrainedModel,
        asked: Sequence[Asked] | None = None,
        *,
        way: Way | Literal["auto"] = "auto",
        title: str = "quiz",
        progress: "Progress | None" = None,
    ) -> Answers:
        """Ask a model all questions, or some of them."""
        chosen = self.asked if asked is None else tuple(asked)
        priors: dict[tuple[str, ...], Array] = {}
        logp, lengths, prior = [], [], []
        was_training = model.training
        model.eval()
        with torch.inference_mode():
            few = [self.rows(chosen[0], read).select([0, 1]) for read in (0, 1)]
            score = suiting(model, few) if way == "auto" else Scorer(model, way)
            for number, question in enumerate(chosen):
                if progress is not None:
                    progress(title, number, len(chosen), {})
                new = question.candidates not in priors
                rows = [self.rows(question, read) for read in range(1, len(question.clues) + 1)]
                found = [one.numpy().astype(float) for one in score([*rows, self.rows(question, 0)] if new else rows)]
                if new:
                    priors[question.candidates] = found.pop()
                logp.append(np.stack(found))
                lengths.append((rows[0].lengths - rows[0].starts).numpy().astype(float))
                prior.append(priors[question.candidates])
        if progress is not None:
            progress(title, len(chosen), len(chosen), {})
        model.train(was_training)
        return Answers(chosen, tuple(logp), tuple(lengths), tuple(prior), way=score.way)


def _prompt(frame: str, clues: Sequence[str]) -> str:
    text = " ".join(clues)
    if text:
        return frame.replace("{clues}", text)
    before, _, after = frame.partition("{clues}")
    return (before.rstrip(" ") if after[:1].isspace() or not after else before) + after or " "
