import pytest
import torch

from architectures import build
from sluicegate.engine.encoding import encode
from sluicegate.engine.training import Ledger
from sluicegate.errors import UserError
from sluicegate.unlearning.distill import Matching, distill
from sluicegate.unlearning.hidden import HiddenMatching
from sluicegate.values.schedule import Schedule


def parts(tokenizer, split, mixed_items, weight=0.5):
    teacher, student = build("llama").double(), build("llama").double()
    with torch.no_grad():
        for p in student.parameters():
            p.add_(0.05 * torch.ones_like(p).cumsum(0).sin())
    pool, retain = encode(tokenizer, split.unlabelled[:8]), encode(tokenizer, [*mixed_items, *split.retain[:3]])
    matching = Matching(teacher, pool, Ledger(), cached=False)
    batches = {"pool": pool.batch(range(8)), "retain": retain.batch(range(8))}
    return teacher, student, matching, HiddenMatching(matching, teacher, student, retain, weight, Ledger()), batches


def test_the_loss_is_its_formula(tokenizer, split, mixed_items):
    teacher, student, matching, loss, batches = parts(tokenizer, split, mixed_items)
    found = loss(student, batches)
    keep = batches["retain"]
    states = [
        m(input_ids=keep.ids, attention_mask=keep.attention.long(), output_hidden_states=True).hidden_states[1:] for m in (student, teacher)
    ]
    gaps = []
    for mine, theirs in zip(*states, strict=True):
        a, b = mine[keep.attention], theirs[keep.attention]
        gaps.append(((a - b) ** 2).sum(1).mean() / (b**2).sum(1).mean())
    torch.testing.assert_close(found.value, matching(student, batches).value + 0.5 * sum(gaps) / len(gaps))
    assert found.teacher_flops > matching(student, batches).teacher_flops
    assert float(loss(teacher, batches).log["hidden"].detach()) == pytest.approx(0, abs=1e-9)


def test_a_batch_in_parts_is_the_whole(tokenizer, split, mixed_items):
    _, student, _, loss, batches = parts(tokenizer, split, mixed_items)
    whole = float(loss(student, batches).value.detach())
    cut = {group: batch.split(4) for group, batch in batches.items()}
    assert sum(float(loss(student, {g: p[i] for g, p in cut.items()}).value.detach()) for i in range(4)) == pytest.approx(whole)


def test_distilling_with_it_brings_the_retain_states_nearer(tokenizer, split):
    teacher = build("llama")
    schedule = Schedule(steps=25, lr=5e-3, batch=8)
    ends = [distill(teacher, tokenizer, split.unlabelled[:32], schedule, retain=split.retain, match_hidden=weight) for weight in (0.0, 5.0)]
    rows = encode(tokenizer, split.retain)
    far = []
    for done in ends:
        gauge = HiddenMatching(Matching(teacher, rows, Ledger(), cached=False), teacher, done.student, rows, 1.0, Ledger())
        with torch.no_grad():
            far.append(float(gauge(done.student, {"pool": rows.batch(range(8)), "retain": rows.batch(range(len(rows)))}).log["hidden"]))
    assert far[1] < 0.8 * far[0]
    assert ends[1].fitted.ledger.student > ends[0].fitted.ledger.student


def test_it_needs_retain_rows_and_a_student_of_the_same_shape(tiny, tokenizer, split):
    short = Schedule(steps=1, lr=1e-3, batch=4)
    with pytest.raises(UserError, match=r"matched on retain rows.*--retain"):
        distill(tiny, tokenizer, split.unlabelled, short, match_hidden=1.0)
    with pytest.raises(UserError, match=r"1 layers of width 64, the student 2 of 32"):
        distill(tiny, tokenizer, split.unlabelled, short, student=build("llama"), retain=split.retain, match_hidden=1.0)
