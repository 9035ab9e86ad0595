"""Missed tossups become cards: well-formed, judged as the tossup, each once, linked to the cards behind it."""

import threading

import pytest

from sluicegate_study.deck.cards import Tossup
from sluicegate_study.deck.collection import load_deck
from sluicegate_study.deck.markdown import read_markdown
from sluicegate_study.errors import UserError
from sluicegate_study.game.bots import Plan
from sluicegate_study.game.missed import add_card, missed_card
from sluicegate_study.judge.judging import judge, judge_card
from study_games import LINE, basic, deck, table, tossup

FLUID = Tossup(
    "Patterns called boojums were first seen in a substance with this property. | It carries second sound. (*) | "
    "For 10 points, name this property of flow without viscosity.",
    "**superfluid**ity [accept **superfluid**s; prompt on zero viscosity by asking “what is that called?”; reject superconductivity]",
    id="tu-superfluid",
)


@pytest.mark.parametrize(
    ("heard", "number", "question"),
    [
        (0, 1, "Patterns called boojums were first seen in a substance with this property. Name this property."),
        (12, 1, "Patterns called boojums were first seen in a substance with this property. Name this property."),
        (15, 1, "Patterns called boojums were first seen in a substance with this property. Name this property."),
        (16, 2, "It carries second sound. Name this property."),
        (26, 3, "Name this property of flow without viscosity."),
    ],
)
def test_the_last_clue_heard_in_full(heard, number, question):
    card = missed_card(FLUID, heard)
    assert (card.question, card.id, card.answer) == (question, f"missed-tu-superfluid-{number}", "superfluidity")


def test_a_clue_without_this():
    plain = missed_card(Tossup("Born in Ulm; wrote on light quanta | died in Princeton.", "Albert **Einstein**", id="e"), 0)
    assert plain.question == "Born in Ulm; wrote on light quanta: What is it?"


@pytest.mark.parametrize(
    "line",
    [
        FLUID.answer,
        LINE,
        'George **Washington** [accept first president; prompt on general by asking "which one?"; reject Martha Washington]',
        "**Bonn** or **Cologne** [accept either; prompt on Germany]",
        "**Franklin Delano Roosevelt** [prompt on partial answer]",
        "**colonization** [accept word forms]",
        "the **color red** [accept answers mentioning **scarlet**; do not accept or prompt on pink]",
        "12 [or **twelve**; or a **dozen**]",
        "<b><u>Danube</u></b> [or Donau; accept Duna, but prompt on river in Vienna]",
        "Plain answer",
    ],
)
def test_a_card_is_judged_as_the_tossup(line):
    text = "Clue one of this thing. | Clue two."
    card = missed_card(Tossup(text, line, id="x"), 3)
    file, problems = read_markdown(written(card))
    assert problems == []
    (question,) = file.entries[0].questions()
    said = ["superfluids", "zero viscosity", "superconductivity", "alpha", "centauri", "proxima", "general", "Martha Washington", "Bonn"]
    said += ["Cologne", "Germany", "Delano", "colonizing", "something scarlet", "pink", "red color", "color red", "12", "dozen", "Duna"]
    said += ["river in Vienna", "Donau", "Danube", "plain answer", "answer", "nonsense", "", "George Washington", "first president"]
    for given in said:
        one, other = judge(line, given), judge_card(question, given)
        assert (one.ruling, one.ask) == (other.ruling, other.ask), given


def written(card):
    from sluicegate_study.deck.cards import DeckFile
    from sluicegate_study.deck.markdown import write_markdown

    return write_markdown(DeckFile(entries=(card,)))


def test_cards_are_added_each_once_and_the_file_stays_a_deck(tmp_path):
    path = tmp_path / "new" / "missed.md"
    cards = [missed_card(tossup(n), 5 * n) for n in (1, 2, 3)]
    assert [add_card(card, path) for card in (*cards, cards[0])] == [True, True, True, False]
    loaded = load_deck(path)
    assert loaded.problems == ()
    assert [card.key for card in loaded.cards] == ["missed-tu1-1", "missed-tu2-2", "missed-tu3-3"]
    assert loaded.files[0].head.deck == "missed"


@pytest.mark.parametrize("before", ["Q: a?\nA: b\nid: a", "# Notes\n\ntext", "Q: open?", "C: It is [x]\n", "T: a. | b.\nANSWER: c\n\n"])
def test_a_file_that_is_there_keeps_what_it_has(tmp_path, before):
    path = tmp_path / "mine.md"
    path.write_text(before)
    known = len(load_deck(path).entries)
    assert add_card(missed_card(tossup(), 5), path)
    assert path.read_text().startswith(before)
    after = load_deck(path)
    assert len(after.entries) == known + 1
    assert len(after.problems) == (1 if before == "Q: open?" else 0)


def test_the_same_question_under_another_id_is_not_added(tmp_path):
    path = tmp_path / "mine.md"
    card = missed_card(tossup(), 5)
    path.write_text(f"Q: {card.question}\nA: mine\nid: other\n")
    assert not add_card(card, path)
    of = deck(1, 0, cards=[card])
    assert not add_card(card, tmp_path / "other.md", of)


def test_many_at_once(tmp_path):
    path = tmp_path / "missed.md"
    cards = [missed_card(tossup(n), 20) for n in range(1, 9)]
    threads = [threading.Thread(target=lambda: [add_card(card, path) for card in cards]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded = load_deck(path)
    assert (len(loaded.cards), loaded.problems) == (8, ())


def test_a_file_that_cannot_be_a_deck(tmp_path):
    (tmp_path / "dir.md").mkdir()
    for path in (tmp_path / "missed.txt", tmp_path / "dir.md"):
        with pytest.raises(UserError, match=r"expected a Markdown file"):
            table(tmp_path, cards=path)


def test_a_game_makes_cards_of_what_is_missed_only(tmp_path, monkeypatch):
    path = tmp_path / "missed.md"
    of = deck(3, 0, cards=[basic("a")])
    game = table(tmp_path, monkeypatch, Plan(), of=of, cards=path, bot="none")
    game.buzz("alpha", 0.5, at=3)  # known
    game.to("reading")
    game.buzz("beta", 0.5, at=12)  # wrong
    missed = game.match.turn.tossup.key
    game.to("reading")
    game.read(21)
    game.match.answer("alpha")  # known, but not buzzed on
    game.match.state(0.5)
    game.to("finished")
    assert game.match.added == [f"missed-{missed}-2"]
    assert [card.key for card in load_deck(path).cards] == game.match.added


def test_an_override_takes_back_that_it_was_missed(tmp_path, monkeypatch):
    game = table(tmp_path, monkeypatch, Plan(), cards=tmp_path / "missed.md")
    game.buzz("beta", 0.5, at=3)
    game.match.override()
    game.match.close()
    assert game.match.added == []
    game.match.override()
    game.match.close()
    game.match.close()
    assert len(game.match.added) == 1


def test_links_to_the_cards_behind_it(tmp_path, monkeypatch):
    """In the deck's own folder the card needs them, so that they are asked first; elsewhere it only names them."""
    entries = (basic("a"), tossup(1, cards=("a", "gone")))
    of = deck(1, 0)
    of = type(of)("d", (type(of.files[0])(entries=entries),))
    for linked, needs, source in (
        (True, ("a",), "clue 1 of the tossup tu1; see the cards gone"),
        (False, (), "clue 1 of the tossup tu1; see the cards a, gone"),
    ):
        path = tmp_path / str(linked) / "missed.md"
        game = table(tmp_path, monkeypatch, Plan(), of=of, cards=path, linked=linked, bot="none")
        game.to("guessing")
        game.match.turn.at = 6
        game.match.close()
        (card,) = load_deck(path).cards
        assert (card.needs, card.source) == (needs, source)
