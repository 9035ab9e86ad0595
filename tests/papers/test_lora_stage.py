import json
import math

import pytest

pytest.importorskip("peft")

from jsonl import write_jsonl
from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.runs.stage import from_config
from sluicegate.tasks import arithmetic
from sluicegate.values.items import Item
from sluicegate_papers.lora_stage import ARMS, Lora

TINY = {
    "verb": "lora",
    "model": "arithmetic-tiny",
    "rank": 4,
    "forget_rank": 2,
    "steps": 4,
    "warmup": 1,
    "batch": 8,
    "repair_steps": 2,
    "relearn_steps": 4,
    "patience": 1,
    "relearn_lrs": [1e-3],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A few facts of either side, as a user would hand them in."""
    folder = tmp_path_factory.mktemp("files")
    task = arithmetic(problems=1)
    found = {}
    for name, rows in (("forget", task.only("multiply")), ("retain", task.only("subtract"))):
        write_jsonl([Item(item.prompt, item.answer, item.fact) for item in rows[:24]], folder / f"{name}.jsonl")
        found[name] = str(folder / f"{name}.jsonl")
    return found


def stage(files, **settings):
    return from_config({**TINY, **files, **settings})


def ran(folder, files, **settings):
    made = execute(stage(files, **settings), folder)
    return json.loads((made / "result.json").read_text())


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_measures_before_after_and_after_relearning(arm, files, tmp_path):
    result = ran(tmp_path, files, variant=arm, share=0.5)
    measures, curve = result["measures"], result["curves"]["relearning"]
    cuts = arm in ("routed", "cut")
    assert set(measures) == {name for name in Lora.MEASURES if cuts or not name.endswith("_raw")}
    assert all(math.isfinite(value) for value in measures.values())
    # 6 ranks become 4 where they are cut, at every layer
    assert measures["parameters_cut"] == pytest.approx(measures["parameters"] * (4 / 6 if cuts else 1))
    assert (measures["unwanted_loss_cut"] == measures["unwanted_loss_before"]) == (not cuts)
    assert curve["x"][0] == 0
    assert curve["y"][0] == pytest.approx(measures["unwanted_loss_cut"])
    assert measures["unwanted_relearned"] == pytest.approx(min(curve["y"]))
    assert result["flops"]["total"] > 0


def material(files, **settings):
    resolved = stage(files, **settings).resolved()
    model, tokenizer = resolved.adapted()
    return resolved, model, resolved.material(tokenizer, 16)


def labels(files, **settings):
    return [item.label for item in material(files, **settings)[2].train.items]


def test_a_share_of_the_unwanted_rows_is_labelled_and_filtering_leaves_them_out(files):
    half = labels(files, variant="routed", share=0.5)
    assert {name: half.count(name) for name in set(half)} == {"forget": 12, "unlabelled": 12 + 18, "retain": 6}
    for share, unwanted in ((1.0, 0), (0.5, 12)):
        trial, _, data = material(files, variant="filter", share=share)
        assert len(data.train) == 24 + unwanted
        assert sum("*" in item.text for item in data.train.items) <= unwanted
        assert trial.share == share
    assert len(labels(files, variant="plain")) == 48


def test_whole_facts_can_be_labelled_with_all_their_phrasings(files):
    data = material(files, variant="routed", share=0.5, by="fact")[2]
    found = {}
    for item in data.train.items:
        if "*" in item.fact:
            found.setdefault(item.fact, set()).add(item.label)
    assert sorted(map(sorted, found.values())) == [["forget"]] * 6 + [["unlabelled"]] * 6
    kept = material(files, variant="filter", share=0.5, by="fact")[2].train.items
    assert {item.fact for item in kept if "*" in item.fact} == {fact for fact, labels in found.items() if labels == {"unlabelled"}}


def test_the_attacker_has_half_of_the_unwanted_facts_and_scores_are_of_the_other_half(files):
    data = material(files, variant="routed")[2]
    owned, scored = ({item.key for item in rows.items} for rows in (data.owned, data.unwanted))
    assert len(owned) == len(scored) == 6
    assert not owned & scored
    assert len(data.wanted) == 24


def test_the_user_is_not_warned_of_what_the_packages_call_each_other(files, recwarn):
    stage(files, variant="plain").resolved().adapted()
    assert not [str(w.message) for w in recwarn if issubclass(w.category, FutureWarning)]


def test_the_cut_takes_out_what_labelled_rows_taught(files, tmp_path):
    longer = {"steps": 80, "lr": 1e-2, "batch": 16, "warmup": 5, "rank": 8, "forget_rank": 8, "repair_steps": 0, "relearn_steps": 1}
    routed, cut = (ran(tmp_path, files, variant=arm, confident=1.0, **longer)["measures"] for arm in ("routed", "cut"))
    assert routed["unwanted_loss_cut"] > cut["unwanted_loss_cut"] + 1
    assert routed["wanted_loss_cut"] < cut["wanted_loss_cut"]


def test_the_same_seed_gives_the_same_numbers(files, tmp_path):
    first, again = (ran(tmp_path / str(i), files, variant="routed")["measures"] for i in range(2))
    assert first == again
    assert ran(tmp_path, files, variant="routed", seed=1)["measures"] != first


def test_a_finished_run_can_be_the_pretrained_model(files, tmp_path):
    words = {"verb": "train", "model": "arithmetic-tiny", "retain": files["retain"], "steps": 2, "batch": 4, "max_length": 16}
    base = execute(from_config(words), tmp_path)
    made = stage(files, variant="plain", model="", base=str(base)).resolved()
    assert made.base == str(base)
    _, tokenizer = made.adapted()
    assert len(tokenizer) == 132
    assert stage(files, variant="plain", base=str(base)).resolved().base == "", "a model that is given comes first"


def test_layers_by_name(files):
    _, model, _ = material(files, variant="plain", targets="c_fc, lm_head")
    adapted = {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"c_fc", "lm_head"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "which variant"),
        ({"variant": "plain", "model": ""}, "give its folder in --model"),
        ({"variant": "plain", "forget": "", "retain": ""}, "needs --forget and --retain"),
        ({"variant": "routed", "share": 0.0}, "share is 0"),
        ({"variant": "routed", "confident": 1.5}, "confident is 1.5"),
        ({"variant": "routed", "forget_rank": 0}, "forget_rank is 0"),
        ({"variant": "plain", "targets": "no_such_layer"}, "targets is 'no_such_layer'"),
    ],
)
def test_mistakes_are_named(settings, message, files):
    with pytest.raises(UserError, match=message):
        stage(files, **settings).resolved().adapted()
