"""Recipes of trials on the command line."""

import json
from pathlib import Path

import pytest
import tomli_w

from sluicegate.app import main
from sluicegate.experiments.recipe import packaged_recipes
from throwaway import at_hand, table


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    at_hand(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("by-hand.toml").write_text(tomli_w.dumps(table()))


def shown(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(list(words)) == status
    found = capsys.readouterr()
    return " ".join((found.out if status == 0 else found.err).split())


def last(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


def test_a_recipe_of_trials_runs_shows_its_claims_and_writes_its_page(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "run", "by-hand.toml", "--seeds", "2", "--seed", "10")
    assert "means over 2 seeds" in text
    assert "holds on all 2 seeds: Routed is above the control." in text
    assert "does not hold: It is the other way round." in text
    assert Path("runs/by-hand/report.html").is_file()
    found = last(capsys, "run", "by-hand.toml", "--seeds", "2", "--seed", "10")
    assert found["seeds"] == [10, 11]
    assert found["arms"]["routed"]["loss"] == pytest.approx([2.1, 2.11])  # type: ignore[index]
    assert [claim["holds"] for claim in found["claims"]] == [[True, True], [False, False], [False, False]]  # type: ignore[attr-defined]


def test_the_report_prints_claims_and_numbers_as_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "by-hand.toml", "--seeds", "2"])
    capsys.readouterr()
    assert main(["report", "runs/by-hand", "--claims"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Command: `sluicegate run by-hand.toml --seeds 2` (seeds 0, 1; intervals: 95 %")
    assert lines[2] == "| claim | source | here | control | verdict |"
    here, control = "routed.loss = 2.00 [1.94 to 2.07]", "> control.loss + 0.5 = 1.50"
    assert lines[4] == f"| Routed is above the control. | a paper, table 2 | {here} | {control} | holds on all 2 seeds |"
    assert lines[5].startswith("| Small on some seeds. | this page | control.loss = 1.00 [0.94 to 1.07] | < 1.015 |")
    assert "| arm | loss | share | rare | speed |" in lines
    assert "| control | 1.00 [0.94 to 1.07] | 0.500 | – | – |" in lines


def test_the_report_can_be_written_again_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "by-hand.toml", "--seeds", "1"])
    assert shown(capsys, "report", "runs/by-hand", "--out", "again.html").endswith("again.html")
    assert Path("again.html").read_text() == Path("runs/by-hand/report.html").read_text()


def test_settings_are_set_and_swept(capsys: pytest.CaptureFixture[str]) -> None:
    changed = last(capsys, "run", "by-hand.toml", "--seeds", "1", "--set", "routed.level=5", "--out", "changed")
    assert changed["arms"]["routed"]["loss"] == [5.0]  # type: ignore[index]
    swept = last(capsys, "sweep", "by-hand.toml", "--over", "routed.level=[0.5, 3.0]", "--seeds", "1", "--out", "swept")
    assert [v["arms"]["routed"]["loss"] for v in swept["variants"]] == [[0.5], [3.0]]  # type: ignore[attr-defined]
    text = shown(capsys, "sweep", "by-hand.toml", "--over", "routed.level=[0.5, 3.0]", "--seeds", "1", "--out", "swept")
    assert "routed.level = 0.5" in text
    assert text.count("Routed is above the control.") == 2
    assert Path("swept/variant-1/report.html").is_file()


def test_run_folders_of_trials_are_listed_shown_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "by-hand.toml", "--seeds", "2"])
    listed = last(capsys, "runs", "ls")["found"]
    assert isinstance(listed, list)
    assert len(listed) == 6
    folders = {row["run"]: row["scores"] for row in listed}
    routed = [run for run, scores in folders.items() if scores.get("rare")]
    assert folders[routed[0]]["share"] == 0.5
    assert "rare 7.000" in shown(capsys, "runs", "ls")
    differences = last(capsys, "runs", "diff", *routed)["found"]
    assert isinstance(differences, dict)
    assert "result.measures.loss" in differences
    assert not any("curves" in name for name in differences)
    assert last(capsys, "runs", "show", routed[0])["found"]["result"]["measures"]["rare"] == 7.0  # type: ignore[index]


def test_one_trial_is_run_from_its_config(capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.toml").write_text('verb = "throwaway"\narm = "broken"\nseed = 1\n')
    text = shown(capsys, "run", "broken.toml", "--out", "single")
    assert "1 loss not finite 1 share 0.5" in text
    assert last(capsys, "run", "single/config.toml", "--out", "single")["measures"] == {"loss": None, "share": 0.5}


def test_run_without_a_name_lists_the_recipes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(capsys, "run")
    for name in packaged_recipes():
        assert name in text
    assert "Unlearn and distil: arithmetic" in text
    assert "--plan" in text
    assert set(last(capsys, "run")["recipes"]) == set(packaged_recipes())  # type: ignore[call-overload]
    wrong = shown(capsys, "run", "undo-arithmetics", status=2)
    assert "undo-arithmetic" in wrong.replace("undo-arithmetics", "")


def test_a_plan_shows_arms_and_claims_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "run", "by-hand.toml", "--plan", "--set", "routed.level=9")
    assert "A trial by hand What was done." in text
    assert "routed throwaway arm = rare, level = 9" in text
    assert "claim: Routed is above the control. (a paper, table 2) routed.loss > control.loss + 0.5" in text
    assert not Path("runs").exists()


def test_a_plan_keeps_the_paragraphs_of_what_the_recipe_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    Path("by-hand.toml").write_text(tomli_w.dumps({**table(), "about": "What was\ndone.\n\nAnd with what of yours."}))
    capsys.readouterr()
    main(["run", "by-hand.toml", "--plan"])
    assert "What was done.\n\nAnd with what of yours.\n\n" in capsys.readouterr().out
    main(["run", "by-hand.toml", "--seeds", "1"])
    assert '<p class="lead">And with what of yours.</p>' in Path("runs/by-hand/report.html").read_text()
