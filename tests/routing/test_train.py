import pytest
import torch

from architectures import build
from sluicegate.engine.encoding import encode
from sluicegate.errors import UserError
from sluicegate.routing.router import Router
from sluicegate.routing.rules.tokens import Tokens
from sluicegate.routing.train import train_routed
from sluicegate.runs.directory import Checkpoint, RunContext
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule

SITES = {"mlp_hidden": {"forget": 16}}
LABELS = torch.tensor([0, 1, 2, 1, 0, 1, 2, 0])


@pytest.fixture(scope="module")
def rows(tokenizer):
    return encode(tokenizer, [Item("", f"the {colour} fox sees {n} plums") for n in range(4) for colour in ("red", "old")])


class Memory(RunContext):
    """A room that keeps every step in memory, and is killed after some."""

    def __init__(self, dies_after=None):
        super().__init__("memory")
        self.kept, self.steps, self.dies_after = {}, 0, dies_after

    def log(self, record):
        self.steps += "loss" in record

    def checkpoint_due(self):
        return True

    def save_checkpoint(self, part, values, tensors, *, finished):
        self.kept[part] = Checkpoint(dict(values), {k: t.detach().clone() for k, t in tensors.items()}, finished)
        if self.steps == self.dies_after:
            self.dies_after = None
            raise KeyboardInterrupt

    def load_checkpoint(self, part):
        return self.kept.get(part)


def trained(rows, labels, *, form="protect", model=None, run=None, seen=None, **schedule):
    model = model or build("llama")
    router = Router(model, SITES, form=form)
    if seen is not None:
        enter = type(router).__call__

        class Watched(Router):
            def __call__(self, given, **how):
                seen.append(given)
                return enter(self, given, **how)

        router.__class__ = Watched  # a block is entered by the class
    how = {"steps": 4, "lr": 1e-2, "batch": 8, "weight_decay": 0.1} | schedule
    fitted = train_routed(model, rows, labels, router, Schedule(**how), run=run)
    router.remove()
    return model, fitted


def test_labels_may_be_numbers_names_a_call_or_one_a_token(rows, bits):
    names = ["retain", "forget", "unlabelled"]
    by_number, fitted = trained(rows, LABELS)
    assert fitted.steps == 4
    by_name, _ = trained(rows, [names[i] for i in LABELS])
    assert bits.same(bits.weights(by_number), bits.weights(by_name))
    by_call, _ = trained(rows, lambda batch: LABELS[batch.index])
    by_token, _ = trained(rows, LABELS[:, None].expand(-1, rows.ids.shape[1]))
    for other in (by_call, by_token):  # the rows are not sorted, so sums differ in their last bits
        for name, weight in bits.weights(other).items():
            assert (weight - bits.weights(by_number)[name]).abs().mean() < 1e-4, name


def test_rows_of_one_label_lie_side_by_side_and_keep_their_label(rows):
    seen = []
    trained(rows, LABELS, seen=seen, steps=2)
    given = [labels for labels in seen if len(labels) == 8][-2:]
    assert all(torch.equal(labels, LABELS.sort().values) for labels in given)


@pytest.mark.parametrize("labels", [LABELS[:5], ["forget"] * 9])
def test_a_wrong_number_of_labels_is_said(rows, labels):
    with pytest.raises(UserError, match=rf"there are {len(labels)} labels for 8 rows"):
        trained(rows, labels)


@pytest.mark.parametrize("form", ["gate", "protect"])
def test_what_no_row_may_train_keeps_its_bits(rows, bits, form):
    model = build("llama")
    before = bits.weights(model)
    trained(rows, ["forget"] * 8, form=form, model=model)
    after = bits.weights(model)
    for layer in range(2):
        for maker in ("gate_proj", "up_proj"):
            name = f"model.layers.{layer}.mlp.{maker}.weight"
            assert torch.equal(after[name][:-16], before[name][:-16])
            assert not torch.equal(after[name][-16:], before[name][-16:])
    kept = {name for name in before if torch.equal(after[name], before[name])}
    assert ("model.embed_tokens.weight" in kept) == (form == "protect")


@pytest.mark.parametrize("form", ["gate", "protect"])
def test_killed_and_resumed_ends_with_the_same_bits(rows, bits, form):
    whole, _ = trained(rows, LABELS, form=form, batch=4)
    run = Memory(dies_after=2)
    with pytest.raises(KeyboardInterrupt):
        trained(rows, LABELS, form=form, batch=4, run=run)
    again, fitted = trained(rows, LABELS, form=form, batch=4, run=run)
    assert fitted.steps == 4
    assert bits.same(bits.weights(again), bits.weights(whole))


def test_a_batch_in_pieces_trains_like_the_whole(rows, bits):
    one, _ = trained(rows, LABELS, steps=1)
    four, _ = trained(rows, LABELS, steps=1, accumulate=4)
    for name, weight in bits.weights(four).items():
        assert (weight - bits.weights(one)[name]).abs().mean() < 1e-4, name


def test_a_rule_labels_the_tokens(rows, bits):
    token = int(rows.ids[0, 2])
    rule, _ = trained(rows, Tokens({"forget": [token]}), form="gate", steps=1)
    none, _ = trained(rows, ["unlabelled"] * 8, form="gate", steps=1)
    assert not bits.same(bits.weights(rule), bits.weights(none))
