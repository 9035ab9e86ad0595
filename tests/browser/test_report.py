"""The page in a real browser: nothing overflows, nothing is asked for, nothing complains."""

import pytest

from headless import NEEDS_CHROMIUM, opened
from report_synthetic import FULL, audited, experiment
from sluicegate.audit.page import report_audit
from sluicegate.experiments.page import report_experiment

pytestmark = NEEDS_CHROMIUM


@pytest.fixture
def page(tmp_path):
    arms = FULL | {"a_rather_long_name_of_an_arm": {"verb": "unlearn", "method": "maxent", "model": "@base"}}
    return report_experiment(experiment(arms, title="A title long enough to need a second line on a phone"), tmp_path / "report.html")


@pytest.mark.parametrize("width", [360, 400, 1200])
def test_nothing_overflows_overlaps_or_complains(page, tmp_path, width):
    found, complaints = opened(page, width, tmp_path)
    assert complaints == []
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["names"] == []
    assert found["asked"] == []


def test_names_of_points_in_one_place_do_not_cover_each_other(tmp_path):
    more = {f"a_rather_long_name_of_an_arm_{i}": {"verb": "unlearn", "method": "maxent", "model": "@base"} for i in range(8)}
    found, _ = opened(report_experiment(experiment(FULL | more, seeds=(0,)), tmp_path / "many.html"), 400, tmp_path)
    assert (found["names"], found["wide"]) == ([], [])


def test_pictures_take_the_colour_of_the_page_in_light_and_dark(page, tmp_path):
    light, dark = (opened(page, 1200, tmp_path, dark=dark)[0] for dark in (False, True))
    assert light["text"] == light["ink"]
    assert dark["text"] == dark["ink"]
    assert light["ink"] != dark["ink"]


def test_the_audit_page_fits_a_phone(tmp_path):
    outcome = experiment()
    found = audited(outcome.arms["maxent"], outcome.arms["gold"], ["V."], warnings=["w"])
    path = report_audit("a/rather/long/path/to/some/model-of-somebody-else", found, tmp_path / "a.html")
    found, complaints = opened(path, 400, tmp_path)
    assert (complaints, found["wide"], found["names"]) == ([], [], [])
    assert found["scroll"] <= 400
