"""Benchmarks by name: where their rows lie, what is refused, and how a model is scored on one."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sluicegate.app import main
from sluicegate.engine.models import save
from sluicegate.errors import UserError
from sluicegate.execution.execute import identity
from sluicegate.experiments.recipe import Recipe
from sluicegate.tasks import benchmarks, read, sources
from sluicegate.tasks.stage import Score
from sluicegate.tasks.texts import tokenizer as of_bytes
from sluicegate.values.rows import decoded

ASKED = [{"question": f"Who is {name}?", "answer": f"{name} writes", "paraphrased_answer": f"a writer: {name}"} for name in "ABCD"]


def write(folder: Path, name: str, rows: list[dict]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def tofu(tmp_path):
    """A folder as that of TOFU, of four rows a file."""
    for name in ("forget10_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"):
        rows = [row | {"perturbed_answer": [f"{n} sings" for n in "xyz"]} for row in ASKED]
        write(tmp_path / "data", name, rows if "_perturbed" in name[:18] else [{**row, "paraphrased_answer": None} for row in rows])
    write(tmp_path / "data", "holdout10", [{"question": f"Where is {name}?", "answer": f"{name} is far"} for name in "EFGH"])
    return tmp_path / "data"


@pytest.fixture
def models(tmp_path):
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=259, eos_token_id=None, **shape))
        save(model, of_bytes(), tmp_path / f"model{seed}")
        found.append(str(tmp_path / f"model{seed}"))
    return found


def test_names_are_listed_without_a_look_at_the_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    known = sources()
    assert {"task:tofu/forget10", "task:tofu/retain90", "task:muse/news-forget", "task:wmdp/bio", "task:rwku/forget_level1"} <= {*known}
    with pytest.raises(UserError, match=r"needs the 'datasets' package"):
        read("task:tofu/forget01")


def test_rows_come_from_a_folder_or_the_hub(tofu, tmp_path, monkeypatch):
    monkeypatch.setenv(benchmarks.DATA_DIR, str(tofu))
    assert read("task:tofu/holdout10")[0].answer == " E is far"
    (tmp_path / "all").mkdir()
    tofu.rename(tmp_path / "all" / "tofu")
    assert benchmarks.place("tofu/holdout10", str(tmp_path / "all")).endswith("all/tofu/holdout10.jsonl")
    monkeypatch.delenv(benchmarks.DATA_DIR)
    assert benchmarks.place("muse/books-verbmem") == "hub:muse-bench/MUSE-Books:verbmem:forget"
    asked = []
    monkeypatch.setattr(benchmarks, "decoded", lambda name: asked.append(name) or [("row 1", {"question": "?", "answer": "!"})])
    assert benchmarks.rows("tofu/forget05", ("question",)) == [("row 1", {"question": "?", "answer": "!"})]
    assert asked == ["hub:locuslab/TOFU:forget05:train"]


@pytest.mark.parametrize("name", ["tofu", "tofu:forget20", "mus:news", "wmdp:physics", ""])
def test_an_unknown_benchmark_names_the_nearest(name):
    with pytest.raises(UserError, match=r"Nearest: .*(tofu:forget10|muse:news|wmdp:bio)"):
        benchmarks.check(name)


def test_what_is_not_there_is_named(tofu, monkeypatch):
    (tofu / "retain_perturbed.jsonl").unlink()
    with pytest.raises(
        UserError, match=r"no file retain_perturbed.jsonl in .*there is .*forget10_perturbed.*hub:locuslab/TOFU:retain_perturbed"
    ):
        benchmarks.needed("tofu:forget10", str(tofu))
    write(tofu, "retain_perturbed", [{**ASKED[0], "perturbed_answers": ["x"]}])
    with pytest.raises(UserError, match=r"line 1: no 'perturbed_answer' in a row of tofu/retain_perturbed. Nearest: .*perturbed_answers"):
        benchmarks.needed("tofu:forget10", str(tofu))
    monkeypatch.setattr(benchmarks, "decoded", lambda name: (_ for _ in ()).throw(UserError("it is gated.")))
    with pytest.raises(UserError, match=r"it is gated. Or name a folder that holds bio.jsonl: --data-dir"):
        benchmarks.needed("wmdp:bio")


def test_a_wrong_answer_of_a_choice_is_refused(tmp_path):
    rows = [{"question": "?", "choices": ["a", "b"], "answer": answer} for answer in (0, 1, 2)]
    write(tmp_path, "bio", rows)
    with pytest.raises(UserError, match=r"line 3: the answer is 2; of 2 choices, expected a number from 0"):
        benchmarks.needed("wmdp:bio", str(tmp_path))


def test_rwku_is_of_one_target_where_one_is_named(tmp_path):
    for name in ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2"):
        write(tmp_path, name, [{"query": "?", "answer": "!", "subject": who} for who in ("Ann Lee", "Bo Ek", "Ann Lee")])
    assert {len(rows) for rows in benchmarks.needed("rwku", str(tmp_path)).values()} == {3}
    assert {len(rows) for rows in benchmarks.needed("rwku:Ann Lee", str(tmp_path)).values()} == {2}
    with pytest.raises(UserError, match=r"no target 'An Lee'. Nearest: Ann Lee"):
        benchmarks.needed("rwku:An Lee", str(tmp_path))


def test_a_model_is_scored_beside_a_reference(tofu, models, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--model", models[0], "--benchmark", "tofu:forget10", "--data-dir", str(tofu), "--out", str(out)]
    assert main(["score", *words, "--reference", models[1]]) == 0
    found = json.loads((out / "result.json").read_text())["benchmark"]
    every = {*benchmarks.about("tofu:forget10")}
    assert {*found["numbers"]} == every
    assert {*found["reference"]} == every - {"forget_quality"}
    assert all(0 <= value <= 1 for value in found["numbers"].values())
    shown = capsys.readouterr().out
    assert "forget_quality" in shown
    assert "harmonic mean" in shown
    assert "rests on 4 rows" in " ".join(shown.split())
    again = main(["score", "--model", models[0], "--benchmark", "tofu:forget10", "--data-dir", str(tofu), "--out", str(tmp_path / "two")])
    assert again == 0
    assert "forget_quality needs --reference" in " ".join(capsys.readouterr().out.split())


def test_a_run_is_known_by_its_rows_and_not_by_their_folder(tofu, models, tmp_path):
    def known(folder, **more):
        return identity(Score(model=models[0], benchmark="tofu:forget10", data_dir=str(folder), **more))[0]

    first = known(tofu)
    moved = tofu.rename(tmp_path / "moved")
    assert known(moved) == first
    assert known(moved, benchmark_rows=2) != first
    text = (moved / "retain_perturbed.jsonl").read_text()
    (moved / "retain_perturbed.jsonl").write_text(text.replace("z sings", "z hums"))
    assert known(moved) != first
    assert next(decoded(str(moved / "retain_perturbed.jsonl")))[1]["perturbed_answer"][-1] == "z hums"


def test_a_reference_alone_is_refused(models):
    with pytest.raises(UserError, match=r"name it with --benchmark"):
        Score(model=models[0], reference=models[1]).resolved()


def test_claims_speak_of_a_benchmark():
    arms = {"npo": {"verb": "score", "model": "m", "benchmark": "tofu:forget10"}, "plain": {"verb": "score", "model": "m"}}
    claims = [{"test": "npo.forget_quality > 0.05 and npo.model_utility > 0.5"}]
    assert "forget_quality" in Recipe("r", arms, {}, claims=claims).measures_of("npo")
    with pytest.raises(UserError, match=r"plain.model_utility"):
        Recipe("r", arms, {}, claims=[{"test": "plain.model_utility > 0"}])


def test_the_harness_gets_the_model_in_memory(models, tmp_path, monkeypatch):
    seen = {}

    def evaluate(*, model, tasks, task_manager, **more):
        seen.update(model=model, tasks=tasks, paths=task_manager)
        return {"results": {"boolq": {"alias": "boolq", "acc,none": 0.5}}}

    whole, inner, tasks = types.ModuleType("lm_eval"), types.ModuleType("lm_eval.models.huggingface"), types.ModuleType("lm_eval.tasks")
    whole.simple_evaluate, inner.HFLM, tasks.TaskManager = evaluate, lambda **how: how, lambda include_path: include_path
    for name, module in (("lm_eval", whole), ("lm_eval.models", whole), (inner.__name__, inner), (tasks.__name__, tasks)):
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "mine.yaml").write_text("task: mine\n")
    out = tmp_path / "out"
    assert main(["score", "--model", models[0], "--lm-eval", f"boolq,{tmp_path / 'mine.yaml'}", "--out", str(out)]) == 0
    assert json.loads((out / "result.json").read_text())["measures"] == {"boolq acc,none": 0.5}
    assert seen["model"]["pretrained"].num_parameters() > 0
    assert seen["tasks"] == ["boolq", "mine"]
    assert seen["paths"] == [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["score", "--model", models[0], "--lm-eval", "boolq", "--out", str(tmp_path / "none")]) == 2
