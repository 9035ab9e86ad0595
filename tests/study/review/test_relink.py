"""Progress survives edits: small ones are found again, other cards are not taken for them."""

import random
import string
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sluicegate_study.deck.cards import Card, DeckFile
from sluicegate_study.deck.collection import load_deck, make_deck
from sluicegate_study.deck.log import Event, Log
from sluicegate_study.review.memory import Memory
from sluicegate_study.review.relink import find_links, make_seen_event
from sluicegate_study.review.sitting import Sitting

START = datetime(2026, 11, 22, 19, tzinfo=UTC)
FILES = ("labelled_cards.tsv", "labelled_cards_fresh.tsv")
FOLDER = Path(__file__).parents[1] / "deck"
TEXTS = [tuple(line.split("\t")[1:]) for file in FILES for line in (FOLDER / file).read_text(encoding="utf-8").splitlines()]
CAPITALS = {"Austria": "Vienna", "Australia": "Canberra", "Mali": "Bamako", "Malta": "Valletta", "Iran": "Tehran", "Iraq": "Baghdad"}


def deck(cards, path="x.md"):
    return make_deck("d", [DeckFile(entries=tuple(Card(q, a, path=path) for q, a in cards))])


def log_of(of, at=START):
    pairs = [(make_seen_event(q, at, "x", q.card.path), Event(at, "x", q.key, "card", {"grade": 3})) for q in of.questions()]
    return Log(tuple(event for pair in pairs for event in pair))


def edited(text, share, draw):
    """The text after at most this share of its characters was replaced, put in or left out."""
    letters = list(text)
    for _ in range(max(1, int(share * len(text)))):
        at = draw.randrange(len(letters))
        letters[at : at + draw.choice([0, 1, 1])] = draw.choice(
            ["", draw.choice(string.ascii_lowercase + " "), draw.choice(string.ascii_lowercase)]
        )
        letters = letters or ["x"]
    return "".join(letters)


def edited_card(card, draw):
    """A card after an edit of 1 to 15 % of its characters, in the question and in the answer in proportion to their
    lengths."""
    question, answer = card
    whole = edited(f"{question}\x00{answer}", draw.uniform(0.01, 0.15), draw)
    if whole.count("\x00") != 1 or not all(part.strip() for part in whole.split("\x00")):
        return edited_card(card, draw)
    return tuple(whole.split("\x00"))


def test_progress_survives_random_edits():
    kept = wrong = 0
    draw = random.Random(0)
    cards = TEXTS + [(f"What is the capital of {c}?", town) for c, town in CAPITALS.items()]
    before = deck(cards)
    log = log_of(before)
    for _ in range(200):
        at = draw.randrange(len(cards))
        # At the same time another card goes and a new one comes that looks like some of the deck.
        gone = draw.choice([i for i in range(len(cards)) if i != at])
        fresh = [
            *cards,
            (f"What is the capital of {draw.choice(['Oman', 'Austrasia', 'Romania'])}?", draw.choice(["Muscat", "Metz", "Bucharest"])),
        ]
        fresh[at] = edited_card(cards[at], draw)
        del fresh[gone]
        after = deck(fresh)
        new = next(
            q
            for q in after.questions()
            if (q.prompt, q.answer) == (fresh[at - (gone < at)][0].strip(), fresh[at - (gone < at)][1].strip())
            or (q.prompt, q.answer) == fresh[at - (gone < at)]
        )
        links = find_links(after, log)
        old = before.questions()[at].key
        kept += (old, new.key) in [(link.old, link.new) for link in links] or old == new.key
        wrong += sum((link.old, link.new) != (old, new.key) for link in links)
    assert kept >= 190, (kept, wrong)
    assert wrong == 0


def test_other_cards_of_the_same_form_are_not_taken_for_edits():
    draw = random.Random(1)
    names = list(CAPITALS)
    for _ in range(50):
        gone, come = draw.sample(names, 2)
        links = find_links(
            deck([(f"What is the capital of {come}?", CAPITALS[come])]), log_of(deck([(f"What is the capital of {gone}?", CAPITALS[gone])]))
        )
        assert links == []
    years = log_of(deck([("In which year did the First World War begin?", "1914")]))
    assert find_links(deck([("In which year did the Second World War begin?", "1939")]), years) == []
    assert find_links(deck([("In which year did the First World War end?", "1918")]), years) == []


def test_a_link_holds_and_an_unlink_is_for_good():
    old, new = deck([("What does a query and a key give?", "A score")]), deck([("What do a query and a key give?", "A score")])
    log = log_of(old)
    link = find_links(new, log)[0]
    event = link.event(START + timedelta(days=1), "x")
    linked = Log((*log.events, event))
    key = new.questions()[0].key
    assert set(Memory.replay(linked, "x").states) == {key}
    assert find_links(new, linked) == []
    undone = Log((*linked.events, Event(START + timedelta(days=2), "x", link.old, "unlink", {"to": key})))
    assert find_links(new, undone) == []
    assert set(Memory.replay(undone, "x").states) == {link.old}


def test_an_id_given_later_and_a_moved_file_keep_progress():
    card = ("What does a softmax give?", "Weights")
    log = log_of(deck([card]))
    named = make_deck("d", [DeckFile(entries=(Card(*card, id="softmax", path="other.md"),))])
    assert [(link.new, link.ratio) for link in find_links(named, log)] == [("softmax", 1.0)]
    # A changed text in another file is another card.
    assert find_links(deck([("What does a softmax give us?", "Weights")], "other.md"), log) == []


def test_a_card_that_two_could_be_is_left_alone():
    old = deck([("What does the left hand of the player do?", "It plays")])
    two = deck([("What does the left hand of the player do!", "It plays"), ("What does the left hand of the player do.", "It plays")])
    assert find_links(two, log_of(old)) == []


def open_review(folder, file, text):
    """Begin a review of a deck of one file and end it again."""
    for old in folder.glob("*.md"):
        old.unlink()
    (folder / file).write_text(text, encoding="utf-8")
    sitting = Sitting(load_deck(folder), folder / "log.jsonl", "x", root=str(folder))
    return sitting, sitting.relink(START + timedelta(days=1))


def test_each_edit_is_compared_with_the_text_that_was_seen_last(tmp_path):
    chain = [
        ("a.md", "Q: Which enzyme unwinds the double helix at the replication fork?\nA: Helicase\n"),
        ("a.md", "Q: Which enzyme opens up the double helix at the replication fork?\nA: Helicase\n"),
        ("a.md", "Q: Which enzyme opens up the double helix at a replication fork (DNA)?\nA: Helicase\n"),
        ("b.md", "Q: Which enzyme opens up the double helix at a replication fork (DNA)?\nA: Helicase\n"),
        ("b.md", "Q: What enzyme of bacteria opens up the double helix at a replication fork (DNA)?\nA: Helicase\n"),
        ("b.md", "Q: What enzyme of bacteria opens up the double helix at a replication fork (DNA)?\nA: Helicase\nid: hel\n"),
        ("c.md", "Q: What enzyme of bacteria opens up the double helix at a replication fork (DNA)?\nA: Helicase\nid: hel\n"),
        ("c.md", "Q: What enzyme of the bacteria opens up the helix at a replication fork (DNA)?\nA: Helicase\nid: helicase\n"),
    ]
    sitting, _ = open_review(tmp_path, *chain[0])
    sitting.answer(sitting.next(START).question, 3, START)
    for file, text in chain[1:]:
        sitting, _ = open_review(tmp_path, file, text)
        assert list(sitting.queue.memory.states) == list(sitting.queue.questions), text
    size = (tmp_path / "log.jsonl").stat().st_size
    assert open_review(tmp_path, *chain[-1])[1] == []
    assert (tmp_path / "log.jsonl").stat().st_size == size  # nothing new was seen
