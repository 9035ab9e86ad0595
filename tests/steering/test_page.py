"""The page of steering vectors says what the numbers say, shows every answer, and asks nothing of the network."""

import html
import math
import re

import pytest

from sluicegate.steering.page import kl, rate, report_steering, two_way, verdicts
from steering_synthetic import PROMPTS, scored

MEAN = "Does the mean of several twins work?"


def page(tmp_path, **changes):
    return report_steering(
        scored(**changes), tmp_path / "report.html", title="Of <i>it</i>", command="sluicegate steer score x"
    ).read_text()


def text_of(source):
    body = re.sub(r"<style>.*?</style>", "", source, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", body)).replace("\u202f", " ").replace("\xa0", " "))


def test_the_page_holds_every_answer_with_the_rule_that_judged_it(tmp_path):
    found = scored()
    source = page(tmp_path)
    text = text_of(source)
    assert source.count('<td class="mark') == len(found["rows"]) * len(PROMPTS)
    assert source.count('class="mark yes"') == sum(sum(row["shows"]) for row in found["rows"])
    assert "An answer shows the behaviour where it holds code." in text
    assert "How do I <b>bake</b> bread?" in text
    assert "none is left out" in text
    for row in found["rows"]:
        assert row["who"] in text


def test_text_of_the_user_and_of_the_model_is_escaped(tmp_path):
    rows = scored()["rows"]
    rows[0]["texts"][0] = "<script>alert(1)</script>"
    source = page(tmp_path, rows=rows)
    assert "<script>" not in source
    assert "<i>it</i>" not in source
    assert "<b>bake" not in source


def test_the_page_is_one_file_with_six_pictures_in_its_own_colours(tmp_path):
    source = page(tmp_path)
    assert source.count('<svg class="picture"') == 6
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", source)
    for picture in re.findall(r'<svg class="picture".*?</svg>', source, flags=re.S):
        assert not re.search(r"#[0-9a-f]{6}\b", picture)
    for name in set(re.findall(r"var\(--([\w-]+)\)", source)):
        assert f"--{name}:" in source
    ids = re.findall(r'\sid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    assert source == page(tmp_path)


def test_tokens_are_coloured_by_what_was_done_with_them(tmp_path):
    source = page(tmp_path)
    assert '<span class="read"> program</span>' in source
    assert '<span class="spared">&lt;s&gt;</span>' in source
    assert '<span class="steered">How</span>' in source


def test_verdicts_count_what_is_near_the_base_and_shows_the_behaviour():
    found = scored(twins=6)
    twins = [row for row in found["rows"] if row["group"] == "twins"]
    good = sum(kl(row) <= 0.5 and rate(row) >= 0.6 for row in twins)
    assert 0 < good < 6
    told = {verdict.question: verdict for verdict in verdicts(found)}
    assert told["Do its twins?"].verdict.startswith(
        f"{good} of 6 within 0.5 nats a token of the base and with the behaviour on at least 60%"
    )
    assert told["Does the base vector work?"].verdict == "shows the behaviour in 100% of the answers"
    assert told["Does the base vector work?"].numbers[0] == "unsteered 0%"
    assert told["Does the base vector work?"].numbers[1].startswith("random vectors of its norm ")
    assert told["Are they orthogonal?"].verdict.endswith(" 3.2e-09")


def test_the_posts_questions_are_answered_where_the_run_asked_them():
    told = {verdict.question: verdict for verdict in verdicts(scored())}
    assert told["Does a norm cap kill the effect?"].verdict.startswith("6 of 6 have at most the base's norm; these show it in ")
    assert re.match(r"k = 2: \d+%, brought to the base's norm \d+%, the base at that norm", told[MEAN].numbers[0])
    rows = [
        row | {"norm": 3 * row["norm"]} if row["group"] == "twins" else row
        for row in scored()["rows"]
        if row["group"] not in ("mean", "raised", "scaled")
    ]
    told = {verdict.question: verdict for verdict in verdicts(scored(rows=rows))}
    assert told["Does a norm cap kill the effect?"].verdict == "0 of 6 have at most the base's norm"
    assert MEAN not in told


def test_a_single_vector_without_twins_controls_or_doses_has_its_page(tmp_path):
    rows = [row for row in scored()["rows"] if row["group"] in ("base", "unsteered")]
    text = text_of(page(tmp_path, rows=rows, dose=None, preview=[], max_cos=None))
    assert "0 vectors, 3 held-out prompts" in text
    assert "Vector by vector" not in text
    assert "Dose and response" not in text


def test_intervals_draw_vectors_and_prompts_again():
    found = two_way([[1.0, 0.0]] * 50)
    assert found.mean == 0.5
    assert (found.low, found.high) == (0.0, 1.0)  # the vectors agree, so all that varies is which of two prompts is drawn
    assert math.isnan(two_way([[0.3]]).low)
    assert two_way([[1.0, 2.0, 9.0]] * 3, "median").mean == 2.0


@pytest.mark.parametrize("twins", [1, 300])
def test_one_twin_and_hundreds(tmp_path, twins):
    source = page(tmp_path, twins=twins)
    assert source.count('<td class="mark') == (5 + twins + 3 * sum(k <= twins for k in (2, 4))) * 3
    assert ("<details open>" in source) == (twins == 1)
