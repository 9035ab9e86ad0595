"""MELBO: vectors of the given norm that move the target more than chance; orthogonal where asked."""

import pytest
import torch

from architectures import build
from sluicegate.errors import UserError
from sluicegate.steering.melbo import MELBO
from sluicegate.steering.parts import Slice
from sluicegate.steering.prompts import prompt_ids

PROMPTS = ("12 + 7", "ann likes red plums")
HOW = {"source": "model.layers.0", "target": "model.layers.1", "count": 6, "norm": 2.0, "steps": 15, "batch": 4}


@pytest.fixture(scope="module")
def model():
    return build("llama").eval()


def change(model, tokenizer, values):
    """[k] how far the target moves, summed over tokens and averaged over prompts, computed anew."""
    total = torch.zeros(len(values))
    for prompt in PROMPTS:
        part = Slice(model, prompt_ids(tokenizer, prompt), source="model.layers.0", target="model.layers.1")
        with torch.no_grad():
            moved = part.target(values) - part.target(torch.zeros(1, 32))
        total += moved[:, 1:].pow(2).sum((1, 2)).sqrt()
    return total / len(PROMPTS)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_they_move_the_target_more_than_chance(model, tokenizer, orthogonal):
    found = MELBO(**HOW, orthogonal=orthogonal).fit(model, tokenizer, PROMPTS)
    assert torch.allclose(found.norms(), torch.full((6,), 2.0, dtype=torch.float64), atol=1e-5)
    assert (found.max_cos() < 1e-6) == orthogonal
    chance = torch.randn(64, 32, generator=torch.Generator().manual_seed(3))
    chance = change(model, tokenizer, 2 * chance / chance.norm(dim=1, keepdim=True))
    ours = change(model, tokenizer, found.values)
    assert float(ours[0]) > float(chance.max())
    assert torch.allclose(torch.tensor(found.made_from["changes"]).float(), ours, rtol=1e-3)
    if not orthogonal:
        assert float(ours.min()) > float(chance.quantile(0.9))


def test_a_batch_is_the_same_as_one_at_a_time(model, tokenizer):
    """Without orthogonality the vectors of a batch know nothing of each other: each climbs from its own start."""
    batched = MELBO(**HOW | {"count": 1, "batch": 1}, orthogonal=False).fit(model, tokenizer, PROMPTS)
    alone = MELBO(**HOW | {"count": 3, "batch": 3}, orthogonal=False).fit(model, tokenizer, PROMPTS)
    assert torch.allclose(batched.values[0], alone.values[0], atol=1e-4)


def test_what_cannot_be_found_is_refused(model, tokenizer):
    with pytest.raises(UserError, match="33 orthogonal vectors of 32 numbers"):
        MELBO(**HOW | {"count": 33}).fit(model, tokenizer, PROMPTS)
    with pytest.raises(UserError, match="does not lie behind"):
        MELBO(**HOW | {"source": "model.layers.1", "target": "model.layers.0"}).fit(model, tokenizer, PROMPTS)
    with pytest.raises(UserError, match="norm is 0"):
        MELBO("model.layers.0", "model.layers.1", norm=0)
    with pytest.raises(UserError, match="at least one prompt"):
        MELBO(**HOW).fit(model, tokenizer, [])
