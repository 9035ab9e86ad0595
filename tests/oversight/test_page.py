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
from sluicegate.oversight.arms import ARMS, NAMES
from sluicegate.oversight.page import markdown, report_oversight, tables
from sluicegate.oversight.page_boards import boards, field, shade
from sluicegate.oversight.page_numbers import Found, gather, percent
from sluicegate.oversight.page_pictures import ENDS, LABELS, by_update, looks_of
from sluicegate.oversight.page_sentences import sentences

NAMED = ("naive", "naive_stopped", "naive_penalty_stopped", "filter_hidden", "routed", "single", "placebo", "oracle")
SHARES, SEEDS = (0.01, 0.3), (0, 1)


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
    return dict(sentences(found(returns, **more)))


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
    text = said({p: dict(zip(names, (naive[i], penalty[i], routed[i]), strict=True)) for i, p in enumerate((0.01, 0.3))})
    assert text["Against naive training."].startswith("Routing helps where few squares are overseen.")
    assert "higher at 1 %: +0.20 (0.20 to 0.20) and lower at 30 %: −0.10 (−0.10 to −0.10)" in text["Against naive training."]


@pytest.mark.parametrize(
    ("naive", "head"),
    [
        ([[0.1, 0.11, 0.12]] * 2, "Routing beats naive training."),
        ([[0.9, 0.91, 0.92]] * 2, "Routing is worse than naive training."),
        ([[0.5, 0.7, 0.9]] * 2, "Routing is not told apart from naive training."),
        ([[0.9, 0.91, 0.92], [0.1, 0.11, 0.12]], "Routing helps at some shares of oversight."),
    ],
)
def test_every_outcome_against_naive_training_has_its_words(naive, head):
    text = said({p: {"naive_stopped": naive[i], "routed": [0.7, 0.71, 0.7]} for i, p in enumerate((0.01, 0.3))})
    assert text["Against naive training."].startswith(head)


def test_what_does_better_is_named_and_oracles_are_not():
    returns = {
        p: {"routed": [0.7, 0.71, 0.69], "filter_hidden": [0.9, 0.91, 0.89], "filter": [0.1 + p, 0.1, 0.1], "oracle": [0.96] * 3}
        for p in SHARES
    }
    text = said(returns)["Something simpler?"]
    assert text.startswith("Blind filter does better than routing at every share tried.")
    assert "at 1 % (routed 0.70): blind filter 0.90; at 30 %" in text
    assert "oracle" not in text
    returns = {p: {"routed": [0.7, 0.71, 0.69], "filter": [0.6, 0.9, 0.5], "oracle": [0.96] * 3} for p in SHARES}
    assert said(returns)["Something simpler?"] == "No other arm is shown to do better than routing at any share."


def test_the_ceiling_is_named_where_the_figures_stand_at_it_and_only_there():
    at = said({p: {"routed": [0.7, 0.72, 0.71]} for p in SHARES})["The ceiling."]
    assert "stands at that ceiling" in at
    assert "More labels do not help" in at
    above = said({p: {"routed": [0.9, 0.92, 0.91]} for p in SHARES})["The ceiling."]
    assert "above that ceiling" in above
    below = said({p: {"routed": [0.1, 0.2, 0.1]} for p in SHARES})["The ceiling."]
    assert "does not reach" in below
    mixed = said({0.01: {"routed": [0.1, 0.2, 0.1]}, 0.3: {"routed": [0.9, 0.92, 0.91]}})["The ceiling."]
    assert mixed.endswith("0.91 at 30 %.")


@pytest.mark.parametrize(
    ("single", "tail"),
    [
        ([0.5, 0.51, 0.52], "adds something at every share."),
        ([0.6, 0.7, 0.8], "is not shown to add anything here."),
        ([0.9, 0.91, 0.92], "is not shown to add anything here."),
    ],
)
def test_what_routing_adds_to_its_labels(single, tail):
    assert said({p: {"routed": [0.7, 0.71, 0.69], "single": single} for p in SHARES})["Routing, or its labels?"].endswith(tail)


def test_the_reason_is_given_only_where_the_repair_is_shown_to_matter():
    matters = said({0.01: {"routed": [0.7, 0.71, 0.69], "routed_baseline": [0.2, 0.21, 0.22]}})["What the repairs are worth."]
    assert "Keeping the value baseline on labelled episodes gives 0.21 instead of 0.70 (+0.49" in matters
    assert "takes away what tells Diamond from Ghost" in matters
    idle = said({0.01: {"routed": [0.7, 0.71, 0.69], "routed_baseline": [0.6, 0.7, 0.8]}})["What the repairs are worth."]
    assert "not told apart" in idle
    assert "takes away" not in idle


def test_one_seed_calls_nothing_better():
    text = said({p: {"naive_stopped": [0.1], "routed": [0.7], "single": [0.9], "filter_hidden": [0.9], "placebo": [0.0]} for p in SHARES})
    assert text["One seed."].startswith("Every number is a single measurement of seed 0")
    assert "Something simpler?" not in text
    assert not re.search(r"beats|worse|helps|better than", " ".join(v for k, v in text.items() if k != "One seed."))


def test_the_overseer_s_view_is_told_beside_the_truth():
    far = said({0.01: {"naive": [0.1, 0.12, 0.11]}}, overseen=0.98)["What the overseer sees."]
    assert far.startswith("Naive training at 1 % looks like 0.98 (0.98 to 0.98) to its overseer and is 0.11")
    assert "no good phase to stop in" in far
    for fair in (0.8, 0.6):  # near what is seen; far from it, but good at its best
        assert "no good phase" not in said({0.01: {"naive": [fair, fair + 0.02]}}, overseen=0.98)["What the overseer sees."]


def test_controls_say_what_they_show():
    good = said({0.01: {"placebo": [-0.02, 0.01, 0.02], "oracle": [0.96, 0.96, 0.95]}})["Controls."]
    assert "it is the labels that count" in good
    assert "the budget is enough" in good
    bad = said({0.01: {"placebo": [0.4, 0.41, 0.42], "oracle": [0.5, 0.5, 0.5]}})["Controls."]
    assert "labels that count" not in bad
    assert "the budget itself is short" in bad


def test_past_the_ceiling_is_told_with_its_own_control():
    text = said({0.01: {"routed": [0.7, 0.71, 0.7], "routed_avoid": [0.8, 0.82, 0.81], "single_avoid": [0.8, 0.82, 0.8]}})[
        "Past the ceiling?"
    ]
    assert "the return is higher at 1 %: +0.11" in text
    assert "Beside the same with a single net it is not told apart" in text


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
