"""Points by league, and rules from a table."""

import pytest

from sluicegate_study.errors import UserError
from sluicegate_study.game.scoring import PRESETS, Rules, rules_of


def test_presets():
    naqt, acf, pace = (rules_of(name) for name in ("naqt", "acf", "pace"))
    assert (naqt.tossup(power=True), naqt.tossup(power=False), naqt.neg) == (15, 10, -5)
    assert (acf.tossup(power=True), acf.neg) == (10, -5)
    assert (pace.tossup(power=True), pace.neg, pace.bounce) == (20, 0, True)
    assert PRESETS["tossup-only"].bonus(0.5, 0.5) == [(0, 1.0)]
    assert (naqt.swing, acf.swing, pace.swing) == (50, 45, 50)


def test_bonuses_are_binomial_and_bounce_back():
    assert Rules().bonus(0.5, 0.9) == [(0, 0.125), (10, 0.375), (20, 0.375), (30, 0.125)]
    bounced = dict(Rules(bounce=True).bonus(0.5, 0.5))
    assert sum(bounced.values()) == pytest.approx(1)
    assert bounced[-30] == pytest.approx(0.125 * 0.125)
    assert sum(points * chance for points, chance in bounced.items()) == pytest.approx(15 - 0.5 * 15)


def test_a_league_of_ones_own(tmp_path):
    path = tmp_path / "ours.toml"
    path.write_text("power = 20\nneg = 0\nbounce = true\n")
    assert rules_of(str(path)) == Rules("ours", power=20, neg=0, bounce=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("power = 7", "multiple of 5"),
        ("powr = 15", "power"),
        ("neg = 5", "neg"),
        ("power = 5", "less than ten"),
        ("power = 15.0", "whole number"),
        ("bounce = 3", "bounce"),
        ("parts = 9", "parts"),
        ("cycles = true", "cycles"),
        ("power", "not TOML"),
    ],
)
def test_rules_that_cannot_be_are_refused(tmp_path, text, said):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        rules_of(str(path))


def test_an_unknown_league_is_refused():
    with pytest.raises(UserError, match="naqt"):
        rules_of("nqt")
