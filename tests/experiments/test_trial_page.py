import html
import json
import re
import tomllib

import pytest

from sluicegate.experiments.experiment import load_outcome, run_recipe
from sluicegate.experiments.markdown import arms_table, claims_table
from sluicegate.experiments.page import report_experiment
from sluicegate.experiments.recipe import Recipe
from sluicegate.experiments.repeat import on_every_page
from sluicegate.report.charts import Track
from sluicegate.report.figures import Series
from throwaway import at_hand, table

NASTY = "<script>alert('x')</script> | & $a_b$"


@pytest.fixture(autouse=True)
def found(monkeypatch):
    at_hand(monkeypatch)


def ran(tmp_path, seeds=(0, 1, 2), **changes):
    return run_recipe(Recipe(**{"attack": {}} | table(**changes)), tmp_path / "runs", seeds)


def page(outcome, tmp_path) -> str:
    return report_experiment(outcome, tmp_path / "report.html").read_text(encoding="utf-8")


def text_of(source: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", source, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", body)).replace("\u202f", " ").replace("\xa0", " "))


def test_the_page_holds_claims_pictures_numbers_settings_and_the_command(tmp_path):
    source = page(ran(tmp_path), tmp_path)
    text = text_of(source)
    for words in (
        "A trial by hand",
        "What was done.",
        "3 arms, 3 seeds.",
        "Holds on all 3 seeds. Routed is above the control. (a paper, table 2)",
        "routed.loss = 2.01 [1.99 to 2.03] > control.loss + 0.5 = 1.51 [1.49 to 1.53]",
        "Holds on 2 of 3 seeds. Small on some seeds.",
        "Does not hold. It is the other way round.",
        "Both numbers",
        "Lower is better.",
        "throwaway: loss, nats; other-trial: loss, bits",
        "share of <everything>",
        "1.23e+06",
        "sluicegate run by-hand.toml --seeds 3",
        "Save the recipe below as by-hand.toml first.",
        "Every arm's settings, fully resolved",
        "What it draws",
        "routed, seed 0",
    ):
        assert words in text, words
    assert source.count('<svg class="picture"') == 3
    assert source.count("data:image/png;base64,") == 2
    assert text.count("Thick lines are means") == 2
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", source)
    ids = re.findall(r'\sid="([^"]+)"', source)
    assert len(ids) == len(set(ids))


def test_the_recipe_on_the_page_is_the_recipe(tmp_path):
    outcome = ran(tmp_path)
    assert Recipe(**{"attack": {}} | tomllib.loads(on_every_page(outcome)["resolved"])) == Recipe(**{"attack": {}} | table())


def test_every_colour_of_the_pictures_is_the_pages(tmp_path):
    source = page(ran(tmp_path), tmp_path)
    for picture in re.findall(r'<svg class="picture".*?</svg>', source, flags=re.S):
        assert not re.search(r"#[0-9a-f]{6}\b", picture)
        for name in set(re.findall(r"var\(--([\w-]+)\)", picture)):
            assert f"--{name}:" in source


def test_the_same_outcome_gives_the_same_bytes_also_when_read_back(tmp_path):
    outcome = ran(tmp_path)
    again = load_outcome(tmp_path / "runs")
    assert page(outcome, tmp_path) == page(outcome, tmp_path) == page(again, tmp_path)


def test_one_seed_has_no_intervals_and_no_thin_lines_and_says_so(tmp_path):
    source = page(ran(tmp_path, seeds=(4,)), tmp_path)
    text = text_of(source)
    assert '<span class="interval">' not in source
    assert "One seed: single measurements without intervals." in text
    assert "Holds. Routed is above the control." in text
    assert "Thick lines" not in text
    assert "class:seed" not in source
    assert "--seeds 1 --seed 4" in text


def test_a_number_that_is_none_is_left_out_said_and_keeps_no_claim(tmp_path):
    arms = table()["arms"] | {"control": {"verb": "throwaway", "arm": "broken", "level": 1.0}}
    outcome = ran(tmp_path, arms=arms)
    text = text_of(page(outcome, tmp_path))
    assert "loss came out as no finite number: control (seed 1)." in text
    assert "Holds on 2 of 3 seeds. Routed is above the control." in text
    assert "control.loss + 0.5 = 1.51 [1.38 to 1.64] on 2 of 3 seeds" in text
    assert "2 of 3 seeds" in arms_table(outcome)
    assert "NaN" not in json.dumps(outcome.summary())
    assert outcome.summary()["arms"]["control"]["loss"] == [1.0, None, 1.02]


def test_what_no_seed_measured_cannot_be_told(tmp_path):
    claims = [
        {"says": "Rare is large.", "test": "control.rare > 1"},
        {"says": "Divided by nothing.", "test": "1 / (control.share - 0.5) > 1"},
    ]
    outcome = ran(tmp_path, claims=claims)
    assert [claim.word for claim in outcome.checked()] == ["cannot be told"] * 2
    text = text_of(page(outcome, tmp_path))
    assert "Cannot be told. Rare is large." in text
    assert "control.rare = not measured > 1" in text


def test_a_picture_of_what_nobody_recorded_says_what_there_is(tmp_path):
    pictures = [
        {"kind": "lines", "title": "T", "curve": "trianing"},
        {"kind": "image", "title": "I", "file": "lost.png"},
        {"kind": "bars", "title": "B", "measures": ["rare"], "arms": ["control"]},
    ]
    source = page(ran(tmp_path, seeds=(0,), pictures=pictures, claims=[]), tmp_path)
    text = text_of(source)
    assert "No arm recorded the curve 'trianing'. There are: trade, training." in text
    assert "No arm left a picture lost.png." in text
    assert "No arm measured rare." in text
    assert '<svg class="picture"' not in source


def test_text_of_the_user_is_escaped(tmp_path):
    pictures = [{"kind": "bars", "title": NASTY, "note": NASTY, "measures": ["loss"]}]
    claims = [{"says": NASTY, "source": NASTY, "test": "routed.loss > 0"}]
    outcome = ran(tmp_path, seeds=(0,), title=NASTY, about=NASTY, pictures=pictures, claims=claims)
    source = page(outcome, tmp_path)
    assert "<script" not in source
    assert text_of(source).count("<script>alert('x')</script>") > 5
    row = claims_table(outcome.checked()).splitlines()[2]
    assert len(re.findall(r"(?<!\\)\|", row)) == 6


def test_a_parent_is_named_but_has_no_row(tmp_path):
    base = {"verb": "train", "model": "arithmetic-tiny", "retain": "task:arithmetic/retain", "learn": ["retain"], "steps": 1, "batch": 2}
    arms = {"base": base, "routed": {"verb": "throwaway", "arm": "rare", "model": "@base"}}
    pictures = [{"kind": "bars", "title": "B", "measures": ["loss"]}]
    outcome = ran(tmp_path, seeds=(0,), arms=arms, claims=[{"says": "So.", "test": "routed.loss > 0"}], pictures=pictures)
    assert outcome.summary()["arms"] == {"routed": {"loss": [1.0], "share": [0.5], "rare": [7.0]}}
    text = text_of(page(outcome, tmp_path))
    assert "1 arm, 1 seed. Made from: base (train)." in text
    assert arms_table(outcome).splitlines()[2:] == ["| routed | 1.00 | 0.500 | 7.00 |"]
    parents = json.loads((outcome.arms["routed"].folders[0] / "parents.json").read_text())["parents"]
    own = json.loads((outcome.arms["base"].folders[0] / "parents.json").read_text())["hash"]
    assert parents == {"model": own}
    assert outcome.arms["routed"].flops[0] == outcome.arms["base"].flops[0] + 1e6


def track(*seeds):
    return Track(Series("a", "a0", "control"), seeds)


def test_the_mean_of_curves_goes_as_far_as_all_of_them():
    x, y = track(([0, 10, 20], [0.0, 1.0, 2.0]), ([0, 5, 10], [2.0, 2.0, 2.0])).mean()
    assert x == [0, 5, 10]
    assert y == pytest.approx([1.0, 1.25, 1.5])


def test_curves_of_one_number_against_another_are_averaged_point_by_point():
    x, y = track(([3, 1, 2], [0.0, 1.0, 2.0]), ([5, 1, 2], [2.0, 1.0, 2.0])).mean()
    assert x == [4, 1, 2]
    assert y == [1.0, 1.0, 2.0]
    assert track(([3, 1, 2], [0.0, 1.0, 2.0]), ([5, 1], [2.0, 1.0])).mean() == ([], [])


def test_curves_that_share_no_stretch_have_no_mean():
    assert track(([0, 1], [0.0, 1.0]), ([2, 3], [2.0, 2.0])).mean() == ([], [])
