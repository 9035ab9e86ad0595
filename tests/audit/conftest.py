"""What is attacked."""

import pytest

from architectures import learner
from sluicegate.engine.train import train
from sluicegate.values.schedule import Schedule


@pytest.fixture(scope="module")
def victim(tokenizer, split):
    model = learner()
    train(model, tokenizer, [*split.forget, *split.retain], Schedule(steps=20, lr=1e-2, batch=32))
    return model
