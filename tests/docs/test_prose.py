"""Prose is wrapped, and a list is one for every reader of Markdown."""

import re

import pytest

from pages import PAGES, name, prose


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_line_of_prose_is_over_120_characters(page):
    assert not [f"{name(page)}:{number}: {len(line)}" for number, line in prose(page) if len(line) > 120]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_list_begins_after_an_empty_line(page):
    """Without it the site shows no list, and a wrapped line that begins with a dash or a number shows one where none is
    meant."""
    item = re.compile(r"([-*+]|\d+[.)]) ")
    lines = dict(prose(page))
    wrong = [
        n
        for n, line in lines.items()
        if item.match(line) and re.match(r"[^\s#|<]", before := lines.get(n - 1, "")) and not item.match(before)
    ]
    assert not [f"{name(page)}:{n}" for n in wrong]
