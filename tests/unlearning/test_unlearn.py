import pytest

from sluicegate.errors import UserError
from sluicegate.runs.stage import from_config, identify
from sluicegate.unlearning import unlearn as module
from sluicegate.unlearning.objectives.maxent import MaxEnt
from sluicegate.unlearning.objectives.npo import NPO
from sluicegate.unlearning.unlearn import unlearn
from sluicegate.values.items import Split
from sluicegate.values.schedule import Schedule

SHORT = Schedule(steps=3, lr=1e-3, batch=4)


@pytest.mark.parametrize("missing", ["forget", "retain"])
def test_unlearning_needs_both_sides(tiny, tokenizer, split, missing):
    other = {"forget": split.forget, "retain": split.retain} | {missing: ()}
    with pytest.raises(UserError, match=f"needs a {missing} set.*--{missing}"):
        unlearn(tiny, tokenizer, Split(**other), MaxEnt())


def test_only_the_sites_are_trained(tiny, tokenizer, split, bits):
    before = bits.weights(tiny)
    student, _ = unlearn(tiny, tokenizer, split, MaxEnt(), SHORT, params="*.self_attn.*")
    for name, value in bits.weights(student).items():
        assert bool((value == before[name]).all()) == ("self_attn" not in name), name


def test_the_earlier_names_are_taken_with_a_warning(tiny, tokenizer, split, bits):
    with pytest.warns(DeprecationWarning, match="sites.*is now params"):
        earlier, _ = unlearn(tiny, tokenizer, split, MaxEnt(), SHORT, sites="*.self_attn.*")
    assert bits.same(bits.weights(earlier), bits.weights(unlearn(tiny, tokenizer, split, MaxEnt(), SHORT, params="*.self_attn.*")[0]))
    stages = [from_config({"verb": "undo", name: "*.mlp.*"}) for name in ("noise_sites", "noise_params")]
    assert stages[0] == stages[1]
    assert identify(stages[0], {}) != identify(from_config({"verb": "undo"}), {})


def test_every_step_sees_rows_of_both_groups_in_their_own_order(tiny, tokenizer, split, monkeypatch):
    seen = []

    class Spy(MaxEnt):
        def __call__(self, model, batches):
            seen.append({group: batch.index.tolist() for group, batch in batches.items()})
            return super().__call__(model, batches)

    unlearn(tiny, tokenizer, split, Spy(), Schedule(steps=4, lr=1e-3, batch=4))
    assert all(set(step) == {"forget", "retain"} and len(step["forget"]) == len(step["retain"]) == 4 for step in seen)
    assert [s["forget"] for s in seen] != [s["retain"] for s in seen]
    drawn = [i for step in seen for i in step["forget"]]
    assert len(set(drawn)) == len(drawn) == 16


def test_the_seed_chooses_the_rows(tiny, tokenizer, split, bits):
    ends = [bits.weights(unlearn(tiny, tokenizer, split, MaxEnt(), SHORT, seed=seed)[0]) for seed in (0, 0, 1)]
    assert bits.same(ends[0], ends[1])
    assert not bits.same(ends[0], ends[2])


def test_what_preparing_costs_is_in_the_ledger_once(tiny, tokenizer, split):
    _, done = unlearn(tiny, tokenizer, split, NPO(), SHORT)
    _, more = unlearn(tiny, tokenizer, split, NPO(), Schedule(steps=6, lr=1e-3, batch=4))
    assert done.ledger.teacher == more.ledger.teacher > 0
    assert more.ledger.student > 1.5 * done.ledger.student


def test_a_learning_rate_left_open_is_the_verbs_own(tiny, tokenizer, split, monkeypatch):
    rates, fit = [], module.fit
    monkeypatch.setattr(module, "fit", lambda m, o, b, schedule, **k: (rates.append(schedule.lr), fit(m, o, b, schedule, **k))[1])
    unlearn(tiny, tokenizer, split, MaxEnt(), Schedule(steps=1, batch=4))
    assert rates == [pytest.approx(2e-3)]
