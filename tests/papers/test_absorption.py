import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from architectures import learner
from sluicegate.engine.encoding import encode
from sluicegate.engine.training import CrossEntropy, token_losses
from sluicegate.errors import UserError
from sluicegate.routing.router import Router
from sluicegate.runs.directory import open_run
from sluicegate_papers.absorption import Relearning, Track, calibrate, falling, leakage, moves, relearn_to_minimum, turned

CURVE = ((0, 100, 1000, 10_000), (5.0, 4.0, 2.0, 1.0))


# ------------------------------------------------------------------------------- leakage


@pytest.mark.parametrize(
    ("loss", "tokens", "bound"),
    [
        (4.0, 100, "exactly"),  # a point of the curve
        (4.5, 50, "exactly"),  # below the first exposure: linear in tokens
        (3.0, math.sqrt(100 * 1000), "exactly"),  # between two: linear in their logarithm
        (1.0, 10_000, "exactly"),
        (0.5, 10_000, "at least"),  # lower than with all the data
        (5.0, 0, "at most"),
        (9.0, 0, "at most"),  # an objective that pushes the loss up
    ],
)
def test_a_loss_is_found_on_the_exposure_curve(loss, tokens, bound):
    found = leakage(loss, CURVE, 2000)
    assert found.tokens == pytest.approx(tokens)
    assert found.share == pytest.approx(tokens / 2000)
    assert found.bound == bound
    assert str(found).startswith(bound) == (bound != "exactly")


def test_filtering_leaks_all_that_it_did_not_discover():
    assert leakage(2.0, CURVE, 1000).share == pytest.approx(1.0)


def test_a_level_stretch_counts_with_its_fewest_tokens_and_a_rise_is_levelled():
    curve = ((0, 10, 100, 1000), (4.0, 2.0, 3.0, 1.0))  # levelled to 4, 2.5, 2.5, 1
    assert leakage(2.5, curve, 1).tokens == pytest.approx(10)
    assert leakage(2.4999, curve, 1).tokens == pytest.approx(100, rel=1e-3)


def test_the_order_of_the_points_does_not_matter():
    shuffled = tuple(tuple(values[i] for i in (2, 0, 3, 1)) for values in CURVE)
    assert leakage(3.3, shuffled, 7) == leakage(3.3, CURVE, 7)


losses = st.floats(0.1, 10, allow_nan=False)


@given(st.lists(losses, min_size=2, max_size=6), losses, losses)
def test_a_lower_loss_never_amounts_to_fewer_tokens(curve, one, other):
    tokens = (0, *(10**i for i in range(1, len(curve))))
    low, high = sorted((one, other))
    assert leakage(low, (tokens, curve), 1).tokens >= leakage(high, (tokens, curve), 1).tokens - 1e-6


@pytest.mark.parametrize(
    ("curve", "undiscovered", "said"),
    [
        (((0,), (1.0,)), 10, "two points or more"),
        (((0, 1), (1.0, math.nan)), 10, "finite"),
        (((1, 2), (2.0, 1.0)), 10, "starts at 0"),
        (((0, 2, 2), (2.0, 1.0, 1.0)), 10, "each exposure once"),
        (CURVE, 0, "all are labelled"),
    ],
)
def test_a_curve_that_cannot_be_read_is_refused(curve, undiscovered, said):
    with pytest.raises(UserError, match=said):
        leakage(1.5, curve, undiscovered)


@given(st.lists(losses, min_size=1, max_size=8))
def test_levelling_gives_the_nearest_falling_sequence(values):
    fitted = falling(values)
    assert len(fitted) == len(values)
    assert (np.diff(fitted) <= 1e-12).all()
    assert fitted.mean() == pytest.approx(np.mean(values))
    # The conditions of the least squares: no prefix can gain by moving up, none by moving down.
    assert (np.cumsum(np.asarray(values) - fitted) <= 1e-9).all()
    if (np.diff(values) <= 0).all():
        assert fitted == pytest.approx(values)


# ------------------------------------------------------------------------------- relearning


def test_a_minimum_is_passed_when_nothing_after_it_is_lower():
    assert not turned([3, 2, 1], 2)
    assert not turned([3, 1, 2], 2)
    assert turned([3, 1, 2, 1.5], 2)
    assert not turned([3, 1, 2, 0.5], 2)
    assert not turned([1, 2], 2)


def test_relearning_gives_the_lowest_of_its_rates_and_is_done_when_all_of_them_are():
    slow = Track(0.1, (0, 5, 10), (3.0, 2.5, 2.0), passed=False)
    fast = Track(0.5, (0, 5), (3.0, 2.2), passed=True)
    both = Relearning((slow, fast), 1.0)
    assert (both.minimum, both.best.step, both.passed) == (2.0, 10, False)
    assert both.curve() == ((0, 5, 10), (3.0, 2.2, 2.0))
    assert Relearning((fast,), 1.0).passed


def loss_of(model, rows):
    with torch.no_grad():
        return float(CrossEntropy()(model, {"train": rows.batch(range(len(rows)))}).value)


@pytest.fixture(scope="module")
def rows(tokenizer, split):
    return encode(tokenizer, split.forget)


def test_relearning_ends_after_its_minimum_and_leaves_the_model_alone(rows, bits):
    model, held = learner(), rows.select(range(0, len(rows), 2))
    mine, before = rows.select(range(1, 9, 2)), bits.weights(model)
    found = relearn_to_minimum(model, mine, lambda m: loss_of(m, held), lrs=(3e-3, 2e-2), batch=4, every=3, patience=2, max_steps=150)
    assert bits.same(before, bits.weights(model))
    assert found.passed
    for track in found.tracks:
        assert track.losses[0] == pytest.approx(loss_of(model, held))  # every rate begins at the model as it was
        assert track.minimum < track.losses[0] - 0.5
        assert track.steps[-1] == track.step + 2 * 3 < 150  # left as soon as two measurements brought nothing
    assert found.tracks[0].losses[1] != found.tracks[1].losses[1]
    assert found.flops > 0


def test_what_is_measured_beside_the_loss_is_that_of_the_model_with_the_lowest(rows):
    held = rows.select(range(0, len(rows), 2))
    asked = []

    def beside(model):
        asked.append(loss_of(model, held))
        return {"held": asked[-1]}

    mine = rows.select(range(1, 9, 2))
    found = relearn_to_minimum(
        learner(), mine, lambda m: loss_of(m, held), beside=beside, lrs=(3e-3, 2e-2), batch=4, every=3, patience=2, max_steps=60
    )
    for track in found.tracks:
        assert track.beside == {"held": track.minimum}
    assert len(asked) < sum(len(track.losses) for track in found.tracks)  # a model that will not be the best is not asked
    assert all(track.beside == {} for track in relearn_to_minimum(learner(), mine, lambda m: 0.0, lrs=(3e-3,), max_steps=1).tracks)


def test_a_budget_that_ends_before_the_minimum_says_so(rows):
    found = relearn_to_minimum(learner(), rows, lambda m: loss_of(m, rows), lrs=(3e-3,), every=2, patience=3, max_steps=5)
    assert found.tracks[0].steps == (0, 2, 4, 5)
    assert found.best.step == 5
    assert not found.passed


def test_a_rate_that_breaks_the_model_is_named_and_the_others_count(rows):
    def breaks(step):
        return {"train": rows.batch([0, 1])}

    found = relearn_to_minimum(learner(), breaks, lambda m: loss_of(m, rows), lrs=(1e-3, 1e30), every=1, patience=2, max_steps=4)
    assert [track.diverged for track in found.tracks] == [False, True]
    assert math.isfinite(found.minimum)


def test_relearning_that_was_killed_ends_with_the_same_numbers(rows, tmp_path):
    def attack(folder, stop_at=None):
        measured = 0

        def evaluate(model):
            nonlocal measured
            if measured == stop_at:
                raise KeyboardInterrupt
            measured += 1
            return loss_of(model, rows)

        with open_run(folder, digest="d", config={}, parents={}, environment={}, title="t", interval=0.0) as run:
            beside = {"beside": lambda model: {"again": loss_of(model, rows)}}
            budget = {"lrs": (2e-2, 5e-2), "batch": 2, "every": 1, "patience": 2, "max_steps": 40}
            return relearn_to_minimum(learner(), rows.select(range(4)), evaluate, **beside, **budget, run=run)

    whole = attack(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        attack(tmp_path / "killed", stop_at=len(whole.tracks[0].steps) - 1)
    assert attack(tmp_path / "killed") == whole


@pytest.mark.parametrize(
    ("wrong", "said"), [({"lrs": ()}, "learning rate"), ({"patience": 0}, "patience is 0"), ({"every": 0}, "every is 0")]
)
def test_a_budget_that_makes_no_sense_is_refused(rows, wrong, said):
    with pytest.raises(UserError, match=said):
        relearn_to_minimum(learner(), rows, lambda m: 0.0, **{"lrs": (1e-3,), **wrong})


# ------------------------------------------------------------------------------- gradients and calibration


def test_each_part_of_the_data_moves_what_its_label_allows(rows):
    router = Router(learner(), {"mlp_hidden": {"forget": 16}}, form="protect", joint_params="*norm*")
    batch = rows.batch(range(6))

    def loss(model, ids):
        return CrossEntropy()(model, {"train": batch}).value

    found = moves(router, {"known": (batch.ids, "forget"), "hidden": (batch.ids, "unlabelled"), "kept": (batch.ids, "retain")}, loss)
    assert found["rest", "known"] == 0 < found["forget", "known"]
    assert found["forget", "kept"] == 0 < found["rest", "kept"]
    assert found["forget", "hidden"] > 0 < found["rest", "hidden"]
    assert found["forget", "hidden"] == pytest.approx(router.report(batch.ids, loss).relative()["forget", "unlabelled"])
    with pytest.raises(UserError, match="'known' has the label 'forgotten'"):
        moves(router, {"known": (batch.ids, "forgotten")}, loss)


class Shifted(torch.nn.Module):
    """A model whose outputs are another's, with a bias over the vocabulary."""

    def __init__(self, model, bias):
        super().__init__()
        self.model, self.bias = model, bias

    def forward(self, **batch):
        answer = self.model(**batch)
        answer.logits = answer.logits + self.bias
        return answer


def test_calibration_takes_back_a_bias_and_nothing_else(rows):
    model = learner()
    bias = torch.zeros(model.config.vocab_size)
    bias[rows.ids[:, -3:].unique()] = -8.0
    forget, retain = rows.select(range(12)), rows.select(range(12, 18))
    plain = calibrate(model, forget, retain)
    shifted = calibrate(Shifted(model, bias), forget, retain)
    assert shifted.retain == pytest.approx(plain.retain, abs=0.1)
    assert shifted.forget == pytest.approx(plain.forget, abs=0.1)
    odd = forget.select(range(1, 12, 2)).batch(range(6))
    with torch.no_grad():
        raw = token_losses(Shifted(model, bias)(input_ids=odd.ids, attention_mask=odd.attention.long()).logits[:, :-1], odd)
    assert float((raw * odd.answer).sum() / odd.answer.sum()) > shifted.forget + 2
    with pytest.raises(UserError, match="at least two"):
        calibrate(model, forget.select([0]), retain)
