"""The oversight page: figures by share and seed, words made from the numbers, and boards with arrows."""

import base64
import html
import json
import math
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from oversight_synthetic import folders, found
from sluicegate.errors import UserError
from sluicegate_papers.oversight.arms import ARMS, NAMES
from sluicegate_papers.oversight.page import markdown, report_oversight, tables
from sluicegate_papers.oversight.page_boards import boards, field, shade
from sluicegate_papers.oversight.page_numbers import Found, gather, percent
from sluicegate_papers.oversight.page_pictures import ENDS, LABELS, by_update, looks_of
from sluicegate_papers.oversight.page_verdicts import policies, verdicts

NAMED = ("naive", "naive_stopped", "naive_penalty_stopped", "filter_hidden", "routed", "single", "placebo", "oracle")
SHARES, SEEDS = (0.01, 0.3), (0, 1)
NAIVE = "Does routing beat naive training?"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return gather(NAMED, SHARES, SEEDS, folders(root, NAMED, SHARES, SEEDS, about="the lamp <b>flickered</b>"))


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    return report_oversight(
        made, tmp_path_factory.mktemp("page") / "report.html", command="sluicegate oversight <x>", facts="a fact"
    ).read_text()


def said(returns, **more):
    return {row.question: row for row in verdicts(found(returns, **more))}


def spread(*means):
    """Three seeds about each mean, a little apart."""
    return [[m - 0.01, m, m + 0.01] for m in means]


# ------------------------------------------------------------------------------------ numbers


def test_figures_are_those_of_the_look_that_the_arm_s_rule_takes():
    one = found({0.1: {"naive": [0.1, 0.2], "naive_stopped": [0.5, 0.6], "routed": [0.7, 0.7]}})
    assert one.values(0.1, "naive") == [0.1, 0.2]
    assert one.values(0.1, "naive_stopped") == [0.5, 0.6]
    assert one.values(0.1, "naive", rule="weighted") == [0.5, 0.6]
    assert one.ahead(0.1, "naive").mean == pytest.approx(0.55)
    assert one.as_json() == {
        "0.1": {
            "naive": {"return": [0.1, 0.2], "diamond": [0.55, 0.6], "ghost": [0.45, 0.4]},
            "naive_stopped": {"return": [0.5, 0.6], "diamond": [0.75, 0.8], "ghost": [0.25, 0.2]},
            "routed": {"return": [0.7, 0.7], "diamond": [0.85, 0.85], "ghost": [pytest.approx(0.15)] * 2},
        }
    }


def test_differences_are_paired_by_seed():
    """Seeds that differ much, by the same between arms, leave a narrow interval."""
    e = found({0.1: {"routed": [0.2, 0.5, 0.8], "single": [0.1, 0.41, 0.69]}}).ahead(0.1, "single")
    assert e.mean == pytest.approx(0.1)
    assert e.high - e.low < 0.1


def test_a_run_that_is_not_finished_is_not_taken(made, tmp_path):
    there = folders(tmp_path, ("routed",), (0.1,), (0,))
    (there[0.1, "routed", 0] / "DONE").unlink()
    with pytest.raises(UserError, match="not a finished run"):
        gather(("routed",), (0.1,), (0,), there)


def test_a_run_without_a_label_is_marked_in_every_table(made, tmp_path):
    one = found({0.001: {"routed": [0.0, 0.1], "naive_stopped": [0.0, 0.1], "oracle": [0.9, 0.9]}}, labelled=0.0)
    assert [one.unlabelled(0.001, name) for name in one.names] == ["no labels", "no labels", ""]
    assert "| routed | 0.05 [−0.59 to 0.69], no labels |" in markdown(one)
    one.results[0.001, "routed", 0]["looks"][0]["labelled"] = 3.0
    assert one.unlabelled(0.001, "routed") == "no labels on 1 of 2 seeds"
    assert "no labels on 1 of 2 seeds" in report_oversight(one, tmp_path / "r.html", command="x").read_text()
    assert "no labels" not in markdown(made)


# -------------------------------------------------------------------------------------- words


def test_where_routing_helps_is_read_from_the_intervals():
    naive, penalty, routed = spread(0.1, 0.6), spread(0.5, 0.8), spread(0.7, 0.7)
    names = ("naive_stopped", "naive_penalty_stopped", "routed")
    row = said({p: dict(zip(names, (naive[i], penalty[i], routed[i]), strict=True)) for i, p in enumerate((0.01, 0.3))})[NAIVE]
    assert row.arms == "routed less naive stopped or naive 1/p stopped"
    assert row.numbers == ("1 %: +0.20 (0.20 to 0.20)", "30 %: −0.10 (−0.10 to −0.10)")
    assert row.verdict == "higher at 1 %; lower at 30 %"


@pytest.mark.parametrize(
    ("naive", "verdict"),
    [
        ([[0.1, 0.11, 0.12]] * 2, "higher at every share"),
        ([[0.9, 0.91, 0.92]] * 2, "lower at every share"),
        ([[0.5, 0.7, 0.9]] * 2, "not told apart at every share"),
        ([[0.9, 0.91, 0.92], [0.1, 0.11, 0.12]], "higher at 30 %; lower at 1 %"),
    ],
)
def test_every_outcome_against_naive_training_has_its_words(naive, verdict):
    for name in ("naive_stopped", "naive"):
        assert said({p: {name: naive[i], "routed": [0.7, 0.71, 0.7]} for i, p in enumerate((0.01, 0.3))})[NAIVE].verdict == verdict


def test_a_share_at_which_nothing_is_told_apart_is_named_between_the_others():
    naive = ([0.1, 0.11, 0.12], [0.5, 0.7, 0.9], [0.9, 0.91, 0.92])
    row = said({p: {"naive": naive[i], "routed": [0.7, 0.71, 0.7]} for i, p in enumerate((0.01, 0.1, 0.3))})[NAIVE]
    assert row.verdict == "higher at 1 %; not told apart at 10 %; lower at 30 %"


def test_what_does_better_is_named_and_oracles_are_not():
    returns = {
        p: {"routed": [0.7, 0.71, 0.69], "filter_hidden": [0.9, 0.91, 0.89], "filter": [0.1 + p, 0.1, 0.1], "oracle": [0.96] * 3}
        for p in SHARES
    }
    row = said(returns)["Does something simpler do better?"]
    assert row.numbers == ("1 %: blind filter", "30 %: blind filter")
    assert row.verdict == "blind filter at every share"
    returns = {p: {"routed": [0.7, 0.71, 0.69], "filter": [0.6, 0.9, 0.5], "oracle": [0.96] * 3} for p in SHARES}
    assert said(returns)["Does something simpler do better?"].verdict == "no other arm is shown to"


@pytest.mark.parametrize(
    ("returns", "verdict"),
    [
        ([[0.7, 0.72, 0.71]] * 2, "at it (within 0.06) at every share"),
        ([[0.9, 0.92, 0.91]] * 2, "above it at every share"),
        ([[0.1, 0.2, 0.1]] * 2, "below it at every share"),
        ([[0.1, 0.2, 0.1], [0.9, 0.92, 0.91]], "above it at 30 %; below it at 1 %"),
    ],
)
def test_where_routing_stands_beside_the_ceiling(returns, verdict):
    assert said({p: {"routed": returns[i]} for i, p in enumerate(SHARES)})["Does routing pass the ceiling?"].verdict == verdict


@pytest.mark.parametrize(
    ("single", "verdict"),
    [
        ([0.5, 0.51, 0.52], "higher at every share"),
        ([0.6, 0.7, 0.8], "not told apart at every share"),
        ([0.9, 0.91, 0.92], "lower at every share"),
    ],
)
def test_what_routing_adds_to_its_labels(single, verdict):
    assert said({p: {"routed": [0.7, 0.71, 0.69], "single": single} for p in SHARES})["Does routing add to its labels?"].verdict == verdict


def test_a_repair_is_said_to_matter_only_where_it_is_shown_to():
    question = "Does it matter to keep the baseline off labelled episodes?"
    matters = said({0.01: {"routed": [0.7, 0.71, 0.69], "routed_baseline": [0.2, 0.21, 0.22]}})[question]
    assert matters.verdict == "higher at every share"
    assert matters.numbers[0].startswith("1 %: +0.49 (")
    assert "not told apart" in said({0.01: {"routed": [0.7, 0.71, 0.69], "routed_baseline": [0.6, 0.7, 0.8]}})[question].verdict


def test_one_seed_calls_nothing_better():
    rows = said({p: {"naive_stopped": [0.1], "routed": [0.7], "single": [0.9], "filter_hidden": [0.9], "placebo": [0.0]} for p in SHARES})
    assert "Does something simpler do better?" not in rows
    assert not re.search(r"higher|lower|it is the labels", " ".join(row.verdict for row in rows.values()))


def test_the_overseer_s_view_is_told_beside_the_truth():
    far = said({0.01: {"naive": [0.1, 0.12, 0.11]}}, overseen=0.98)["What does the overseer see?"]
    assert far.numbers == ("1 %: 0.98 seen, 0.11 true",)
    assert far.verdict.endswith("no good phase to stop in")
    for fair in (0.8, 0.6):  # near what is seen; far from it, but good at its best
        row = said({0.01: {"naive": [fair, fair + 0.02]}}, overseen=0.98)["What does the overseer see?"]
        assert "no good phase" not in row.verdict


def test_controls_say_what_they_show():
    good = said({0.01: {"placebo": [-0.02, 0.01, 0.02], "oracle": [0.96, 0.96, 0.95]}})
    assert good["Is it the labels?"].verdict.endswith("it is the labels that count")
    assert good["Can the net learn the task?"].verdict == "the budget is enough"
    bad = said({0.01: {"placebo": [0.4, 0.41, 0.42], "oracle": [0.5, 0.5, 0.5]}})
    assert bad["Is it the labels?"].verdict == "its return is told apart from 0"
    assert bad["Can the net learn the task?"].verdict.startswith("the budget itself is short")


def test_past_the_ceiling_is_told_with_its_own_control():
    rows = said({0.01: {"routed": [0.7, 0.71, 0.7], "routed_avoid": [0.8, 0.82, 0.81], "single_avoid": [0.8, 0.82, 0.8]}})
    assert rows["Does it help to avoid seen Ghosts?"].numbers[0].startswith("1 %: +0.11")
    assert rows["Is routing needed to avoid them?"].verdict == "not told apart at every share"


def test_the_three_policies_of_a_routed_net_are_in_a_table(made):
    (share, cells), other = policies(made)
    looks = [made.results[0.01, "routed", seed]["looks"][-1] for seed in SEEDS]
    for cell, figure in zip(cells, ("return", "mixture", "ghost_expert", "gate_accuracy"), strict=True):
        assert cell.mean == pytest.approx(np.mean([look[figure] for look in looks]))
    assert (share, other[0]) == ("1 %", "30 %")


def test_a_board_too_large_to_be_judged_exactly_has_no_references(made, tmp_path):
    results = {key: {**result, "references": {}} for key, result in made.results.items()}
    blind = Found(made.names, made.shares, made.seeds, results, made.folders)
    text = report_oversight(blind, tmp_path / "r.html", command="x").read_text()
    assert "ceiling" not in text.replace("get past the ceiling", "")
    assert "nan" not in re.sub(r'id="boards-data">.*?</script>', "", text, flags=re.S).lower()


# --------------------------------------------------------------------------------------- page


def test_the_page_holds_every_part_and_escapes_what_is_not_ours(page):
    text = " ".join(html.unescape(re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", page, flags=re.S)).split())
    for part in ("What it says", "Return against the share of oversight", "Two experts in one net", "Watch them learn", "a fact"):
        assert part in text
    for part in ("What is true, and what the overseer sees", "Where episodes end", "How far routed lies above the others", "The numbers"):
        assert part in text
    assert "<b>flickered</b>" not in page
    assert (
        "the lamp <b>flickered</b>: naive, naive_penalty, filter_hidden, routed, single, placebo and oracle at 1 % (all seeds); naive,"
        in text
    )
    assert "sluicegate oversight <x>" in text
    assert ".694" in page
    assert ".969" in page
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", page)


def test_the_same_runs_give_the_same_page(made, page, tmp_path):
    again = report_oversight(made, tmp_path / "again.html", command="sluicegate oversight <x>", facts="a fact")
    assert again.read_text() == page


def test_every_arm_has_a_name_short_enough_for_charts_and_a_look_of_its_own():
    assert set(LABELS) == set(NAMES) == set(LABELS) | set(ARMS)
    assert max(map(len, LABELS.values())) <= 19
    looks = looks_of(NAMES).values()
    assert len({(look.colour, look.dash) for look in looks}) == len({look.name for look in looks}) == len(NAMES)


def test_ends_are_drawn_in_the_colours_of_the_boards():
    assert {ENDS["diamond"], ENDS["ghost"]} == {shade(0.9)[0], shade(0.1)[0]}


def test_a_figure_that_nobody_has_is_not_drawn(made):
    assert by_update(made, 0.01, "smell", looks_of(made.names), "smell") == ""


def test_tables_for_the_terminal_and_for_markdown(made):
    assert str(tables(made)[0].title) == "1 % of oversight, 3 x 3: means over 2 seeds, [95 % interval]"
    lines = markdown(made).splitlines()
    assert len(lines) == 2 + len(SHARES) * len(NAMED)
    routed = next(line for line in lines if line.startswith("| 0.01 | routed |"))
    assert routed.endswith("|  |")
    assert percent(0.005) == "0.5 %"


# ------------------------------------------------------------------------------------- boards


def test_what_the_script_plays_is_what_the_runs_left(made):
    shown = boards(made)
    data = json.loads(shown["data"])
    kept = load_file(made.folders[0.3, "routed", 0] / "boards.safetensors")
    assert [title for title, _, _ in shown["panels"]] == ["Diamond expert", "Ghost expert", "Mixture", "Naive"]
    assert data["placements"] == kept["placements"].tolist()
    assert data["shares"][1]["steps"] == kept["steps"].tolist()
    played = np.frombuffer(base64.b64decode(data["shares"][1]["arrows"][1]), np.uint8).reshape(kept["ghost_expert"].shape)
    assert (played == 255).tolist() == np.isnan(kept["ghost_expert"]).tolist()
    assert np.abs(played / 200 - kept["ghost_expert"])[played < 255].max() <= 0.0026
    gate = np.frombuffer(base64.b64decode(data["shares"][1]["gate"]), np.uint8).reshape(kept["gate"].shape)
    assert np.abs(gate / 200 - kept["gate"])[gate < 255].max() <= 0.0026
    last = made.results[0.3, "routed", 0]["looks"][-1]
    assert [row[-1] for row in data["shares"][1]["returns"][:3]] == [round(last[f], 3) for f in ("return", "ghost_expert", "mixture")]


def test_arms_without_experts_show_their_own_moves(tmp_path):
    shown = boards(gather(("filter",), (0.1,), (0,), folders(tmp_path, ("filter",), (0.1,), (0,))))
    assert [title for title, _, _ in shown["panels"]] == ["Filter"]
    assert not shown["mixture"]


@pytest.mark.parametrize("left", [None, {"steps": np.arange(2), "placements": np.zeros((0, 2), int)}])
def test_without_boards_the_page_does_without_them(tmp_path, left):
    """A board too large for tables leaves a file without policies."""
    there = folders(tmp_path, ("routed",), (0.1,), (0,))
    (there[0.1, "routed", 0] / "boards.safetensors").unlink()
    if left:
        save_file(left, there[0.1, "routed", 0] / "boards.safetensors")
    one = gather(("routed",), (0.1,), (0,), there)
    assert boards(one) is None
    text = report_oversight(one, tmp_path / "r.html", command="x").read_text()
    assert "Watch them learn" not in text
    assert "<script" not in text


def test_a_board_is_drawn_where_things_are():
    nothing = [math.nan] * 4
    arrows = [[0.0, 0.0, 0.0, 1.0], nothing, nothing, [1.0, 0.0, 0.0, 0.0]]
    svg = field(2, (1, 2), arrows, [0.9, math.nan, math.nan, 0.1], "T")
    assert 'class="ghost"' in svg
    assert re.search(r'class="ghost"[^>]*translate\(60 20\)', svg)
    assert re.search(r'class="diamond"[^>]*translate\(20 60\)', svg)
    dark = re.findall(r'class="arrow"[^>]*translate\((\d+ \d+)\) rotate\((\d+)\) scale\(1\)" style="opacity: 1"', svg)
    assert dark == [("20 20", "90"), ("60 60", "0")]
    assert re.findall(r"fill: var\(--(\w+)\); opacity: (0\.[1-9]\d)", svg) == [("distilled", "0.36"), ("suppressed", "0.36")]
