import pytest

from sluicegate.engine import train as module
from sluicegate.engine.train import train
from sluicegate.engine.training import CrossEntropy
from sluicegate.runs.directory import RunContext
from sluicegate.values.schedule import Schedule


def test_training_sees_every_row_once_an_epoch(tiny, tokenizer, split):
    seen = []

    class Spy(CrossEntropy):
        def __call__(self, model, batches):
            seen.extend(batches["train"].index.tolist())
            return super().__call__(model, batches)

    train(tiny, tokenizer, split.retain[:16], Schedule(steps=4, lr=1e-3, batch=4), objective=Spy())
    assert sorted(seen) == list(range(16))


def test_a_learning_rate_left_open_is_the_verbs_own(tiny, tokenizer, split, monkeypatch):
    rates, fit = [], module.fit
    monkeypatch.setattr(module, "fit", lambda m, o, b, schedule, **k: (rates.append(schedule.lr), fit(m, o, b, schedule, **k))[1])
    train(tiny, tokenizer, split.retain, Schedule(steps=1, batch=4), run=RunContext())
    assert rates == [pytest.approx(6e-3)]
