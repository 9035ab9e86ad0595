"""Prose is wrapped, and no page speaks of this machine or of what is over."""

import pytest

from pages import PAGES, name, prose


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_line_of_prose_is_over_120_characters(page):
    assert not [f"{name(page)}:{number}: {len(line)}" for number, line in prose(page) if len(line) > 120]
