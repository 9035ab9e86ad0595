"""sluicegate oversight: what it asks for, what it prints, and how it words a mistake."""

import json
import re

import pytest

import throwaway
from documented import undocumented
from oversight_synthetic import run_folder
from sluicegate.app import main
from sluicegate.app.verbs import verbs
from sluicegate_papers.oversight import cli as oversight
from sluicegate_papers.oversight.arms import CONTROLS, to_train

ISSUE = ["naive", "naive_penalty", "naive_stopped", "naive_penalty_stopped", "filter", "filter_hidden", "moe", "routed_paper", "routed",
         "single", "reward_model", "oracle", "placebo"]  # fmt: skip
TINY = ("--set", "updates=4", "look=2", "episodes=32", "width=8")


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(monkeypatch):
    """Runs that are made by hand; the settings that they were asked for."""
    settings = []

    def run_jobs(jobs, executor, progress=None):
        made = [job.stage({}).config() for job in jobs]
        settings.extend(made)
        return {job.key: run_folder(job.out, own["variant"], own["share"], own["seed"]) for job, own in zip(jobs, made, strict=True)}

    monkeypatch.setattr(oversight, "run_jobs", run_jobs)
    return settings


def spoken(capsys, *words, status=0):
    capsys.readouterr()
    assert main(["oversight", *words]) == status
    told = capsys.readouterr()
    return " ".join((told.out if status == 0 else told.err).split())


def test_every_arm_of_the_issue_is_in_the_json_with_a_figure_a_seed(asked, capsys):
    main(["oversight", "--share", "0.3", "0.01", "0.3", "--seeds", "2", "--seed", "5", "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(told) == ["0.01", "0.3"]
    for arms in told.values():
        assert list(arms) == ISSUE
        for figures in arms.values():
            assert set(figures) == {"return", "diamond", "ghost"}
            assert [len(values) for values in figures.values()] == [2, 2, 2]
    assert len(asked) == 2 * 11 * 2
    assert {(own["seed"], own["size"]) for own in asked} == {(5, 3), (6, 3)}
    assert {own["variant"] for own in asked} == set(to_train(CONTROLS))


def test_it_prints_tables_differences_the_conclusion_and_where_the_page_is(asked, capsys, tmp_path):
    text = spoken(capsys, "--share", "0.01", "--seeds", "2", "--arms", "routed", "naive_stopped", "filter_hidden")
    assert text.startswith("6 runs (3 trained arms, 1 share, 2 seeds): 500 updates of 1,024 episodes, at most 16 steps each.")
    assert "1 % of oversight, 3 x 3: means over 2 seeds, [95 % interval]" in text
    assert re.search(r"naive_stopped 0\.\d\d \[.*\] .*\+0\.\d\d \(", text)
    assert "Does routing beat naive training? routed less naive stopped: " in text
    assert text.endswith("report: runs/oversight/oversight.html")
    kept = json.loads((tmp_path / "runs/oversight/oversight.json").read_text())
    assert kept["command"] == "sluicegate oversight --share 0.01 --size 3 --seeds 2 --arms routed naive_stopped filter_hidden"
    assert kept["command"] in (tmp_path / "runs/oversight/oversight.html").read_text()
    assert set(kept["figures"]["0.01"]["routed"]) == {"return", "diamond", "ghost", "timeout", "near", "far"}
    assert kept["says"]["Does routing pass the ceiling?"]


def test_the_runs_train_are_kept_and_not_made_again(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(oversight, "run_jobs", throwaway.in_this_process)
    words = ["oversight", "--share", "0.5", "--seeds", "2", "--arms", "routed", "naive", "naive_stopped", *TINY, "--json"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(first["0.5"]) == ["routed", "naive", "naive_stopped"]
    assert first["0.5"]["routed"]["return"][0] != first["0.5"]["routed"]["return"][1]
    marks = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/oversight/*/result.json")}
    assert len(marks) == 4
    page = (tmp_path / "runs/oversight/oversight.html").read_text()
    assert "Watch them learn" in page
    assert "CPU seconds" in page
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/oversight/*/result.json")} == marks


def test_another_size_has_a_folder_of_its_own(asked, capsys):
    assert "runs/oversight-4x4/oversight.html" in spoken(capsys, "--size", "4", "--share", "0.1", "--seeds", "1", "--arms", "routed")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--share", "0"], "the share of overseen squares is 0; it must be more than 0 and at most 1"),
        (["--share", "0.1", "1.5"], "the share of overseen squares is 1.5"),
        (["--share", "nan"], "share is (nan,); it must be a number, finite."),
        (["--size", "1"], "the board's size is 1; it must be from 2 to 16"),
        (["--arms", "routed", "navie"], "there is no arm 'navie'. Nearest: naive"),
        (["--arms"], "--arms names nothing; give at least one."),
        (["--share"], "--share names nothing; give at least one."),
        (["--seeds", "0"], "--seeds is 0"),
        (["--set", "updats=3"], "oversight has no setting 'updats'. Nearest: updates"),
        (["--set", "updates=0.5"], "updates"),
        (["--set", "share=0.5"], "give --share instead"),
        (["--set", "arm=naive"], "give --arms instead"),
        (["--set", "variant=naive"], "give --arms instead"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(asked, capsys, words, says):
    assert says in spoken(capsys, *words, status=2)
    assert asked == []


def test_the_verb_is_there_and_its_options_are_told():
    assert "oversight" in verbs()
    assert undocumented(oversight.Oversight) == []
