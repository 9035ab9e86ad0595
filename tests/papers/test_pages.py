"""The pages of papers are what the results give, say everything that did not hold, and can be read."""

import json
import re
import shutil

import pytest

from sluicegate.app import main
from sluicegate.errors import UserError
from sluicegate.experiments.experiment import run_recipe
from sluicegate.experiments.recipe import Recipe
from sluicegate_papers.pages import ROOT, _same, claims_table, dump, load, pages, record
from throwaway import at_hand, table

NUMBER = re.compile(r"(?<![\w@.])[-+\N{MINUS SIGN}]?(?:\d+(?:[.,]\d+)*|\.\d+)(?:e[-+\N{MINUS SIGN}]?\d+)?")
REFERENCE = re.compile(r"`[^`]*`|\(?arXiv [\d.]+\)?|\b(?:19|20)\d\d\b|\b(?:section|table|figure|setting|s)\s?[\d.]+\b")
"""Code, papers, years and sections, which are no measured numbers."""


@pytest.fixture(scope="module")
def made():
    return pages()


def test_the_pages_are_what_the_results_give(made):
    for name, content in made.items():
        assert (ROOT / "docs" / "papers" / name).read_text(encoding="utf-8") == content, f"{name}: run `sluicegate papers pages`"
    assert {path.name for path in (ROOT / "docs" / "papers").glob("*.md")} == set(made)


def test_a_page_that_differs_is_named(tmp_path, capsys):
    for place in ("papers/results", "papers/pages", "docs/papers"):
        shutil.copytree(ROOT / place, tmp_path / place)
    assert main(["papers", "pages", "--check", "--root", str(tmp_path)]) == 0
    path = tmp_path / "papers/results/lora-smollm2.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["arms"]["routed_50"]["unwanted_cut"][0] = 0.99
    path.write_text(dump(content), encoding="utf-8")
    assert main(["papers", "pages", "--check", "--root", str(tmp_path)]) == 2
    assert {"gradient-routing.md", "index.md"} <= set(re.findall(r"[\w-]+\.md", capsys.readouterr().err.replace("\n", "")))
    assert main(["papers", "pages", "--root", str(tmp_path)]) == 0
    assert "holds on 2 of 3 seeds" in (tmp_path / "docs/papers/gradient-routing.md").read_text(encoding="utf-8")


def test_the_first_page_lists_every_claim_with_verdict_seeds_and_date(made):
    for result in load().values():
        for claim in result.claims():
            row = f"| {claim.says} | `{result.name}` | {claim.verdict} | {claim.seeds} | {result.content['date']} |"
            assert row in made["index.md"]
    assert made["index.md"].count("does not hold") > 30
    few = made["index.md"][made["index.md"].index("## At one seed") :]
    assert "`suppress-facts`): all its claims" in few[: few.index("## At two seeds")]
    assert "`latent-mnist`): 3 of its 12 claims" in few[: few.index("## At three seeds")]
    assert "`mnist-split`): all its claims" in few


def test_a_page_begins_with_its_claims(made):
    for name, content in made.items():
        if name != "index.md":
            assert content.index("| claim | source | here | control | verdict |") < 600


def test_no_line_of_prose_is_long_and_no_cell_holds_more_than_three_numbers(made):
    for name, content in made.items():
        for line in content.splitlines():
            if not line.startswith("|"):
                assert len(line) <= 120, (name, line)
                continue
            for cell in re.split(r"(?<!\\)\|", line):
                assert len(NUMBER.findall(REFERENCE.sub("", cell))) <= 3, (name, cell)


def test_the_count_of_numbers_in_a_cell_can_fail():
    assert len(NUMBER.findall("0.31 [0.29, 0.33] \N{MINUS SIGN}.5")) == 4
    assert len(NUMBER.findall(REFERENCE.sub("", "`a.A@10 + 0.3` A@10 Cloud et al. 2024 (arXiv 2410.04332), table 2: 0.32"))) == 1


def test_every_result_says_where_it_comes_from():
    for name, result in load().items():
        c = result.content
        assert c["from"] in ("run", "docs"), name
        assert c["command"].startswith("sluicegate run"), name
        assert re.fullmatch(r"[0-9a-f]{7,40}", c["commit"]), name
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", c["date"]), name
        assert result.seeds, name
        assert (ROOT / "papers/results" / f"{name}.json").read_text(encoding="utf-8") == dump(c), name


@pytest.fixture
def root(tmp_path):
    for place in ("papers/results", "papers/pages"):
        (tmp_path / place).mkdir(parents=True)
    return tmp_path


def written(root, **content):
    base = {"title": "By hand", "from": "docs", "command": "sluicegate run x", "commit": "abcdefg", "date": "2026-01-01"}
    base |= {"seeds": [0, 1], "claims": [], "tables": []}
    (root / "papers/results/by-hand.json").write_text(dump(base | content), encoding="utf-8")


def test_a_finished_experiment_becomes_a_result_that_is_compared_with_what_was_documented(root, monkeypatch):
    at_hand(monkeypatch)
    rows = [["routed", "2.01 [1.99 to 2.03]", "0.500"], ["control", "1.01 [0.99 to 1.03]", "0.7"], ["gone", "1", "1"]]
    written(root, tables=[{"name": "arms", "head": ["arm", "loss", "share"], "rows": rows}])
    outcome = run_recipe(Recipe(**{"attack": {}} | table()), root / "runs", (0, 1, 2))
    path = record(root / "runs", root=root)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["from"] == "run"
    assert content["seeds"] == [0, 1, 2]
    assert content["arms"]["routed"]["loss"] == outcome.summary()["arms"]["routed"]["loss"]
    result = load(root)["by-hand"]
    assert [row.verdict for row in result.claims()] == [claim.verdict for claim in outcome.checked()]
    assert result.claims()[0].compared == (("`routed.loss` 2.01 [1.99 to 2.03]", "> `control.loss + 0.5` = 1.51 [1.49 to 1.53]"),)
    assert "= 1.51 |" in claims_table(result.claims())
    assert result.differences() == (4, 3, [["control", "share", "0.7", "0.500"]])
    assert result.table("arms").splitlines()[:2] == ["| arm | loss | share |", "|---|---|---|"]
    assert "| routed | loss | 2.00 | 2.01 | 2.02 |" in result.table("arms-seeds")
    (root / "papers/pages/one.md").write_text('# One\n\nText.\n\n{{ table("by-hand", "arms", "loss") }}\n', encoding="utf-8")
    page = " ".join(pages(root)["one.md"].split())
    assert "Of 4 figures that were documented before, 3 came out the same." in page
    assert "| control | share | 0.7 | 0.500 |" in page
    again = json.loads(record(root / "runs", root=root).read_text(encoding="utf-8"))
    assert again == content, "recorded twice, it still knows what was documented"


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        ("0.26 [0.25, 0.27]", "0.263 [0.254 to 0.272]", True),
        ("0.26 [0.25, 0.27]", "0.263 [0.261 to 0.264]", False),
        ("\N{MINUS SIGN}0.5", "-0.50", True),
        ("1.00", "1.00 [0.99 to 1.01]", True),
        ("0.96", "0.953", False),
        ("–", "0.5", False),
    ],
)
def test_figures_are_the_same_as_far_as_both_are_written(then, now, same):
    assert _same(then, now) == same


def test_claims_on_means_say_so(root):
    written(
        root, means={"a": {"x": 1.0}, "b": {"x": 2.0}}, claims=[{"says": f"{t}", "test": t} for t in ("a.x < b.x", "a.x > b.x", "a.y > 1")]
    )
    verdicts = [row.verdict for row in load(root)["by-hand"].claims()]
    assert verdicts == ["holds on the means", "does not hold on the means", "cannot be told from what is documented"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{{ table("other", "arms") }}', "shows 'other', which papers/results does not hold"),
        ('{{ table("by-hand", "lost") }}', "has no table 'lost'"),
        ("Nothing.", "no page shows by-hand"),
    ],
)
def test_what_a_page_shows_must_be_there_and_all_is_shown(root, text, said):
    written(root)
    (root / "papers/pages/one.md").write_text(f"# One\n\n{text}\n", encoding="utf-8")
    with pytest.raises(UserError, match=said):
        pages(root)


def test_without_a_checkout_the_command_says_what_to_do(tmp_path, capsys):
    assert main(["papers", "pages", "--root", str(tmp_path)]) == 2
    assert "name one with --root" in " ".join(capsys.readouterr().err.split())
    assert main(["papers"]) == 0
    assert "Unlearn and distil (UNDO)" in capsys.readouterr().out
