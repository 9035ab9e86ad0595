"""What every routing rule has to keep to, over whatever `rules` finds."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from architectures import learner
from documented import undocumented
from plugin import documented, install
from sluicegate import registry
from sluicegate.engine.encoding import encode
from sluicegate.errors import UserError
from sluicegate.routing.penalties import penalties
from sluicegate.routing.probing import fit_probe
from sluicegate.routing.router import Router
from sluicegate.routing.rules import Rule, bind, rule, rules
from sluicegate.routing.rules.callable import Call
from sluicegate.routing.rules.column import Column
from sluicegate.routing.rules.frequency import Frequency
from sluicegate.routing.rules.probe import Probe
from sluicegate.routing.rules.soft import Soft
from sluicegate.routing.rules.span import Span, matches
from sluicegate.routing.rules.tokens import Tokens
from sluicegate.routing.rules.within import Within
from sluicegate.routing.train import train_routed
from sluicegate.unlearning.objectives import methods
from sluicegate.values.schedule import Schedule

LABELS = ("retain", "forget", "unlabelled")
every = pytest.mark.parametrize("name", sorted(rules()))


@pytest.fixture(scope="module")
def rows(tokenizer, mixed_items):
    return encode(tokenizer, mixed_items)


@pytest.fixture(scope="module")
def made(rows, tokenizer):
    """One of each: a new rule brings its example with it, made with a label name to be used."""
    probe = fit_probe(learner(), rows, [True, False] * 2 + [True], "model.layers.0")
    forget, retain = rows.select([1, 2]), rows.select([0, 3, 4])
    column = Column("fact", {"3*4": "forget"}, unknown="retain", rows=rows)
    return {
        "callable": lambda label: Call(lambda batch: [label] * len(batch.ids)),
        "column": lambda label: Column("fact", {"3*4": label}, unknown="retain", rows=rows),
        "frequency": lambda label: Frequency(label).fit(forget, retain, 132),
        "probe": lambda label: Probe(probe, label),
        "soft": lambda label: Soft(values=torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]), label=label),
        "span": lambda label: Span(rows, matches(rows.items, r"3|plums today"), tokenizer, label),
        "tokens": lambda label: Tokens({label: ["12", "plums"]}, tokenizer),
        "within": lambda label: Within(column, Tokens({label: ["12"]}, tokenizer)),
    }


@every
def test_labels_fit_the_batch_and_something_is_labelled(name, made, rows):
    value = made[name]("forget")
    batch = rows.batch([3, 0, 4])  # not all columns of the rows
    found = value(batch, LABELS)
    lead = found.shape[:-1] if found.is_floating_point() else found.shape
    assert batch.ids.shape[1] < rows.ids.shape[1]
    assert tuple(lead) in [(3,), tuple(batch.ids.shape)]
    torch.testing.assert_close(bind(value, LABELS)(batch), found)
    whole = value(rows.batch(range(5)), LABELS)
    assert bool((whole[..., 1] > 0).any() if whole.is_floating_point() else (whole == 1).any())


@every
def test_a_rule_is_pure(name, made, rows):
    batch, state = rows.batch([0, 1, 2]), torch.get_rng_state()
    kept = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    copies = {key: value.clone() for key, value in kept.items() if isinstance(value, torch.Tensor)}
    value = made[name]("forget")
    assert torch.equal(value(batch, LABELS), value(batch, LABELS))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(getattr(batch, key), was) for key, was in copies.items())


@every
def test_a_row_has_the_same_labels_alone_and_beside_a_longer_one(name, made, rows):
    value = made[name]("forget")
    alone, beside = value(rows.batch([0]), LABELS), value(rows.batch([0, 3]), LABELS)
    tokens = beside.dim() - beside.is_floating_point() == 2
    torch.testing.assert_close(alone, beside[:1, : alone.shape[1]] if tokens else beside[:1])


@every
def test_the_order_of_labels_is_the_routers(name, made, rows):
    other = ("retain", "steer", "forget", "unlabelled")
    value = made[name]("forget")
    first, second = value(rows.batch(range(5)), LABELS), value(rows.batch(range(5)), other)
    if first.is_floating_point():
        torch.testing.assert_close(second[..., [0, 2, 3]], first)
        assert not second[..., 1].any()
    else:
        torch.testing.assert_close(torch.tensor([0, 2, 3])[first], second)


@every
def test_a_label_that_the_router_has_not_is_named(name, made, rows):
    with pytest.raises(UserError, match=r"no label 'forgte' on this router. There are: .*forget"):
        bind(made[name]("forgte"), LABELS)(rows.batch(range(5)))


@every
def test_a_rule_trains_a_routed_model(name, made, rows):
    model = learner()
    router = Router(model, {"model.layers.*.mlp": {"forget": 16}})
    done = train_routed(model, rows, made[name]("forget"), router, Schedule(steps=2, lr=1e-3, batch=4))
    assert done.steps == 2


@every
def test_labels_may_come_after_the_forward_pass(name, made, rows):
    batch = rows.batch(range(4))
    grads = []
    for late in (False, True):
        model = learner()
        router = Router(model, {"model.layers.*.mlp": {"forget": 16}}, weights={"forget": -0.75})
        named = bind(made[name]("forget"), router)
        if late:
            with router.delayed() as pending:
                loss = model(input_ids=batch.ids, labels=batch.ids).loss
                pending.label(named(batch))
                loss.backward()
        else:
            with router(named(batch)):
                model(input_ids=batch.ids, labels=batch.ids).loss.backward()
        grads.append({key: p.grad for key, p in model.named_parameters()})
    for key, value in grads[0].items():  # whose labels are known in time may leave products out, which rounds otherwise
        torch.testing.assert_close(value, grads[1][key], rtol=1e-5, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}")


@every
def test_it_says_what_is_indexed_and_what_every_field_does(name):
    cls = rules()[name]
    assert "Indexed:" in cls.__doc__, "say whether input or target tokens are labelled"
    assert undocumented(cls) == []


@every
def test_it_is_a_frozen_value(name, made):
    value = made[name]("forget")
    assert isinstance(value, Rule)
    assert type(value) is rule(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.extra = 1


def test_every_rule_has_its_example(made):
    assert sorted(rules()) == sorted(made)


def test_finding_the_rules_does_not_import_torch():
    code = "import sys; from sluicegate.routing.rules import rules; rules(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_rule_lists_what_there_is():
    with pytest.raises(UserError, match=r"no rule 'tokns'.*tokens"):
        rule("tokns")


def test_a_plugin_of_another_package_is_found(monkeypatch, tmp_path):
    (tmp_path / "afar.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\n\n@dataclass(frozen=True)\nclass Long:\n"
        "    NAME: ClassVar[str] = 'long'\n    def __call__(self, batch, labels): ...\n\n"
        "@dataclass(frozen=True)\nclass Other:\n    NAME: ClassVar[str] = 'other'\n    def __call__(self, z, blocks, step_share): ...\n"
    )
    info = tmp_path / "afar-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: afar\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[sluicegate.plugins]\nlong = afar\n")
    assert "long" not in rules()
    monkeypatch.syspath_prepend(tmp_path)
    registry.forget()
    assert rules()["long"].__name__ == "Long"
    assert "other" not in rules()


# ------------------------------------------------------------------------------ what the pages say

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def documented_plugins(monkeypatch, tmp_path):
    """The files that docs/extending.md shows, installed as another package's."""
    install(tmp_path, "mine", "sluicegate_mine", documented())
    monkeypatch.syspath_prepend(tmp_path)
    registry.forget()
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "sluicegate_mine"]:
        sys.modules.pop(name)


def test_the_documented_plugins_are_found_and_do_what_they_say(documented_plugins, rows):
    long_rows = rules()["long-rows"]
    assert undocumented(long_rows) == []
    assert long_rows(least=8)(rows.batch(range(5)), LABELS).tolist() == (rows.lengths >= 8).long().tolist()
    model = learner()
    router = Router(model, {"model.layers.*.mlp": {"forget": 16}})
    assert train_routed(model, rows, long_rows(8), router, Schedule(steps=2, lr=1e-3, batch=4)).steps == 2
    decay = penalties()["activation-decay"](weight=2.0)
    z = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    decay(z, {"high": (2, 3)}).backward()
    assert torch.allclose(z.grad, torch.tensor([[1.0, 2.0, 6.0]]))
    assert methods()["unlikelihood"].NAME == "unlikelihood"


def test_the_page_on_rules_runs_as_it_stands_and_prints_what_it_says(capsys):
    page = (DOCS / "howto" / "rules.md").read_text(encoding="utf-8")
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "rules.md", "exec"), names)
    printed = capsys.readouterr().out
    for said in re.findall(r"print\(.*# (tensor\(\[[\d, ]+\]\)|0\.8 0\.5)", page):
        assert said in printed
    target, on_input, spans = re.findall(r"tensor\(\[([01, ]{25})\]\)", printed)
    assert target == spans == "0, 1, 0, 0, 0, 0, 0, 0, 0"
    assert on_input == "0, 0, 1, 0, 0, 0, 0, 0, 0"
    assert set(rules()) == {names[word].NAME for word in re.findall(r"\| `(\w+)` \|", page)}, "the table names every rule"


def test_the_names_of_the_package_are_where_it_says():
    import sluicegate.routing

    assert all(getattr(sluicegate.routing, name) is not None for name in sluicegate.routing.__all__)
    assert all(getattr(sluicegate.routing, name) is not None for name in sluicegate.routing.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        sluicegate.routing.nonsense  # noqa: B018
    code = "import sys, sluicegate.routing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
