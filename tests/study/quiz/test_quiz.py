import pytest
import torch

import quiz_toy
from architectures import CONFIGS, build
from sluicegate.engine.encoding import encode, fitting
from sluicegate.engine.scoring import score
from sluicegate.engine.train import train
from sluicegate.unlearning.objectives.maxent import MaxEnt
from sluicegate.unlearning.unlearn import unlearn
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule
from sluicegate_study.errors import UserError
from sluicegate_study.quiz import scoring as quiz_scoring
from sluicegate_study.quiz.deck import Asked, by
from sluicegate_study.quiz.measures import Reading, compare
from sluicegate_study.quiz.quiz import FRAME, quiz

MIXED = (
    Asked("a", "", ("ann has 3", "plums finds 4", "now bo has 7 shells"), ("7", "8 9", "1 2 3", "8 1"), (True, False, False, False)),
    Asked("b", "", ("ann has 5", "plums"), ("7", "8 9", "1 2 3", "8 1"), (False, True, False, False)),
    Asked("c", "", ("the old fox",), ("12", "7"), (True, False)),
)


@pytest.mark.parametrize("way", ["tree", "cache"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_what_is_shared_changes_no_number(name, way, tokenizer):
    """The issue's 1e-4, on every architecture; a model with a window of tokens refuses the tree."""
    model = build(name)
    expected = quiz(model, tokenizer, MIXED, frame=quiz_toy.FRAME, way="rows")
    if way == "tree" and name in ("mistral", "gemma2"):
        with pytest.raises(ValueError, match="window"):
            quiz(model, tokenizer, MIXED, frame=quiz_toy.FRAME, way=way)
        return
    found = quiz(model, tokenizer, MIXED, frame=quiz_toy.FRAME, way=way)
    for one, other in zip(found.logp + found.prior, expected.logp + expected.prior, strict=True):
        assert abs(one - other).max() < 1e-4


def test_the_scores_are_those_of_the_library(tokenizer):
    """Against `score`, which knows nothing of quizzes: the probability of each whole answer."""
    model = build("llama")
    found = quiz(model, tokenizer, MIXED, frame="{clues} left")
    for asked, logp, prior in zip(MIXED, found.logp, found.prior, strict=True):
        for read in range(len(asked.clues) + 1):
            prompt = " ".join([*asked.clues[:read], "left"])
            rows = encode(tokenizer, [Item(prompt, f" {c}") for c in asked.candidates])
            expected = score(model, rows).probability.log().numpy()
            assert abs((logp[read - 1] if read else prior) - expected).max() < 1e-4


def test_the_fastest_way_that_agrees_is_taken(tokenizer, monkeypatch):
    assert quiz(build("llama"), tokenizer, MIXED, frame=quiz_toy.FRAME).way == "tree"
    assert quiz(build("mistral"), tokenizer, MIXED, frame=quiz_toy.FRAME).way == "cache"
    real = quiz_scoring.Scorer._tree
    monkeypatch.setattr(quiz_scoring.Scorer, "_tree", lambda self, many: [x + 0.01 for x in real(self, many)])
    assert quiz(build("llama"), tokenizer, MIXED, frame=quiz_toy.FRAME).way == "cache"
    monkeypatch.setattr(quiz_scoring, "_alike", lambda one, other: min(len(one), len(other)))  # keeps what is no longer so
    assert quiz(build("llama"), tokenizer, MIXED, frame=quiz_toy.FRAME).way == "rows"


def test_a_recurrent_model_is_asked_row_by_row(tokenizer):
    model = build("llama")
    model._is_stateful = True
    assert quiz(model, tokenizer, MIXED, frame=quiz_toy.FRAME).way == "rows"


def test_each_prefix_is_read_once(tokenizer):
    """A question costs about its own tokens and those of its answers, not its clues times its answers."""
    model = build("llama")
    seen = []
    hook = model.model.layers[0].mlp.register_forward_hook(lambda m, i, out: seen.append(out.shape[0] * out.shape[1]))
    long = [Asked("a", "", tuple(["ann has 3 plums"] * 8), ("7", "8", "9", "10"), (True, False, False, False))]
    quiz(model, tokenizer, long, frame=quiz_toy.FRAME, way="tree")
    tree = sum(seen)
    seen.clear()
    quiz(model, tokenizer, long, frame=quiz_toy.FRAME, way="cache")
    cache = sum(seen)
    seen.clear()
    quiz(model, tokenizer, long, frame=quiz_toy.FRAME, way="rows")
    hook.remove()
    clue, clues = 4, 8
    # BOS, the clues, and after each of them (and none) the frame's "=": an answer of one token needs no pass of its
    # own.
    assert tree == 1 + clue * clues + clues + 1
    assert cache <= tree + clues + 1
    assert sum(seen) > 10 * tree


def test_the_model_is_left_as_it_was(tokenizer, bits):
    model = build("llama").train()
    before = bits.weights(model)
    quiz(model, tokenizer, MIXED, frame=quiz_toy.FRAME)
    assert model.training
    assert bits.same(before, bits.weights(model))


def test_progress_is_told(tokenizer):
    told = []
    quiz(build("llama"), tokenizer, MIXED, frame=quiz_toy.FRAME, title="it", progress=lambda *what: told.append(what[:3]))
    assert told == [("it", 0, 3), ("it", 1, 3), ("it", 2, 3), ("it", 3, 3)]


def test_mistakes(tokenizer):
    model = build("gpt2")
    with pytest.raises(UserError, match=r"\{clues\}"):
        quiz(model, tokenizer, MIXED, frame="Question:")
    with pytest.raises(UserError, match="no questions"):
        quiz(model, tokenizer, [])
    with pytest.raises(UserError, match="cannot represent"):
        quiz(model, tokenizer, [Asked("a", "", ("ann",), ("Vienna", "7"), (True, False))])
    endless = [Asked("a", "", ("ann " * fitting(model, 1000),), ("8", "7"), (True, False))]
    with pytest.raises(UserError, match="more than the 64 allowed"):
        quiz(model, tokenizer, endless)
    assert "{clues}" in FRAME


def test_unlearned_and_relearned():
    """Suppressed, recall of the forgotten side falls and the other stays; a few steps of relearning bring it back."""
    torch.manual_seed(0)
    base, tokenizer = quiz_toy.knowing()
    asked, rows = quiz_toy.asked(), quiz_toy.split()
    sides = by(asked, "category")
    suppressed, _ = unlearn(base, tokenizer, rows, MaxEnt(), Schedule(steps=60, lr=2e-3, batch=24), seed=1)
    relearned, _ = unlearn(suppressed, tokenizer, rows, MaxEnt(), Schedule(steps=1, lr=1e-9, batch=2), seed=1)  # a copy
    train(relearned, tokenizer, rows.forget, Schedule(steps=30, lr=3e-3, batch=24), seed=2)
    before, after, again = (Reading(quiz(m, tokenizer, asked, frame=quiz_toy.FRAME), "raw") for m in (base, suppressed, relearned))
    assert before.area.mean() > 0.55  # .25 after the name, 1 after the thing
    assert before.right[:, 1].mean() == 1
    fallen = compare(before, after, sides["forget"], level=0.6)
    assert fallen.auc.high < -0.2
    assert fallen.bound == "at most"
    assert fallen.savings.value < -0.2
    kept = compare(before, after, sides["retain"], level=0.6)
    assert abs(kept.auc.value) <= 0.05
    back = compare(before, again, sides["forget"], level=0.6)
    assert back.auc.value > -0.1
    assert compare(after, again, sides["forget"]).auc.low > 0.2
