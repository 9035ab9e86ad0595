"""The judge reads digits, faint ones too, and says of black that it shows nothing."""

import numpy as np
import pytest
import torch

from sluicegate.latent.judge import faint, judge_of
from sluicegate.latent.stage import fractions, places
from sluicegate.tasks.digits import load_images


@pytest.fixture(scope="module")
def judged():
    images = load_images("digits")
    held = torch.from_numpy(fractions(images, "validation")).flatten(1), torch.from_numpy(places(images, "validation"))
    return judge_of(fractions(images, "train"), places(images, "train"), 10, steps=400), *held


@pytest.mark.parametrize("light", [1.0, 0.4])
def test_it_reads_digits_bright_and_dim(judged, light):
    judge, x, y = judged
    assert (judge.read(x * light) == y).double().mean() > 0.85


def test_black_and_faint_noise_show_nothing(judged):
    judge, x, _ = judged
    assert judge.read(torch.zeros(1, 64)).tolist() == [10]
    noise = 0.08 * torch.rand(50, 64, generator=torch.Generator().manual_seed(0))
    assert (judge.read(noise) == 10).double().mean() > 0.9
    assert (judge.read(x * 0.05) == 10).double().mean() > 0.9


def test_it_comes_from_the_cache_as_it_was(judged):
    judge, x, _ = judged
    images = load_images("digits")
    again = judge_of(fractions(images, "train"), places(images, "train"), 10, steps=400)
    assert torch.equal(judge(x), again(x))


def test_what_shows_nothing_is_at_most_a_quarter_as_bright():
    made = faint(np.ones((40, 3, 3, 1), np.float32), np.random.default_rng(0))
    assert made.shape == (40, 3, 3, 1)
    assert made.dtype == np.float32
    assert made.max() <= 0.24
    assert (made.reshape(40, -1).max(1) == 0).any()
