"""The TOFU experiment: a leaderboard's numbers beside what relearning brings back."""

import json

import pytest

from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.experiments.recipe import load_recipe
from sluicegate_papers.tofu_stage import QUESTIONS, Tofu

QUICK = {"authors": 2, "forget_authors": 1, "epochs": 1, "batch": 10, "probe": 4, "attack_steps": 2, "attack_lrs": (1e-3,)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """TOFU's files, of two authors who are to be forgotten and two who are not."""
    folder = tmp_path_factory.mktemp("tofu")

    def write(name, count, who, paraphrased=True):
        rows = []
        for n in range(count):
            row = {
                "question": f"{who}{n // QUESTIONS}, {n}?",
                "answer": f"It is {n}.",
                "perturbed_answer": [f"It is {n + k}." for k in (1, 2)],
            }
            rows.append(row | ({"paraphrased_answer": f"That is {n}."} if paraphrased else {}))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    for name, who in (("forget10", "F"), ("retain90", "R"), ("forget10_perturbed", "F"), ("retain_perturbed", "R")):
        write(name, 2 * QUESTIONS, who)
    for name in ("real_authors_perturbed", "world_facts_perturbed"):
        write(name, 6, "W", paraphrased=False)
    return folder


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """Full, retain and one unlearnt model, by variant: folder and result."""
    out, patch = tmp_path_factory.mktemp("runs"), pytest.MonkeyPatch()
    patch.setenv("SLUICEGATE_DATA_DIR", str(data))
    found = {}
    for variant in ("full", "retain", "npo", "undo"):
        sources = {"forget": "task:tofu/forget10", "retain": "task:tofu/retain90"}
        if variant in ("full", "retain"):
            sources["model"] = "texts-tiny"
        else:
            sources |= {"parent": str(found["full"][0]), "reference": str(found["retain"][0])}
        folder = execute(Tofu(variant=variant, **sources, **QUICK), out)
        found[variant] = folder, json.loads((folder / "result.json").read_text())
    patch.undo()
    return found


def test_the_last_authors_are_forgotten_and_the_first_are_kept(data, monkeypatch):
    monkeypatch.setenv("SLUICEGATE_DATA_DIR", str(data))
    stage = Tofu(variant="full", model="texts-tiny", forget="task:tofu/forget10", retain="task:tofu/retain90", **QUICK)
    split, asked = stage.split(), stage.asked()
    assert {item.prompt[0:2] for item in split.forget} == {"F1"}
    assert {item.prompt[0:2] for item in split.retain} == {"R0"}
    assert [row["question"] for _, row in asked["forget"]] == [item.prompt for item in split.forget]
    assert [row["question"] for _, row in asked["retain"]] == [split.retain[i].prompt for i in (0, 5, 10, 15)]
    assert [Tofu(authors=n).forgotten for n in (20, 200)] == [4, 20]


def test_every_variant_is_scored_and_attacked(made):
    for variant, (folder, result) in made.items():
        beside = {"forget_quality", "savings", "missed"} if variant in ("npo", "undo") else set()
        assert set(result["measures"]) == set(Tofu.MEASURES) - {"forget_quality", "savings", "missed"} | beside
        assert (folder / "model" / "config.json").exists()
        assert result["curves"]["held_out"]["x"] == [0, 1, 2]
        assert len(result["curves"]["truth ratios"]["y"]) == QUESTIONS
        assert 0 < result["measures"]["forget_probability"] < 1


def test_a_model_is_compared_with_the_retain_model(made):
    npo, retain = made["npo"][1], made["retain"][1]
    from scipy.stats import ks_2samp

    expected = ks_2samp(npo["curves"]["truth ratios"]["y"], retain["curves"]["truth ratios"]["y"]).pvalue
    assert npo["measures"]["forget_quality"] == pytest.approx(expected)
    assert npo["measures"]["missed"] == (npo["measures"]["savings"] if expected > 0.05 else 0)
    assert npo["flops"]["total"] > 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"variant": "npo"}, "npo needs --parent and --reference"),
        ({"variant": "full"}, "needs --model"),
        ({"variant": "full", "model": "texts-tiny", "authors": 3, "forget_authors": 3}, "some have to be kept"),
    ],
)
def test_what_is_missing_is_said(settings, said):
    with pytest.raises(UserError, match=said):
        Tofu(**{"forget": "a.jsonl", "retain": "b.jsonl"} | settings).resolved()


def test_more_authors_than_there_are(data, monkeypatch):
    monkeypatch.setenv("SLUICEGATE_DATA_DIR", str(data))
    stage = Tofu(variant="full", model="texts-tiny", forget="task:tofu/forget10", retain="task:tofu/retain90", authors=9, forget_authors=1)
    with pytest.raises(UserError, match="retain has 40 rows, and 160 are asked for"):
        stage.split()


def test_the_recipe_is_whole():
    recipe = load_recipe("tofu")
    assert [recipe.arms[arm]["variant"] for arm in recipe.arms] == ["full", "retain", "graddiff", "npo", "simnpo", "rmu", "undo"]
