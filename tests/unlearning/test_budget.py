import math

import numpy as np
import pytest

from architectures import learner
from sluicegate.engine.train import train
from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.execution.show import stage_results
from sluicegate.runs.directory import result_of
from sluicegate.runs.stage import from_config
from sluicegate.unlearning.budget import LADDER, MOST, SURE, Tried, calibrate, choose, fit_law
from sluicegate.unlearning.distill import StopRule, distill
from sluicegate.values.schedule import Schedule
from tiny_stages import material


def on_the_law(alphas, a=2.0, b=2.0):
    return [Tried(alpha, round(math.exp(a - b * math.log(1 - alpha))), True) for alpha in alphas]


# ------------------------------------------------------------------------------------------ the law


def test_the_law_finds_what_the_points_were_made_by():
    law = fit_law(on_the_law((0.3, 0.5, 0.7, 0.8), a=3.0), interval=5)
    assert law.steps(0.6) == pytest.approx(math.exp(3) / 0.4**2, rel=0.02)
    assert law.spread(0.95) > law.spread(0.6) > law.scatter > 0, "the further from what was tried, the less is known"
    assert law.chance(0.6, 1e6) > 0.99 > 0.5 > law.chance(0.6, law.steps(0.6) / 2)
    assert law.chance(0.6, law.steps(0.6)) == pytest.approx(0.5)


def test_points_that_lie_off_the_line_make_it_less_sure():
    straight = on_the_law((0.3, 0.5, 0.7), a=3.0)
    crooked = [straight[0], Tried(0.5, 2 * straight[1].steps, True), straight[2]]
    assert fit_law(crooked, 5).scatter > fit_law(straight, 5).scatter > 0.1


def test_what_was_there_at_the_first_look_is_left_out_where_there_is_enough_else():
    later = on_the_law((0.5, 0.6, 0.7), a=3.0)
    assert fit_law([Tried(0.2, 5, True), *later], 5) == fit_law(later, 5)
    assert fit_law([Tried(0.2, 5, True), later[0]], 5) is not None
    assert fit_law([Tried(0.2, 5, True)], 5) is None


def test_what_was_not_reached_makes_the_line_steeper_and_never_flatter():
    reached = on_the_law((0.3, 0.5), a=3.0)
    beyond = Tried(0.7, 10 * round(math.exp(3) / 0.3**2), False)
    short = Tried(0.7, 10, False)
    assert fit_law([*reached, beyond], 5).steps(0.7) > 2 * fit_law(reached, 5).steps(0.7)
    assert fit_law([*reached, short], 5) == fit_law(reached, 5), "stopped before it was due: nothing is learnt from it"


def test_more_noise_is_never_less_to_mend():
    law = fit_law([Tried(0.3, 60, True), Tried(0.6, 30, True)], 5)
    assert law.b == 0
    assert law.steps(0.9) == pytest.approx(math.sqrt(60 * 30))


# --------------------------------------------------------------------------------------- the choice


def test_a_larger_budget_buys_a_larger_alpha_and_each_is_as_sure_as_it_says():
    tried = on_the_law((0.3, 0.5, 0.7), a=3.0)
    chosen = [choose(tried, n, 5)[0] for n in (60, 150, 600, 10**7)]
    assert chosen == sorted(set(chosen))
    assert chosen[-1] == MOST
    for n, alpha in zip((150, 600), chosen[1:3], strict=True):
        law = fit_law(tried, 5)
        assert law.chance(alpha, n) >= SURE > law.chance(alpha + 0.01, n)


def test_its_sureness_is_borne_out_by_draws_from_the_law():
    """The steps of a new run keep within the budget about as often as it says."""
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(400):
        alphas = (0.3, 0.4, 0.5, 0.6, 0.7)
        tried = [Tried(a, round(math.exp(4 - 2 * math.log(1 - a) + 0.25 * rng.standard_normal())), True) for a in alphas]
        alpha, _ = choose(tried, 1500, 5)
        if alpha < MOST:
            kept.append(math.exp(4 - 2 * math.log(1 - alpha) + 0.25 * rng.standard_normal()) <= 1500)
    assert len(kept) > 200
    assert SURE - 0.07 < float(np.mean(kept)) < SURE + 0.13


def test_where_there_is_no_line_the_largest_that_was_reached_is_taken():
    assert choose([Tried(0.2, 20, True), Tried(0.3, 25, False)], 30, 5) == (0.2, None)
    with pytest.raises(UserError, match=r"leaves 10 steps, and in the calibration alpha 0.2 took 20.*Raise --budget"):
        choose([Tried(0.2, 20, True)], 10, 5)
    with pytest.raises(UserError, match=r"20 were not enough for alpha 0.2.*--budget"):
        choose([Tried(0.2, 20, False)], 100, 5)


# ----------------------------------------------------------------------------------- for real, briefly


@pytest.fixture(scope="module")
def teacher(tokenizer, split):
    model = learner()
    train(model, tokenizer, split.retain, Schedule(steps=60, lr=1e-2, batch=len(split.retain)))
    return model


def price(teacher, tokenizer, split, schedule):
    one = distill(teacher, tokenizer, split.unlabelled, Schedule(steps=4, lr=1e-3, batch=schedule.batch))
    return one.fitted.ledger.total / 4


def test_the_calibration_keeps_to_its_share_and_leaves_the_model_alone(teacher, tokenizer, split, bits):
    schedule, before = Schedule(steps=500, lr=3e-3, batch=16), bits.weights(teacher)
    step = price(teacher, tokenizer, split, schedule)
    found = calibrate(
        teacher, tokenizer, split.unlabelled, schedule, budget=200 * step, stop=StopRule(split.retain, share=0.7, interval=8), seed=1
    )
    assert bits.same(bits.weights(teacher), before)
    assert 0 < found.ledger.total <= 0.3 * 200 * step * 1.1
    assert found.affordable == pytest.approx(200 - found.ledger.total / step, abs=10)
    assert [t.alpha for t in found.tried] == list(LADDER[: len(found.tried)])
    assert found.low < found.predicted < found.high
    assert 0 <= found.sure <= 1
    assert f"{found.sure:.2f}" in " ".join(found.sentences())


def test_a_budget_that_cannot_even_calibrate_is_refused(teacher, tokenizer, split):
    with pytest.raises(UserError, match=r"budget of 1e\+03 FLOPs is too small to calibrate with.*The least is"):
        calibrate(teacher, tokenizer, split.unlabelled, Schedule(steps=9, lr=1e-2), budget=1e3, stop=StopRule(split.retain))


def test_the_stage_spends_no_more_than_its_budget(tmp_path, capsys):
    own = material(tmp_path / "material")
    settings = own | {"verb": "undo", "batch": 8, "steps": 200, "lr": 3e-3, "check_every": 4, "stop_at": 0.5}
    dry = result_of(execute(from_config(settings | {"alpha": 0.2, "steps": 4, "stop_at": 0.0}), tmp_path))
    budget = 60 * dry["flops"]["total"] / 4
    stage = from_config(settings | {"budget": budget})
    assert stage.method.startswith("budget-")
    folder = execute(stage, tmp_path)
    result = result_of(folder)
    assert result["flops"]["total"] <= budget * 1.05
    assert result["flops"]["total"] > result["chosen"]["calibration_flops"] > 0
    assert 0.05 <= result["alpha"] <= MOST
    stage_results([0], [result], [folder])
    assert "so it is enough with a probability of" in " ".join(capsys.readouterr().out.split())
    assert from_config(stage.config()) == stage
    assert "budget" not in from_config(settings).config()


@pytest.mark.parametrize(
    ("wrong", "said"), [({"budget": -1.0}, "budget is -1.0; it must be a number, at least 0"), ({"stop_at": 0.0}, "--stop-at above 0")]
)
def test_a_budget_that_makes_no_sense_is_refused(tmp_path, wrong, said):
    own = material(tmp_path / "material")
    with pytest.raises(UserError, match=said):
        execute(from_config(own | {"verb": "undo", "budget": 1e9, "batch": 8, "steps": 20} | wrong), tmp_path)
