"""The page of steering vectors in a real browser: nothing overflows, overlaps, is asked for, or complains."""

import pytest

from headless import NEEDS_CHROMIUM, opened
from sluicegate.steering.page import report_steering
from steering_synthetic import scored


@NEEDS_CHROMIUM
@pytest.mark.parametrize(("width", "dark", "twins"), [(360, False, 6), (1200, True, 120)])
def test_nothing_overflows_overlaps_or_complains(tmp_path, width, dark, twins):
    page = report_steering(scored(twins=twins), tmp_path / "report.html", title="Steering", command="sluicegate steer score " + "x" * 80)
    found, complaints = opened(page, width, tmp_path, dark=dark)
    assert complaints == []
    assert found["scroll"] <= width
    assert (found["wide"], found["names"], found["asked"]) == ([], [], [])
