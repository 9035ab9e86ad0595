"""Cards of claims: whole decks, another step than the test's, nothing of the reader's overwritten."""

from sluicegate_study.deck.cards import Head
from sluicegate_study.deck.collection import load_deck
from sluicegate_study.lecture.cards import choose_blanks, make_cards, make_repair_cards, make_slug, write_cards
from sluicegate_study.lecture.lecture import Claim, split_notes
from sluicegate_study.lecture.record import Record

TEXT = """\
Heads attend to different [sic] places.

Softmax turns scores to weights.

Weights sum to one for every query.

$$ A = \\\\ [B] C $$
"""


def records(arms, right=(None, None, None, None)):
    claims = split_notes(TEXT).claims
    return [Record(claim, arm=arm, right=r) for claim, arm, r in zip(claims, arms, right, strict=True)]


def test_half_of_the_claims_have_cards_that_ask_for_another_step(tmp_path):
    found = records(["cards", "none", "cards", "cards"])
    hidden = choose_blanks(found, 0)
    cards = make_cards(found, "n", hidden)
    assert [(c.id, c.needs) for c in cards] == [("n-c1", ()), ("n-c3", ("n-c1",)), ("n-c4", ("n-c3",))]
    for card in cards:
        record = next(r for r in found if card.id == f"n-{r.claim.name}")
        asked = [q.answer for q in card.questions()]
        assert 1 <= len(asked) <= 2
        assert hidden[record.claim.name].answer not in asked
        assert card.questions()[0].prompt.replace("[...]", asked[0]) == record.claim.text
    assert write_cards(tmp_path / "d" / "x.md", cards, Head(deck="n")) == 3
    deck = load_deck(tmp_path / "d")
    assert deck.problems == ()
    assert deck.cards == cards


def test_what_was_not_rebuilt_is_mended_in_order():
    found = records(["none"] * 4, (False, True, False, True))
    cards = make_repair_cards(found, "n", choose_blanks(found, 0))
    assert [(c.id, c.needs) for c in cards] == [("n-c1-mend", ()), ("n-c3-mend", ("n-c1-mend",))]
    hidden = choose_blanks(found, 0)
    assert [q.answer for c in cards for q in c.questions()] == [hidden["c1"].answer, hidden["c3"].answer]


def test_a_card_that_is_there_is_not_made_again():
    claim, after = Claim("a", "It is **one thing**."), Claim("b", "Softmax turns scores to weights", ("a",))
    found = [Record(claim, arm="cards", right=False), Record(after, arm="none", right=False)]
    (card,) = make_repair_cards(found, "n", choose_blanks(found, 0))
    assert (card.id, card.needs) == ("n-b-mend", ("n-a",))


def test_what_was_hidden_stays_hidden():
    found = records(["none"] * 4)
    found[1].hidden = "weights"
    assert choose_blanks(found, 0)["c2"].answer == choose_blanks(found, 1)["c2"].answer == "weights"


def test_cards_are_added_and_never_changed(tmp_path):
    found = records(["cards"] * 4)
    cards = make_cards(found, "n", choose_blanks(found, 0))
    path = tmp_path / "x.md"
    write_cards(path, cards[:2], Head(deck="n"))
    path.write_text(path.read_text().replace("Heads", "Eyes"))
    assert write_cards(path, cards, Head(deck="n")) == 2
    assert write_cards(path, cards, Head(deck="n")) == 0
    deck = load_deck(path)
    assert [c.id for c in deck.cards] == ["n-c1", "n-c2", "n-c3", "n-c4"]
    assert "Eyes" in deck.cards[0].question or "[Eyes]" in deck.cards[0].question
    assert deck.problems == ()
    assert write_cards(tmp_path / "none.md", [], Head()) == 0
    assert not (tmp_path / "none.md").exists()


def test_names(tmp_path):
    assert make_slug(tmp_path / "My notes (2).md") == "My-notes-2"
    assert make_slug(tmp_path / "öä.md") == "notes"
