import dataclasses
import json
import math
import shutil
import tomllib

import pytest

from documented import undocumented
from jsonl import write_jsonl
from sluicegate.audit.attack import Attack
from sluicegate.engine import encoding
from sluicegate.engine.encoding import encode
from sluicegate.engine.models import load
from sluicegate.engine.scoring import score
from sluicegate.errors import UserError
from sluicegate.execution.execute import execute, identity
from sluicegate.execution.show import stage_results
from sluicegate.runs.directory import result_of
from sluicegate.runs.stage import from_config, settings_of, stages
from sluicegate.tasks.stage import compared
from sluicegate.unlearning.objectives import methods
from sluicegate.values.curves import Curve
from sluicegate.values.items import Item, Split, read
from sluicegate.values.schedule import Schedule
from tiny_stages import material, settings_of_verbs

VERBS = {verb: cls for verb, cls in stages().items() if cls.GROUP}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def verbs(own):
    return settings_of_verbs(own)


@pytest.mark.parametrize("name", ["train", "maxent", "npo", "rmu", "distill", "undo", "relearn"])
def test_every_stage_runs_and_tells_what_it_found(verbs, name, tmp_path):
    folder = execute(from_config(verbs[name]), tmp_path)
    result = result_of(folder)
    assert result["verb"] == verbs[name]["verb"]
    before = {"retain before"} if name not in ("train", "relearn") else set()
    assert set(result["scores"]) == {"forget", "retain"} | before
    assert all(math.isfinite(v) for scores in result["scores"].values() for v in scores.values())
    assert result["flops"]["total"] > 0
    text = (folder / "config.toml").read_text()
    assert from_config(tomllib.loads(text)).config() == from_config(verbs[name]).config()
    if name != "relearn":
        model, tokenizer = load(str(folder))
        assert not model.training
        for group in ("forget", "retain"):
            rows = encode(tokenizer, read(verbs[name][group], group))
            assert score(model, rows).mean() == pytest.approx(result["scores"][group])
        assert result["steps"] == (2 if name == "distill" else 6)  # its teacher knows nothing, so it is met at once
    else:
        assert Curve.from_json(result["owned"]).budget == 6
        assert not (folder / "model").exists()


def test_stages_are_made_from_one_another(verbs, tmp_path):
    base = execute(from_config(verbs["train"]), tmp_path)
    student = execute(from_config(verbs["maxent"] | {"model": str(base)}), tmp_path)
    parents = json.loads((student / "parents.json").read_text())["parents"]
    assert parents["model"] == json.loads((base / "parents.json").read_text())["hash"]
    attacked = execute(from_config(verbs["relearn"] | {"model": str(student)}), tmp_path)
    assert len({base, student, attacked}) == 3


def test_training_on_some_groups_scores_all_of_them(verbs, tmp_path):
    result = result_of(execute(from_config(verbs["train"] | {"learn": ["retain"], "steps": 60, "lr": 1e-2}), tmp_path))
    assert result["scores"]["retain"]["probability"] > 0.5 > result["scores"]["forget"]["probability"]


def test_the_steps_of_another_run_are_taken(verbs, tmp_path):
    first = execute(from_config(verbs["train"] | {"steps": 5}), tmp_path)
    again = execute(from_config(verbs["distill"] | {"steps": 99, "steps_of": str(first)}), tmp_path)
    assert result_of(again)["steps"] == 5
    assert result_of(again)["reached"]


def test_the_steps_of_an_unfinished_run_are_refused(verbs, tmp_path):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.toml").write_text("")
    with pytest.raises(UserError, match="not finished"):
        execute(from_config(verbs["distill"] | {"steps_of": str(tmp_path / "unfinished")}), tmp_path)


def test_a_student_that_did_not_get_there_is_flagged(verbs, tmp_path):
    settings = verbs["distill"] | {"stop_at": 1.0, "lr": 1e-9}
    base = execute(from_config(verbs["train"] | {"steps": 60, "lr": 1e-2}), tmp_path)
    result = result_of(execute(from_config(settings | {"model": str(base)}), tmp_path))
    assert (result["reached"], result["steps"]) == (False, 6)


def test_a_retain_score_that_fell_by_more_than_a_tenth_is_said_and_one_that_stayed_is_not(verbs, tmp_path, capsys):
    base = str(execute(from_config(verbs["train"] | {"steps": 80, "lr": 1e-2}), tmp_path))
    teacher = {"model": base, "forget": verbs["npo"]["forget"]}
    harsh = [
        verbs["npo"] | {"model": base, "retain_weight": 0.0, "lr": 1e-2, "steps": 20},
        verbs["distill"] | teacher | {"steps": 1},
        verbs["undo"] | teacher | {"alpha": 1.0, "steps": 1},
    ]
    for settings in harsh:
        folder = execute(from_config(settings), tmp_path)
        result = result_of(folder)
        before, after = (result["scores"][group]["exact"] for group in ("retain before", "retain"))
        assert (before, after < 0.9) == (1.0, True)
        assert [text for text in result["warnings"] if text.startswith("the retain score fell by more than a tenth: try ")]
        stage_results([0], [result], [folder])
        assert "retain before 1.000" in " ".join((said := capsys.readouterr().out).split())
        assert "warning the retain score fell by more than a tenth" in " ".join(said.split())
    mild = result_of(execute(from_config(verbs["npo"] | {"model": base, "steps": 1, "lr": 1e-6}), tmp_path))
    assert (mild["warnings"], mild["scores"]["retain before"]["exact"]) == ([], 1.0)


@pytest.mark.parametrize(("now", "warns"), [(0.9, False), (0.899, True), (1.0, False)])
def test_the_score_that_is_compared_is_the_one_that_counts(now, warns):
    asked, text = Split(retain=(Item("3 + 4 =", " 7"),)), Split(retain=(Item("", "the old fox sees the red plums today"),))
    for split, scores, before in (
        (asked, {"exact": now, "loss": 9.0}, {"exact": 1.0, "loss": 0.0}),
        (text, {"exact": 0.0, "loss": 2 - math.log(now)}, {"exact": 0.0, "loss": 2.0}),
    ):
        found = compared({"retain": scores}, {"retain": before}, split, "mend it")
        assert found == {"scores": {"retain": scores, "retain before": before}, "warnings": found["warnings"]}
        assert found["warnings"] == ["the retain score fell by more than a tenth: mend it"] * warns
    assert compared({"forget": {}}, {}, Split(), "") == {"scores": {"forget": {}}}


def test_an_undo_without_noise_is_the_teacher_from_the_start(verbs, own, tmp_path):
    settings = verbs["undo"] | {"alpha": 0.0, "steps": 1, "lr": 1e-12}
    folder = execute(from_config(settings), tmp_path)
    assert result_of(folder)["divergence"] < 1e-5
    assert result_of(execute(from_config(settings | {"alpha": 0.5}), tmp_path))["divergence"] > 1e-3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"verb": "train", "retain": "R"}, "train needs --model"),
        ({"verb": "train", "model": "M"}, "nothing to train on: none of forget, retain, unlabelled"),
        ({"verb": "train", "model": "M", "retain": "R", "learn": ["keep"]}, "cannot learn 'keep'; the groups are"),
        ({"verb": "unlearn", "model": "M", "retain": "R"}, "unlearn needs --forget"),
        ({"verb": "distill", "model": "M"}, "distill needs --unlabelled"),
        ({"verb": "distill", "unlabelled": "R"}, "distill needs --model"),
        ({"verb": "distill", "model": "M", "unlabelled": "R"}, "needs --retain; or give --stop-at 0"),
        ({"verb": "undo", "model": "M", "unlabelled": "R", "retain": "R", "student": "M"}, "makes its own student"),
        ({"verb": "relearn", "model": "M"}, "relearn needs --forget"),
        ({"verb": "relearn", "model": "M", "forget": "R", "kind": "retain"}, "--retain"),
        ({"verb": "train", "model": "M", "retain": "task:nonsense"}, "no packaged source"),
    ],
)
def test_what_is_missing_is_named(own, settings, said, tmp_path):
    names = {"M": own["model"], "R": own["retain"]}
    filled = {key: names.get(value, value) if isinstance(value, str) else value for key, value in settings.items()}
    with pytest.raises(UserError, match=said):
        execute(from_config(filled), tmp_path)
    assert not list(tmp_path.glob("*/DONE"))


def test_the_chat_template_and_the_length_reach_every_call(own, tmp_path, monkeypatch):
    """A probe that renders a prompt otherwise than the training did measures another question."""
    asked = []
    real = encoding.encode

    def spy(tokenizer, items, *, max_length=256, template=False):
        asked.append((max_length, template))
        tokenizer.chat_template = None
        return real(tokenizer, items, max_length=max_length)

    import sluicegate.audit.relearn as relearning
    import sluicegate.engine.train as training
    import sluicegate.unlearning.distill as distilling
    import sluicegate.unlearning.unlearn as suppressing

    for module in (encoding, training, suppressing, distilling, relearning):
        monkeypatch.setattr(module, "encode", spy)
    for settings in settings_of_verbs(own, steps=1).values():
        before = len(asked)
        execute(from_config(settings | {"template": True, "max_length": 47}), tmp_path)
        assert len(asked) >= before + 2
    assert set(asked) == {(47, True)}


@pytest.mark.parametrize("cls", [*VERBS.values(), Schedule, Attack], ids=lambda cls: cls.__name__)
def test_every_setting_says_what_it_does(cls):
    assert [name for name in undocumented(cls) if name not in ("schedule", "objective", "attack")] == []


@pytest.mark.parametrize("verb", VERBS)
def test_no_two_settings_of_a_stage_share_a_name(verb):
    kinds = list(methods().values()) if verb == "unlearn" else [None]
    for kind in kinds:
        names = settings_of(VERBS[verb], kind)
        assert len(set(names)) == len(names)
        stage = VERBS[verb]() if kind is None else dataclasses.replace(VERBS[verb](), objective=kind())
        assert set(stage.config()) <= {*names, "verb", "method"}


def test_a_template_that_is_rendered_otherwise_than_before_makes_another_run(own, tmp_path):
    """A date, or a thought left open, changed the prompts, and no hash saw it; a plain template is what it was."""
    plain = "{{ bos_token }}{% for m in messages %} ann {{ m.content }}{% endfor %} now"
    folder = tmp_path / "model"
    shutil.copytree(own["model"], folder)
    stage = from_config({"verb": "score", "model": str(folder), "forget": own["forget"], "template": True})
    found = {}
    for name, template in {"plain": plain, "date": "{{ strftime_now('%d %b %Y') }}" + plain, "thought": plain + "<think>"}.items():
        (folder / "chat_template.jinja").write_text(template)
        found[name] = identity(stage)[1]
        assert identity(dataclasses.replace(stage, template=False))[1].keys() == {"model", "forget"}
    assert found["plain"].keys() == {"model", "forget"}
    assert len({found["date"]["rendering"], found["thought"]["rendering"]}) == 2


def test_scoring_measures_choices_and_what_is_written(own, tmp_path, capsys):
    """Wrong answers are in the hash of a score, whose choices they are, and of no attack."""
    items = read(own["forget"], "forget")[:6]
    files = {}
    for name, more in {"plain": {}, "choices": {"wrong": (" 77",)}, "others": {"wrong": (" 78",)}, "also": {"also": (" 77",)}}.items():
        files[name] = tmp_path / f"{name}.jsonl"
        write_jsonl([dataclasses.replace(item, **more) for item in items], files[name])
    stage = from_config({"verb": "score", "model": own["model"], "forget": str(files["choices"]), "generate": 4})
    result = result_of(execute(stage, tmp_path))
    measures = result["measures"]
    assert {name.removeprefix("forget ") for name in measures} == {"acc", "acc_norm", "chance", "rouge", "match", "written"}
    assert measures["forget chance"] == 0.5
    picked = [items[n * 6 // 4] for n in range(4)]
    assert [row[:2] for row in result["written"]["forget"]] == [[item.prompt, item.answer] for item in picked]
    assert len(result["notes"]) == 3
    assert result["notes"][0].startswith(f"forget: asked {picked[0].prompt!r} it writes '")
    stage_results([0], [result], [tmp_path])
    assert "forget acc_norm" in capsys.readouterr().out
    plain = result_of(execute(from_config({"verb": "score", "model": own["model"], "forget": str(files["plain"])}), tmp_path))
    assert not {"measures", "written", "notes"} & plain.keys()
    found = {
        verb: {name: identity(from_config({"verb": verb, "model": own["model"], "forget": str(file)}))[0] for name, file in files.items()}
        for verb in ("score", "relearn")
    }
    assert len(set(found["score"].values())) == 4
    assert len(set(found["relearn"].values())) == 2
    assert found["relearn"]["plain"] == found["relearn"]["choices"]
