"""An audit attacks model and reference alike, and its page and numbers agree with the runs."""

import json

from sluicegate.audit.attack import Attack
from sluicegate.audit.audit import inspect
from tiny_stages import material


def test_model_and_reference_are_attacked_alike_and_gathered(tmp_path):
    own = material(tmp_path / "material")
    data = {"model": own["model"], "forget": own["forget"], "retain": own["retain"], "max_length": 32}
    attack = Attack(lrs=(1e-2,), steps=4, checkpoints=(2,), batch=8)
    found = inspect(data, attack, reference=own["model"], seeds=(0, 1), out=tmp_path / "audit", workers=2)
    assert found.reference is not None
    assert found.harmless is not None
    assert found.model.owned == found.reference.owned  # the same model under the same attack
    assert found.model.held_out.effort == (0.0, 2.0, 4.0)
    assert found.harmless.attacks[0]["method"] == "retain"
    assert found.verdict.excess is not None
    assert found.verdict.excess.mean == 0
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == found.summary()
    assert found.summary()["seeds"] == [0, 1]


def test_without_retain_rows_there_is_no_harmless_attack(tmp_path):
    own = material(tmp_path / "material")
    data = {"model": own["model"], "forget": own["forget"], "max_length": 32}
    found = inspect(data, Attack(lrs=(1e-2,), steps=1, checkpoints=(), batch=4), seeds=(0,), out=tmp_path / "audit", workers=1)
    assert found.harmless is None
    assert found.verdict.word == "no reference"
