"""Scores: KL along the base's answer, answers with one vector a row, rates; methods on contrastive prompts; doses."""

import numpy as np
import pytest
import torch

from architectures import build
from sluicegate.errors import UserError
from sluicegate.steering.dose import calibrate, curve
from sluicegate.steering.meandiff import MeanDiff, activations
from sluicegate.steering.parts import Slice
from sluicegate.steering.pca import PCA
from sluicegate.steering.prompts import RULES, Rule, prompt_ids
from sluicegate.steering.score import Continued, answered, behaviour_rate, continued, generate, kl
from sluicegate.steering.vector import SteeringSet, SteeringVector

PROMPTS = ("12 + 7", "ann likes red plums", "goat")


@pytest.fixture(scope="module")
def model():
    return build("llama").eval()


@pytest.fixture(scope="module")
def base():
    return SteeringVector(torch.randn(32, generator=torch.Generator().manual_seed(0)), "model.layers.0")


def several(k=5):
    return SteeringSet(torch.randn(k, 32, generator=torch.Generator().manual_seed(4)), "model.layers.0")


def log_probs(model, ids, edit):
    with torch.no_grad():
        if edit is None:
            return model(input_ids=ids).logits[0].double().log_softmax(-1)
        with edit(model):
            return model(input_ids=ids).logits[0].double().log_softmax(-1)


def test_kl_is_what_whole_passes_along_the_bases_greedy_answer_give(model, tokenizer, base):
    twins = several()
    found = kl(model, tokenizer, base, twins.values, PROMPTS, tokens=4, batch=2)
    for p, prompt in enumerate(PROMPTS):
        ids = prompt_ids(tokenizer, prompt)[None]
        prompt_length = ids.shape[1]
        for _ in range(3):
            ids = torch.cat([ids, log_probs(model, ids, base)[-1:].argmax(-1)[None]], 1)
        wanted = log_probs(model, ids, base)[prompt_length - 1 :]
        for i in range(5):
            ours = log_probs(model, ids, twins[i])[prompt_length - 1 :]
            each = (wanted.exp() * (wanted - ours)).sum(-1)
            assert found.several[i, p] == pytest.approx(float(each.mean()), abs=1e-4)
            assert found.last[i, p] == pytest.approx(float(each[0]), abs=1e-4)


def test_the_base_is_at_no_distance_from_itself(model, tokenizer, base):
    found = kl(model, tokenizer, base, torch.stack([base.values, torch.zeros(32)]), PROMPTS, tokens=3)
    assert found.several[0] == pytest.approx(np.zeros(3), abs=1e-5)
    one = Continued(model, prompt_ids(tokenizer, PROMPTS[0]), base, tokens=3)
    assert found.several[1, 0] == pytest.approx(float(one.unsteered.mean()), abs=1e-5)
    assert found.several[1, 0] > 0.01


def test_a_batch_of_vectors_answers_as_each_alone(model, tokenizer):
    twins = several()
    together = generate(model, tokenizer, twins, PROMPTS, new_tokens=6, batch=2)
    alone = [generate(model, tokenizer, v, PROMPTS, new_tokens=6)[0] for v in twins]
    assert together == alone
    plain = generate(model, tokenizer, None, PROMPTS, new_tokens=6)
    assert len(plain) == 1
    assert generate(model, tokenizer, 0 * twins[0], PROMPTS, new_tokens=6) == plain


def test_prompts_of_one_length_are_answered_together_and_as_each_alone(model, tokenizer, base):
    prompts = [prompt_ids(tokenizer, prompt) for prompt in ("12 + 7", "13 + 8", "ann likes red plums", "goat", "34 + 5")]
    assert len({len(ids) for ids in prompts}) > 1
    assert len({len(ids) for ids in prompts}) < len(prompts)
    found = answered(model, prompts, base, 4)
    for ids, full in zip(prompts, found, strict=True):
        assert torch.equal(full, answered(model, [ids], base, 4)[0])
        assert torch.equal(full[: len(ids)], ids)
        assert len(full) == len(ids) + 4
    assert all(torch.equal(*both) for both in zip(answered(model, prompts, base, 0), prompts, strict=True))


def test_several_prompts_are_what_each_is_and_the_model_is_asked_once_what_it_can_skip(model, tokenizer, base, monkeypatch):
    prompts = [prompt_ids(tokenizer, prompt) for prompt in PROMPTS]
    asked = []
    agrees = Slice._agrees
    monkeypatch.setattr(Slice, "_agrees", lambda self: asked.append(self) or agrees(self))
    found = list(continued(model, prompts, base, tokens=3))
    assert len(asked) == 1
    for ids, one in zip(prompts, found, strict=True):
        alone = Continued(model, ids, base, tokens=3)
        assert one.part.cached == alone.part.cached
        assert torch.allclose(one.kl(several().values), alone.kl(several().values), atol=1e-6)
        assert torch.allclose(one.unsteered, alone.unsteered, atol=1e-6)


def test_rates_count_answers():
    rule = Rule("a", "has an a", lambda text: "a" in text)
    assert behaviour_rate([["a", "b"], ["ba", "ab"]], rule).tolist() == [0.5, 1.0]


def test_mean_difference_and_pca_find_a_planted_direction(model, tokenizer):
    """Every positive prompt differs from its negative in the same first token, read at that token."""
    positive, negative = ["red + 1", "red + 2", "red + 4"], ["old + 1", "old + 2", "old + 4"]
    rows = activations(model, tokenizer, positive + negative, "model.layers.0", "1:2")
    wanted = rows[:3].mean(0) - rows[3:].mean(0)
    mean = MeanDiff("model.layers.0", read="1:2", scale=2.0).fit(model, tokenizer, positive, negative)
    assert torch.allclose(mean.values, 2 * wanted, atol=1e-5)
    assert mean.made_from["positive"] == positive
    pca = PCA("model.layers.0", read="1:2").fit(model, tokenizer, positive, negative)
    assert torch.allclose(pca.values, wanted, atol=1e-4)  # the three differences are the same: causal attention sees no more


def test_contrasts_without_a_contrast_are_refused(model, tokenizer):
    with pytest.raises(UserError, match="no direction"):
        MeanDiff("model.layers.0").fit(model, tokenizer, ["1 + 1"], ["1 + 1"])
    with pytest.raises(UserError, match="got 0 positive"):
        MeanDiff("model.layers.0").fit(model, tokenizer, [], ["1 + 1"])
    with pytest.raises(UserError, match="needs pairs"):
        PCA("model.layers.0").fit(model, tokenizer, ["1 + 1", "2"], ["1 + 1"])
    with pytest.raises(UserError, match=r"takes no token of the prompt"):
        MeanDiff("model.layers.0", read="50:").fit(model, tokenizer, ["1"], ["2"])


def test_a_calibrated_dose_has_the_kl_that_was_asked_for(model, tokenizer, base):
    dosed = calibrate(base, model, tokenizer, PROMPTS, kl=0.05, tokens=3)
    assert curve(dosed, model, tokenizer, PROMPTS, [1.0], tokens=3)[0] == pytest.approx(0.05, rel=0.03)
    assert dosed.values.norm() / base.values.norm() == pytest.approx(dosed.made_from["dose"], rel=1e-5)
    with pytest.raises(UserError, match="no such effect"):
        calibrate(1e-6 * base, model, tokenizer, PROMPTS, kl=1.0, tokens=3)


def test_dose_response(model, tokenizer, base):
    found = curve(base, model, tokenizer, PROMPTS, [0.0, 0.5, 1.0, 2.0], tokens=3)
    assert found[0] == 0
    assert (np.diff(found) > 0).all()


def test_the_code_rule_is_the_strict_one_or_an_announcement():
    announced = "Here's a Python solution that uses a list."
    assert RULES["code"].shows(announced)
    assert not RULES["code-strict"].shows(announced)
    assert RULES["code-strict"].shows("```python\nx = 1")
