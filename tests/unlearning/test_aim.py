import pytest
import torch

from architectures import CONFIGS, TIED, build
from sluicegate.engine.encoding import encode
from sluicegate.engine.models import fresh
from sluicegate.engine.sampling import seed_of
from sluicegate.engine.training import CrossEntropy, Ledger
from sluicegate.errors import UserError
from sluicegate.unlearning.aim import TOGETHER, _largest, choose_at_random, choose_by_importance, measure_importance, redraw_weights
from sluicegate.unlearning.distill import undo
from sluicegate.values.schedule import Schedule


@pytest.fixture
def groups(tokenizer, split):
    return encode(tokenizer, split.forget[:8]), encode(tokenizer, split.retain[:8])


@pytest.mark.parametrize("by", ["fisher", "gradient"])
def test_importance_is_what_the_gradients_say(tokenizer, groups, by):
    model, rows = build("llama").double(), groups[0]
    found = measure_importance(model, rows, by, Ledger())
    wanted = {}
    for start in range(0, 8, TOGETHER):
        model.zero_grad()
        CrossEntropy("answer")(model, {"train": rows.batch(range(start, start + TOGETHER))}).value.backward()
        for name, p in model.named_parameters():
            wanted.setdefault(name, []).append(p.grad.clone())
    for name, value in found.items():
        stacked = torch.stack(wanted[name])
        torch.testing.assert_close(value, stacked.square().mean(0) if by == "fisher" else stacked.mean(0).abs(), msg=name)
    assert set(found) == {n for n, p in model.named_parameters() if p.dim() >= 2}


def test_weights_that_only_the_forget_set_uses_go_first(tokenizer, groups):
    """Rows of the embedding: a word of the forget rows alone against one of both, and one of neither."""
    model = build("llama")
    ledger = Ledger()
    mask = choose_by_importance(model, *groups, 0.3, "fisher", ledger, params="model.embed_tokens.weight")["model.embed_tokens.weight"]
    used = [set(rows.ids[torch.arange(rows.ids.shape[1]) < rows.lengths[:, None]].tolist()) for rows in groups]
    share = mask.float().mean(1)
    only, never = sorted(used[0] - used[1]), sorted(set(range(132)) - used[0] - used[1])
    assert only
    assert never
    assert float(share[only].mean()) > 0.9
    assert float(mask.float().mean()) == pytest.approx(0.3, abs=1e-3)
    assert float(share[only].min()) > float(share[sorted(used[1])].mean())
    assert ledger.teacher > 0
    few = choose_by_importance(model, *groups, 0.01, "fisher", Ledger(), params="model.embed_tokens.weight")["model.embed_tokens.weight"]
    assert not bool(few[never].any()), "what no row uses is not the forget set's"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_chosen_are_drawn_anew_and_the_others_stay(name, groups, bits):
    model = build(name)
    before = bits.weights(model)
    masks = choose_by_importance(model, *groups, 0.4, "gradient", Ledger())
    student = redraw_weights(model, masks, 3)
    assert bits.same(bits.weights(model), before)
    new = dict(fresh(model.config, seed_of(3, "student")).named_parameters())
    for key, p in student.named_parameters():
        wanted = torch.where(masks[key], new[key], before[key]) if key in masks else before[key]
        assert torch.equal(p, wanted), key
    assert (student.get_output_embeddings().weight is student.get_input_embeddings().weight) == (name in TIED)
    count = sum(int(mask.sum()) for mask in masks.values())
    assert count == pytest.approx(0.4 * sum(mask.numel() for mask in masks.values()), abs=1)


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.3, 0.5, 0.99, 1.0])
def test_of_equal_numbers_the_first_are_the_largest(alpha):
    draw = torch.Generator().manual_seed(0)
    ratios = {name: torch.randint(0, 5, (7, 9), generator=draw).float() for name in "ab"}
    order = torch.cat([ratio.flatten() for ratio in ratios.values()]).argsort(descending=True, stable=True)
    chosen = torch.cat([mask.flatten() for mask in _largest(ratios, alpha).values()])
    assert set(chosen.nonzero().flatten().tolist()) == set(order[: round(alpha * len(order))].tolist())


@pytest.mark.parametrize(("alpha", "changed"), [(0.0, False), (1.0, True)])
def test_none_and_all(groups, alpha, changed):
    masks = choose_by_importance(build("llama"), *groups, alpha, "fisher", Ledger())
    assert all(bool((mask == changed).all()) for mask in masks.values())


def test_aiming_needs_both_sets_and_a_share(tiny, tokenizer, split, groups):
    short = Schedule(steps=1, lr=1e-3, batch=4)
    with pytest.raises(UserError, match=r"aiming by fisher.*--forget and --retain"):
        undo(tiny, tokenizer, split.unlabelled, short, alpha=0.5, aim="fisher", retain=split.retain)
    with pytest.raises(UserError, match=r"alpha is 1.5"):
        choose_by_importance(tiny, *groups, 1.5, "fisher", Ledger())
    with pytest.raises(UserError, match="no matrices"):
        choose_by_importance(tiny, *groups, 0.5, "fisher", Ledger(), params="*norm*")


def test_undo_pays_for_its_aim(tiny, tokenizer, split):
    short = Schedule(steps=2, lr=1e-3, batch=4)
    plain, sharp = (
        undo(tiny, tokenizer, split.unlabelled, short, alpha=0.5, aim=aim, forget=split.forget, retain=split.retain)
        for aim in ("all", "gradient")
    )
    assert sharp.fitted.ledger.student == plain.fitted.ledger.student
    assert sharp.fitted.ledger.teacher > plain.fitted.ledger.teacher


def test_the_control_takes_as_many_weights_without_looking_at_any(tiny):
    masks = choose_at_random(tiny, 0.4, 3)
    shapes = {name: p.shape for name, p in tiny.named_parameters() if p.dim() >= 2}
    assert {name: mask.shape for name, mask in masks.items()} == shapes
    taken, all_of_them = sum(int(mask.sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())
    assert taken == round(0.4 * all_of_them)
    shares = [float(mask.float().mean()) for mask in masks.values() if mask.numel() > 1000]
    assert all(abs(share - 0.4) < 0.1 for share in shares)
    assert all(torch.equal(masks[name], mask) for name, mask in choose_at_random(tiny, 0.4, 3).items())
    assert any(not torch.equal(masks[name], mask) for name, mask in choose_at_random(tiny, 0.4, 4).items())
    assert list(choose_at_random(tiny, 0.4, 3, params="model.embed_tokens.weight")) == ["model.embed_tokens.weight"]
    with pytest.raises(UserError, match=r"alpha is -0.1"):
        choose_at_random(tiny, -0.1, 3)
