"""The page of a recipe of trials in a real browser: nothing overflows, nothing is asked for, nothing complains."""

import pytest

from headless import NEEDS_CHROMIUM, opened
from sluicegate.experiments.experiment import run_recipe
from sluicegate.experiments.page import report_experiment
from sluicegate.experiments.recipe import Recipe
from throwaway import at_hand, table

pytestmark = NEEDS_CHROMIUM


@pytest.fixture
def page(tmp_path, monkeypatch):
    at_hand(monkeypatch)
    arms = table()["arms"] | {"a_rather_long_name_of_an_arm": {"verb": "throwaway", "arm": "broken", "level": 1.5}}
    recipe = Recipe(**{"attack": {}} | table(arms=arms, title="A title long enough to need a second line on a phone"))
    return report_experiment(run_recipe(recipe, tmp_path / "runs", (0, 1, 2)), tmp_path / "report.html")


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_overflows_overlaps_or_complains(page, tmp_path, width):
    found, complaints = opened(page, width, tmp_path)
    assert complaints == []
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["names"] == []
    assert found["asked"] == []


def test_pictures_take_the_colour_of_the_page_in_light_and_dark(page, tmp_path):
    light, dark = (opened(page, 1200, tmp_path, dark=dark)[0] for dark in (False, True))
    assert light["text"] == light["ink"]
    assert dark["text"] == dark["ink"]
    assert light["ink"] != dark["ink"]
