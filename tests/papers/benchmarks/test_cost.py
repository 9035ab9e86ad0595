"""What is predicted is what the ledger says of real stages, what torch counts, and what is held."""

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import sluicegate as sg
from architectures import llama
from sluicegate.audit.attack import Attack
from sluicegate.engine.memory import shape
from sluicegate.engine.models import fresh
from sluicegate.engine.scoring import score
from sluicegate.engine.training import CrossEntropy, Ledger, fit
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.values.items import Item, Split
from sluicegate_papers.benchmarks import scaling
from sluicegate_papers.benchmarks.cost import DAY, Work, attacked, audit, device_hours, paper, spent

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return scaling


@pytest.fixture(scope="module")
def tokenizer():
    return sg.load("arithmetic-tiny")[1]


def rows(tokenizer, count):
    """Items of four words and so, with <bos>, five tokens."""
    words = [w for w in tokenizer.get_vocab() if w.isdigit()][: count + 4]
    return tuple(Item(" ".join(words[n : n + 3]), f" {words[n + 3]}", f"{n}") for n in range(count))


def same(ledger, other):
    assert other.as_dict() == pytest.approx(ledger.as_dict(), rel=1e-12)


def test_the_ledger_of_training_and_suppressing(tokenizer):
    config, items = llama(), rows(tokenizer, 8)
    model = fresh(config, 0)
    done = sg.train(model, tokenizer, items, sg.Schedule(steps=3, batch=4, lr=1e-3))
    same(done.ledger, spent(shape(config), Work("train", 3, 4, 5)))
    split = Split(forget=items[:4], retain=items[4:])
    _, cost = sg.unlearn(model, tokenizer, split, sg.MaxEnt(), sg.Schedule(steps=2, batch=4, lr=1e-3))
    same(cost.ledger, spent(shape(config), Work("unlearn", 2, 4, 5, batches=2)))


def test_the_ledger_of_undo(tokenizer):
    config, items = llama(), rows(tokenizer, 8)
    done = sg.undo(fresh(config, 0), tokenizer, items, sg.Schedule(steps=3, batch=4, lr=1e-3), alpha=0.5)
    same(done.fitted.ledger, spent(shape(config), Work("undo", 3, 4, 5, frozen=1)))


def test_the_ledger_of_an_attack(tokenizer):
    config, items = llama(), rows(tokenizer, 8)
    attack = Attack(lrs=(1e-3, 1e-4), steps=4, batch=4, checkpoints=(0, 2, 4))
    found = sg.relearn(fresh(config, 0), tokenizer, items, attack=attack)
    same(found.ledger, spent(shape(config), attacked(attack, 64, 5, scored=8)))


@pytest.mark.parametrize("config", [llama(32), llama(64, layers=3, keys=4), llama(96, vocabulary=200, tie_word_embeddings=True)])
def test_a_step_of_training_has_the_predicted_flops(config):
    """By torch's own counter, on `fit`. Fused attention on a CPU is not in it, so the plain form is computed."""
    batch = _batch(config, 4, 12)
    model = fresh(config, 0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        fit(model, CrossEntropy(), lambda step: {"train": batch}, sg.Schedule(steps=1, lr=1e-3), seed=0, run=RunContext())
    assert spent(shape(config), Work("x", 1, 4, 12)).total == pytest.approx(counted.get_total_flops(), rel=1e-6)


def _batch(config, count, length):
    from sluicegate.engine.encoding import Rows

    ids = torch.randint(0, config.vocab_size, (count, length))
    return Rows(ids, torch.full((count,), length), torch.ones(count, dtype=torch.long), (Item("", "x"),) * count).batch(range(count))


def test_the_papers_stages():
    works = {work.name: work for work in paper(2e9)}
    assert works["base"].tokens == pytest.approx(2e9, rel=1e-3)
    assert works["never knew (gold)"].tokens == pytest.approx(1e9, rel=1e-3)
    assert works["UNDO"].tokens == pytest.approx(0.7e9, rel=1e-3)
    assert works["suppress (MaxEnt)"].tokens == 2 * 100 * 4 * 2048
    attack = works["attack"]
    assert (attack.times, attack.steps, attack.scored) == (10, 500, 101 * 100)
    model = shape(llama())
    gold, undo = (spent(model, works[name]).total for name in ("never knew (gold)", "UNDO"))
    assert undo / gold == pytest.approx(0.7 * 4 / 3, rel=0.01)  # the teacher is paid for
    assert audit().times == 3 * 3 * 5


def test_time_on_devices():
    assert device_hours(3600e14, 1e14) == 1
    assert DAY == 24 * 3600e15
    with pytest.raises(UserError, match="throughput is 0"):
        device_hours(1, 0)


def test_a_large_shape_takes_no_memory():
    found = {name: shape(name) for name in scaling.SIZES}
    assert found["70B"].parameters == 70_553_706_496
    assert found["8B"].forward(1, 1) == 2 * (8_030_261_248 - 128256 * 4096 - 65 * 4096) + 4 * 4096 * 32


def test_mistakes():
    with pytest.raises(UserError, match="rows is 0"):
        Work("x", 1, 0, 1)


def test_the_page_holds_what_the_command_prints(script):
    page = (ROOT / "docs" / "scaling.md").read_text()
    for line in filter(None, script.tables({name: shape(name) for name in script.SIZES}, 1e14, 64, 80).splitlines()):
        assert line in page


def test_the_most_that_is_held_is_measured(script):
    held = script.most_held(lambda: torch.zeros(1000).add(1).sum())
    assert 8000 <= held < 12000


def test_a_mapped_file_is_no_allocation(script, tmp_path):
    size = 40960
    (tmp_path / "file").write_bytes(bytes(size))
    job = lambda: torch.UntypedStorage.from_file(str(tmp_path / "file"), False, size)  # noqa: E731
    assert script.most_held(job) >= size
    assert script.most_held(job, [size]) < size


def test_scoring_is_kept_apart(tokenizer):
    from sluicegate.engine.encoding import encode

    ledger, config = Ledger(), llama()
    score(fresh(config, 0), encode(tokenizer, rows(tokenizer, 6)), ledger)
    same(ledger, Ledger(evaluation=spent(shape(config), Work("x", 1, 1, 5, scored=6)).evaluation))
