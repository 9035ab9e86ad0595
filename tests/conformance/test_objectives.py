"""What every unlearning objective has to keep to, over whatever `methods` finds."""

import copy
import dataclasses
import json
import math
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from architectures import build, learner
from documented import undocumented
from sluicegate import registry
from sluicegate.engine.encoding import encode
from sluicegate.engine.scoring import score
from sluicegate.engine.train import train
from sluicegate.engine.training import Ledger, fit, only_train
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.unlearning.objectives import Method, method, methods
from sluicegate.unlearning.objectives import rmu as rmu_module
from sluicegate.unlearning.objectives.repnoise import BANDWIDTHS, distance_to_noise
from sluicegate.unlearning.unlearn import unlearn
from sluicegate.values.schedule import Schedule

every = pytest.mark.parametrize("name", methods())


@pytest.fixture
def double():
    """In double precision, where equal means equal and not nearly so."""
    return build("llama").double()


@pytest.fixture
def groups(tokenizer, split, mixed_items):
    forget = encode(tokenizer, [*mixed_items, *split.forget[:3]])
    retain = encode(tokenizer, split.retain[:8])
    return forget, retain


def prepared(name, model, groups, **settings):
    only_train(model, "*")
    return methods()[name](**settings).prepare(model, *groups, Ledger())


def batches(groups, size=8):
    return {"forget": groups[0].batch(range(size)), "retain": groups[1].batch(range(size))}


def moved(model, scale=0.02):
    """The model after some change, so that a reference taken before differs from it."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@every
def test_loss_and_gradients_are_finite_and_something_moves(name, double, groups):
    loss = prepared(name, double, groups)
    moved(double)
    found = loss(double, batches(groups))
    found.value.backward()
    assert found.value.shape == ()
    assert math.isfinite(float(found.value.detach()))
    assert all(bool(g.isfinite().all()) for g in gradients(double).values())
    assert any(bool(g.any()) for g in gradients(double).values())
    assert found.log, "an objective logs its terms"


@every
@pytest.mark.parametrize("parts", [4, 8, 3])
def test_accumulating_parts_is_the_whole_step(name, double, groups, parts):
    loss = prepared(name, double, groups)
    moved(double)
    whole = loss(double, batches(groups))
    whole.value.backward()
    wanted = gradients(double)
    double.zero_grad()
    cut = {group: batch.split(parts) for group, batch in batches(groups).items()}
    total, log = 0.0, dict.fromkeys(whole.log, 0.0)
    for i in range(parts):
        part = loss(double, {group: pieces[i] for group, pieces in cut.items()})
        part.value.backward()
        total += float(part.value.detach())
        for key, value in part.log.items():
            log[key] += float(value.detach())
    assert total == pytest.approx(float(whole.value.detach()), rel=1e-9)
    assert log == pytest.approx({key: float(value.detach()) for key, value in whole.log.items()}, rel=1e-9)
    assert len(gradients(double)) == len(wanted)
    for key, value in gradients(double).items():
        torch.testing.assert_close(value, wanted[key], msg=key)


@every
def test_a_step_of_one_times_eight_equals_four_times_two(name, double, groups):
    ends = []
    for accumulate in (1, 4):
        model = copy.deepcopy(double)
        schedule = Schedule(steps=2, lr=1e-3, batch=8, accumulate=accumulate)
        fit(model, prepared(name, model, groups), lambda _: batches(groups), schedule, seed=0, run=RunContext())
        ends.append(dict(model.named_parameters()))
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], msg=key)


@every
def test_preparing_changes_no_weight_and_the_loss_is_pure(name, double, groups, bits):
    before, state = bits.weights(double), torch.get_rng_state()
    loss = prepared(name, double, groups)
    first = loss(double, batches(groups))
    second = loss(double, batches(groups))
    assert torch.equal(first.value, second.value)
    assert first.teacher_flops == second.teacher_flops
    assert bits.same(bits.weights(double), before)
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_it_says_where_it_comes_from_and_what_every_field_does(name):
    cls = methods()[name]
    assert re.search(r"arXiv \d{4}\.\d{5}", cls.__doc__), "name the paper: arXiv NNNN.NNNNN"
    assert "Source:" in cls.__doc__
    assert "L = " in cls.__doc__, "give the equation"
    assert undocumented(cls) == []


@every
def test_it_is_a_frozen_value_that_a_table_can_hold(name):
    cls = methods()[name]
    value = cls()
    assert isinstance(value, Method)
    assert name == cls.NAME
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.extra = 1
    assert cls(**json.loads(json.dumps(dataclasses.asdict(value)))) == value


def test_the_check_on_fields_can_fail():
    @dataclasses.dataclass
    class Bare:
        """Documented, but for one field."""

        good: int = 1
        """It is."""
        bad: int = 2
        also_bad: int = 3

    assert undocumented(Bare) == ["bad", "also_bad"]


def test_finding_the_objectives_does_not_import_torch():
    code = "import sys; from sluicegate.unlearning.objectives import methods; methods(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_method_lists_what_there_is():
    with pytest.raises(UserError, match=r"no unlearning method 'maxnet'.*maxent"):
        method("maxnet")


def test_a_plugin_of_another_package_is_found(monkeypatch, tmp_path):
    (tmp_path / "elsewhere.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\n\n@dataclass(frozen=True)\nclass Mine:\n"
        "    NAME: ClassVar[str] = 'mine'\n    def prepare(self, model, forget, retain, ledger): ...\n"
    )
    info = tmp_path / "elsewhere-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[sluicegate.plugins]\nmine = elsewhere:Mine\n")
    assert "mine" not in methods()
    monkeypatch.syspath_prepend(tmp_path)
    registry.forget()
    assert methods()["mine"].__name__ == "Mine"


# -------------------------------------------------------------------------------------- known values


def plain(model, batch):
    """Log-probabilities [b, s-1, V], targets and masks, straight from the model."""
    logs = model(input_ids=batch.ids, attention_mask=batch.attention.long()).logits[:, :-1].log_softmax(-1)
    return logs, -logs.gather(-1, batch.ids[:, 1:, None])[..., 0]


def answers(model, batch):
    """log p(y | x) of every row, one row at a time."""
    logs, losses = plain(model, batch)
    return torch.stack([-losses[i][batch.answer[i]].sum() for i in range(len(logs))])


def maxent(model, original, forget, retain, on="real"):
    logs, _ = plain(model, forget)
    chosen = logs[getattr(forget, on)]
    uniform = torch.full_like(chosen, 1 / chosen.shape[-1])
    kl = F.kl_div(chosen, uniform, reduction="batchmean")
    return kl + 0.7 * plain(model, retain)[1][getattr(retain, on)].mean()


def graddiff(model, original, forget, retain, on="real"):
    down = plain(model, forget)[1][getattr(forget, on)].clamp(max=5.0).mean()
    return -down + 0.7 * plain(model, retain)[1][getattr(retain, on)].mean()


def npo(model, original, forget, retain):
    ratio = answers(model, forget) - answers(original, forget)
    return -(2 / 0.3) * F.logsigmoid(-0.3 * ratio).mean() + 0.7 * plain(model, retain)[1][retain.answer].mean()


def simnpo(model, original, forget, retain):
    lengths = torch.tensor([float(row.sum()) for row in forget.answer])
    inner = -(0.3 / lengths) * answers(model, forget) - 0.4
    return -(2 / 0.3) * F.logsigmoid(inner).mean() + 0.7 * plain(model, retain)[1][retain.answer].mean()


def rmu(model, original, forget, retain):
    def states(which, batch):
        seen = []
        hook = which.model.layers[0].register_forward_hook(lambda *a: seen.append(a[2][0] if isinstance(a[2], tuple) else a[2]))
        which(input_ids=batch.ids, attention_mask=batch.attention.long())
        hook.remove()
        return seen[0][batch.attention]

    direction = torch.randn(32, generator=torch.Generator().manual_seed(3))
    target = 2.0 * direction / direction.norm()
    drift = F.mse_loss(states(model, retain), states(original, retain))
    return F.mse_loss(states(model, forget), target.expand(int(forget.attention.sum()), -1).double()) + 0.7 * drift


def repnoise(model, original, forget, retain):
    """The distance to noise from a million samples' worth of its two expectations, a row and a layer at a time."""
    answer = model(input_ids=forget.ids, attention_mask=forget.attention.long(), output_hidden_states=True)
    first, last = answer.hidden_states[1:]
    lens = model.lm_head(model.model.norm(first))[:, :-1].log_softmax(-1)
    top = answer.logits[:, :-1].log_softmax(-1)
    total = 0.0
    for i in range(len(forget.ids)):
        chosen, targets = forget.answer[i], forget.ids[i, 1:]
        ce = [-logs[i][chosen].gather(-1, targets[chosen][:, None]).mean() for logs in (lens, top)]
        total = total - torch.log(1 + (ce[0] + ce[1]) / 2)
        for state in (first, last):
            x = state[i][forget.attention[i]]
            d = x.shape[1]
            scale = float(x.detach().square().sum(1).mean()) + d
            for share in (0.25, 0.5, 1.0, 2.0, 4.0):
                h = share * scale / 2
                own = torch.exp(-torch.cdist(x, x).square() / (2 * h)).mean()
                across = ((h / (h + 1)) ** (d / 2) * torch.exp(-x.square().sum(1) / (2 * (h + 1)))).mean()
                total = total + 0.3 * (own - 2 * across + (h / (h + 2)) ** (d / 2)) / 10
    return total / len(forget.ids) + 0.7 * plain(model, retain)[1][retain.answer].mean()


FORMULAS = {
    "maxent": (maxent, [{}, {"on": "answer"}]),
    "graddiff": (graddiff, [{"cap": 5.0}, {"cap": 5.0, "on": "answer"}]),
    "npo": (npo, [{"beta": 0.3}]),
    "simnpo": (simnpo, [{"beta": 0.3, "margin": 0.4}]),
    "repnoise": (repnoise, [{"noise_weight": 0.3}]),
    "rmu": (rmu, [{"layer": 0, "coefficient": 2.0, "direction_seed": 3}]),
}


@every
def test_the_loss_is_its_formula(name, double, groups):
    formula, cases = FORMULAS[name]  # a new objective brings its formula with it
    for settings in cases:
        model = copy.deepcopy(double)
        loss = prepared(name, model, groups, retain_weight=0.7, **settings)
        original = copy.deepcopy(double).eval()
        moved(model).eval()
        given = batches(groups, 8)
        wanted = formula(model, original, given["forget"], given["retain"], **({"on": settings["on"]} if "on" in settings else {}))
        torch.testing.assert_close(loss(model, given).value, wanted)


def test_the_distance_to_noise_is_that_of_samples_and_is_gone_for_noise():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 6, 8, generator=generator, dtype=torch.float64) * 1.5 + 0.5
    attention = torch.tensor([[True] * 5 + [False]])
    found = distance_to_noise(x, attention)
    real, noise = x[0, :5], torch.randn(4000, 8, generator=generator, dtype=torch.float64)
    scale = float(real.square().sum(1).mean()) + 8
    wanted = 0.0
    for share in BANDWIDTHS:
        h = share * scale
        among = torch.exp(-torch.pdist(noise).square() / h).mean()
        wanted += (
            torch.exp(-torch.cdist(real, real).square() / h).mean() - 2 * torch.exp(-torch.cdist(real, noise).square() / h).mean() + among
        )
    assert float(found) == pytest.approx(float(wanted) / len(BANDWIDTHS), rel=0.03)
    many = torch.randn(1, 2000, 8, generator=generator, dtype=torch.float64)
    assert abs(float(distance_to_noise(many, torch.ones(1, 2000, dtype=torch.bool)))) < 1e-3 < float(found)


def test_npo_looks_its_reference_up_by_row(double, groups):
    loss = prepared("npo", double, groups)
    only = {"forget": groups[0].batch([6, 2]), "retain": groups[1].batch([0, 1])}
    # The model has not moved: every ratio is 0, and the forget term is (2 / b) log 2 whichever rows are drawn.
    assert float(loss(double, only).log["forget_loss"].detach()) == pytest.approx(20 * math.log(2))


def test_rmu_keeps_what_the_trained_weights_were_and_refuses_a_layer_that_is_not_there(double, groups):
    loss = prepared("rmu", double, groups)
    assert float(loss(double, batches(groups)).log["retain_mse"].detach()) == 0
    moved(double)
    assert float(loss(double, batches(groups)).log["retain_mse"].detach()) > 0
    with pytest.raises(UserError, match="layer is 2; this model has layers 0 to 1"):
        prepared("rmu", double, groups, layer=2)


@pytest.mark.parametrize("limit", [0, 10**9])
def test_rmu_keeps_hidden_states_or_weights_and_means_the_same(limit, double, groups, monkeypatch):
    monkeypatch.setattr(rmu_module, "CACHE_LIMIT", limit)
    ledger, original = Ledger(), copy.deepcopy(double).eval()
    only_train(double, "*")
    loss = methods()["rmu"](layer=0, retain_weight=0.7, direction_seed=3, coefficient=2.0).prepare(double, *groups, ledger)
    moved(double).eval()
    given = {"forget": groups[0].batch([6, 2]), "retain": groups[1].batch([5, 0, 2])}
    found = loss(double, given)
    torch.testing.assert_close(found.value, rmu(double, original, given["forget"], given["retain"]))
    parts = [{name: batch.split(2)[i] for name, batch in given.items()} for i in range(2)]
    torch.testing.assert_close(sum(loss(double, part).value for part in parts), found.value)
    assert (ledger.teacher > 0, found.teacher_flops > 0) == (limit > 0, limit == 0), "paid for once"


def test_rmu_takes_its_reference_without_dropout(groups):
    model, drops = build("gpt2").train(), []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda m, i, o: drops.append(m.training))
    loss = prepared("rmu", model, groups, layer=0)
    assert set(drops) == {False}
    model.eval()
    clean = loss(model, batches(groups)).log["retain_mse"]
    assert float(clean.detach()) == 0
    model.train()
    loss(model, batches(groups))
    assert set(drops) == {True, False}
    assert model.training


# ------------------------------------------------------------------------------------------ direction


@pytest.fixture(scope="module")
def knows(tokenizer, split):
    """A model that knows both groups by heart."""
    model = learner()
    train(model, tokenizer, [*split.forget, *split.retain], Schedule(steps=150, lr=1e-2, batch=len(split.forget + split.retain)))
    before = {g: float(score(model, encode(tokenizer, split.group(g))).probability.mean()) for g in ("forget", "retain")}
    assert min(before.values()) > 0.9, before
    return model


@every
def test_thirty_steps_suppress_the_forget_set_and_spare_the_retain_set(name, knows, tokenizer, split):
    rate = {"rmu": 1e-2}.get(name, 2e-3)  # its default weight of the retain set asks for more steps or larger ones
    student, _ = unlearn(knows, tokenizer, split, methods()[name](), Schedule(steps=30, lr=rate, batch=16))
    after = {g: float(score(student, encode(tokenizer, split.group(g))).probability.mean()) for g in ("forget", "retain")}
    assert after["forget"] < 0.5, after
    assert after["retain"] > 0.75, after
