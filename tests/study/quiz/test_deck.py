import pytest

from sluicegate_study.deck.cards import Card, Deck, DeckFile, Head, Tossup
from sluicegate_study.errors import UserError
from sluicegate_study.quiz.deck import asked_of, by, dependents


def deck(*entries, head=None):
    return Deck("d", (DeckFile(head or Head(category="Default"), entries),))


TOSSUPS = (
    Tossup("A clue. | Another (*) clue. | Last.", "**superfluid**ity [accept **superfluid**s; reject superconductivity]", "s", "Physics"),
    Tossup("Cold. | Levitates.", "**superconduct**ivity", "c", "Physics"),
    Tossup("Flows in Vienna.", "**Danube** [accept **Donau**]", "d"),
    Tossup("The first of them.", "George **Washington**", "w"),
)


def test_tossups_choose_among_the_answers_of_their_category():
    first, second, third, fourth = asked_of(deck(*TOSSUPS))
    assert first.candidates == second.candidates == ("superfluidity", "superconductivity")
    assert first.clues == ("A clue.", "Another clue.", "Last.")
    assert (first.right, second.right) == ((True, False), (False, True))
    assert (third.category, third.candidates) == ("Default", ("Danube", "George Washington"))
    assert fourth.chance == 0.5
    assert len(asked_of(deck(*TOSSUPS), among="all")[0].candidates) == 4


def test_the_judge_says_which_candidates_are_right():
    """Another question's answer may be right here too, in other words; the same answer counts once."""
    more = (*TOSSUPS, Tossup("Blue, says the waltz.", "**Donau**", "b"), Tossup("It rises in the Black Forest.", "**danube**", "e"))
    asked = {a.key: a for a in asked_of(deck(*more))}
    assert asked["d"].candidates == ("Danube", "George Washington", "Donau")
    assert asked["d"].right == (True, False, True)
    assert asked["e"].right[0]
    assert asked["d"].chance == pytest.approx(2 / 3)


CARDS = (
    Card("What is A?", "a", "a", topic="letters", angle="name"),
    Card("What is B?", "b", "b", topic="letters", angle="use", needs=("a",)),
    Card("How many?", "two", "n", needs=("b",)),
    Card("Which?", "three.", "o"),
    Card("[Rome] lies on the [Tiber].", kind="cloze", id="r", topic="rivers"),
)


def test_cards_choose_among_the_answers_of_their_topic():
    asked = {a.key: a for a in asked_of(deck(*CARDS))}
    assert asked["a"].candidates == ("a", "b")
    assert asked["n"].candidates == ("two", "three")
    assert asked["r#2"].candidates == ("Rome", "Tiber")
    assert asked["r"].clues == ("[...] lies on the Tiber.",)
    assert by(asked.values(), "angle") == {"": [2, 3, 4, 5], "name": [0], "use": [1]}
    assert {len(a.candidates) for a in asked_of(deck(*CARDS), among="all")} == {6}


def test_what_needs_a_card_directly_or_not():
    cards = deck(*CARDS)
    assert dependents(cards, ["a"]) == {"b", "n"}
    assert dependents(cards, ["b"]) == {"n"}
    assert dependents(cards, ["a", "b"]) == {"n"}
    assert dependents(cards, ["o", "unknown"]) == set()


def test_tossups_are_asked_where_there_are_any():
    assert [a.key for a in asked_of(deck(*TOSSUPS, *CARDS))] == ["s", "c", "d", "w"]
    assert len(asked_of(deck(*TOSSUPS, *CARDS), "cards")) == 6


@pytest.mark.parametrize(
    ("entries", "options", "said"),
    [
        ((), {}, "no tossups"),
        (TOSSUPS, {"kind": "cards"}, "no cards"),
        (TOSSUPS[:1], {}, "category 'Physics' has one answer only.*--among all"),
        (TOSSUPS[:1], {"among": "all"}, "whole deck has one answer"),
        (TOSSUPS, {"among": "topic"}, "no topic"),
    ],
)
def test_mistakes(entries, options, said):
    with pytest.raises(UserError, match=said):
        asked_of(deck(*entries), **options)
