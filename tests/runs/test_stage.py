import dataclasses
import hashlib
import json
import shutil
import tomllib
from pathlib import Path
from typing import ClassVar

import pytest
import tomli_w

from sluicegate.audit.attack import Attack
from sluicegate.errors import UserError
from sluicegate.execution.execute import identity
from sluicegate.runs.stage import Stage, build, environment, folder_name, from_config, identify, identities, setting, stages
from sluicegate.unlearning.objectives import methods
from throwaway import Throwaway
from tiny_stages import material, settings_of_verbs

VERBS = {verb: cls for verb, cls in stages().items() if cls.GROUP}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def verbs(own):
    return settings_of_verbs(own)


def hash_of(settings):
    return identity(from_config(settings))[0]


def test_every_stage_has_its_own_hash(verbs):
    assert len({hash_of(settings) for settings in verbs.values()}) == len(verbs)


@pytest.mark.parametrize("name", ["train", "maxent", "npo", "rmu", "distill", "undo", "relearn"])
def test_the_config_fed_back_gives_the_same_hash(verbs, name):
    stage = from_config(verbs[name])
    text = tomli_w.dumps(stage.config())
    again = from_config(tomllib.loads(text))
    assert again == stage
    assert identity(again) == identity(stage)
    assert tomli_w.dumps(again.config()) == text


def test_the_same_data_under_another_name_is_the_same_run(verbs, own, tmp_path):
    moved = tmp_path / "renamed.jsonl"
    shutil.copy(own["forget"], moved)
    shutil.copytree(own["model"], tmp_path / "moved")
    settings = verbs["maxent"]
    assert hash_of(settings | {"forget": str(moved), "model": str(tmp_path / "moved")}) == hash_of(settings)


def test_a_changed_row_is_another_run(verbs, own, tmp_path):
    rows = Path(own["forget"]).read_text().splitlines()
    for changed in ([*rows[:-1], json.dumps(json.loads(rows[-1]) | {"answer": " 1"})], rows[:-1], rows[::-1]):
        (tmp_path / "rows.jsonl").write_text("\n".join(changed))
        assert hash_of(verbs["maxent"] | {"forget": str(tmp_path / "rows.jsonl")}) != hash_of(verbs["maxent"])
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    assert hash_of(verbs["maxent"] | {"forget": str(tmp_path / "rows.jsonl")}) == hash_of(verbs["maxent"])


def test_a_changed_weight_is_another_run(verbs, own, tmp_path):
    shutil.copytree(own["model"], tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert hash_of(verbs["train"] | {"model": str(tmp_path / "model")}) != hash_of(verbs["train"])


def test_a_run_folder_stands_for_its_own_hash(verbs, tmp_path):
    def run(name, digest):
        folder = tmp_path / name
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "config.json").write_text("{}")
        (folder / "parents.json").write_text(json.dumps({"format": 1, "hash": digest, "parents": {}}))
        (folder / "DONE").touch()
        return verbs["train"] | {"model": str(folder)}

    assert identity(from_config(run("a", "x" * 64)))[1]["model"] == "x" * 64
    assert hash_of(run("b", "x" * 64)) == hash_of(verbs["train"] | {"model": str(tmp_path / "a")})
    assert hash_of(run("c", "y" * 64)) != hash_of(verbs["train"] | {"model": str(tmp_path / "a")})


def other_value(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 1.0
    if isinstance(value, list):
        return [*value[:-1]] if len(value) > 1 else None
    return None


@pytest.mark.parametrize("name", ["train", "maxent", "distill", "undo", "relearn"])
def test_every_setting_that_is_a_number_is_in_the_hash(verbs, name):
    config = from_config(verbs[name]).config()
    tried = 0
    for key, value in config.items():
        if (other := other_value(value)) is None or key == "accumulate":
            continue
        assert hash_of(config | {key: other}) != hash_of(config), key
        tried += 1
    assert tried >= 7


def test_a_new_version_of_a_verb_is_another_run(verbs, monkeypatch):
    before = hash_of(verbs["train"])
    monkeypatch.setattr(VERBS["train"], "VERSION", 99)
    assert hash_of(verbs["train"]) != before


def test_the_same_rows_in_another_role_are_another_run(verbs, own):
    swapped = verbs["maxent"] | {"forget": own["retain"], "retain": own["forget"]}
    assert hash_of(swapped) != hash_of(verbs["maxent"])


def test_folders_are_named_for_people():
    digest = "0123456789abcdef"
    named = {
        "train": "train-01234567",
        "unlearn": "unlearn-maxent-01234567",
        "distill": "distill-fresh-01234567",
        "undo": "undo-0.6-01234567",
        "relearn": "relearn-forget-01234567",
    }
    for verb, wanted in named.items():
        assert folder_name(VERBS[verb](), digest) == wanted


def test_an_unknown_setting_lists_the_nearest():
    with pytest.raises(UserError, match=r"train has no setting 'step'\. Nearest: steps"):
        from_config({"verb": "train", "step": 3})
    with pytest.raises(UserError, match=r"unlearn has no setting 'cofficient'\. Nearest: coefficient"):
        from_config({"verb": "unlearn", "method": "rmu", "cofficient": 3.0})
    with pytest.raises(UserError, match="unlearn has no setting 'coefficient'"):
        from_config({"verb": "unlearn", "method": "maxent", "coefficient": 3.0})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"verb": "train", "steps": "many"}, "steps is 'many'; expected int"),
        ({"verb": "train", "steps": 3.5}, "steps is 3.5; expected int"),
        ({"verb": "train", "template": 1}, "template is 1; expected bool"),
        ({"verb": "train", "steps": True}, "steps is True; expected int"),
        ({"verb": "train", "lr": True}, "lr is True; expected float"),
        ({"verb": "train", "learn": "forget"}, "learn is 'forget'; expected tuple"),
        ({"verb": "train", "learn": [1]}, r"learn is \[1\]; every entry must be of type str"),
        ({"verb": "relearn", "lrs": ["1e-3"]}, r"lrs is \['1e-3'\]; every entry must be of type float"),
        ({"verb": "train", "decay": "linear"}, "decay is 'linear'; it must be one of constant, cosine"),
        ({"verb": "train", "on": "prompt"}, "on is 'prompt'; it must be one of real, answer"),
        ({"verb": "unlearn", "on": "prompt"}, "on is 'prompt'; it must be one of real, answer"),
        ({"verb": "relearn", "kind": "retian"}, "kind is 'retian'; it must be one of forget, retain, mixed"),
        ({"verb": "unlearn", "method": "maxnet"}, "unlearn has no method 'maxnet'"),
        ({"verb": "train", "method": "maxent"}, "train has no setting 'method'"),
        ({"verb": "forget"}, "no verb 'forget'.*train"),
        ({}, "no verb None"),
    ],
)
def test_a_wrong_setting_is_named(settings, said):
    with pytest.raises(UserError, match=said):
        from_config(settings)


def test_a_choice_is_checked_in_python_too():
    with pytest.raises(UserError, match="kind is 'retian'"):
        Attack(kind="retian")


def test_a_whole_number_may_stand_for_a_fraction():
    assert from_config({"verb": "train", "lr": 1}).schedule.lr == 1.0
    assert from_config({"verb": "relearn", "lrs": [1]}) == from_config({"verb": "relearn", "lrs": [1.0]})
    assert hash(json.dumps(from_config({"verb": "relearn", "lrs": [1]}).config())) == hash(
        json.dumps(from_config({"verb": "relearn", "lrs": [1.0]}).config())
    )


@pytest.mark.parametrize("name", methods())
def test_every_objective_goes_through_a_table(name):
    stage = from_config({"verb": "unlearn", "method": name})
    assert stage.method == name
    assert stage.objective == methods()[name]()
    own = dataclasses.asdict(stage.objective)
    changed = {key: value + 1 for key, value in own.items() if isinstance(value, float)}
    again = from_config(stage.config() | changed)
    assert dataclasses.asdict(again.objective) == own | changed


def test_the_surroundings_are_an_allow_list(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = environment("cpu", 1)
    assert "hf_secret" not in json.dumps(found)
    assert {"torch", "transformers", "sluicegate", "python"} <= set(found["versions"])
    assert found["world_size"] == 1


@dataclasses.dataclass(frozen=True)
class Inner:
    """Settings inside settings."""

    rate: float = setting(0.5, added=True, was="speed")


@dataclasses.dataclass(frozen=True)
class Aged(Stage):
    """A stage with a history."""

    VERB: ClassVar[str] = "aged"

    units: int = setting(4, was="places")
    """Renamed."""
    extra: int = setting(0, added=True)
    """Came later."""
    inner: Inner = Inner()


def test_settings_added_later_and_renamed_leave_the_hash_as_it_was():
    digest = identify(Aged(), {})
    assert Aged().config() == {"verb": "aged", "units": 4}
    assert identities(Aged(), {})[0] == digest
    assert len(identities(Aged(), {})) == 2, "trials wrote out what was added later, at first"
    as_it_was = {"verb": "aged", "version": 1, "config": {"verb": "aged", "places": 4}, "parents": {}}
    assert digest == hashlib.sha256(json.dumps(as_it_was, sort_keys=True).encode()).hexdigest()
    assert identify(Aged(extra=1), {}) != digest
    assert identify(Aged(inner=Inner(0.25)), {}) != digest
    assert build(Aged, {"places": 5, "speed": 1.0}) == Aged(units=5, inner=Inner(1.0))
    with pytest.raises(UserError, match="units is 5 and 6"):
        build(Aged, {"places": 5, "units": 6})


@pytest.mark.parametrize("verb", sorted(stages()))
def test_no_stage_has_a_setting_in_its_hash_that_was_added_later_and_holds_its_default(verb):
    stage = stages()[verb]()
    for field in dataclasses.fields(stage):
        if field.metadata.get("added"):
            assert field.name not in stage.config()
            assert field.default is not dataclasses.MISSING


@pytest.mark.parametrize("variant", ["../../evil", "a/b", "a\0b", "a\nb", "x" * 101])
def test_no_method_leads_out_of_the_folder_of_runs(variant):
    with pytest.raises(UserError, match=r"the method of throwaway is .*: it names a folder"):
        folder_name(Throwaway(variant=variant), "0" * 64)
