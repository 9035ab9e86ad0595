"""The page of a quiz in a real browser: nothing overflows, nothing is asked for, nothing complains."""

import pytest

import quiz_toy
from architectures import learner
from headless import NEEDS_CHROMIUM, opened
from sluicegate.engine.models import load_tokenizer
from sluicegate_study.quiz.deck import by
from sluicegate_study.quiz.measures import Reading, compare
from sluicegate_study.quiz.page import report_quiz
from sluicegate_study.quiz.quiz import quiz

NAMES = ("before", "a/rather/long/path/to/some/model-of-somebody-else", "after <b>relearning</b>")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    tokenizer, asked = load_tokenizer("arithmetic-tiny"), quiz_toy.asked()
    readings = {name: Reading(quiz(learner(n), tokenizer, asked, frame=quiz_toy.FRAME), "raw") for n, name in enumerate(NAMES)}
    first, *others = readings.values()
    groups = {"": None, **by(asked, "category")}
    changes = {
        name: {group: compare(first, other, places, draws=100) for group, places in groups.items()}
        for name, other in zip(NAMES[1:], others, strict=True)
    }
    path = tmp_path_factory.mktemp("page") / "report.html"
    return report_quiz(readings, changes, path, title="Quiz of <i>it</i>", facts="24 questions.", command="sluicegate quiz", draws=100)


def test_what_is_on_it(page):
    text = page.read_text()
    assert "<i>it</i>" not in text
    assert "<b>relearning</b>" not in text
    assert text.count('class="picture"') == 2
    assert "They speak of other questions like these" in text
    assert "not fitted to any record" in text


@NEEDS_CHROMIUM
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_overflows_overlaps_or_complains(page, tmp_path, width):
    here = tmp_path / page.name  # where the frame is that opens it
    here.write_bytes(page.read_bytes())
    found, complaints = opened(here, width, tmp_path)
    assert complaints == []
    assert found["scroll"] <= width
    assert (found["wide"], found["names"], found["asked"]) == ([], [], [])
