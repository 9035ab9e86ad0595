"""sluicegate deck, as a user meets it."""

import json

import pytest

from sluicegate_study.app import main
from sluicegate_study.deck.collection import load_deck
from sluicegate_study.deck.lint import lint


def last(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_new_deck_has_every_kind_of_entry_and_nothing_to_look_at(tmp_path, capsys):
    folder = tmp_path / 'a "deck"'
    assert main(["deck", "new", str(folder), "--json"]) == 0
    assert last(capsys)["path"].endswith("deck.md")
    deck = load_deck(folder)
    assert (len(deck.cards), len(deck.tossups), len(deck.bonuses)) == (3, 1, 1)
    assert deck.problems == ()
    assert lint(deck) == []
    assert deck.files[0].head.deck == 'a "deck"'
    before = (folder / "deck.md").read_text()
    assert main(["deck", "new", str(folder)]) == 2
    assert "left as it is" in " ".join(capsys.readouterr().err.split())
    assert (folder / "deck.md").read_text() == before
    assert main(["deck", "check", str(folder)]) == 0


def test_check_names_problems_and_findings(tmp_path, capsys):
    (tmp_path / "x.md").write_text("Q: Is \x1b[2Jwater wet?\nA: Yes\nid: w\x1b\nneeds: nothing\n\nQ: no answer\n")
    assert main(["deck", "check", str(tmp_path), "--json"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "x.md:6: error: Q: without an answer" in out
    assert "yes/no" in out
    found = json.loads(out.splitlines()[-1])
    assert [p["line"] for p in found["problems"]] == [1, 3, 6]
    assert found["cards"] == 1
    assert {f["rule"] for f in found["findings"]} == {"yes/no"}
    assert main(["deck", "check", str(tmp_path), "--no-lint"]) == 1
    assert "yes/no" not in capsys.readouterr().out


def test_stats_count(tmp_path, capsys):
    (tmp_path / "x.md").write_text("+++\ncategory = 'Art'\n+++\nQ: a?\nA: b\ntopic: t\n\nC: [x] and [y]\ncategory: Science\n")
    assert main(["deck", "stats", str(tmp_path), "--json"]) == 0
    found = last(capsys)
    assert (found["cards"], found["questions"], found["topics"]) == (2, 3, {"t": 1, "(none)": 1})
    assert found["categories"] == {"Art": 1, "Science": 1}


@pytest.mark.parametrize(("words", "said"), [(["deck", "chekc"], "check"), (["deck", "check", "nowhere"], "deck new nowhere")])
def test_mistakes(words, said, capsys):
    assert main(words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_overview(capsys):
    assert main(["deck"]) == 0
    assert "check" in capsys.readouterr().out
