import copy
import json
import math
import pickle

import pytest
import torch
from transformers import GPT2Config

from architectures import build
from sluicegate.engine.encoding import encode
from sluicegate.engine.forward import Meter
from sluicegate.engine.models import fresh
from sluicegate.engine.sampling import Mixture
from sluicegate.engine.scoring import score
from sluicegate.engine.training import CrossEntropy, Diverged, Evaluation, Loss, at_steps, every, fit, token_losses
from sluicegate.errors import UserError
from sluicegate.runs.directory import Checkpoint, RunContext
from sluicegate.values.schedule import Schedule


class Memory(RunContext):
    """A room that keeps resume points in memory, and counts."""

    def __init__(self, due=lambda: False, progress=None):
        super().__init__("memory", progress)
        self.kept, self.logged, self._due = {}, [], due

    def log(self, record):
        self.logged.append(dict(record))

    def checkpoint_due(self):
        return self._due()

    def save_checkpoint(self, part, values, tensors, *, finished):
        self.kept[part] = Checkpoint(json.loads(json.dumps(values)), {k: t.detach().clone() for k, t in tensors.items()}, finished)

    def load_checkpoint(self, part):
        return self.kept.get(part)


class Killed(BaseException):
    pass


@pytest.fixture
def rows(tokenizer, mixed_items):
    return encode(tokenizer, mixed_items)


def run(model, rows, *, objective=None, room=None, seed=0, params="*", evaluation=None, keep_weights=True, batch=4, **schedule):
    schedule = Schedule(**{"steps": 6, "lr": 1e-2, "batch": batch} | schedule)
    mixture = Mixture(rows, batch, 0)
    return fit(
        model,
        objective or CrossEntropy(),
        lambda step: {"train": mixture(step)},
        schedule,
        seed=seed,
        run=room or RunContext(),
        params=params,
        evaluation=evaluation,
        keep_weights=keep_weights,
    )


def test_the_loss_falls_and_every_step_is_logged(tiny, rows):
    room = Memory()
    done = run(tiny, rows, room=room, steps=30)
    losses = [record["loss"] for record in room.logged]
    assert losses[-1] < 0.5 * losses[0]
    assert [record["step"] for record in room.logged] == list(range(1, 31))
    assert (done.steps, done.stopped) == (30, False)


def test_one_step_is_adamw_on_the_mean_over_tokens(tiny, rows):
    tiny.double()  # AdamW blows rounding errors up where a gradient is next to nothing
    reference = copy.deepcopy(tiny)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    batch = rows.batch(range(4))
    for mask in (batch.real, batch.answer):
        optimizer.zero_grad()
        out = reference(input_ids=batch.ids, attention_mask=batch.attention.long()).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(out[mask], batch.ids[:, 1:][mask])
        losses.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimizer.step()
    steps = iter([CrossEntropy("real"), CrossEntropy("answer")])
    schedule = Schedule(steps=2, lr=1e-2, batch=4, beta2=0.95, weight_decay=0.1, clip=0.5)
    fit(tiny, lambda m, b: next(steps)(m, b), lambda _: {"train": batch}, schedule, seed=0, run=RunContext())
    for (name, p), q in zip(tiny.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)


def test_the_learning_rate_of_every_step_is_the_schedules(tiny, rows, monkeypatch):
    seen = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a: (seen.append(self.param_groups[0]["lr"]), step(self, *a))[1])
    run(tiny, rows, steps=8, warmup=3, decay="cosine")
    assert seen == [Schedule(steps=8, lr=1e-2, warmup=3, decay="cosine").rate(i) for i in range(8)]


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_accumulation_is_the_same_step(tiny, rows, parts):
    other = copy.deepcopy(tiny.double())
    whole, cut = Memory(), Memory()
    run(tiny, rows, room=whole, steps=4)
    run(other, rows, room=cut, steps=4, accumulate=parts)
    for a, b in zip(whole.logged, cut.logged, strict=True):
        assert a["loss"] == pytest.approx(b["loss"])
    for (name, p), q in zip(tiny.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)


class Poisoned:
    """Cross-entropy until a step, then not a number: in the loss, or in its gradient only."""

    def __init__(self, at, where):
        self.calls, self.at, self.where = 0, at, where

    def __call__(self, model, batches):
        loss = CrossEntropy()(model, batches)
        self.calls += 1
        if self.calls > self.at:
            if self.where == "loss":
                return Loss(loss.value * math.nan)
            first = next(model.parameters())
            return Loss(loss.value + 0 * (first.sum() - first.detach().sum()).abs().sqrt())
        return loss


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_weights(tiny, rows, bits, where):
    good = copy.deepcopy(tiny)
    run(good, rows, steps=3)
    room = Memory()
    with pytest.raises(UserError, match=rf"{where}.* became (nan|inf) at step 4 of part 'fit' in stage memory.*--lr"):
        run(tiny, rows, room=room, objective=Poisoned(3, where))
    assert bits.same(bits.weights(tiny), bits.weights(good))
    kept = room.kept["fit"]
    assert (kept.values["steps"], kept.finished) == (3, False)
    assert all(torch.equal(kept.tensors[f"weight/{name}"], p) for name, p in good.named_parameters())
    assert all(math.isfinite(record["loss"]) for record in room.logged)


def test_a_step_that_diverged_is_not_charged_for_however_often_it_is_tried(tiny, rows):
    good = run(copy.deepcopy(tiny), rows, steps=3)
    room = Memory()
    for sitting in range(2):
        with pytest.raises(Diverged) as error:
            run(copy.deepcopy(tiny), rows, room=room, objective=Poisoned(0 if sitting else 3, "gradient"))
        assert error.value.fitted.ledger == good.ledger


def test_what_was_done_before_it_diverged_survives_the_way_out_of_a_worker(tiny, rows):
    with pytest.raises(Diverged) as error:
        run(tiny, rows, objective=Poisoned(3, "loss"))
    copied = pickle.loads(pickle.dumps(error.value))
    assert (str(copied), copied.fitted) == (str(error.value), error.value.fitted)
    assert copied.fitted.steps == 3


def test_a_rise_of_infinity_names_itself_too(tiny, rows):
    with pytest.raises(UserError, match="became inf at step 1"):
        run(tiny, rows, objective=lambda model, batches: Loss(CrossEntropy()(model, batches).value * math.inf))


@pytest.mark.parametrize("keep_weights", [True, False])
def test_a_last_step_that_breaks_the_weights_is_no_end(tiny, rows, keep_weights):
    """At 1e38 one step of AdamW is finite in its loss and its gradient, and what it writes is not."""
    room = Memory()
    with pytest.raises(Diverged, match=r"after step 1 of part 'fit' in stage memory, the weights are .*: \S+ holds NaN.*--lr") as error:
        run(tiny, rows, room=room, steps=1, lr=1e38, weight_decay=1.0, keep_weights=keep_weights)
    assert next(name for name, p in tiny.named_parameters() if not p.isfinite().all()) in str(error.value)
    assert error.value.fitted.steps == 0
    assert not room.kept


def test_weights_that_broke_are_not_kept_and_the_checkpoint_before_them_is(tiny, rows):
    room = Memory(due=lambda: True)

    def breaks(model, batches):
        if len(room.logged) == 2:
            with torch.no_grad():
                next(model.parameters()).view(-1)[0] = math.inf  # behind the step: its loss and gradient are still finite
        return CrossEntropy()(model, batches) if len(room.logged) < 2 else Loss(sum(p.square().sum() for p in list(model.parameters())[1:]))

    with pytest.raises(Diverged, match=r"after step 3 .*no longer finite"):
        run(tiny, rows, room=room, objective=breaks)
    assert room.kept["fit"].values["steps"] == 2
    assert all(tensor.isfinite().all() for tensor in room.kept["fit"].tensors.values())


def test_a_look_at_what_is_not_finite_ends_the_training_and_no_such_score_is_noted(tiny, rows):
    seen = []

    def measure(model, ledger):
        seen.append(0)
        if len(seen) > 1:  # finite weights may overflow in a pass all the same
            model = copy.deepcopy(model)
            model.get_output_embeddings().weight.data.fill_(math.nan)
        return {"exact": score(model, rows, ledger).mean()["exact"]}

    with pytest.raises(Diverged, match=r"after step 2 of part 'fit'.*the model's outputs are not finite.*--lr") as error:
        run(tiny, rows, evaluation=Evaluation(measure, at_steps([0, 2])))
    assert [record["step"] for record in error.value.fitted.records] == [0]


def test_nothing_trainable_that_receives_a_gradient_is_an_error(tiny, rows):
    def reads_the_embedding(model, batches):
        return Loss(model.get_input_embeddings()(batches["train"].ids).square().sum())

    with pytest.raises(UserError, match="none of the 1 trainable parameters received any gradient"):
        run(tiny, rows, objective=reads_the_embedding, params="lm_head.weight")


def test_a_gradient_of_zeros_is_no_gradient(tiny, rows):
    with pytest.raises(UserError, match="received any gradient"):
        run(tiny, rows, objective=lambda model, batches: Loss(0 * CrossEntropy()(model, batches).value))


def test_frozen_sites_stay_bitwise_also_under_weight_decay(tiny, rows, bits):
    before = bits.weights(tiny)
    run(tiny, rows, params="*.mlp.*", weight_decay=0.5)
    after = bits.weights(tiny)
    for name in before:
        assert torch.equal(before[name], after[name]) == (".mlp." not in name), name
        assert tiny.get_parameter(name).requires_grad == (".mlp." in name), "a gradient was computed for nothing"


def test_a_learning_rate_of_nothing_is_refused(tiny, rows):
    with pytest.raises(UserError, match="learning rate is 0"):
        run(tiny, rows, lr=0.0)


def test_the_callers_generator_is_left_alone(rows):
    model = fresh(GPT2Config(vocab_size=132, n_embd=32, n_layer=2, n_head=4, n_positions=64), 0)
    before = torch.get_rng_state()
    run(model, rows)
    assert torch.equal(torch.get_rng_state(), before)


def dropping():
    return fresh(GPT2Config(vocab_size=132, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.3, embd_pdrop=0.3), 0)


def test_dropout_follows_the_seed_and_is_on(rows, bits):
    ends = []
    for seed in (0, 0, 1):
        model = dropping()
        run(model, rows, seed=seed)
        ends.append(bits.weights(model))
    assert bits.same(ends[0], ends[1])
    assert not bits.same(ends[0], ends[2])


@pytest.mark.parametrize("make", [dropping, lambda: build("llama")], ids=["dropout", "llama"])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_that_was_cut_resumes_bitwise(make, rows, bits, steps):
    look = Evaluation(lambda model, ledger: {"norm": float(sum(p.detach().norm() for p in model.parameters()))}, at_steps((0, 2, 4, 6)))
    whole, unbroken = Memory(), make()
    done = run(unbroken, rows, room=whole, evaluation=look)

    kept = []
    room = Memory(due=lambda: True)
    room.save_checkpoint = lambda *a, **k: (kept.append(len(room.logged)), Memory.save_checkpoint(room, *a, **k))[1]

    def kill(title, at, total, numbers):
        if at == steps + 1:
            raise Killed

    room._progress = kill
    with pytest.raises(Killed):
        run(make(), rows, room=room, evaluation=look)
    assert room.kept["fit"].values["steps"] == steps
    del room.logged[kept[-1] :]  # what the run folder does with its metrics
    room._progress = None
    resumed = make()
    again = run(resumed, rows, room=room, evaluation=look)
    assert bits.same(bits.weights(resumed), bits.weights(unbroken))
    assert room.logged == whole.logged
    assert again == done


def test_a_finished_part_is_restored_and_not_repeated(tiny, rows, bits):
    room, again = Memory(), copy.deepcopy(tiny)
    done = run(tiny, rows, room=room)
    assert not any(key.startswith("adamw") for key in room.kept["fit"].tensors)
    assert run(again, rows, room=room, objective=lambda *_: pytest.fail("it was trained again")) == done
    assert bits.same(bits.weights(again), bits.weights(tiny))


def test_a_part_without_kept_weights_keeps_them_only_while_it_runs(tiny, rows):
    room = Memory(due=lambda: True)
    sizes = []
    room.save_checkpoint = lambda *a, **k: (sizes.append(len(a[2])), Memory.save_checkpoint(room, *a, **k))[1]
    run(tiny, rows, room=room, keep_weights=False)
    assert all(sizes[:-1])
    assert sizes[-1] == 0


def test_evaluation_looks_when_it_should_and_can_stop(tiny, rows):
    seen = []
    stop = lambda record: seen.append(record["step"]) or record["step"] >= 4  # noqa: E731
    look = Evaluation(lambda m, ledger: {"n": float(len(seen))}, every(2, 5), stop)
    done = run(tiny, rows, evaluation=look, steps=5)
    assert (done.steps, done.stopped, seen) == (4, True, [2, 4])
    whole = run(tiny, rows, steps=5, evaluation=Evaluation(lambda m, ledger: {}, every(2, 5)))
    assert [record["step"] for record in whole.records] == [2, 4, 5]
    first = run(tiny, rows, steps=3, evaluation=Evaluation(lambda m, ledger: {}, at_steps((0, 3, 9))))
    assert [record["step"] for record in first.records] == [0, 3]


def test_the_ledger_counts_three_forwards_a_step(tiny, rows):
    done = run(tiny, rows, steps=1, accumulate=2)
    batch = Mixture(rows, 4, 0)(0)
    assert done.ledger.student == 3 * Meter(tiny)(batch)
    assert done.ledger.as_dict() == {"student": done.ledger.student, "teacher": 0, "evaluation": 0, "total": done.ledger.student}


def test_token_losses_are_cross_entropy_of_the_next_token(tiny, rows):
    batch = rows.batch(range(5))
    out = tiny(input_ids=batch.ids, attention_mask=batch.attention.long()).logits[:, :-1]
    wanted = -out.log_softmax(-1).gather(-1, batch.ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(token_losses(out, batch), wanted)


# ------------------------------------------------------------------------------- memory


class Full:
    """Cross-entropy on a device that has no memory for more than so many rows, in the forward or the backward pass."""

    def __init__(self, rows, where="forward", until=10**6):
        self.rows, self.where, self.until, self.seen = rows, where, until, []

    def __call__(self, model, batches):
        n = len(batches["train"].ids)
        self.seen.append(n)
        loss = CrossEntropy()(model, batches)
        if n > self.rows and len(self.seen) <= self.until:
            if self.where == "forward":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            loss.value.register_hook(self.fail)
        return loss

    @staticmethod
    def fail(gradient):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_where_memory_runs_out_the_parts_are_halved_and_the_step_repeated(rows, bits, capsys, where):
    cut, full = dropping(), dropping()
    run(cut, rows, steps=3, accumulate=4)
    room, objective = Memory(due=lambda: True), Full(1, where)
    run(full, rows, room=room, objective=objective, steps=3)
    assert bits.same(bits.weights(full), bits.weights(cut))  # dropout is drawn anew, and no gradient is left over
    told = [record["told"] for record in room.logged if record.get("kind") == "memory"]
    assert told == ["memory ran out at step 1: rows a part 4 -> 2", "memory ran out at step 1: rows a part 2 -> 1"]
    assert capsys.readouterr().err.count("memory ran out") == 2
    assert objective.seen == [4, 2] + [1] * 12
    assert room.kept["fit"].values["halved"] == 2


def test_a_resumed_run_goes_on_with_the_halved_parts(rows, bits):
    room, whole = Memory(due=lambda: True), dropping()
    room._progress = lambda title, at, *_: (_ for _ in ()).throw(Killed()) if at == 2 else None
    with pytest.raises(Killed):
        run(dropping(), rows, room=room, objective=Full(2), steps=4)
    room._progress = None
    assert room.kept["fit"].values["halved"] == 1
    resumed, objective = dropping(), Full(2)
    run(resumed, rows, room=room, objective=objective, steps=4)
    assert set(objective.seen) == {2}
    run(whole, rows, objective=Full(2), steps=4)
    assert bits.same(bits.weights(resumed), bits.weights(whole))


def test_below_a_row_it_says_what_to_set(tiny, rows, bits):
    before = bits.weights(tiny)
    with pytest.raises(UserError, match=r"part fit: memory ran out at step 1 \(CUDA out of memory.*Set --checkpointing.*--optimizer"):
        run(tiny, rows, objective=Full(0))
    assert bits.same(bits.weights(tiny), before)
    with pytest.raises(UserError, match="memory ran out at step 1"):  # it has taken part of the step
        run(tiny, rows, objective=Full(1), step_in_backward=True, clip=0.0)


def test_an_update_without_memory_is_not_repeated(tiny, rows, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: Full.fail(None))
    with pytest.raises(UserError, match="in the optimiser's update, which cannot be repeated: CUDA out of memory"):
        run(tiny, rows)


@pytest.mark.parametrize(("tokens", "parts"), [(10**6, 1), (0.6, 2), (0.3, 4), (1, 4)])
def test_a_budget_of_tokens_cuts_a_batch(rows, bits, tokens, parts):
    whole, cut, seen = dropping(), dropping(), []
    batch = Mixture(rows, 4, 0)(0)
    budget = int(tokens * batch.ids.numel()) if isinstance(tokens, float) else tokens
    run(whole, rows, steps=1, accumulate=parts)
    run(cut, rows, steps=1, part_tokens=budget, objective=lambda m, b: seen.append(b["train"].ids.numel()) or CrossEntropy()(m, b))
    assert len(seen) == parts
    assert max(seen) <= budget or parts == 4
    assert bits.same(bits.weights(whole), bits.weights(cut))


@pytest.mark.parametrize("make", [dropping, lambda: build("llama")], ids=["dropout", "llama"])
def test_recomputed_activations_train_the_same(make, rows, bits):
    plain, again, counts = make(), make(), []
    first = next(module for name, module in again.named_modules() if name.endswith(".0.mlp"))
    first.register_forward_pre_hook(lambda *_: counts.append(0))  # recomputing stops before a layer's end
    rooms = Memory(), Memory()
    run(plain, rows, room=rooms[0], steps=3)
    run(again, rows, room=rooms[1], steps=3, checkpointing=True)
    assert len(counts) == 6
    assert rooms[0].logged == rooms[1].logged
    assert bits.same(bits.weights(plain), bits.weights(again))
    assert not any(getattr(module, "gradient_checkpointing", False) for module in again.modules())
    assert not again.get_input_embeddings()._forward_hooks


def test_an_adapter_trains_where_activations_are_recomputed(rows, bits):
    pytest.importorskip("peft")
    from sluicegate.audit.adapter import add_adapter

    ends = []
    for checkpointing in (False, True):
        model = build("llama")
        add_adapter(model, 4, 0)
        run(model, rows, steps=3, params="*lora_*", checkpointing=checkpointing)
        ends.append({n: p.detach().clone() for n, p in model.named_parameters() if "lora_B" in n})
    assert all(p.any() for p in ends[1].values())
    assert bits.same(*ends)


def test_parameters_without_a_gradient_are_named_where_activations_are_recomputed(tiny, rows):
    room = Memory()

    def bottom(model, batches):
        return Loss(model.get_input_embeddings()(batches["train"].ids).square().mean())

    run(tiny, rows, room=room, objective=bottom, steps=1, checkpointing=True)
    (record,) = [record for record in room.logged if record.get("kind") == "without gradient"]
    assert set(record["parameters"]) == {n for n, _ in tiny.named_parameters()} - {"model.embed_tokens.weight"}


def test_a_model_that_cannot_recompute_is_refused(tiny, rows):
    type(tiny).supports_gradient_checkpointing, before = False, type(tiny).supports_gradient_checkpointing
    try:
        with pytest.raises(UserError, match=r"cannot compute activations again.*Leave --checkpointing out"):
            run(tiny, rows, checkpointing=True)
    finally:
        type(tiny).supports_gradient_checkpointing = before
